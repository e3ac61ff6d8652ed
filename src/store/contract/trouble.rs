//! The embedded store on disks and files that misbehave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use super::super::embedded::engine::{Batch, Engine, EngineError, Logged, Memory, Rows};
use super::*;

#[test]
fn one_folder_serves_one_store() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = folder.open();
    let second = EmbeddedStore::open(&folder.path().join("data"), Settings::default());
    assert!(matches!(second, Err(crate::store::embedded::OpenError::InUse(_))));
    runtime.block_on(store.close());
}

#[test]
fn a_snapshot_left_by_a_killed_start_does_not_stop_the_next() {
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

/// An engine whose disk does as it is told.
struct Disk {
    memory: Memory,
    logs: Logged,
    free_mb: AtomicU64,
    fails: AtomicBool,
    fails_behind: AtomicBool,
    /// How many batches can still be applied.
    applies: AtomicU64,
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
            fails_behind: false.into(),
            applies: u64::MAX.into(),
            stuck: false.into(),
        })
    }

    /// What writing comes to.
    fn works(&self) -> Result<(), EngineError> {
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
        self.works()
    }

    fn apply(&self, batch: Batch) -> Result<(), EngineError> {
        if self.logs == Logged::Not {
            self.works()?;
        }
        let before = self.applies.fetch_sub(1, SeqCst);
        if before == 0 { Err(EngineError("no such page".to_owned())) } else { self.memory.apply(batch) }
    }

    fn health(&self) -> Result<(), EngineError> {
        let fails = self.fails_behind.load(SeqCst);
        if fails { Err(EngineError("no medium found".to_owned())) } else { Ok(()) }
    }

    fn free_bytes(&self) -> Option<u64> {
        Some(self.free_mb.load(SeqCst) << 20)
    }
}

#[tokio::test]
async fn an_io_error_is_final_and_nothing_is_acknowledged_after_it() {
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
    // That the disk works again proves nothing about what it lost.
    disk.fails.store(false, SeqCst);
    assert_eq!(store.append(added(3, 1)).await, refusal);
    assert!(store.failed().await.contains("input/output error"));
    assert!(store.ready().is_err());
    // A restart finds what was acknowledged and nothing else.
    store.close().await;
    assert_eq!(disk.store().lease(T0, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_error_behind_the_commits_is_noticed_though_nobody_writes() {
    let disk = Disk::good();
    let store = disk.store();
    store.append(added(1, 1)).await.unwrap();
    disk.fails_behind.store(true, SeqCst);
    assert_eq!(store.failed().await, "no medium found");
    assert!(store.ready().is_err());
}

/// A hundred messages, each handed in twice and not yet answered: more than fit into one group.
async fn a_hundred_twice(
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
async fn nothing_is_applied_or_answered_on_top_of_what_could_not_be_applied() {
    let disk = Disk::that_logs(Logged::Ahead);
    let store = Arc::new(disk.store());
    store.append(added(250, 1)).await.unwrap();
    disk.stuck.store(true, SeqCst);
    // Several groups, and each message twice: the second of them is told from the first while that is on its way.
    let appends = a_hundred_twice(&store).await;
    // One more batch can be applied: the group on its way. The next cannot, and the one after it could again.
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
    assert!(other > 0, "the batch that cannot be applied");
    store.close().await;
    // Whoever was told so is there after a restart, and nobody else.
    let kept = EmbeddedStore::in_memory(disk.memory.clone(), Settings::default()).unwrap();
    assert_eq!(
        (kept.counts().inbox, kept.lease(T0, 1_000).await.unwrap().len()),
        (new + 1, usize::try_from(new).unwrap() + 1)
    );
}

#[tokio::test]
async fn what_is_on_its_way_to_the_disk_is_known_to_who_comes_next_and_nobody_is_answered_before_it_is_there()
{
    let disk = Disk::that_logs(Logged::Ahead);
    let store = Arc::new(disk.store());
    disk.stuck.store(true, SeqCst);
    // The first goes on its way alone; the others are decided behind it, more than fit into one group.
    let appends = a_hundred_twice(&store).await;
    assert!(appends.iter().all(|append| !append.is_finished()));
    assert_eq!((store.counts().inbox, store.lease(T0, 10).await.unwrap().len()), (0, 0), "not even seen");
    disk.stuck.store(false, SeqCst);
    let mut new = 0;
    for append in appends {
        match append.await.unwrap().unwrap() {
            Appended::New(_) => new += 1,
            other => assert_eq!(other, Appended::Duplicate),
        }
    }
    assert_eq!((new, store.counts().inbox, store.lease(T0, 1_000).await.unwrap().len()), (100, 100, 100));
}

#[tokio::test]
async fn a_stuck_disk_is_said_in_time_for_wecom_to_try_again() {
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
    // Whether it was stored is not known to the caller; the repetition finds out.
    let again = store.append(added(1, 1)).await;
    assert!(matches!(again, Ok(Appended::Duplicate | Appended::New(_))), "{again:?}");
    assert_eq!(store.counts().inbox, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steady_work_is_not_taken_for_a_stuck_disk() {
    let disk = Disk::good();
    let store = disk.store();
    let give_up = std::time::Instant::now() + std::time::Duration::from_millis(3_600);
    // Four importers, so that there is always a transaction waiting, and none fills a group to the last key.
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
async fn a_full_disk_refuses_before_the_engine_is_asked_and_resumes_when_there_is_space() {
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
    assert_eq!(store.lease(T0, 1).await, Err(refusal));
    // Nobody writes, and still it is noticed.
    set_free_mb(101);
    noticed(Ok(())).await;
    assert!(matches!(store.append(added(1, 1)).await, Ok(Appended::New(_))));
}

#[tokio::test]
async fn a_damaged_record_holds_up_nothing_but_itself() {
    let memory = Memory::default();
    let store = memory.open();
    for person in 1..=3 {
        store.append(added(person, 1)).await.unwrap();
    }
    let end = [b'j'];
    let (key, mut value) = memory.range(b"i", &end).nth(1).unwrap().unwrap();
    value[3] ^= 4;
    memory.commit(vec![(key, Some(value))]).unwrap();
    assert_eq!(store.lease(T0, 10).await.unwrap().len(), 2);
    assert_eq!(store.lease(T0, 10).await.unwrap().len(), 0);
    assert_eq!((store.damaged(), store.next_due().await), (1, Ok(None)));
}
