//! Appending to the log: on the caller's thread, or on one of its own while the caller decides what comes next.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::record::Lineage;
use super::segment::{AppendError, Segment};

/// A segment that has become longer is followed by another. Small in tests, to have many.
const SEGMENT_BYTES_MAX: u64 = if cfg!(test) { 2 << 10 } else { 16 << 20 };

/// Called with the last record of each segment that has been closed.
pub(crate) type Rotated = Box<dyn Fn(u64) + Send>;

enum Order {
    Append {
        seq: u64,
        record: Vec<u8>,
    },
    /// Begin another segment.
    Rotate,
}

/// The end of the log.
struct Tail {
    folder: PathBuf,
    lineage: Lineage,
    segment: Segment,
    /// The number of the last record appended.
    last: u64,
    rotated: Rotated,
    /// Whether another segment was to be begun, and could not be.
    is_overdue: bool,
}

impl Tail {
    fn append(&mut self, seq: u64, record: &[u8]) -> Result<(), AppendError> {
        self.segment.append(record)?;
        self.last = seq;
        Ok(())
    }

    /// Whether another segment is to be begun.
    const fn is_done(&self) -> bool {
        self.segment.bytes >= SEGMENT_BYTES_MAX || self.is_overdue
    }

    fn rotate(&mut self) {
        if self.segment.is_empty() {
            return;
        }
        match Segment::create(&self.folder, self.lineage, self.last + 1) {
            Ok(next) => {
                (self.segment, self.is_overdue) = (next, false);
                (self.rotated)(self.last);
            }
            // The present one grows on; the next record tries again.
            Err(error) => {
                // Once, and not for every record.
                if !std::mem::replace(&mut self.is_overdue, true) {
                    tracing::warn!(%error, "the next segment of the log cannot be begun");
                }
            }
        }
    }
}

/// Appends records, one after the other.
pub(crate) struct LogWriter {
    tail: Arc<Mutex<Tail>>,
    orders: Option<SyncSender<Order>>,
    appended: Receiver<Result<(), AppendError>>,
    /// Whether a record is on its way on the log's own thread.
    in_flight: bool,
    thread: Option<JoinHandle<()>>,
}

impl LogWriter {
    /// Begins a segment for the record `next`.
    pub(crate) fn begin(folder: &Path, lineage: Lineage, next: u64, rotated: Rotated) -> io::Result<Self> {
        let segment = Segment::create(folder, lineage, next)?;
        let folder = folder.to_owned();
        let tail = Tail { folder, lineage, segment, last: next - 1, rotated, is_overdue: false };
        let tail = Arc::new(Mutex::new(tail));
        let (orders, to_do) = sync_channel(2);
        let (done, appended) = sync_channel(1);
        let shared = tail.clone();
        let thread = std::thread::Builder::new().name("store-log".to_owned()).spawn(move || {
            while let Ok(order) = to_do.recv() {
                let mut tail = lock(&shared);
                match order {
                    Order::Append { seq, record } => {
                        let result = tail.append(seq, &record);
                        let is_appended = result.is_ok();
                        if done.send(result).is_err() {
                            return;
                        }
                        // The next group is decided meanwhile.
                        if is_appended && tail.is_done() {
                            tail.rotate();
                        }
                    }
                    Order::Rotate => tail.rotate(),
                }
            }
        })?;
        Ok(Self { tail, orders: Some(orders), appended, in_flight: false, thread: Some(thread) })
    }

    /// Hands a record to the log's thread; [`wait`](Self::wait) returns when it is durable.
    pub(crate) fn append(&mut self, seq: u64, record: Vec<u8>) -> Result<(), AppendError> {
        self.order(Order::Append { seq, record })?;
        self.in_flight = true;
        Ok(())
    }

    /// Appends a record on this thread; durable when it returns. Cheaper than [`append`](Self::append) for a caller
    /// with nothing else to do.
    pub(crate) fn append_here(&mut self, seq: u64, record: &[u8]) -> Result<(), AppendError> {
        let mut tail = lock(&self.tail);
        tail.append(seq, record)?;
        let is_done = tail.is_done();
        drop(tail);
        if is_done { self.order(Order::Rotate) } else { Ok(()) }
    }

    /// Waits until the record that was handed over last is durable.
    pub(crate) fn wait(&mut self) -> Result<(), AppendError> {
        if std::mem::take(&mut self.in_flight) { self.appended.recv().map_err(|_| ended())? } else { Ok(()) }
    }

    /// Closes the present segment, unless it has no record.
    pub(crate) fn rotate(&self) {
        // If the thread has ended, the next record fails.
        let _ = self.order(Order::Rotate);
    }

    fn order(&self, order: Order) -> Result<(), AppendError> {
        let orders = self.orders.as_ref().ok_or_else(ended)?;
        orders.send(order).map_err(|_| ended())
    }
}

fn lock(tail: &Mutex<Tail>) -> MutexGuard<'_, Tail> {
    tail.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ended() -> AppendError {
    AppendError::Failed(io::Error::other("the thread of the log has ended"))
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
