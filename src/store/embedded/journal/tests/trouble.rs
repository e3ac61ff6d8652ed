//! What is lost, damaged, out of date, or in the wrong place: said, and mended where nothing is lost by it.

use std::fs;
use std::path::PathBuf;

use super::super::fold::merge_all;
use super::*;

/// Ten batches in the last segment, and a few files before it; the database as it was before them, and as it is.
fn ten_batches_behind(folder: &TempDir) -> (Memory, Memory) {
    let memory = Memory::default();
    some_batches(&opened(&memory, folder), 0..200);
    let before = memory.after_a_crash(usize::MAX);
    some_batches(&opened(&memory, folder), 200..210);
    (before, memory)
}

fn pieces(folder: &TempDir) -> Vec<PathBuf> {
    files::list(&journal_in(folder.path())).unwrap().into_iter().map(|piece| piece.path).collect()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 8;
    fs::write(path, bytes).unwrap();
}

fn sorted(journal: &Path, lineage: Lineage, from: u64, to: u64) {
    let mut writer = SortedWriter::create(journal, lineage, from, to).unwrap();
    writer.push((b"a", Some(b"1"))).unwrap();
    writer.finish().unwrap();
}

fn refused(memory: &Memory, folder: &TempDir) -> String {
    let opened = Journaled::open(memory.clone(), &journal_in(folder.path()), 1);
    opened.err().expect("it must not be opened").to_string()
}

#[test]
fn turned_off_the_database_is_given_what_a_crash_kept_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let (behind, memory) = ten_batches_behind(&folder);
    let expected = content(&memory);
    assert_ne!(content(&behind), expected);
    turn_off(&behind, &journal_in(folder.path())).unwrap();
    assert_eq!(content(&behind), expected);
    // And nobody takes what is out of date for a journal.
    let copy = tempfile::tempdir().unwrap();
    let none = backup(folder.path(), copy.path()).unwrap_err().to_string();
    assert!(none.contains("there is no journal"), "{none}");
    assert!(rebuild(folder.path(), Rebuild::default(), |_| {}).is_err());
    // A database that is gone is no reason to forget the journal.
    let other = tempfile::tempdir().unwrap();
    ten_batches_behind(&other);
    let gone = turn_off(&Memory::default(), &journal_in(other.path())).unwrap_err();
    assert!(matches!(gone, JournalError::DatabaseGone { .. }), "{gone}");
}

#[test]
fn damage_in_the_last_segment_is_not_taken_for_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let (behind, memory) = ten_batches_behind(&folder);
    let last = pieces(&folder).pop().unwrap();
    let whole = fs::read(&last).unwrap();
    assert_eq!(Content::read(&last).unwrap().unwrap().to, 211);
    let second = Header::BYTES + whole.len() / 5;
    for at in [second, Header::BYTES - 1] {
        flip(&last, at);
        assert!(refused(&behind, &folder).contains("is damaged"), "byte {at}");
        assert!(compare(&behind, &journal_in(folder.path())).is_err(), "byte {at}");
        assert!(backup(folder.path(), tempfile::tempdir().unwrap().path()).is_err(), "byte {at}");
        assert!(rebuild(folder.path(), Rebuild::default(), |_| {}).is_err(), "byte {at}");
        assert_eq!(fs::read(&last).unwrap().len(), whole.len(), "what is left of it is not overwritten");
        fs::write(&last, &whole).unwrap();
    }
    // A copy has what it has, and the rest is said to be lost.
    let copy = tempfile::tempdir().unwrap();
    backup(folder.path(), copy.path()).unwrap();
    flip(&last, Header::BYTES - 1);
    let into = tempfile::tempdir().unwrap();
    let how = Rebuild { backup: Some(copy.path()), into: Some(into.path()), partial: false };
    let refused = rebuild(folder.path(), how, |_| {}).unwrap_err().to_string();
    assert!(refused.contains("is damaged") && refused.contains("--partial"), "{refused}");
    assert_eq!(rebuilt(&folder, Rebuild { partial: true, ..how }), content(&memory));
    fs::write(&last, &whole).unwrap();
    // A database that has all of it needs none of it.
    flip(&last, second);
    drop(opened(&memory, &folder));
    assert_eq!(verified(&memory, &folder).differences, BTreeMap::new());
    assert_eq!(rebuilt(&folder, Rebuild::default()), content(&memory));
}

#[test]
fn a_lost_file_is_noticed_and_nothing_is_merged_over_the_hole() {
    for lost in [0, 1] {
        let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::default());
        some_batches(&opened(&memory, &folder), 0..400);
        let journal = journal_in(folder.path());
        let lineage = Pieces::of(&journal).unwrap().unwrap().lineage;
        for path in pieces(&folder) {
            fs::remove_file(path).unwrap();
        }
        for (from, to) in [(1, 100), (101, 200), (201, 401)] {
            sorted(&journal, lineage, from, to);
        }
        fs::remove_file(pieces(&folder).remove(lost)).unwrap();
        if lost == 1 {
            assert!(merge_all(&journal, lineage).unwrap_err().to_string().contains("is missing"));
        }
        assert!(compare(&memory, &journal).is_err(), "there is no telling what the database should hold");
        drop(opened(&memory, &folder));
        assert_eq!(verified(&memory, &folder).differences, BTreeMap::new(), "begun anew");
    }
}

#[test]
fn an_older_journal_replaces_no_newer_database() {
    let (folder, old) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let memory = Memory::default();
    some_batches(&opened(&memory, &folder), 0..20);
    backup(folder.path(), &journal_in(old.path())).unwrap();
    some_batches(&opened(&memory, &folder), 20..60);
    let behind = compare(&memory, &journal_in(old.path())).unwrap_err();
    assert!(matches!(behind, JournalError::Behind { journal: 21, database: 61 }), "{behind}");
    // The same in the folder of a real database.
    assert_eq!(rebuilt(&folder, Rebuild::default()), content(&memory));
    fs::rename(folder.path().join("sled"), old.path().join("sled")).unwrap();
    let refused = rebuild(old.path(), Rebuild::default(), |_| {}).unwrap_err().to_string();
    assert!(refused.contains("everything up to 61") && refused.contains("start the service"), "{refused}");
    let anyhow = Rebuild { partial: true, ..Rebuild::default() };
    assert_eq!(rebuild(old.path(), anyhow, |_| {}).unwrap().batches, 21);
}

#[test]
fn a_copy_is_neither_mixed_with_another_past_nor_worse_than_before() {
    let (folder, early, copy) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let memory = Memory::default();
    some_batches(&opened(&memory, &folder), 0..20);
    backup(folder.path(), &journal_in(early.path())).unwrap();
    some_batches(&opened(&memory, &folder), 20..60);
    let note = copy.path().join("checksums.txt");
    backup(folder.path(), copy.path()).unwrap();
    fs::write(&note, "of an operator").unwrap();
    backup(folder.path(), copy.path()).unwrap();
    assert!(note.exists(), "what is not of a journal is nobody's to delete");
    // The store as it was, from a snapshot of the disk.
    let later = backup(early.path(), copy.path()).unwrap_err().to_string();
    assert!(later.contains("later state"), "{later}");
    let own = backup(folder.path(), &journal_in(folder.path())).unwrap_err().to_string();
    assert!(own.contains("the store's own"), "{own}");
    // Nor a segment that went bad after it was copied.
    let last = pieces(&folder).pop().unwrap();
    let (whole, copied) = (fs::read(&last).unwrap(), copy.path().join(last.file_name().unwrap()));
    fs::write(&last, &whole[..whole.len() / 2]).unwrap();
    assert!(backup(folder.path(), copy.path()).is_err());
    assert_eq!(fs::read(&copied).unwrap(), whole);
    fs::write(&last, &whole).unwrap();
    // What an earlier time did not finish stands in nobody's way.
    let first = tempfile::tempdir().unwrap();
    fs::write(first.path().join("00000000000000000001-00000000000000000001.sorted.unfinished"), "x").unwrap();
    backup(folder.path(), first.path()).unwrap();
    // A file that went bad after it was merged does not take the place of those that are whole.
    some_batches(&opened(&memory, &folder), 60..160);
    let journal = journal_in(folder.path());
    let lineage = Pieces::of(&journal).unwrap().unwrap().lineage;
    backup(folder.path(), copy.path()).unwrap();
    fold(&journal, lineage, Last::Closed, Room::ANY, &|| false).unwrap();
    merge_all(&journal, lineage).unwrap();
    let merged = pieces(&folder).remove(0);
    flip(&merged, Header::BYTES + 20);
    assert!(backup(folder.path(), copy.path()).is_err());
    let into = tempfile::tempdir().unwrap();
    let how = Rebuild { backup: Some(copy.path()), into: Some(into.path()), partial: false };
    assert_eq!(rebuilt(&folder, how), content(&memory));
}

#[test]
fn what_cannot_be_finished_takes_no_room() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, lineage) = (folder.path(), [3; 16]);
    drop(SortedWriter::create(journal, lineage, 1, 9).unwrap());
    assert_eq!(fs::read_dir(journal).unwrap().count(), 0);
    for (from, to) in [(1, 100), (101, 200)] {
        sorted(journal, lineage, from, to);
    }
    let full = Room { spare_bytes: u64::MAX };
    let error = fold(journal, lineage, Last::Closed, full, &|| false).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
    assert_eq!(fs::read_dir(journal).unwrap().count(), 2);
    // Later there is room, though no segment was closed since.
    fold(journal, lineage, Last::Closed, Room::ANY, &|| false).unwrap();
    assert_eq!(files::list(journal).unwrap().len(), 1);
}

#[test]
fn a_database_that_is_gone_is_noticed_from_the_first_batch_on() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::default());
    memory.commit(vec![put(1, 1)]).unwrap();
    drop(opened(&memory, &folder));
    assert!(refused(&Memory::default(), &folder).contains("the database is empty"));
    // Nothing at all was in it yet.
    let empty = tempfile::tempdir().unwrap();
    drop(opened(&Memory::default(), &empty));
    drop(opened(&Memory::default(), &empty));
}

#[test]
fn an_interrupted_rebuilding_is_not_taken_for_a_database() {
    let folder = tempfile::tempdir().unwrap();
    let (_, memory) = ten_batches_behind(&folder);
    let (live, copy) = (folder.path().join("sled"), folder.path().join("sled.being-rebuilt"));
    rebuilt(&folder, Rebuild::default());
    fs::rename(&live, &copy).unwrap();
    let interrupted = super::super::super::compaction::recover(folder.path()).unwrap_err().to_string();
    assert!(interrupted.contains("rebuild again"), "{interrupted}");
    assert_eq!(rebuilt(&folder, Rebuild::default()), content(&memory));
    fs::create_dir(&copy).unwrap();
    super::super::super::compaction::recover(folder.path()).unwrap();
    assert!(!copy.exists() && live.exists());
}
