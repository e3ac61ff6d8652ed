//! Reads the index from the roll when a store is opened, beside everything that does not need it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::watch;

use super::business::roll::Clues;
use super::engine::Engine;
use super::engine::sled::panic_text;
use super::rows::index::Index;
use super::rows::keys;
use super::rows::txn::failed;
use super::rows::view::Damaged;
use super::{StoreError, writer};

/// The thread that reads the index, and how far it is.
pub(super) struct Indexing {
    done: watch::Receiver<Option<Result<(), StoreError>>>,
    cancel: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Indexing {
    pub(super) fn start(
        engine: &Arc<dyn Engine>,
        index: &Arc<Index>,
        sheets: u32,
        damaged: &Damaged,
        writer: Arc<writer::Shared>,
    ) -> std::io::Result<Self> {
        let (tell, done) = watch::channel(None);
        let cancel = Arc::new(AtomicBool::new(false));
        let (engine, index, damaged, cancelled) =
            (engine.clone(), index.clone(), damaged.clone(), cancel.clone());
        let thread = std::thread::Builder::new().name("store-index".to_owned()).spawn(move || {
            let began = Instant::now();
            let reading = AssertUnwindSafe(|| {
                let readers = u32::try_from(std::thread::available_parallelism().map_or(1, usize::from));
                let part = sheets.div_ceil(readers.unwrap_or(1).min(4)).max(1);
                // Each reader takes a part of the roll.
                std::thread::scope(|scope| {
                    let parts = (0..sheets).step_by(part as usize).map(|first| {
                        let sheets = first..first.saturating_add(part).min(sheets);
                        let (engine, index, damaged, cancelled) = (&*engine, &*index, &damaged, &*cancelled);
                        scope.spawn(move || read_index(engine, index, sheets, damaged, cancelled))
                    });
                    let parts: Vec<_> = parts.collect();
                    parts.into_iter().try_for_each(|part| {
                        part.join()
                            .unwrap_or_else(|panic| Err(StoreError::Failed(panic_text(&*panic).to_owned())))
                    })
                })
            });
            let result = catch_unwind(reading).unwrap_or_else(|panic| {
                Err(StoreError::Failed(format!("reading the roll panicked: {}", panic_text(&*panic))))
            });
            match &result {
                Ok(()) if sheets > 0 => {
                    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                    tracing::info!(sheets, took_ms, "the index of fans has been loaded");
                }
                Ok(()) | Err(StoreError::Closed) => {}
                // As final as any other error of the engine.
                Err(error) => writer.fail(&error.to_string()),
            }
            let _ = tell.send(Some(result));
        })?;
        Ok(Self { done, cancel, thread: Mutex::new(Some(thread)) })
    }

    /// Reads it here and now, without a thread, for a store whose writer has none.
    pub(super) fn here(
        engine: &dyn Engine,
        index: &Index,
        sheets: u32,
        damaged: &Damaged,
    ) -> Result<Self, StoreError> {
        let cancel = Arc::new(AtomicBool::new(false));
        read_index(engine, index, 0..sheets, damaged, &cancel)?;
        let (_, done) = watch::channel(Some(Ok(())));
        Ok(Self { done, cancel, thread: Mutex::default() })
    }

    /// Waits until fans can be found.
    pub(super) async fn finished(&self) -> Result<(), StoreError> {
        let mut done = self.done.clone();
        let done = done.wait_for(Option::is_some).await;
        done.map_or(Err(StoreError::Closed), |done| done.clone().unwrap_or(Ok(())))
    }

    /// Gives up reading, and waits for the end of it.
    pub(super) async fn stop(&self) {
        self.cancel.store(true, Ordering::Relaxed);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

fn read_index(
    engine: &dyn Engine,
    index: &Index,
    sheets: std::ops::Range<u32>,
    damaged: &Damaged,
    cancelled: &AtomicBool,
) -> Result<(), StoreError> {
    for row in engine.range(&keys::sheet(sheets.start), &keys::sheet(sheets.end)) {
        if cancelled.load(Ordering::Relaxed) {
            return Err(StoreError::Closed);
        }
        let (key, value) = row.map_err(failed)?;
        let read = keys::sheet_number(&key).and_then(|number| {
            Clues::read(&key, &value)?.for_each(number, |clue, fan| index.set(index.print(clue), fan, true));
            Ok(())
        });
        match read {
            Err(StoreError::Damaged(reason)) => {
                damaged.add(&key, &reason);
            }
            other => other?,
        }
    }
    Ok(())
}
