//! Folders of versions before 0.3, wherever their upgrade was interrupted.

use super::super::layout;
use super::*;

fn old(version: &str) -> Place {
    let place = Place::new();
    let vector = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(version);
    copy(&vector.join("sled"), &place.file("sled"));
    copy(&vector.join("journal"), &place.file("journal"));
    place
}

#[test]
fn an_upgrade_that_was_interrupted_after_any_step_is_completed() {
    for version in ["store-0.1.0", "store-0.2.0"] {
        let done = old(version);
        layout::upgrade(&Folder::new(done.path())).unwrap();
        let expected = done.open().content();
        assert!(expected.len() > 30);
        assert!(done.file("index").is_dir() && !done.file("journal").exists() && done.file("sled").is_file());
        let checkpoint = Place::new();
        copy(&done.file("checkpoint"), checkpoint.path());
        let steps: [fn(&Place, &Place); 5] = [
            |_, _| {},
            // The checkpoint is written, and half of the next attempt at it.
            |place, checkpoint| {
                copy(checkpoint.path(), &place.file("checkpoint"));
                std::fs::write(place.file("checkpoint/1.checkpoint.unfinished"), "half").unwrap();
            },
            // The log has its name, and still the sorted files beside it.
            |place, _| std::fs::rename(place.file("journal"), place.file("wal")).unwrap(),
            |place, _| {
                let sorted = files(&place.file("wal"));
                sorted.iter().filter(|path| path.extension().unwrap() == "sorted").for_each(|path| {
                    std::fs::remove_file(path).unwrap();
                });
            },
            // The index has its name; the place of the old one is not taken yet.
            |place, _| std::fs::rename(place.file("sled"), place.file("index")).unwrap(),
        ];
        for count in 1..=steps.len() {
            let place = old(version);
            steps[..count].iter().for_each(|step| step(&place, &checkpoint));
            let rig = place.open();
            assert_eq!((rig.is_rebuilt, rig.content()), (false, expected.clone()), "{count} steps");
            drop(rig);
            std::fs::remove_dir_all(place.file("index")).unwrap();
            assert_eq!(place.open().content(), expected, "{count} steps, from the log");
        }
    }
}

#[test]
fn an_upgraded_folder_keeps_earlier_versions_out() {
    let place = old("store-0.2.0");
    drop(place.open());
    // They begin with the folder of their index.
    assert!(std::fs::create_dir_all(place.file("sled")).is_err());
    assert!(std::fs::read_to_string(place.file("sled")).unwrap().contains("0.3 or later"));
}

#[test]
fn a_journal_that_turns_up_beside_the_log_does_not_replace_it() {
    let place = old("store-0.2.0");
    let expected = place.open().content();
    std::fs::create_dir(place.file("journal")).unwrap();
    std::fs::remove_dir_all(place.file("index")).unwrap();
    assert_eq!(place.open().content(), expected);
}

#[test]
fn sorted_files_with_a_hole_or_damage_are_made_up_for_by_the_index() {
    for damage in [0, 1] {
        let place = old("store-0.2.0");
        let expected = old("store-0.2.0").open().content();
        let sorted = files(&place.file("journal")).remove(0);
        if damage == 0 {
            std::fs::remove_file(sorted).unwrap();
        } else {
            flip(&sorted, 5_000);
        }
        let rig = place.open();
        assert_eq!((rig.is_rebuilt, rig.content()), (false, expected.clone()));
        rig.close();
        std::fs::remove_dir_all(place.file("index")).unwrap();
        assert_eq!(place.open().content(), expected);
    }
}
