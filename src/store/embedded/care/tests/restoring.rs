//! Restoring from copies.

use super::*;

fn put_back(store: &Path, from: &Path) -> Result<Restored, OpenError> {
    restore(store, from, Restore::default(), |_| {})
}

fn partially(store: &Path, from: &Path) -> Restored {
    restore(store, from, Restore { partial: true }, |_| {}).unwrap()
}

/// A store, and a copy of what it was ten commits ago.
fn store_and_copy() -> (TempDir, TempDir, Model, Model) {
    let (place, copied) = store(60);
    let to = tempfile::tempdir().unwrap();
    backup(place.path(), to.path()).unwrap();
    let expected = go_on(place.path(), 60..70);
    (place, to, copied, expected)
}

#[test]
fn commits_behind_those_of_the_copy_are_kept_and_the_store_before_is_set_aside() {
    let (place, to, _, expected) = store_and_copy();
    for n in 1..=2 {
        let done = put_back(place.path(), to.path()).unwrap();
        assert_eq!((done.commits, done.records, done.lost), (70, expected.len() as u64, None));
        let aside = place.path().join(format!("set-aside-{n}"));
        assert_eq!(done.set_aside.as_ref(), Some(&aside));
        assert_eq!((content(place.path()), content(&aside)), (expected.clone(), expected.clone()));
    }
    // In the place of another store, or of none.
    let (other, foreign) = store(20);
    let done = put_back(other.path(), to.path()).unwrap();
    assert_eq!((done.commits, content(&done.set_aside.unwrap())), (60, foreign));
}

#[test]
fn damage_that_the_copy_makes_up_for_is_no_reason_not_to_restore() {
    let (place, to, _, expected) = store_and_copy();
    // In what the copy has too; in the header; and in a segment that the copy has in part.
    let kinds_of_damage: [fn(&Path); 3] = [
        |store| flip(&files(&store.join("wal"))[0], 100),
        |store| flip(&files(&store.join("wal"))[0], 10),
        |store| fs::remove_dir_all(store.join("checkpoint")).unwrap(),
    ];
    for damage in kinds_of_damage {
        let damaged = tempfile::tempdir().unwrap();
        copy(place.path(), damaged.path());
        damage(damaged.path());
        let done = put_back(damaged.path(), to.path()).unwrap();
        assert_eq!((done.commits, content(damaged.path())), (70, expected.clone()));
    }
    // A copy that is damaged where the store is not.
    let copy_only = tempfile::tempdir().unwrap();
    copy(to.path(), copy_only.path());
    let copied = files(&copy_only.path().join("wal"));
    fs::remove_file(copied.last().unwrap()).unwrap();
    let done = put_back(place.path(), copy_only.path()).unwrap();
    assert_eq!((done.commits, content(place.path())), (70, expected));
}

#[test]
fn the_copy_of_a_segment_that_grew_is_made_up_for_record_by_record() {
    let place = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(place.path()).unwrap();
    some_commits(&mut rig, 0..4);
    let to = tempfile::tempdir().unwrap();
    backup(place.path(), to.path()).unwrap();
    some_commits(&mut rig, 4..8);
    let expected = rig.content();
    let killed = tempfile::tempdir().unwrap();
    rig.kill(killed.path());
    let segment = last_segment(killed.path());
    let ends = record_ends(&segment);
    // The second of the four that the copy has.
    let damaged = tempfile::tempdir().unwrap();
    copy(killed.path(), damaged.path());
    flip(&last_segment(damaged.path()), ends[0] + 20);
    assert_eq!(put_back(damaged.path(), to.path()).unwrap().commits, 8);
    assert_eq!(content(damaged.path()), expected);
    // The second of those that it has not: what comes behind is lost, and that has to be accepted.
    flip(&segment, ends[4] + 20);
    let before = everything(killed.path());
    let refused = put_back(killed.path(), to.path()).unwrap_err().to_string();
    assert!(refused.contains("is damaged") && refused.contains("--partial"), "{refused}");
    assert!(everything(killed.path()) == before, "the store is as it was");
    let done = partially(killed.path(), to.path());
    assert_eq!(done.commits, 5);
    assert!(done.lost.unwrap().contains("records up to 5, and had 8"));
    let mut model = Model::new();
    (0..5).for_each(|n| apply(&mut model, &nth_commit(n)));
    assert_eq!(content(killed.path()), model);
}

#[test]
fn a_copy_with_a_gap_is_restored_up_to_it_if_that_will_do() {
    let changes: [fn(&Path); 4] = [
        |segment| fs::remove_file(segment).unwrap(),
        |segment| flip(segment, record_ends(segment)[1] + 20),
        |segment| flip(segment, 60),
        |segment| fs::write(segment, [1; 500]).unwrap(),
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let (place, _) = store(120);
        let (to, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        backup(place.path(), to.path()).unwrap();
        change(&files(&to.path().join("wal"))[1]);
        let refused = put_back(new.path(), to.path()).unwrap_err().to_string();
        assert!(refused.contains("--partial"), "{refused}");
        let done = partially(new.path(), to.path());
        assert!(done.lost.is_some() && done.commits < 120, "change {n}");
        let mut model = Model::new();
        (0..u16::try_from(done.commits).unwrap()).for_each(|n| apply(&mut model, &nth_commit(n)));
        assert_eq!(content(new.path()), model, "change {n}");
    }
}

#[test]
fn what_is_no_copy_is_not_restored() {
    let (place, expected) = store(20);
    let nothing = tempfile::tempdir().unwrap();
    assert!(put_back(place.path(), &nothing.path().join("none")).is_err());
    assert!(put_back(place.path(), nothing.path()).is_err());
    fs::create_dir(nothing.path().join("wal")).unwrap();
    fs::create_dir(nothing.path().join("checkpoint")).unwrap();
    let refused = put_back(place.path(), nothing.path()).unwrap_err().to_string();
    assert!(refused.contains("find a copy of a store"), "{refused}");
    let (to, other) = (tempfile::tempdir().unwrap(), store(60));
    backup(other.0.path(), to.path()).unwrap();
    flip(&files(&to.path().join("checkpoint"))[0], 100);
    assert!(put_back(place.path(), to.path()).is_err());
    flip(&files(&to.path().join("checkpoint"))[0], 10);
    assert!(put_back(place.path(), to.path()).is_err());
    assert_eq!(content(place.path()), expected);
    assert!(!place.path().join("restoring").exists());
}

#[test]
fn copies_of_versions_before_0_3_are_restored_and_what_the_store_has_behind_them_is_kept() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    for version in ["store-0.1.0", "store-0.2.0"] {
        let old = tempfile::tempdir().unwrap();
        copy(&vectors.join(version).join("sled"), &old.path().join("sled"));
        copy(&vectors.join(version).join("journal"), &old.path().join("journal"));
        let new = tempfile::tempdir().unwrap();
        let journal = vectors.join(version).join("journal");
        let done = put_back(new.path(), &journal).unwrap();
        // The store as its own version left it, whose log goes on behind an earlier copy.
        let early = tempfile::tempdir().unwrap();
        copy(&journal, early.path());
        let segments = files(early.path());
        if segments.len() > 2 {
            fs::remove_file(segments.last().unwrap()).unwrap();
        }
        assert_eq!(put_back(old.path(), early.path()).unwrap().commits, done.commits);
        let expected = content(new.path());
        assert!(expected.len() > 30);
        assert_eq!(content(old.path()), expected);
        assert!(old.path().join("set-aside-1/journal").is_dir());
    }
}

#[test]
fn a_restore_that_was_interrupted_before_it_was_complete_leaves_the_store_as_it_was() {
    let (place, expected) = store(20);
    let (_, to, ..) = store_and_copy();
    copy(to.path(), &place.path().join("restoring"));
    assert_eq!(content(place.path()), expected);
    assert!(!place.path().join("restoring").exists(), "a copy of personal data is not left lying about");
}

#[test]
fn a_restore_that_was_interrupted_between_its_renames_is_completed_by_the_next_start() {
    let (copied, expected) = store(60);
    let to = tempfile::tempdir().unwrap();
    backup(copied.path(), to.path()).unwrap();
    let built = tempfile::tempdir().unwrap();
    put_back(built.path(), to.path()).unwrap();
    let parts = ["checkpoint", "wal", "index", "sled"];
    // So many parts of the store before have been moved, or all of them and so many of the new one.
    for moved in 0..=2 * parts.len() {
        let (place, before) = store(20);
        let (ready, placing) = (place.path().join("restoring.ready"), place.path().join("restoring.placing"));
        for part in parts {
            let from = built.path().join(part);
            if from.is_dir() {
                copy(&from, &ready.join(part));
            } else {
                fs::copy(&from, ready.join(part)).unwrap();
            }
        }
        fs::write(ready.join("set-aside"), "set-aside-1").unwrap();
        for part in parts.iter().take(moved) {
            let aside = place.path().join("set-aside-1");
            fs::create_dir_all(&aside).unwrap();
            fs::rename(place.path().join(part), aside.join(part)).unwrap();
        }
        if moved >= parts.len() {
            let sums = place.path().join("index.sums");
            fs::rename(&sums, place.path().join("set-aside-1/index.sums")).unwrap();
            fs::rename(&ready, &placing).unwrap();
            for part in parts.iter().take(moved - parts.len()) {
                fs::rename(placing.join(part), place.path().join(part)).unwrap();
            }
        }
        if moved == 3 {
            // Another command comes first.
            verify(place.path(), CACHE_BYTES).unwrap();
        }
        assert_eq!(content(place.path()), expected, "{moved} parts");
        assert_eq!(content(&place.path().join("set-aside-1")), before, "{moved} parts");
        assert!(!ready.exists() && !placing.exists());
    }
}
