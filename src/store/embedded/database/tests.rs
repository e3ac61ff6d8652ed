use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::tables::MEMTABLE_BYTES_MAX;
use super::*;
use crate::store::embedded::checkpoint::Progress;
use crate::store::embedded::engine::sled::SledEngine;
use crate::store::embedded::engine::{Engine, EngineError, Memory};
use crate::store::embedded::engine::{Rows, Write};
use crate::store::embedded::failure::Failure;
use crate::store::embedded::rig::{Model, apply};
use crate::store::rows::source::Batch;

const LINEAGE: [u8; 16] = [1; 16];

fn over(engine: Arc<dyn Engine>) -> Arc<Database> {
    Arc::new(Database::new(engine, 0, Failure::default(), Box::new(|_| {})))
}

/// An engine that lets others in between any two rows, and that a test can stop or break.
struct Slow<E> {
    engine: E,
    is_stopped: AtomicBool,
    breaks: AtomicBool,
    panics: AtomicBool,
}

impl<E: Engine> Slow<E> {
    fn over(engine: E) -> Arc<Self> {
        Arc::new(Self { engine, is_stopped: false.into(), breaks: false.into(), panics: false.into() })
    }
}

impl<E: Engine> Engine for Slow<E> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        std::thread::yield_now();
        self.engine.get(key)
    }

    fn range<'a>(&'a self, from: &[u8], to: &[u8]) -> Rows<'a> {
        Box::new(self.engine.range(from, to).inspect(|_| std::thread::yield_now()))
    }

    fn apply(&self, writes: &[Write]) -> Result<(), EngineError> {
        assert!(!self.panics.load(SeqCst), "the engine panics");
        if self.breaks.load(SeqCst) {
            return Err(EngineError("input/output error".to_owned()));
        }
        for write in writes {
            self.engine.apply(std::slice::from_ref(write))?;
            std::thread::yield_now();
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), EngineError> {
        while self.is_stopped.load(SeqCst) {
            std::thread::yield_now();
        }
        self.engine.flush()
    }
}

const ACCOUNTS: u16 = 60;
const EACH: u64 = 50;

fn account(n: u16) -> Vec<u8> {
    format!("m-account-{n:03}").into_bytes()
}

fn amount(value: Option<&Vec<u8>>) -> u64 {
    value.map_or(0, |value| u64::from_le_bytes(value[..8].try_into().unwrap()))
}

/// A group that moves something from one account to another, and the link to the other end. An empty account has no row.
fn transfer(accounts: &mut BTreeMap<u16, u64>, n: u64, rng: &mut StdRng) -> Batch {
    let (from, to) = (rng.random_range(0..ACCOUNTS), rng.random_range(0..ACCOUNTS));
    let moved = rng.random_range(0..=accounts[&from]);
    *accounts.get_mut(&from).unwrap() -= moved;
    *accounts.get_mut(&to).unwrap() += moved;
    let row = |account_number| {
        let left = accounts[&account_number];
        (account(account_number), (left > 0).then(|| [&left.to_le_bytes()[..], &[0; 40]].concat()))
    };
    let (linked, unlinked) = if n.is_multiple_of(2) { ("a-link", "z-link") } else { ("z-link", "a-link") };
    let links = [(linked.into(), Some(Vec::new())), (unlinked.into(), None)];
    [row(from), row(to)].into_iter().chain(links).collect()
}

fn assert_whole(database: &Database) {
    let snapshot = database.snapshot();
    let gotten: u64 = (0..ACCOUNTS).map(|n| amount(snapshot.get(&account(n)).unwrap().as_ref())).sum();
    let rows: Model = snapshot.range(b"a", b"zz").map(Result::unwrap).collect();
    let ranged: u64 =
        rows.iter().filter(|(key, _)| key[0] == b'm').map(|(_, value)| amount(Some(value))).sum();
    let links: Vec<bool> =
        ["a-link", "z-link"].map(|link| snapshot.get(link.as_bytes()).unwrap().is_some()).into();
    let ranged_links = ["a-link", "z-link"].map(|link| rows.contains_key(link.as_bytes()));
    let expected = u64::from(ACCOUNTS) * EACH;
    assert_eq!((gotten, ranged), (expected, expected), "half a transfer");
    assert!(links[0] != links[1] && links == ranged_links, "half a link: {links:?} {ranged_links:?}");
}

fn nobody_sees_half_a_group(engine: Arc<dyn Engine>, groups: u64) {
    let database = over(engine);
    let mut accounts: BTreeMap<u16, u64> = (0..ACCOUNTS).map(|n| (n, EACH)).collect();
    let rows =
        accounts.iter().map(|(n, left)| (account(*n), Some([&left.to_le_bytes()[..], &[0; 40]].concat())));
    database.publish(1, rows.chain([(b"a-link".to_vec(), Some(Vec::new()))]).collect());
    let (is_over, drains, reads) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                // Over as well when this panics, so that the others end.
                let _over = scopeguard(&is_over);
                while !is_over.load(SeqCst) {
                    assert_whole(&database);
                    reads.fetch_add(1, SeqCst);
                }
            });
        }
        scope.spawn(|| {
            let progress = Progress::default();
            while !is_over.load(SeqCst) {
                let drained = database.drain(LINEAGE, &progress).unwrap();
                drains.fetch_add(usize::from(drained.is_some()), SeqCst);
            }
        });
        let _over = scopeguard(&is_over);
        let mut rng = StdRng::seed_from_u64(4_711);
        // Longer where the disk is slow.
        for n in (2..).take_while(|n| *n < groups || drains.load(SeqCst) < 12) {
            if is_over.load(SeqCst) {
                break;
            }
            database.wait_for_room(&|| {}).unwrap();
            database.publish(n, transfer(&mut accounts, n, &mut rng));
            std::thread::yield_now();
        }
    });
    let (drains, reads) = (drains.into_inner(), reads.into_inner());
    assert!(drains > 10 && reads > 10, "{drains} drains, {reads} reads");
}

/// Sets a flag when it is dropped.
fn scopeguard(flag: &AtomicBool) -> impl Drop + '_ {
    struct Guard<'a>(&'a AtomicBool);
    impl Drop for Guard<'_> {
        fn drop(&mut self) {
            self.0.store(true, SeqCst);
        }
    }
    Guard(flag)
}

#[test]
fn no_reader_ever_sees_half_a_group_over_an_index_in_memory() {
    nobody_sees_half_a_group(Slow::over(Memory::default()), 6_000);
}

#[test]
fn no_reader_ever_sees_half_a_group_over_sled() {
    let folder = tempfile::tempdir().unwrap();
    let sled = SledEngine::open(&folder.path().join("index"), 8 << 20).unwrap();
    nobody_sees_half_a_group(Slow::over(sled), 3_000);
}

#[derive(Debug, Clone)]
enum Step {
    Publish(Batch),
    /// A drain that ends at once, or once the snapshots taken before it are dropped.
    Drain,
    Snapshot,
    Drop(usize),
    Read {
        which: usize,
        from: u8,
        to: u8,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    let key = (0_u8..40).prop_map(|key| vec![key + 1]);
    let value = proptest::option::weighted(0.6, vec(any::<u8>(), 0..20));
    prop_oneof![
        6 => btree_map(key, value, 1..8).prop_map(Step::Publish),
        2 => Just(Step::Drain),
        3 => Just(Step::Snapshot),
        2 => any::<usize>().prop_map(Step::Drop),
        5 => (any::<usize>(), 1_u8..45, 1_u8..45).prop_map(|(which, from, to)| Step::Read { which, from, to }),
    ]
}

/// A snapshot, what it has to show, and whether a drain waits for it.
type Taken<'a> = (Snapshot<'a>, Model, bool);

fn begin_drain(database: &Arc<Database>, taken: &mut [Taken<'_>]) -> Option<JoinHandle<()>> {
    if database.keys_in_memory() == 0 {
        return None;
    }
    for (.., is_awaited) in taken {
        *is_awaited = true;
    }
    let drained = database.clone();
    let draining = std::thread::spawn(move || {
        drained.drain(LINEAGE, &Progress::default()).unwrap();
    });
    while database.keys_in_memory() > 0 {
        std::thread::yield_now();
    }
    Some(draining)
}

fn end_drain(draining: Option<JoinHandle<()>>, taken: &mut Vec<Taken<'_>>) {
    taken.retain(|(.., is_awaited)| !is_awaited);
    if let Some(draining) = draining {
        draining.join().unwrap();
    }
}

fn assert_shows((snapshot, model, _): &Taken<'_>, from: u8, to: u8) {
    for key in 1..=40 {
        assert_eq!(snapshot.get(&[key]).unwrap().as_ref(), model.get(&[key][..]));
    }
    let rows: Vec<_> = snapshot.range(&[from], &[to]).map(Result::unwrap).collect();
    let expected = model.iter().filter(|(key, _)| (from..to).contains(&key[0]));
    assert_eq!(rows, expected.map(|(k, v)| (k.clone(), v.clone())).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_snapshot_shows_the_store_as_of_the_moment_it_was_taken_whatever_is_published_and_drained(
        steps in vec(any_step(), 1..60)
    ) {
        let memory = Memory::default();
        let database = over(Slow::over(memory.clone()));
        let (mut model, mut seq) = (Model::new(), 0);
        let mut taken: Vec<Taken<'_>> = Vec::new();
        let mut draining = None;
        for step in steps {
            match step {
                Step::Publish(batch) => {
                    seq += 1;
                    apply(&mut model, &batch);
                    database.publish(seq, batch);
                }
                Step::Drain => {
                    end_drain(draining.take(), &mut taken);
                    draining = begin_drain(&database, &mut taken);
                }
                Step::Snapshot => taken.push((database.snapshot(), model.clone(), false)),
                Step::Drop(_) | Step::Read { .. } if taken.is_empty() => {}
                Step::Drop(which) => drop(taken.swap_remove(which % taken.len())),
                Step::Read { which, from, to } => assert_shows(&taken[which % taken.len()], from, to),
            }
        }
        for taken in &taken {
            assert_shows(taken, 1, 255);
        }
        end_drain(draining.take(), &mut taken);
        taken.clear();
        end_drain(begin_drain(&database, &mut taken), &mut taken);
        prop_assert_eq!(memory.rows().into_iter().collect::<Model>(), model, "the index has all of it");
        prop_assert_eq!(Mark::read(&memory).unwrap().map_or(0, |mark| mark.seq), seq);
    }
}

fn large(n: u64) -> Batch {
    Batch::from([(n.to_be_bytes().to_vec(), Some(vec![0; 4 << 10]))])
}

/// Fills the memtable behind one that is being drained, and stops there.
fn filled<E: Engine>(engine: &Arc<Slow<E>>) -> (Arc<Database>, JoinHandle<Result<Option<u64>, EngineError>>) {
    engine.is_stopped.store(true, SeqCst);
    let database = over(engine.clone());
    database.publish(1, large(1));
    let drained = database.clone();
    let draining = std::thread::spawn(move || drained.drain(LINEAGE, &Progress::default()));
    while database.keys_in_memory() > 0 {
        std::thread::yield_now();
    }
    let mut seq = 1;
    while database.state().active.bytes() <= MEMTABLE_BYTES_MAX {
        seq += 1;
        database.wait_for_room(&|| panic!("there is room")).unwrap();
        database.publish(seq, large(seq));
    }
    (database, draining)
}

#[test]
fn commits_wait_while_the_memtable_is_full_and_go_on_once_the_one_before_it_is_drained() {
    let engine = Slow::over(Memory::default());
    let (database, draining) = filled(&engine);
    let waited = AtomicUsize::new(0);
    let waiting = || {
        waited.fetch_add(1, SeqCst);
        engine.is_stopped.store(false, SeqCst);
    };
    database.wait_for_room(&waiting).unwrap();
    assert!(waited.into_inner() > 0);
    assert_eq!(draining.join().unwrap(), Ok(Some(1)));
}

#[test]
fn a_commit_that_waits_for_room_ends_with_the_failure_of_the_store() {
    let engine = Slow::over(Memory::default());
    let (database, draining) = filled(&engine);
    let refused = database.wait_for_room(&|| database.failure().fail("the disk is gone")).unwrap_err();
    assert_eq!(refused.0, "the disk is gone");
    engine.is_stopped.store(false, SeqCst);
    draining.join().unwrap().unwrap();
}

#[test]
fn an_index_that_cannot_be_written_is_final_whether_it_says_so_or_panics() {
    for panics in [false, true] {
        let engine = Slow::over(Memory::default());
        engine.breaks.store(!panics, SeqCst);
        engine.panics.store(panics, SeqCst);
        let database = over(engine.clone());
        let drainer = Drainer::start(&database, LINEAGE, Arc::default()).unwrap();
        database.publish(1, large(1));
        drainer.stop();
        let reason = database.failure().reason().expect("the failure must be final");
        assert!(reason.starts_with("the index cannot be written"), "{reason}");
        // What is published stays readable; whoever waits for the answer to a read gets it.
        assert!(database.snapshot().get(&1_u64.to_be_bytes()).unwrap().is_some());
    }
}
