//! Loads the index of fans from their records when a store is opened, in threads of its own: only operations
//! on fans wait for it.

use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::watch;

use super::database::Database;
use super::published::Published;
use super::watchdog::caught;
use crate::store::StoreError;
use crate::store::business::roll::Clues;
use crate::store::embedded::fan_index::Index;
use crate::store::rows::keys;
use crate::store::rows::view::{Damaged, View};

/// Sheets that are read in one view.
const SHEETS_AT_ONCE: u32 = 2_048;

/// The thread that reads the index, and how far it is.
pub(super) struct Indexing {
    done: watch::Receiver<Option<Result<(), StoreError>>>,
    cancel: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Indexing {
    pub(super) fn start(
        database: &Arc<Database>,
        index: &Arc<Index>,
        sheets: u32,
        damaged: &Damaged,
    ) -> std::io::Result<Self> {
        let (tell, done) = watch::channel(None);
        let cancel = Arc::new(AtomicBool::new(false));
        let (database, index, damaged, cancelled) =
            (database.clone(), index.clone(), damaged.clone(), cancel.clone());
        let thread = std::thread::Builder::new().name("store-index".to_owned()).spawn(move || {
            let began = Instant::now();
            let result = caught(|| {
                let readers = u32::try_from(std::thread::available_parallelism().map_or(1, usize::from));
                let part = sheets.div_ceil(readers.unwrap_or(1).min(4)).max(1);
                // Each reader takes a part of the roll.
                std::thread::scope(|scope| {
                    let parts = (0..sheets).step_by(part as usize).map(|first| {
                        let sheets = first..first.saturating_add(part).min(sheets);
                        let (database, index, damaged, cancelled) =
                            (&*database, &*index, &damaged, &*cancelled);
                        scope.spawn(move || read_index(database, index, sheets, damaged, cancelled))
                    });
                    let parts: Vec<_> = parts.collect();
                    parts
                        .into_iter()
                        .try_for_each(|part| part.join().unwrap_or_else(|panic| resume_unwind(panic)))
                })
            });
            let result = result.unwrap_or_else(|panic| {
                Err(StoreError::Failed(format!("reading the roll panicked: {panic}")))
            });
            match &result {
                Ok(()) if sheets > 0 => {
                    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                    tracing::info!(sheets, took_ms, "the index of fans has been loaded");
                }
                Ok(()) | Err(StoreError::Closed) => {}
                // As final as any other error of the engine.
                Err(error) => database.failure().fail(&error.to_string()),
            }
            let _ = tell.send(Some(result));
        })?;
        Ok(Self { done, cancel, thread: Mutex::new(Some(thread)) })
    }

    /// Reads it here and now, without a thread, for a store whose writer has none.
    pub(super) fn here(
        database: &Database,
        index: &Index,
        sheets: u32,
        damaged: &Damaged,
    ) -> Result<Self, StoreError> {
        let cancel = Arc::new(AtomicBool::new(false));
        read_index(database, index, 0..sheets, damaged, &cancel)?;
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

/// Reads a part of the roll, page by page: no view is held for long.
fn read_index(
    database: &Database,
    index: &Index,
    sheets: Range<u32>,
    damaged: &Damaged,
    cancelled: &AtomicBool,
) -> Result<(), StoreError> {
    for first in sheets.clone().step_by(SHEETS_AT_ONCE as usize) {
        let page = first..first.saturating_add(SHEETS_AT_ONCE).min(sheets.end);
        read_page(&View::new(Published::new(database, index), damaged), index, &page, cancelled)?;
    }
    Ok(())
}

fn read_page(
    view: &View<'_>,
    index: &Index,
    sheets: &Range<u32>,
    cancelled: &AtomicBool,
) -> Result<(), StoreError> {
    for row in view.range(&keys::sheet(sheets.start), &keys::sheet(sheets.end)) {
        if cancelled.load(Ordering::Relaxed) {
            return Err(StoreError::Closed);
        }
        let (key, value) = row?;
        let read = keys::sheet_number(&key).and_then(|number| {
            Clues::read(&key, &value)?.for_each(number, |clue, fan| index.set(index.print(clue), fan, true));
            Ok(())
        });
        view.undamaged(&key, read)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::engine::Memory;
    use super::super::{EmbeddedStore, Settings};
    use super::*;
    use crate::domain::fan::Priority;
    use crate::domain::ids::{AppName, FanKey, Openid, Unionid};
    use crate::domain::time::Timestamp;
    use crate::store::rows::clue::Clue;
    use crate::store::rows::ids::{FanNumber, PackedId};
    use crate::store::rows::records::checked;
    use crate::store::{NewFan, Store as _};

    #[tokio::test]
    async fn every_sheet_of_every_page_is_read() {
        const SHEETS: u32 = 2 * SHEETS_AT_ONCE + 3;
        let memory = Memory::default();
        let store = EmbeddedStore::in_memory(memory.clone(), Settings::default()).unwrap();
        let unionid = Unionid::new("oFAN").unwrap();
        let fan = NewFan {
            key: FanKey { app: AppName::new("brand").unwrap(), unionid: unionid.clone() },
            openid: Openid::new("oOPEN").unwrap(),
            ask_existing: false,
            priority: Priority::Live,
            minted: None,
            retry_rejected: false,
        };
        store.put_fans(vec![fan], Timestamp::EPOCH).await.unwrap();
        let sheet = store.value_of(&keys::sheet(0));
        let content = &sheet[..sheet.len() - 4];
        let copy = |number| (keys::sheet(number), Some(checked(&keys::sheet(number), content.to_vec())));
        store.close().await;
        memory.overwrite(&(0..SHEETS).map(copy).collect::<Vec<_>>());

        let (database, index) = (Database::of_memory(&memory).unwrap(), Index::default());
        let not_cancelled = AtomicBool::new(false);
        read_index(&database, &index, 1..SHEETS, &Damaged::default(), &not_cancelled).unwrap();
        let packed = PackedId::of(unionid.as_str());
        let mut found = index.find(index.print(&Clue::unionid(packed.borrowed())));
        found.sort_unstable();
        assert_eq!(found, (1..SHEETS).map(FanNumber::first_on).collect::<Vec<_>>());
    }
}
