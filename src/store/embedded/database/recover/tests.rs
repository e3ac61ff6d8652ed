use std::path::{Path, PathBuf};

use proptest::collection::btree_map;
use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;

use super::super::write_sums;
use super::*;
use crate::store::embedded::rig::{Model, Rig, apply, copy, files, flip, nth_commit, some_commits};
use crate::store::embedded::wal::Log as _;

mod damage;
mod decisions;
mod upgrade;

fn any_writes() -> impl Strategy<Value = Batch> {
    let value = proptest::option::weighted(0.7, vec(any::<u8>(), 0..200));
    btree_map((0_u8..20).prop_map(|key| vec![b'a' + key]), value, 1..8)
}

#[derive(Debug, Clone)]
enum Step {
    Commit(Batch),
    Drain,
    Checkpoint,
    CheckpointOfTheIndex,
    Restart,
    /// The process is killed.
    Kill,
    /// The power fails while so many bytes of a record have been written.
    CutWhileAppending(Batch, usize),
    /// The power fails when so many rows of a drain are durable.
    CutWhileDraining(usize),
    /// A clean stop, after which the index is lost.
    LoseIndex,
    /// A clean stop, after which a bit of the index flips.
    FlipIndex(usize, usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        16 => any_writes().prop_map(Step::Commit),
        3 => Just(Step::Drain),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::CheckpointOfTheIndex),
        1 => Just(Step::Restart),
        1 => Just(Step::Kill),
        2 => (any_writes(), any::<usize>()).prop_map(|(writes, bytes)| Step::CutWhileAppending(writes, bytes)),
        2 => (0_usize..12).prop_map(Step::CutWhileDraining),
        1 => Just(Step::LoseIndex),
        1 => any::<(usize, usize)>().prop_map(|(file, at)| Step::FlipIndex(file, at)),
    ]
}

/// A store, and the folder that it is in.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn open(&self) -> Rig {
        Rig::open(self.path()).unwrap()
    }

    /// Why it is not opened.
    fn refused(&self) -> String {
        Rig::open(self.path()).err().expect("it must not be opened").to_string()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn segments(&self) -> Vec<PathBuf> {
        wal::list(&self.file("wal")).unwrap().into_iter().map(|segment| segment.path).collect()
    }
}

/// What a killed process leaves.
fn killed(rig: Rig) -> Place {
    let place = Place::new();
    rig.kill(place.path());
    place
}

/// Cuts the power while a record is being written.
fn cut_while_appending(rig: Rig, writes: &Batch, bytes: usize) -> Place {
    let record = wal::record::record(rig.database.seq() + 1, writes).unwrap();
    let place = killed(rig);
    let last = place.segments().pop().unwrap();
    let mut segment = std::fs::read(&last).unwrap();
    segment.extend(&record[..bytes % record.len()]);
    std::fs::write(&last, segment).unwrap();
    place
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_store_holds_what_was_committed(steps in vec(any_step(), 1..50)) {
        let mut place = Place::new();
        let mut rig = place.open();
        let mut model = Model::new();
        for step in steps {
            match step {
                Step::Commit(writes) => {
                    apply(&mut model, &writes);
                    rig.commit(writes);
                    continue;
                }
                Step::Drain => rig.drain(),
                Step::Checkpoint => rig.checkpoint(),
                Step::CheckpointOfTheIndex => rig.checkpoint_from_index(),
                Step::Restart => {
                    rig.close();
                    rig = place.open();
                    prop_assert!(!rig.is_rebuilt && rig.replayed == 0);
                }
                Step::Kill => {
                    place = killed(rig);
                    rig = place.open();
                    prop_assert!(!rig.is_rebuilt);
                }
                Step::CutWhileAppending(writes, bytes) => {
                    place = cut_while_appending(rig, &writes, bytes);
                    rig = place.open();
                }
                Step::CutWhileDraining(rows) => {
                    let copy = Place::new();
                    rig.drain_and_copy_after(rows, copy.path());
                    drop(rig);
                    place = copy;
                    rig = place.open();
                }
                Step::LoseIndex => {
                    rig.close();
                    std::fs::remove_dir_all(place.file("index")).unwrap();
                    rig = place.open();
                    prop_assert!(rig.is_rebuilt);
                }
                Step::FlipIndex(file, at) => {
                    rig.close();
                    let files = files(&place.file("index"));
                    let files: Vec<_> =
                        files.into_iter().filter(|path| std::fs::metadata(path).unwrap().len() > 0).collect();
                    let path = &files[file % files.len()];
                    flip(path, at % usize::try_from(std::fs::metadata(path).unwrap().len()).unwrap());
                    rig = place.open();
                    prop_assert!(rig.is_rebuilt);
                }
            }
            prop_assert_eq!(&rig.content(), &model);
        }
        rig.drain();
        prop_assert_eq!(&rig.indexed(), &model);
        drop(rig);
        let verified = crate::store::embedded::verify(place.path(), 8 << 20).unwrap();
        prop_assert_eq!((verified.records, verified.differences.len()), (model.len() as u64, 0));
        std::fs::remove_dir_all(place.file("index")).unwrap();
        prop_assert_eq!(place.open().content(), model);
    }
}
