//! The embedded store on disks that fail, fill up or get stuck, and over damaged files.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use super::super::embedded::engine::Memory;
use super::super::embedded::{AppendError, Disk, Log};
use super::*;
use crate::store::rows::source::Batch;

#[test]
fn a_folder_cannot_be_opened_twice() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = folder.open_embedded();
    let second = EmbeddedStore::open(&folder.path().join("data"), Settings::default());
    assert!(matches!(second, Err(crate::store::embedded::OpenError::InUse(_))));
    runtime.block_on(store.close());
}

#[test]
fn a_half_written_sled_snapshot_does_not_prevent_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = folder.open_embedded();
        store.append(added(1, 1)).await.unwrap();
        store.close().await;
        drop(store);
        std::fs::write(folder.path().join("data/index/snap.0000000000000001.generating"), b"half").unwrap();
        assert_eq!(folder.open_embedded().counts().inbox, 1);
    });
}

/// A log in memory with switchable faults, and the disk that it is on.
struct TestDisk {
    memory: Memory,
    free_mb: AtomicU64,
    /// Writes fail.
    fails: AtomicBool,
    /// Writes find no space.
    is_full: AtomicBool,
    /// Writes do not return.
    stuck: AtomicBool,
}

struct TestLog(Arc<TestDisk>);

impl TestDisk {
    fn good() -> Arc<Self> {
        Arc::new(Self {
            memory: Memory::default(),
            free_mb: u64::from(u32::MAX).into(),
            fails: false.into(),
            is_full: false.into(),
            stuck: false.into(),
        })
    }

    fn store(self: &Arc<Self>) -> EmbeddedStore {
        let settings = Settings { free_mb_min: 100, ..Settings::default() };
        let log = Box::new(TestLog(self.clone()));
        EmbeddedStore::over(self.memory.clone(), log, Box::new(OfTest(self.clone())), settings).unwrap()
    }
}

impl Log for TestLog {
    fn append(&mut self, seq: u64, writes: &Batch) -> Result<(), AppendError> {
        let Self(disk) = self;
        while disk.stuck.load(SeqCst) {
            std::thread::yield_now();
        }
        if disk.is_full.load(SeqCst) {
            return Err(AppendError::Full);
        }
        if disk.fails.load(SeqCst) {
            return Err(AppendError::failed("input/output error"));
        }
        disk.memory.log(seq, writes.clone());
        Ok(())
    }
}

struct OfTest(Arc<TestDisk>);

impl Disk for OfTest {
    fn free_bytes(&self) -> Option<u64> {
        Some(self.0.free_mb.load(SeqCst) << 20)
    }
}

#[tokio::test]
async fn after_an_io_error_nothing_is_acknowledged_until_a_restart() {
    let disk = TestDisk::good();
    let store = disk.store();
    store.append(added(1, 1)).await.unwrap();
    disk.fails.store(true, SeqCst);
    let refusal = Err(StoreError::Failed("the log cannot be written: input/output error".into()));
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
async fn on_a_full_disk_a_group_and_what_was_decided_on_top_of_it_are_refused_and_later_ones_accepted() {
    let disk = TestDisk::good();
    let store = Arc::new(disk.store());
    store.put_fans(vec![new_fan(1)], T0).await.unwrap();
    store.append(added(250, 1)).await.unwrap();
    let before = store.counts();
    disk.stuck.store(true, SeqCst);
    // The first is in flight alone; the others are decided on top of it.
    let appends = append_a_hundred_twice(&store).await;
    disk.is_full.store(true, SeqCst);
    disk.stuck.store(false, SeqCst);
    for append in appends {
        assert_eq!(append.await.unwrap(), Err(StoreError::NoSpace { min_mb: 100 }));
    }
    assert_eq!(store.counts(), before);
    disk.is_full.store(false, SeqCst);
    while store.ready().is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    for append in append_a_hundred_twice(&store).await {
        assert!(matches!(append.await.unwrap(), Ok(Appended::New(_) | Appended::Duplicate)));
    }
    assert_eq!((store.counts().inbox, store.audit()), (101, Ok(vec![])));
    store.close().await;
    let kept = EmbeddedStore::in_memory(disk.memory.clone(), Settings::default()).unwrap();
    assert_eq!((kept.counts().inbox, kept.lease(T0, 1_000, 1_000).await.unwrap().len()), (101, 101));
}

#[tokio::test]
async fn after_a_failed_group_what_was_decided_on_top_of_it_is_refused_too() {
    let disk = TestDisk::good();
    let store = Arc::new(disk.store());
    store.append(added(250, 1)).await.unwrap();
    disk.stuck.store(true, SeqCst);
    let appends = append_a_hundred_twice(&store).await;
    disk.fails.store(true, SeqCst);
    disk.stuck.store(false, SeqCst);
    for append in appends {
        assert!(matches!(append.await.unwrap(), Err(StoreError::Failed(_))));
    }
    store.close().await;
    let kept = EmbeddedStore::in_memory(disk.memory.clone(), Settings::default()).unwrap();
    assert_eq!((kept.counts().inbox, kept.lease(T0, 1_000, 1_000).await.unwrap().len()), (1, 1));
}

#[tokio::test]
async fn a_duplicate_of_a_pending_append_is_recognised_and_answered_only_when_that_is_durable() {
    let disk = TestDisk::good();
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
    let disk = TestDisk::good();
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
    let disk = TestDisk::good();
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
    let disk = TestDisk::good();
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
    let store = Memory::default().open_embedded();
    for person in 1..=3 {
        store.append(added(person, 1)).await.unwrap();
    }
    let second = store.keys_of(b'i').remove(1);
    store.corrupt(&second);
    assert_eq!(store.lease(T0, 10, 10).await.unwrap().len(), 2);
    assert_eq!(store.lease(T0, 10, 10).await.unwrap().len(), 0);
    assert_eq!((store.damaged_records(), store.next_due().await), (1, Ok(None)));
}
