use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::store::embedded::engine::Engine as _;
use crate::store::embedded::engine::sled::SledEngine;
use crate::store::embedded::folder::{Folder, OpenError};
use crate::store::embedded::rig::{
    Model, Rig, apply, copy, files, flip, last_segment, nth_commit, record_ends, some_commits,
};
use crate::store::rows::source::Batch;

mod copies;
mod restoring;

const CACHE_BYTES: u64 = 8 << 20;

/// A store that was stopped cleanly after these commits, with a checkpoint somewhere.
fn store(commits: u16) -> (TempDir, Model) {
    let place = tempfile::tempdir().unwrap();
    let expected = go_on(place.path(), 0..commits);
    (place, expected)
}

fn go_on(store: &Path, commits: std::ops::Range<u16>) -> Model {
    let mut rig = Rig::open(store).unwrap();
    let half = commits.start + (commits.end - commits.start) / 2;
    some_commits(&mut rig, commits.start..half);
    rig.drain();
    if commits.len() > 30 {
        rig.checkpoint();
    }
    some_commits(&mut rig, half..commits.end);
    let content = rig.content();
    rig.close();
    content
}

fn content(store: &Path) -> Model {
    Rig::open(store).unwrap().content()
}

/// What a store restored from a copy holds.
fn restored(from: &Path) -> Model {
    let place = tempfile::tempdir().unwrap();
    restore(place.path(), from, Restore::default(), |_| {}).unwrap();
    content(place.path())
}

/// Every file below a folder with its content.
fn everything(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    files(folder).into_iter().map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

#[test]
fn each_kind_of_difference_is_counted_and_the_index_built_anew_at_the_next_start() {
    let (place, expected) = store(40);
    let verified = verify(place.path(), CACHE_BYTES).unwrap();
    assert_eq!((verified.commits, verified.records), (40, expected.len() as u64));
    assert!(verified.differences.is_empty() && !verified.rebuilt && verified.replayed == 0);
    let engine = SledEngine::open(&place.path().join("index"), CACHE_BYTES).unwrap();
    let (lost, stale) = (expected.keys().next().unwrap(), expected.keys().last().unwrap());
    let changes = [(lost.clone(), None), (stale.clone(), Some(vec![9])), (vec![b'z'], Some(vec![9]))];
    engine.apply(&changes).unwrap();
    engine.flush().unwrap();
    drop(engine);
    let differences: Vec<_> = verify(place.path(), CACHE_BYTES).unwrap().differences.into_iter().collect();
    let of = |missing, stale, surplus| Differences { missing, stale, surplus };
    assert_eq!(differences, [('a', of(1, 1, 0)), ('z', of(0, 0, 1))]);
    let rig = Rig::open(place.path()).unwrap();
    assert_eq!((rig.is_rebuilt, rig.content()), (true, expected));
    drop(rig);
    assert!(verify(place.path(), CACHE_BYTES).unwrap().differences.is_empty());
}

#[test]
fn verifying_a_store_that_was_killed_replays_its_log_and_names_a_file_that_is_damaged() {
    let place = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(place.path()).unwrap();
    some_commits(&mut rig, 0..60);
    rig.drain();
    some_commits(&mut rig, 60..70);
    let killed = tempfile::tempdir().unwrap();
    rig.kill(killed.path());
    let verified = verify(killed.path(), CACHE_BYTES).unwrap();
    assert_eq!((verified.commits, verified.replayed, verified.differences.len()), (70, 10, 0));
    let first = files(&killed.path().join("wal")).remove(0);
    flip(&first, 300);
    let refused = format!("{:?}", verify(killed.path(), CACHE_BYTES).unwrap_err());
    assert!(refused.contains(first.to_str().unwrap()), "{refused}");
    let nothing = tempfile::tempdir().unwrap();
    assert!(verify(nothing.path(), CACHE_BYTES).unwrap_err().to_string().contains("find a store"));
}

#[test]
fn after_compacting_nothing_is_left_of_what_was_deleted() {
    let place = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(place.path()).unwrap();
    rig.commit(Batch::from([(b"zz".to_vec(), Some(b"INVENTED-forgotten".to_vec()))]));
    some_commits(&mut rig, 0..50);
    rig.drain();
    rig.checkpoint();
    rig.commit(Batch::from([(b"zz".to_vec(), None)]));
    let expected = rig.content();
    rig.close();
    for aside in ["index.set-aside", "set-aside-3", "journal.set-aside", "journal.set-aside-2"] {
        fs::create_dir(place.path().join(aside)).unwrap();
        fs::write(place.path().join(aside).join("old"), "forgotten").unwrap();
    }
    let holds = || {
        everything(place.path()).iter().any(|(_, bytes)| memchr::memmem::find(bytes, b"forgotten").is_some())
    };
    assert!(holds());
    let mut told = 0;
    let compacted = compact(place.path(), CACHE_BYTES, |records| told = records).unwrap();
    assert_eq!(compacted.records, expected.len() as u64);
    assert!(!holds());
    assert_eq!(files(&place.path().join("wal")), [] as [PathBuf; 0]);
    let rig = Rig::open(place.path()).unwrap();
    assert_eq!((rig.is_rebuilt, rig.content()), (false, expected));
}

#[test]
fn a_store_can_be_compacted_twice_and_after_a_rebuild_and_with_damage_that_its_index_makes_up_for() {
    let (place, expected) = store(60);
    compact(place.path(), CACHE_BYTES, |_| {}).unwrap();
    compact(place.path(), CACHE_BYTES, |_| {}).unwrap();
    Folder::new(place.path()).mark_damaged("for a test").unwrap();
    drop(Rig::open(place.path()).unwrap());
    assert!(place.path().join("index.set-aside").exists());
    compact(place.path(), CACHE_BYTES, |_| {}).unwrap();
    assert!(!place.path().join("index.set-aside").exists());
    let checkpoint = files(&place.path().join("checkpoint")).remove(0);
    flip(&checkpoint, 200);
    compact(place.path(), CACHE_BYTES, |_| {}).unwrap();
    fs::remove_dir_all(place.path().join("index")).unwrap();
    assert_eq!(content(place.path()), expected);
}

#[test]
fn compacting_can_be_interrupted_at_any_rename() {
    let (place, expected) = store(60);
    let before = tempfile::tempdir().unwrap();
    copy(place.path(), before.path());
    compact(place.path(), CACHE_BYTES, |_| {}).unwrap();
    // The checkpoint is there, and the index under its other name; then under none; then the segments are left.
    let steps: [fn(&Path, &Path); 4] = [
        |at, done| {
            fs::remove_dir_all(at.join("checkpoint")).unwrap();
            copy(&done.join("checkpoint"), &at.join("checkpoint"));
        },
        |at, done| copy(&done.join("index"), &at.join("index.building")),
        |at, _| {
            fs::rename(at.join("index"), at.join("index.set-aside")).unwrap();
            fs::remove_file(at.join("index.sums")).unwrap();
        },
        |at, _| fs::rename(at.join("index.building"), at.join("index")).unwrap(),
    ];
    for count in 1..=steps.len() {
        let at = tempfile::tempdir().unwrap();
        copy(before.path(), at.path());
        steps[..count].iter().for_each(|step| step(at.path(), place.path()));
        assert_eq!(content(at.path()), expected, "{count} steps");
        compact(at.path(), CACHE_BYTES, |_| {}).unwrap();
        assert_eq!(content(at.path()), expected, "{count} steps");
    }
}
