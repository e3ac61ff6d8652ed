//! Backups.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use super::*;

fn refused(store: &Path, to: &Path) -> String {
    backup(store, to).unwrap_err().to_string()
}

#[test]
fn a_copy_of_a_running_store_is_whole_at_every_moment() {
    let (place, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut rig = Rig::open(place.path()).unwrap();
    let (models, is_over, committed) =
        (Mutex::new(vec![Model::new()]), AtomicBool::new(false), AtomicU64::new(0));
    let to = copies.path().join("copy");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut model = Model::new();
            for n in 0..3_000 {
                apply(&mut model, &nth_commit(n));
                models.lock().unwrap().push(model.clone());
                rig.commit(nth_commit(n));
                committed.store(u64::from(n) + 1, SeqCst);
                if n % 40 == 39 {
                    rig.drain();
                    rig.checkpoint();
                }
                if is_over.load(SeqCst) {
                    break;
                }
            }
            is_over.store(true, SeqCst);
        });
        for round in 0..60 {
            let before = committed.load(SeqCst);
            let done = backup(place.path(), &to).unwrap();
            assert!(done.commits >= before, "{} of {before}", done.commits);
            if round % 10 == 0 || is_over.load(SeqCst) {
                let expected = models.lock().unwrap()[usize::try_from(done.commits).unwrap()].clone();
                assert_eq!(restored(&to), expected, "{} commits", done.commits);
            }
            if is_over.load(SeqCst) {
                break;
            }
        }
        is_over.store(true, SeqCst);
    });
    let done = backup(place.path(), &to).unwrap();
    assert_eq!((done.commits, backup(place.path(), &to).unwrap().copied), (rig.database.seq(), 0));
    rig.commit(nth_commit(9));
    assert_eq!(backup(place.path(), &to).unwrap().copied, 1, "only what has changed");
    assert_eq!(restored(&to), rig.content());
}

#[test]
fn a_folder_of_something_else_is_refused_and_left_alone() {
    let ((place, expected), (other, _)) = (store(20), store(20));
    let copies = tempfile::tempdir().unwrap();
    let to = copies.path().join("copy");
    backup(other.path(), &to).unwrap();
    let before = everything(copies.path());
    assert!(refused(place.path(), &to).contains("of another store"));
    assert!(refused(place.path(), copies.path()).contains("something else"));
    assert_eq!(everything(copies.path()), before);
    for inside in [place.path().to_owned(), place.path().join("wal"), place.path().join("new/copy")] {
        assert!(refused(place.path(), &inside).contains("inside the store's own folder"));
    }
    assert!(!place.path().join("new").exists());
    assert_eq!(content(place.path()), expected);
    // What an operator has put beside a copy is not of a store, and nobody's to delete.
    let own = copies.path().join("own");
    backup(place.path(), &own).unwrap();
    fs::write(own.join("checksums.txt"), "of an operator").unwrap();
    backup(place.path(), &own).unwrap();
    assert!(own.join("checksums.txt").exists());
}

#[test]
fn what_an_earlier_attempt_did_not_finish_stands_in_nobodys_way() {
    let (place, expected) = store(20);
    let to = tempfile::tempdir().unwrap();
    fs::create_dir_all(to.path().join("wal")).unwrap();
    fs::create_dir_all(to.path().join("checkpoint")).unwrap();
    fs::write(to.path().join("wal/00000000000000000001.wal.unfinished"), "half").unwrap();
    backup(place.path(), to.path()).unwrap();
    assert!(!files(to.path()).iter().any(|path| path.to_str().unwrap().ends_with(".unfinished")));
    assert_eq!(restored(to.path()), expected);
}

#[test]
fn a_store_without_a_log_is_not_copied_as_an_empty_one() {
    let (place, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let vector = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/store-0.2.0");
    copy(&vector.join("sled"), &place.path().join("sled"));
    copy(&vector.join("journal"), &place.path().join("journal"));
    let told = refused(place.path(), to.path());
    assert!(told.contains("hint: start the service once"), "{told}");
    drop(Rig::open(place.path()).unwrap());
    assert!(backup(place.path(), to.path()).unwrap().commits >= 173, "all that it holds");
}

#[test]
fn a_copy_is_never_worse_than_it_was() {
    let (place, early) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    go_on(place.path(), 0..60);
    copy(place.path(), early.path());
    let expected = go_on(place.path(), 60..70);
    let to = tempfile::tempdir().unwrap();
    backup(place.path(), to.path()).unwrap();
    let whole = everything(to.path());
    // The store as it was, from a snapshot of the disk; and stores that were damaged after they were copied.
    assert!(refused(early.path(), to.path()).contains("the copy in it has 70 commits"));
    assert_eq!(everything(to.path()), whole);
    let kinds_of_damage: [fn(&Path); 5] = [
        |store| {
            let last = last_segment(store);
            let length = record_ends(&last)[0];
            fs::OpenOptions::new().write(true).open(last).unwrap().set_len(length as u64).unwrap();
        },
        |store| flip(&last_segment(store), record_ends(&last_segment(store))[0] + 20),
        |store| fs::remove_file(&files(&store.join("wal"))[1]).unwrap(),
        |store| flip(&files(&store.join("checkpoint"))[0], 100),
        |store| flip(&files(&store.join("checkpoint"))[0], 10),
    ];
    for (n, damage) in kinds_of_damage.into_iter().enumerate() {
        let damaged = tempfile::tempdir().unwrap();
        copy(place.path(), damaged.path());
        damage(damaged.path());
        refused(damaged.path(), to.path());
        assert!(everything(to.path()) == whole, "damage {n}");
    }
    // And a copy that was itself damaged is mended.
    flip(&files(&to.path().join("wal"))[0], 100);
    flip(&files(&to.path().join("checkpoint"))[0], 100);
    assert_eq!(backup(place.path(), to.path()).unwrap().copied, 2);
    assert_eq!(restored(to.path()), expected);
}

#[test]
fn a_file_that_was_replaced_by_another_of_its_name_and_length_is_copied_again() {
    let place = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(place.path()).unwrap();
    let value = |value| Batch::from([(b"k".to_vec(), Some(vec![value; 40]))]);
    rig.commit(value(1));
    let (mine, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    rig.kill(mine.path());
    copy(mine.path(), theirs.path());
    // Two futures of one store.
    let to = tempfile::tempdir().unwrap();
    for (place, last) in [(&mine, 2), (&theirs, 3)] {
        let mut rig = Rig::open(place.path()).unwrap();
        rig.commit(value(last));
        drop(rig);
        backup(place.path(), to.path()).unwrap();
        assert_eq!(restored(to.path())[&b"k"[..]], [last; 40]);
    }
}
