//! Opening a store: recovery, then the threads that serve it.

use std::path::Path;
use std::sync::Arc;

use super::checkpoint::{Checkpointer, Progress, Suspect};
use super::database::{Database, Drainer, Mark, Rebuilding, Recovered, recover};
use super::engine::{Engine, Memory};
use super::failure::Failure;
use super::folder::{Folder, OpenError, folder_error};
use super::indexing::Indexing;
use super::on_disk::OnDisk;
use super::upgrade::{self, Commits};
use super::wal::{Log, LogWriter, Timed};
use super::writer::{Disk, InMemory, ManualWriter, Parts, Writer};
use super::{Embedded, EmbeddedStore, Settings};
use crate::store::embedded::fan_index::Index;
use crate::store::rows::keys;
use crate::store::rows::records::decode;
use crate::store::rows::txn::Meta;
use crate::store::rows::view::Damaged;
use crate::store::rows::work_queue::WorkQueues;
use crate::store::{Counts, StoreError};

/// Disk space, on top of `free_mb_min`, that writing a checkpoint leaves free.
const CHECKPOINT_SPARES_BYTES: u64 = 64 << 20;

/// The disk under a store.
struct StoreDisk {
    folder: Folder,
    progress: Arc<Progress>,
}

impl Disk for StoreDisk {
    fn free_bytes(&self) -> Option<u64> {
        self.folder.free_bytes()
    }

    fn refuses(&self) -> Option<StoreError> {
        self.progress.log_is_too_long().map(|reason| StoreError::NoCheckpoint { reason })
    }
}

/// No disk.
pub(super) struct NoDisk;

impl Disk for NoDisk {}

impl EmbeddedStore {
    /// Opens or creates the store in `folder`. An index that is missing or damaged is built anew meanwhile.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong with the folder or its content.
    pub fn open(folder: &Path, settings: Settings) -> Result<Self, OpenError> {
        Self::open_with(folder, settings, &mut |_, _| true)
    }

    /// As [`open`](Self::open); `rebuilding` is called while the index is built anew.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(
        folder: &Path,
        settings: Settings,
        rebuilding: Rebuilding<'_>,
    ) -> Result<Self, OpenError> {
        let folder = Folder::new(folder);
        let lock = folder.take()?;
        folder.make_room();
        let recovered = recover(&folder, settings.cache_mb << 20, rebuilding)?;
        folder.keep_ballast();
        let Recovered { engine, lineage, applied, last, backlog, is_rebuilt, damaged, was_killed } =
            recovered;
        let failure = Failure::default();
        let damage_marker = folder.clone();
        let on_damage = move |reason: &str| {
            if let Err(error) = damage_marker.mark_damaged(reason) {
                tracing::error!(%error, "the index cannot be marked as damaged");
            }
        };
        let engine: Arc<dyn Engine> = Arc::new(engine);
        let database = Database::new(engine.clone(), applied, failure.clone(), Box::new(on_damage));
        let database = Arc::new(database);
        for (seq, batch) in backlog {
            database.publish(seq, batch);
        }
        let progress = Arc::new(Progress::starting_at(applied, last));
        let (closing, wal) = (progress.clone(), folder.wal());
        let rotated = Box::new(move |last| closing.closed(last));
        let not_started = folder_error("start the threads of", folder.path());
        let log = LogWriter::begin(&wal, lineage, last + 1, rotated);
        let log = log.map_err(folder_error("begin a segment in", &wal))?;
        let timing = progress.clone();
        let log: Box<dyn Log> = Box::new(Timed { log, took: Box::new(move |took| timing.synced(took)) });
        let spare_bytes = (settings.free_mb_min << 20).saturating_add(CHECKPOINT_SPARES_BYTES);
        let suspect = database.clone();
        let index = Suspect {
            engine,
            compare_to: (was_killed && !is_rebuilt).then_some(last),
            is_damaged: Box::new(move |reason| drop(suspect.damaged(reason))),
        };
        let on_disk = || -> std::io::Result<OnDisk> {
            Ok(OnDisk {
                drainer: Drainer::start(&database, lineage, progress.clone())?,
                checkpointer: Checkpointer::start(&folder, lineage, spare_bytes, index, progress.clone())?,
                folder: folder.clone(),
                failure,
                progress: progress.clone(),
                index_rebuilt: is_rebuilt,
                _lock: lock,
            })
        };
        let on_disk = on_disk().map_err(not_started)?;
        let damaged = if is_rebuilt || !damaged.is_empty() {
            let suspect = database.clone();
            Damaged::in_the_log(damaged, move |key| suspect.remember_damaged(key))
        } else {
            let suspect = database.clone();
            Damaged::in_the_index(move |reason| drop(suspect.damaged(reason)))
        };
        let disk = Box::new(StoreDisk { folder, progress: progress.clone() });
        let parts = Self::parts(database, log, progress, None);
        Self::serve(parts, settings, disk, damaged, Some(on_disk))
    }

    /// A store in memory, for tests and simulations; `memory` keeps what a disk would keep.
    ///
    /// # Errors
    /// [`OpenError::Content`] when the memory holds something else.
    pub fn in_memory(memory: Memory, settings: Settings) -> Result<Self, OpenError> {
        let log = Box::new(memory.clone());
        Self::over(memory, log, Box::new(NoDisk), settings)
    }

    /// A store over a memory, with another log and disk.
    pub(in crate::store) fn over(
        memory: Memory,
        log: Box<dyn Log>,
        disk: Box<dyn Disk>,
        settings: Settings,
    ) -> Result<Self, OpenError> {
        Self::serve(Self::of_memory(memory, log)?, settings, disk, Damaged::default(), None)
    }

    /// A store in memory without threads, for deterministic simulations: transactions are committed only when
    /// [`ManualWriter::commit`] is called. `store_id` is used if the memory is empty.
    ///
    /// # Errors
    /// As [`in_memory`](Self::in_memory).
    pub fn with_manual_writer(
        memory: Memory,
        settings: Settings,
        store_id: [u8; 16],
    ) -> Result<(Self, ManualWriter), OpenError> {
        let log = Box::new(memory.clone());
        let parts = Self::of_memory(memory, log)?;
        Self::started(parts, settings, store_id, Damaged::default(), None, |parts, meta, damaged| {
            let indexing = Indexing::here(&parts.database, &parts.index, meta.sheets, damaged);
            let (writer, manual) = Writer::manual(parts, meta, Box::new(NoDisk));
            Ok((indexing.map_err(OpenError::Content)?, writer, manual))
        })
    }

    fn of_memory(memory: Memory, log: Box<dyn Log>) -> Result<Parts, OpenError> {
        let unreadable = |error| OpenError::Content(StoreError::from(error));
        let lineage = Mark::read(&memory).map_err(unreadable)?.map_or([1; 16], |mark| mark.lineage);
        let database = Database::of_memory(&memory).map_err(unreadable)?;
        Ok(Self::parts(Arc::new(database), log, Arc::default(), Some(InMemory { memory, lineage })))
    }

    fn parts(
        database: Arc<Database>,
        log: Box<dyn Log>,
        progress: Arc<Progress>,
        in_memory: Option<InMemory>,
    ) -> Parts {
        Parts {
            database,
            log,
            progress,
            index: Arc::new(Index::default()),
            queues: Arc::new(WorkQueues::default()),
            watches: Arc::default(),
            in_memory,
        }
    }

    fn serve(
        parts: Parts,
        settings: Settings,
        disk: Box<dyn Disk>,
        damaged: Damaged,
        on_disk: Option<OnDisk>,
    ) -> Result<Self, OpenError> {
        let not_started = folder_error("start the threads of", Path::new("the store"));
        let started =
            Self::started(parts, settings, rand::random(), damaged, on_disk, |parts, meta, damaged| {
                let indexing = Indexing::start(&parts.database, &parts.index, meta.sheets, damaged);
                let writer = Writer::start(parts, meta, disk, settings.free_mb_min);
                Ok((indexing.map_err(not_started)?, writer.map_err(not_started)?, ()))
            });
        started.map(|(store, ())| store)
    }

    /// Brings the rows to the current version, and has `start` begin what reads and writes them.
    fn started<T>(
        mut parts: Parts,
        settings: Settings,
        store_id: [u8; 16],
        damaged: Damaged,
        on_disk: Option<OnDisk>,
        start: impl FnOnce(Parts, Meta, &Damaged) -> Result<(Indexing, Writer, T), OpenError>,
    ) -> Result<(Self, T), OpenError> {
        let meta = upgraded(&mut parts, store_id)?;
        if let (Some(on_disk), Some(forgotten_at)) = (&on_disk, meta.forgotten_at) {
            on_disk.person_was_forgotten(forgotten_at, parts.database.seq());
        }
        let (database, index) = (parts.database.clone(), parts.index.clone());
        let (queues, watches) = (parts.queues.clone(), parts.watches.clone());
        let (indexing, writer, started) = start(parts, meta, &damaged)?;
        let backend = Embedded {
            database,
            writer,
            index,
            indexing,
            watches,
            damaged,
            salt: meta.store_id,
            on_disk: on_disk.map(Arc::new),
        };
        let store = Self::new(backend, settings.limits(), queues);
        Ok((store, started))
    }
}

/// The counters of a store, whose rows are brought to the current version; those of a new one if it is empty.
fn upgraded(parts: &mut Parts, store_id: [u8; 16]) -> Result<Meta, OpenError> {
    let key = keys::meta();
    let moving = parts.database.snapshot().get(&keys::moving()).map_err(|e| OpenError::Content(e.into()))?;
    if moving.is_some() {
        return Err(OpenError::Content(StoreError::Damaged(keys::UNFINISHED_MOVE.to_owned())));
    }
    let stored = parts.database.snapshot().get(&key).map_err(|e| OpenError::Content(e.into()))?;
    let new = Meta { store_id, counts: Counts::default(), sheets: 0, forgotten_at: None };
    let meta = stored.map_or(Ok(new), |bytes| decode(&key, &bytes).map_err(OpenError::Content))?;
    let mut commits = Commits { database: &parts.database, log: &mut *parts.log };
    upgrade::upgrade(&mut commits, &meta).map_err(OpenError::Content)?;
    Ok(meta)
}

#[cfg(test)]
mod tests;
