//! The embedded store on disks that fail, fill up or get stuck, and over damaged files.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use super::super::embedded::engine::{Batch, Engine, EngineError, Logged, Memory, Rows};
use super::*;

#[test]
fn a_folder_cannot_be_opened_twice() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = folder.open();
    let second = EmbeddedStore::open(&folder.path().join("data"), Settings::default());
    assert!(matches!(second, Err(crate::store::embedded::OpenError::InUse(_))));
    runtime.block_on(store.close());
}

#[test]
fn a_half_written_sled_snapshot_does_not_prevent_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = folder.open();
        store.append(added(1, 1)).await.unwrap();
        store.close().await;
        drop(store);
        std::fs::write(folder.path().join("data/sled/snap.0000000000000001.generating"), b"half").unwrap();
        assert_eq!(folder.open().counts().inbox, 1);
    });
}

/// An engine in memory with switchable faults.
struct Disk {
    memory: Memory,
    logs: Logged,
    free_mb: AtomicU64,
    /// Writes fail.
    fails: AtomicBool,
    /// The engine's background work has failed.
    background_failed: AtomicBool,
    /// How many batches can still be applied.
    applies: AtomicU64,
    /// Writes do not return.
    stuck: AtomicBool,
}

impl Disk {
    fn good() -> Arc<Self> {
        Self::that_logs(Logged::Not)
    }

    fn that_logs(logs: Logged) -> Arc<Self> {
        Arc::new(Self {
            memory: Memory::default(),
            logs,
            free_mb: u64::from(u32::MAX).into(),
            fails: false.into(),
            background_failed: false.into(),
            applies: u64::MAX.into(),
            stuck: false.into(),
        })
    }

    /// The result of a write, once the disk is not stuck.
    fn write_result(&self) -> Result<(), EngineError> {
        while self.stuck.load(SeqCst) {
            std::thread::yield_now();
        }
        if self.fails.load(SeqCst) { Err(EngineError("input/output error".to_owned())) } else { Ok(()) }
    }

    fn store(self: &Arc<Self>) -> EmbeddedStore {
        EmbeddedStore::over(self.clone(), Settings { free_mb_min: 100, ..Settings::default() }).unwrap()
    }
}

impl Engine for Disk {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.memory.get(key)
    }

    fn range<'a>(&'a self, from: &[u8], to: &[u8]) -> Rows<'a> {
        self.memory.range(from, to)
    }

    fn log(&self, _batch: &Batch) -> Result<Logged, EngineError> {
        Ok(self.logs)
    }

    fn logged(&self) -> Result<(), EngineError> {
        self.write_result()
    }

    fn apply(&self, batch: Batch) -> Result<(), EngineError> {
        if self.logs == Logged::Not {
            self.write_result()?;
        }
        let before = self.applies.fetch_sub(1, SeqCst);
        if before == 0 { Err(EngineError("no such page".to_owned())) } else { self.memory.apply(batch) }
    }

    fn health(&self) -> Result<(), EngineError> {
        let fails = self.background_failed.load(SeqCst);
        if fails { Err(EngineError("no medium found".to_owned())) } else { Ok(()) }
    }

    fn free_bytes(&self) -> Option<u64> {
        Some(self.free_mb.load(SeqCst) << 20)
    }
}

#[tokio::test]
async fn after_an_io_error_nothing_is_acknowledged_until_a_restart() {
    for logs in [Logged::Not, Logged::Ahead] {
        an_io_error_is_final(&Disk::that_logs(logs)).await;
    }
}

async fn an_io_error_is_final(disk: &Arc<Disk>) {
    let store = disk.store();
    store.append(added(1, 1)).await.unwrap();
    disk.fails.store(true, SeqCst);
    let refusal = Err(StoreError::Failed("input/output error".into()));
    assert!(matches!(store.append(added(2, 1)).await, Err(StoreError::Failed(_))));
    // That writes succeed again does not prove that nothing was lost.
    disk.fails.store(false, SeqCst);
    assert_eq!(store.append(added(3, 1)).await, refusal);
    assert!(store.failed().await.contains("input/output error"));
    assert!(store.ready().is_err());
    // A restart finds the acknowledged event and nothing else.
    store.close().await;
    assert_eq!(disk.store().lease(T0, 10, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_error_in_the_engines_background_is_detected_without_a_write() {
    let disk = Disk::good();
    let store = disk.store();
    store.append(added(1, 1)).await.unwrap();
    disk.background_failed.store(true, SeqCst);
    assert_eq!(store.failed().await, "no medium found");
    assert!(store.ready().is_err());
}

/// Submits a hundred messages twice each, without waiting for the answers: more than one group commit.
async fn append_a_hundred_twice(
    store: &Arc<EmbeddedStore>,
) -> Vec<tokio::task::JoinHandle<Result<Appended, StoreError>>> {
    let appends = (0..200_u8).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { store.append(added(n / 2, 1)).await })
    });
    let appends: Vec<_> = appends.collect();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    appends
}

#[tokio::test]
async fn after_a_failed_apply_nothing_is_applied_or_acknowledged() {
    let disk = Disk::that_logs(Logged::Ahead);
    let store = Arc::new(disk.store());
    store.append(added(250, 1)).await.unwrap();
    disk.stuck.store(true, SeqCst);
    // Several groups. The second copy of a message is a duplicate of the first while that is still pending.
    let appends = append_a_hundred_twice(&store).await;
    // One more batch can be applied, the pending group. The next fails; later ones would succeed again.
    disk.applies.store(1, SeqCst);
    disk.stuck.store(false, SeqCst);
    let (mut new, mut other) = (0, 0);
    for append in appends {
        match append.await.unwrap() {
            Ok(Appended::New(_)) => new += 1,
            Ok(duplicate) => assert!(matches!(duplicate, Appended::Duplicate)),
            Err(error) => {
                assert_eq!(error, StoreError::Failed("no such page".into()));
                other += 1;
            }
        }
    }
    assert!(other > 0, "some appends failed with their batch");
    store.close().await;
    // A restart finds the acknowledged events and no others.
    let kept = EmbeddedStore::in_memory(disk.memory.clone(), Settings::default()).unwrap();
    assert_eq!(
        (kept.counts().inbox, kept.lease(T0, 1_000, 1_000).await.unwrap().len()),
        (new + 1, usize::try_from(new).unwrap() + 1)
    );
}

#[tokio::test]
async fn a_duplicate_of_a_pending_append_is_recognised_and_answered_only_when_that_is_durable() {
    let disk = Disk::that_logs(Logged::Ahead);
    let store = Arc::new(disk.store());
    disk.stuck.store(true, SeqCst);
    // The first is committed alone; the others are decided while it is pending, more than one group.
    let appends = append_a_hundred_twice(&store).await;
    assert!(appends.iter().all(|append| !append.is_finished()));
    assert_eq!(
        (store.counts().inbox, store.lease(T0, 10, 10).await.unwrap().len()),
        (0, 0),
        "nothing is visible before it is durable"
    );
    disk.stuck.store(false, SeqCst);
    let mut new = 0;
    for append in appends {
        match append.await.unwrap().unwrap() {
            Appended::New(_) => new += 1,
            other => assert_eq!(other, Appended::Duplicate),
        }
    }
    assert_eq!(
        (new, store.counts().inbox, store.lease(T0, 1_000, 1_000).await.unwrap().len()),
        (100, 100, 100)
    );
}

#[tokio::test]
async fn a_stuck_disk_is_reported_before_wecom_times_out() {
    let disk = Disk::good();
    let store = disk.store();
    disk.stuck.store(true, SeqCst);
    let started = std::time::Instant::now();
    assert_eq!(store.append(added(1, 1)).await, Err(StoreError::Stalled));
    assert!(started.elapsed() < std::time::Duration::from_millis(4_500), "WeCom waits five seconds");
    disk.stuck.store(false, SeqCst);
    while store.ready().is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    // The outcome of the first append is unknown; the repetition succeeds either way.
    let again = store.append(added(1, 1)).await;
    assert!(matches!(again, Ok(Appended::Duplicate | Appended::New(_))), "{again:?}");
    assert_eq!(store.counts().inbox, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steady_load_is_not_mistaken_for_a_stuck_disk() {
    let disk = Disk::good();
    let store = disk.store();
    let give_up = std::time::Instant::now() + std::time::Duration::from_millis(3_600);
    // Four importers, so that a transaction is always waiting and no group is filled exactly.
    let import = async |importer: u32| {
        let mut n = 0_u32;
        while std::time::Instant::now() < give_up {
            let fan = |n| NewFan {
                key: FanKey { app: app(), unionid: Unionid::new(format!("o{importer}x{n}")).unwrap() },
                ..new_fan(1)
            };
            store.put_fans((n..n + 1_024).map(fan).collect(), T0).await.unwrap();
            n += 1_024;
        }
    };
    tokio::join!(import(1), import(2), import(3), import(4));
    assert_eq!(store.ready(), Ok(()));
}

#[tokio::test]
async fn writes_are_refused_below_the_free_space_minimum_and_accepted_again_above_it() {
    let disk = Disk::good();
    let store = disk.store();
    let refusal = StoreError::NoSpace { min_mb: 100 };
    let set_free_mb = |mb: u64| disk.free_mb.store(mb, SeqCst);
    let noticed = async |wanted: Result<(), StoreError>| {
        while store.ready() != wanted {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    set_free_mb(99);
    noticed(Err(refusal.clone())).await;
    assert_eq!(store.append(added(1, 1)).await, Err(refusal.clone()));
    assert_eq!(store.lease(T0, 1, 1).await, Err(refusal));
    // Detected without a write.
    set_free_mb(101);
    noticed(Ok(())).await;
    assert_eq!(store.free_disk_bytes(), Some(101 << 20));
    assert!(matches!(store.append(added(1, 1)).await, Ok(Appended::New(_))));
}

#[tokio::test]
async fn a_damaged_record_is_skipped() {
    let memory = Memory::default();
    let store = memory.open();
    for person in 1..=3 {
        store.append(added(person, 1)).await.unwrap();
    }
    let end = [b'j'];
    let (key, mut value) = memory.range(b"i", &end).nth(1).unwrap().unwrap();
    value[3] ^= 4;
    memory.commit(vec![(key, Some(value))]).unwrap();
    assert_eq!(store.lease(T0, 10, 10).await.unwrap().len(), 2);
    assert_eq!(store.lease(T0, 10, 10).await.unwrap().len(), 0);
    assert_eq!((store.damaged_records(), store.next_due().await), (1, Ok(None)));
}
