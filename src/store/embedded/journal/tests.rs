use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;

use super::super::fresh;
use super::block::Header;
use super::care::{Rebuild, Verified, backup, compare, journal_in, rebuild, shrink};
use super::fold::{Last, Room, fold};
use super::*;

mod trouble;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn put(key: u8, value: u8) -> Write {
    (vec![b'a' + key], Some(vec![value; 30]))
}

fn apply(model: &mut Model, writes: &[Write]) {
    for (key, value) in writes {
        match value {
            Some(value) => drop(model.insert(key.clone(), value.clone())),
            None => drop(model.remove(key)),
        }
    }
}

fn content(engine: &dyn Engine) -> Model {
    records(engine).map(Result::unwrap).collect()
}

/// A database that keeps what it was told to flush, and of the rest as much as a crash leaves it.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Kept>>);

#[derive(Clone, Default)]
struct Kept {
    now: Model,
    flushed: Model,
    since: Vec<Write>,
}

impl Memory {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap()
    }

    /// What a crash at this moment leaves, with so many of the writes that were not flushed.
    fn after_a_crash(&self, writes: usize) -> Self {
        let Kept { mut flushed, since, .. } = self.kept().clone();
        apply(&mut flushed, &since[..writes.min(since.len())]);
        Self(Arc::new(Mutex::new(Kept { now: flushed.clone(), flushed, since: Vec::new() })))
    }

    fn fall_back(&self, to: &Self) {
        let there = to.kept().clone();
        *self.kept() = there;
    }
}

impl Engine for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.kept().now.get(key).cloned())
    }

    fn range<'a>(&'a self, from: &[u8], to: &[u8]) -> Rows<'a> {
        let now = self.kept().now.clone();
        let (from, to) = (from.to_vec(), to.to_vec());
        Box::new(now.into_iter().filter(move |(key, _)| from <= *key && *key < to).map(Ok))
    }

    fn apply(&self, batch: Batch) -> Result<(), EngineError> {
        self.write(batch)?;
        self.flush()
    }

    fn free_bytes(&self) -> Option<u64> {
        None
    }
}

impl Database for Memory {
    fn write(&self, batch: Batch) -> Result<(), EngineError> {
        let mut kept = self.kept();
        let writes: Vec<Write> = batch.into_iter().collect();
        apply(&mut kept.now, &writes);
        kept.since.extend(writes);
        Ok(())
    }

    fn flush(&self) -> Result<(), EngineError> {
        let mut kept = self.kept();
        kept.flushed = kept.now.clone();
        kept.since.clear();
        Ok(())
    }
}

fn opened(memory: &Memory, folder: &TempDir) -> Journaled<Memory> {
    Journaled::open(memory.clone(), &journal_in(folder.path()), 1).unwrap()
}

fn verified(memory: &Memory, folder: &TempDir) -> Verified {
    compare(memory, &journal_in(folder.path())).unwrap()
}

fn rebuilt(folder: &TempDir, how: Rebuild<'_>) -> Model {
    rebuild(folder.path(), how, |_| {}).unwrap();
    let db = fresh::open(&how.into.unwrap_or(folder.path()).join("sled")).unwrap();
    let rows = db.iter().map(Result::unwrap).filter(|(key, _)| key[0] != PRIVATE);
    rows.map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

/// Takes the end off the journal, as if its last sync had not come.
fn forget_last_batch(folder: &TempDir) {
    let pieces = files::list(&journal_in(folder.path())).unwrap();
    let path = &pieces.last().unwrap().path;
    let whole = Content::read(path).unwrap().unwrap();
    let last = whole.to;
    assert!(last >= whole.header.from, "the last segment is empty");
    let mut bytes = std::fs::read(path).unwrap();
    while Content::read(path).unwrap().unwrap().to == last {
        bytes.pop();
        std::fs::write(path, &bytes).unwrap();
    }
}

fn any_writes() -> impl Strategy<Value = Vec<Write>> {
    let value = proptest::option::weighted(0.7, vec(any::<u8>(), 0..60));
    vec(((0_u8..12).prop_map(|key| vec![b'a' + key]), value), 1..6).prop_map(|writes| {
        // A batch has each key once.
        writes.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect()
    })
}

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<Write>),
    /// A batch that was being committed when the power went: whether the journal got it, and how much of what the
    /// database was given since it was flushed is left.
    Cut {
        writes: Vec<Write>,
        journaled: bool,
        left: usize,
    },
    Restart,
    Fold,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => any_writes().prop_map(Step::Commit),
        2 => (any_writes(), any::<bool>(), 0_usize..20)
            .prop_map(|(writes, journaled, left)| Step::Cut { writes, journaled, left }),
        1 => Just(Step::Restart),
        1 => Just(Step::Fold),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_journal_and_the_database_hold_what_was_committed(steps in vec(any_step(), 1..30)) {
        let (folder, mut memory) = (tempfile::tempdir().unwrap(), Memory::default());
        let mut model = Model::new();
        let mut journaled = opened(&memory, &folder);
        for step in steps {
            match step {
                Step::Commit(writes) => {
                    apply(&mut model, &writes);
                    journaled.commit(writes).unwrap();
                }
                Step::Cut { writes, journaled: kept, left } => {
                    let batch: Batch = writes.clone().into_iter().collect();
                    assert_eq!(journaled.log(&batch).unwrap(), Logged::Ahead);
                    journaled.logged().unwrap();
                    if kept {
                        apply(&mut model, &writes);
                        journaled.apply(batch).unwrap();
                    }
                    // Before it is closed, which would flush it.
                    let crashed = memory.after_a_crash(left);
                    drop(journaled);
                    if !kept {
                        forget_last_batch(&folder);
                    }
                    memory = crashed;
                    journaled = opened(&memory, &folder);
                }
                Step::Restart => {
                    drop(journaled);
                    journaled = opened(&memory, &folder);
                }
                Step::Fold => {
                    drop(journaled);
                    let journal = journal_in(folder.path());
                    let lineage = Pieces::of(&journal).unwrap().unwrap().lineage;
                    fold(&journal, lineage, Last::Closed, Room::ANY, &|| false).unwrap();
                    journaled = opened(&memory, &folder);
                }
            }
            prop_assert_eq!(&content(&memory), &model);
        }
        drop(journaled);
        let compared = verified(&memory, &folder);
        prop_assert_eq!((compared.records, compared.differences), (model.len() as u64, BTreeMap::new()));
        prop_assert_eq!(rebuilt(&folder, Rebuild::default()), model);
    }
}

fn some_batches(journaled: &Journaled<Memory>, batches: std::ops::Range<u16>) {
    for n in batches {
        let [key, value] = (n * 7).to_le_bytes();
        let deleted = (vec![b'a' + (key % 5)], None);
        let writes = [put(key % 20, value), put(key % 17 + 20, key)].into_iter();
        journaled.commit(writes.chain((value % 3 == 0).then_some(deleted)).collect()).unwrap();
    }
}

#[test]
fn a_database_that_fell_back_is_brought_up_to_date() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::default());
    let journaled = opened(&memory, &folder);
    some_batches(&journaled, 0..100);
    let long_ago = memory.after_a_crash(usize::MAX);
    some_batches(&journaled, 100..400);
    drop(journaled);
    let expected = content(&memory);
    memory.fall_back(&long_ago);
    assert_ne!(content(&memory), expected);
    drop(opened(&memory, &folder));
    assert_eq!(content(&memory), expected);
}

#[test]
fn a_journal_of_any_age_is_a_few_files_that_only_their_owner_reads() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::default());
    let journaled = opened(&memory, &folder);
    some_batches(&journaled, 0..3_000);
    drop(journaled);
    let journal = journal_in(folder.path());
    let lineage = Pieces::of(&journal).unwrap().unwrap().lineage;
    fold(&journal, lineage, Last::Closed, Room::ANY, &|| false).unwrap();
    let pieces = files::list(&journal).unwrap();
    assert!(pieces.len() <= 3, "{pieces:?}");
    let bytes: u64 = pieces.iter().map(|piece| std::fs::metadata(&piece.path).unwrap().len()).sum();
    assert!(bytes < 4_000, "{bytes} bytes for some dozen records");
    for path in [&journal, &pieces[0].path] {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o077, 0);
    }
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is_and_a_copy_mends_it() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::default());
    let copy = tempfile::tempdir().unwrap();
    let journaled = opened(&memory, &folder);
    some_batches(&journaled, 0..260);
    drop(journaled);
    backup(folder.path(), copy.path()).unwrap();
    let expected = content(&memory);
    let oldest = files::list(&journal_in(folder.path())).unwrap().remove(0).path;
    let length = std::fs::metadata(&oldest).unwrap().len();
    for at in [Header::BYTES as u64 - 1, length / 2, length - 1] {
        let whole = std::fs::read(&oldest).unwrap();
        let mut bytes = whole.clone();
        bytes[usize::try_from(at).unwrap()] ^= 8;
        std::fs::write(&oldest, bytes).unwrap();
        assert!(compare(&memory, &journal_in(folder.path())).is_err(), "byte {at}");
        let refused = rebuild(folder.path(), Rebuild::default(), |_| {}).unwrap_err();
        assert!(refused.to_string().contains("--backup"), "{refused}");
        let into = tempfile::tempdir().unwrap();
        let how = Rebuild { backup: Some(copy.path()), into: Some(into.path()), partial: false };
        assert_eq!(rebuilt(&folder, how), expected);
        std::fs::write(&oldest, whole).unwrap();
    }
    std::fs::remove_file(&oldest).unwrap();
    let partial = Rebuild { partial: true, ..Rebuild::default() };
    let done = rebuild(folder.path(), partial, |_| {}).unwrap();
    assert!(done.lost.unwrap().contains("is missing"), "what is lost is said");
}

#[test]
fn what_differs_is_counted() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::default());
    let journaled = opened(&memory, &folder);
    journaled.commit(vec![put(0, 1), put(1, 1), put(2, 1)]).unwrap();
    journaled.commit(vec![put(3, 1)]).unwrap();
    drop(journaled);
    assert!(verified(&memory, &folder).differences.is_empty());
    memory.commit(vec![(b"a".to_vec(), None), put(1, 2), put(9, 9)]).unwrap();
    let differences: Vec<_> = verified(&memory, &folder).differences.into_iter().collect();
    let of = |missing, stale, surplus| care::Differences { missing, stale, surplus };
    assert_eq!(differences, [('a', of(1, 0, 0)), ('b', of(0, 1, 0)), ('j', of(0, 0, 1))]);
}

#[test]
fn a_copy_is_brought_up_to_date_while_the_store_is_written() {
    let (folder, memory, copy) =
        (tempfile::tempdir().unwrap(), Memory::default(), tempfile::tempdir().unwrap());
    let journaled = opened(&memory, &folder);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| some_batches(&journaled, 0..1_500));
        let mut last = 0;
        while !writing.is_finished() {
            let done = backup(folder.path(), copy.path()).unwrap();
            assert!(done.batches >= last);
            last = done.batches;
        }
    });
    drop(journaled);
    let done = backup(folder.path(), copy.path()).unwrap();
    assert_eq!(done.batches, 1_501);
    assert_eq!(backup(folder.path(), copy.path()).unwrap().copied, 0);
    let (into, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let how = Rebuild { backup: Some(copy.path()), into: Some(into.path()), partial: false };
    assert_eq!(rebuilt(&elsewhere, how), content(&memory));
    let occupied = backup(folder.path(), into.path()).unwrap_err();
    assert!(occupied.to_string().contains("something else"), "{occupied}");
}

#[test]
fn after_shrinking_nothing_is_left_of_what_was_deleted() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::default());
    let journaled = opened(&memory, &folder);
    journaled.commit(vec![(b"zz".to_vec(), Some(b"INVENTED-forgotten".to_vec()))]).unwrap();
    some_batches(&journaled, 0..50);
    journaled.commit(vec![(b"zz".to_vec(), None)]).unwrap();
    drop(journaled);
    let holds = || {
        let files = fresh::files_in(&journal_in(folder.path())).unwrap();
        files.iter().any(|file| memchr::memmem::find(&std::fs::read(file).unwrap(), b"forgotten").is_some())
    };
    assert!(holds());
    for aside in ["journal.set-aside", "journal.set-aside-3"] {
        std::fs::create_dir(folder.path().join(aside)).unwrap();
    }
    shrink(folder.path()).unwrap();
    assert!(!holds());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing that was put aside is left");
    drop(opened(&memory, &folder));
    assert_eq!(verified(&memory, &folder).differences, BTreeMap::new());
}

#[test]
fn a_database_and_a_journal_that_do_not_belong_together_are_refused() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::default());
    let journaled = opened(&memory, &folder);
    some_batches(&journaled, 0..50);
    drop(journaled);
    let journal = journal_in(folder.path());
    let gone = Journaled::open(Memory::default(), &journal, 1).err().unwrap();
    assert!(matches!(gone, JournalError::DatabaseGone { batches: 51 }), "{gone}");
    let other = tempfile::tempdir().unwrap();
    let stranger = Memory::default();
    some_batches(&opened(&stranger, &other), 0..5);
    let foreign = Journaled::open(stranger, &journal, 1).err().unwrap();
    assert!(matches!(foreign, JournalError::Foreign), "{foreign}");
}

#[test]
fn turned_off_and_on_again_it_is_begun_anew() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::default());
    let journaled = opened(&memory, &folder);
    some_batches(&journaled, 0..50);
    drop(journaled);
    turn_off(&memory, &journal_in(folder.path())).unwrap();
    memory.commit(vec![put(25, 1)]).unwrap();
    drop(opened(&memory, &folder));
    assert_eq!(verified(&memory, &folder).differences, BTreeMap::new());
    assert!(asides(&journal_in(folder.path())).next().unwrap().exists());
    // A journal that somebody deleted, too.
    std::fs::remove_dir_all(journal_in(folder.path())).unwrap();
    drop(opened(&memory, &folder));
    assert_eq!(rebuilt(&folder, Rebuild::default()), content(&memory));
}
