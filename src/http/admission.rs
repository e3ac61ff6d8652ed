//! Connection admission and load shedding for a listener.
//!
//! Idle connections cost an attacker nothing. If a full listener refused new connections, a few thousand idle
//! ones would lock out every genuine client until they time out. So a full listener sheds the connection that
//! has been waiting for input for longest (LRU): a genuine client sends its request as soon as it is
//! connected, and is served long before its connection is the oldest. Only connections with an incomplete
//! request are shed. Bodies being read share one byte budget; when it is exceeded, the connection with the
//! oldest incomplete body is shed.
//!
//! Deliberately absent: HTTP. `tracked` reports the progress of each connection's requests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::telemetry::metrics::Metrics;

/// One in this many slots is kept free by shedding early, because a connection takes a moment to close.
const HEADROOM: usize = 16;

/// The connection slots of one listener.
pub(super) struct Admission {
    slots_max: usize,
    /// The byte budget of all bodies being read; `None` if the handlers limit bodies, so that none is shed
    /// for its body.
    bodies_bytes_max: Option<usize>,
    queue: Mutex<Queue>,
    /// Notified when a slot is freed.
    freed: Notify,
    metrics: Arc<Metrics>,
}

/// The open connections, with the incomplete ones in LRU order.
#[derive(Default)]
struct Queue {
    open: usize,
    /// The number of open connections that were shed and have not closed yet.
    closing: usize,
    /// The next LRU position.
    position: u64,
    /// Connections with an incomplete request head, and with an incomplete body, by LRU position.
    heads: BTreeMap<u64, Arc<Notify>>,
    bodies: BTreeMap<u64, Arc<Notify>>,
    bodies_bytes: usize,
}

/// The phase of a connection. It has an LRU position while its request is incomplete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    ReadingHead(u64),
    ReadingBody(u64),
    /// The request is complete, its response not yet written.
    Serving,
    /// Shed; it closes as soon as its task runs.
    Closing,
}

/// The slot of one open connection, freed when it is dropped.
pub(super) struct Slot {
    admission: Arc<Admission>,
    shed: Arc<Notify>,
    connection: Mutex<Connection>,
}

struct Connection {
    phase: Phase,
    body_bytes: usize,
    /// Whether the whole body of the latest request was read.
    body_is_read: bool,
}

impl Admission {
    pub(super) fn new(slots_max: usize, bodies_bytes_max: Option<usize>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { slots_max, bodies_bytes_max, queue: Mutex::default(), freed: Notify::new(), metrics })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a slot, freed by shedding if necessary; `None` if every connection is being served.
    pub(super) async fn admit(self: &Arc<Self>) -> Option<Arc<Slot>> {
        loop {
            // Registered before the check, so that no wake-up is missed.
            let freed = self.freed.notified();
            {
                let mut queue = self.queue();
                let remaining = queue.open - queue.closing;
                if remaining + self.slots_max / HEADROOM >= self.slots_max && queue.shed_oldest() {
                    self.metrics.connection_shed();
                }
                if queue.open < self.slots_max {
                    return Some(self.slot(&mut queue));
                }
                if queue.closing == 0 {
                    return None;
                }
            }
            freed.await;
        }
    }

    fn slot(self: &Arc<Self>, queue: &mut Queue) -> Arc<Slot> {
        let shed = Arc::new(Notify::new());
        queue.open += 1;
        let phase = Phase::ReadingHead(queue.push_head(shed.clone()));
        let connection = Mutex::new(Connection { phase, body_bytes: 0, body_is_read: false });
        Arc::new(Slot { admission: self.clone(), shed, connection })
    }
}

impl Queue {
    fn push_head(&mut self, shed: Arc<Notify>) -> u64 {
        self.position += 1;
        self.heads.insert(self.position, shed);
        self.position
    }

    /// Sheds the connection that has been waiting for input for longest.
    fn shed_oldest(&mut self) -> bool {
        let first = |waiting: &BTreeMap<u64, _>| {
            waiting.first_key_value().map_or(u64::MAX, |(position, _)| *position)
        };
        let oldest = if first(&self.heads) <= first(&self.bodies) {
            self.heads.pop_first()
        } else {
            self.bodies.pop_first()
        };
        self.shed(oldest)
    }

    fn shed(&mut self, connection: Option<(u64, Arc<Notify>)>) -> bool {
        let Some((_, shed)) = connection else { return false };
        shed.notify_one();
        self.closing += 1;
        true
    }
}

impl Slot {
    /// Resolves when this connection is shed.
    pub(super) async fn shed(&self) {
        self.shed.notified().await;
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the request's head is complete, and the whole request if it has no body.
    pub(super) fn head_complete(&self, has_body: bool) {
        let (mut connection, mut queue) = (self.connection(), self.admission.queue());
        connection.body_is_read = !has_body;
        let Phase::ReadingHead(position) = connection.phase else { return };
        connection.phase = match queue.heads.remove(&position) {
            None => Phase::Closing,
            Some(shed) if has_body && self.admission.bodies_bytes_max.is_some() => {
                // Receiving headers does not refresh the LRU position.
                queue.bodies.insert(position, shed);
                Phase::ReadingBody(position)
            }
            Some(_) => Phase::Serving,
        };
    }

    /// Records that another part of the body was received.
    pub(super) fn body_received(&self, bytes: usize) {
        let Some(max) = self.admission.bodies_bytes_max else { return };
        let (mut connection, mut queue) = (self.connection(), self.admission.queue());
        connection.body_bytes += bytes;
        queue.bodies_bytes += bytes;
        if queue.bodies_bytes > max {
            let oldest = queue.bodies.pop_first();
            if queue.shed(oldest) {
                self.admission.metrics.connection_shed();
            }
        }
    }

    /// Records that the whole body of the request was read.
    pub(super) fn body_complete(&self) {
        let (mut connection, mut queue) = (self.connection(), self.admission.queue());
        connection.body_is_read = true;
        let Phase::ReadingBody(position) = connection.phase else { return };
        let is_open = queue.bodies.remove(&position).is_some();
        connection.phase = if is_open { Phase::Serving } else { Phase::Closing };
    }

    /// Whether the whole body of the request was read, or it has none.
    pub(super) fn body_is_read(&self) -> bool {
        self.connection().body_is_read
    }

    /// Records that the response was written; the connection waits for its next request.
    pub(super) fn answered(&self) {
        let (mut connection, mut queue) = (self.connection(), self.admission.queue());
        queue.bodies_bytes -= std::mem::take(&mut connection.body_bytes);
        let is_open = match connection.phase {
            Phase::ReadingHead(_) | Phase::Closing => return,
            // Answered before its body was read.
            Phase::ReadingBody(position) => queue.bodies.remove(&position).is_some(),
            Phase::Serving => true,
        };
        connection.phase =
            if is_open { Phase::ReadingHead(queue.push_head(self.shed.clone())) } else { Phase::Closing };
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        {
            let connection = self.connection.get_mut().unwrap_or_else(PoisonError::into_inner);
            let mut queue = self.admission.queue();
            let was_open = match connection.phase {
                Phase::ReadingHead(position) => queue.heads.remove(&position).is_some(),
                Phase::ReadingBody(position) => queue.bodies.remove(&position).is_some(),
                Phase::Serving => true,
                Phase::Closing => false,
            };
            queue.open -= 1;
            queue.closing -= usize::from(!was_open);
            queue.bodies_bytes -= connection.body_bytes;
        }
        self.admission.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn admission(slots: usize) -> Arc<Admission> {
        Admission::new(slots, Some(1_000), Arc::default())
    }

    fn is_shed(slot: &Slot) -> bool {
        slot.shed().now_or_never().is_some()
    }

    #[tokio::test]
    async fn the_connection_that_was_silent_for_longest_is_shed() {
        let admission = admission(3);
        let mut slots = Vec::new();
        for _ in 0..3 {
            slots.push(admission.admit().await.unwrap());
        }
        slots[0].head_complete(false);
        slots[0].answered();
        slots[1].head_complete(true);
        // The second one's body is awaited, then comes the third; the first one has begun another request.
        for oldest in [1, 1, 0] {
            let mut waiting = Box::pin(admission.admit());
            assert!(waiting.as_mut().now_or_never().is_none());
            let shed: Vec<_> = slots.iter().map(|slot| is_shed(slot)).collect();
            assert_eq!(shed.iter().position(|shed| *shed), Some(oldest), "{shed:?}");
            drop(slots.remove(oldest));
            slots.push(waiting.await.unwrap());
        }
    }

    #[tokio::test]
    async fn no_connection_is_shed_while_it_is_served() {
        let admission = admission(2);
        let (a, b) = (admission.admit().await.unwrap(), admission.admit().await.unwrap());
        a.head_complete(false);
        b.head_complete(true);
        b.body_received(10);
        b.body_complete();
        assert!(admission.admit().await.is_none() && !is_shed(&a) && !is_shed(&b));
        a.answered();
        let mut waiting = Box::pin(admission.admit());
        assert!(waiting.as_mut().now_or_never().is_none() && is_shed(&a));
        // Too late: it was shed, and its slot is promised.
        a.head_complete(false);
        a.answered();
        drop(a);
        assert!(waiting.await.is_some());
        drop(b);
        let queue = admission.queue();
        assert_eq!((queue.open, queue.closing, queue.heads.len(), queue.bodies_bytes), (0, 0, 0, 0));
    }

    #[tokio::test]
    async fn bodies_share_a_byte_budget_and_the_oldest_is_shed() {
        let admission = admission(32);
        let mut slots = Vec::new();
        for _ in 0..3 {
            let slot = admission.admit().await.unwrap();
            slot.head_complete(true);
            slot.body_received(333);
            slots.push(slot);
        }
        assert!(!slots.iter().any(|slot| is_shed(slot)));
        slots[2].body_received(2);
        assert!(is_shed(&slots[0]) && !is_shed(&slots[1]));
        slots.remove(0);
        slots[0].body_complete();
        slots[0].answered();
        assert_eq!(admission.queue().bodies_bytes, 335);
        slots.clear();
        let queue = admission.queue();
        assert_eq!((queue.open, queue.closing, queue.bodies_bytes), (0, 0, 0));
    }

    #[tokio::test]
    async fn with_headroom_a_new_connection_does_not_wait() {
        let admission = admission(32);
        let mut slots = Vec::new();
        for _ in 0..30 {
            slots.push(admission.admit().await.unwrap());
        }
        assert!(!slots.iter().any(|slot| is_shed(slot)));
        // The shed connections have not closed yet; there is headroom still.
        for n in 0..2 {
            slots.push(admission.admit().now_or_never().flatten().expect("a slot"));
            assert!(is_shed(&slots[n]));
        }
        assert!(admission.admit().now_or_never().is_none(), "now a connection has to close first");
    }
}
