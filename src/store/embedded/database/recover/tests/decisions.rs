//! Each row of the table of decisions: what is found, and what becomes of it.

use super::*;

/// A store with several segments, whose index has what came before the commits that are still in the memtable.
fn store(place: &Place) -> Rig {
    let mut rig = place.open();
    some_commits(&mut rig, 0..60);
    rig.drain();
    some_commits(&mut rig, 60..70);
    rig
}

#[test]
fn after_a_clean_stop_nothing_is_replayed_and_nothing_rebuilt() {
    let place = Place::new();
    let rig = store(&place);
    let expected = rig.content();
    rig.close();
    for _ in 0..2 {
        let rig = place.open();
        assert_eq!((rig.is_rebuilt, rig.replayed, rig.content()), (false, 0, expected.clone()));
        rig.close();
    }
}

#[test]
fn log_and_checkpoint_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    let mut rig = store(&place);
    rig.checkpoint();
    rig.folder.mark_damaged("for a test").unwrap();
    rig.close();
    let folders = ["wal", "checkpoint", "index"].map(|name| place.file(name));
    let files = ["wal", "checkpoint"].map(|name| files(&place.file(name))).concat();
    for path in folders.iter().chain(&files).chain(&[place.file("index.damaged"), place.file("index.sums")]) {
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", path.display());
    }
}

#[test]
fn an_index_that_is_behind_is_given_what_the_log_has() {
    let origin = Place::new();
    let rig = store(&origin);
    let expected = rig.content();
    let place = killed(rig);
    let rig = place.open();
    assert_eq!((rig.is_rebuilt, rig.replayed, rig.content()), (false, 10, expected));
}

#[test]
fn more_of_the_log_than_fits_into_memory_is_written_to_the_index_at_once() {
    let place = Place::new();
    let mut rig = place.open();
    some_commits(&mut rig, 0..400);
    let expected = rig.content();
    let place = killed(rig);
    let rig = place.open();
    assert!(!rig.is_rebuilt && rig.replayed < 300 && rig.applied > 100, "{} {}", rig.replayed, rig.applied);
    assert_eq!(rig.content(), expected);
}

#[test]
fn an_index_that_fell_behind_the_checkpoint_is_built_anew() {
    let (place, early) = (Place::new(), Place::new());
    let mut rig = store(&place);
    rig.drain();
    copy(&place.file("index"), &early.file("index"));
    some_commits(&mut rig, 70..140);
    rig.drain();
    rig.checkpoint();
    some_commits(&mut rig, 140..150);
    let expected = rig.content();
    let place = killed(rig);
    std::fs::remove_dir_all(place.file("index")).unwrap();
    copy(&early.file("index"), &place.file("index"));
    let rig = place.open();
    assert_eq!((rig.is_rebuilt, rig.content()), (true, expected));
}

#[test]
fn an_index_that_is_missing_or_empty_or_does_not_open_is_built_anew_and_the_old_one_set_aside() {
    let damages: [fn(&Path); 4] = [
        |index| std::fs::remove_dir_all(index).unwrap(),
        |index| std::fs::write(index.join("db"), vec![0x5a; 1 << 20]).unwrap(),
        |index| std::fs::write(index.join("db"), "").unwrap(),
        |index| {
            std::fs::remove_dir_all(index).unwrap();
            std::fs::create_dir(index).unwrap();
        },
    ];
    for (n, damage) in damages.into_iter().enumerate() {
        let origin = Place::new();
        let rig = store(&origin);
        let expected = rig.content();
        let place = killed(rig);
        damage(&place.file("index"));
        let rig = place.open();
        assert_eq!((rig.is_rebuilt, rig.content()), (true, expected.clone()), "damage {n}");
        assert_eq!(place.file("index.set-aside").exists(), n > 0);
        rig.close();
        let rig = place.open();
        assert_eq!((rig.is_rebuilt, rig.content()), (false, expected), "damage {n}");
    }
}

#[test]
fn an_index_that_was_marked_as_damaged_is_built_anew_once() {
    let origin = Place::new();
    let rig = store(&origin);
    let (expected, folder) = (rig.content(), rig.folder.clone());
    folder.mark_damaged("a record is unreadable").unwrap();
    let place = killed(rig);
    let rig = place.open();
    assert_eq!((rig.is_rebuilt, rig.content()), (true, expected));
    assert!(Folder::new(place.path()).damage().is_none());
    drop(rig);
    assert!(!place.open().is_rebuilt);
}

#[test]
fn any_bit_that_flips_in_the_index_after_a_clean_stop_is_found_and_nothing_is_lost() {
    let place = Place::new();
    let rig = store(&place);
    let expected = rig.content();
    rig.close();
    let folder = Folder::new(place.path());
    assert!(!sums::have_changed(&folder).unwrap());
    for path in files(&place.file("index")) {
        let length = usize::try_from(std::fs::metadata(&path).unwrap().len()).unwrap();
        for at in (0..length).step_by((length / 16).max(1)).chain(length.checked_sub(1)) {
            flip(&path, at);
            assert!(sums::have_changed(&folder).unwrap(), "byte {at} of {}", path.display());
            flip(&path, at);
        }
    }
    // A file that is gone or new, and a checksum that is itself damaged, which tells nothing.
    std::fs::write(place.file("index/blobs/1"), "x").unwrap();
    assert!(sums::have_changed(&folder).unwrap());
    std::fs::remove_file(place.file("index/blobs/1")).unwrap();
    let sum = std::fs::read(place.file("index.sums")).unwrap();
    for at in 0..sum.len() {
        flip(&place.file("index.sums"), at);
        assert!(!sums::have_changed(&folder).unwrap(), "byte {at} of the checksum");
        std::fs::write(place.file("index.sums"), &sum).unwrap();
    }
    flip(&place.file("index/db"), 1_000);
    let rig = place.open();
    assert_eq!((rig.is_rebuilt, rig.content()), (true, expected));
}

#[test]
fn an_index_and_a_log_of_two_stores_are_refused() {
    let (place, other) = (Place::new(), Place::new());
    store(&place).close();
    store(&other).close();
    std::fs::remove_dir_all(place.file("index")).unwrap();
    copy(&other.file("index"), &place.file("index"));
    std::fs::remove_file(place.file("index.sums")).unwrap();
    assert!(place.refused().contains("two different stores"));
    // The way that the hint names.
    std::fs::remove_dir_all(place.file("index")).unwrap();
    assert!(place.open().is_rebuilt);
}

#[test]
fn an_interrupted_rebuild_is_begun_again_and_one_between_its_renames_too() {
    let origin = Place::new();
    let rig = store(&origin);
    let expected = rig.content();
    let place = killed(rig);
    std::fs::rename(place.file("index"), place.file("index.set-aside")).unwrap();
    copy(&place.file("index.set-aside"), &place.file("index.building"));
    std::fs::write(place.file("index.building/db"), "half").unwrap();
    let rig = place.open();
    assert_eq!((rig.is_rebuilt, rig.content()), (true, expected));
    assert!(!place.file("index.building").exists());
}

#[test]
fn a_new_store_that_was_interrupted_while_it_was_made_is_made_again() {
    let place = Place::new();
    place.open().close();
    // Before the index had its name; and before the first segment had a header.
    std::fs::rename(place.file("index"), place.file("index.building")).unwrap();
    for segment in place.segments() {
        std::fs::write(segment, "").unwrap();
    }
    let mut rig = place.open();
    some_commits(&mut rig, 0..3);
    let expected = rig.content();
    let place = killed(rig);
    assert_eq!(place.open().content(), expected);
}

#[test]
fn a_record_that_only_its_writer_saw_is_durable_before_the_index_has_it() {
    // A killed process left a whole record that nobody was told of: it counts, or does not, but is never half there.
    let place = Place::new();
    let mut rig = store(&place);
    let batch: Batch = (0_u8..100).map(|key| (vec![b'b', key], Some(vec![key; 9]))).collect();
    let seq = rig.database.seq() + 1;
    rig.log.append(seq, &batch).unwrap();
    let before = rig.content();
    let place = killed(rig);
    let mut with = before;
    apply(&mut with, &batch);
    let rig = place.open();
    assert_eq!(rig.content(), with);
    let again = killed(rig);
    std::fs::remove_dir_all(again.file("index")).unwrap();
    assert_eq!(again.open().content(), with);
}

#[test]
fn checksums_are_written_again_at_each_clean_stop_and_hold_no_longer_than_the_index_is_closed() {
    let place = Place::new();
    let rig = store(&place);
    rig.close();
    assert!(place.file("index.sums").exists());
    let rig = place.open();
    assert!(!place.file("index.sums").exists());
    write_sums(&rig.folder).unwrap();
    assert!(place.file("index.sums").exists());
}
