//! Log and checkpoint that are damaged or lack something: healed from the index where it has that, refused with words
//! where nothing has it, and never passed over in silence.

use super::*;
use crate::store::embedded::engine::Engine as _;
use crate::store::embedded::rig::{last_segment, record_ends};
use crate::store::embedded::wal::record::Header;

/// A store with a checkpoint, and segments behind it that the index has; stopped cleanly.
fn closed_store() -> (Place, Model) {
    let place = Place::new();
    let mut rig = place.open();
    some_commits(&mut rig, 0..60);
    rig.drain();
    rig.checkpoint();
    some_commits(&mut rig, 60..120);
    let expected = rig.content();
    rig.close();
    (place, expected)
}

/// A store that was killed with records in its last segment that the index does not have.
fn killed_store() -> (Place, Model) {
    let place = Place::new();
    let mut rig = place.open();
    some_commits(&mut rig, 0..60);
    rig.drain();
    rig.checkpoint();
    some_commits(&mut rig, 60..64);
    rig.drain();
    some_commits(&mut rig, 64..70);
    let expected = rig.content();
    (killed(rig), expected)
}

fn lose_index(place: &Place) {
    std::fs::remove_dir_all(place.file("index")).unwrap();
}

fn checkpoint(place: &Place) -> PathBuf {
    files(&place.file("checkpoint")).pop().unwrap()
}

/// It opens without a rebuild, goes on, and log and checkpoint alone hold everything again.
fn assert_healed(place: &Place, mut expected: Model) {
    let mut rig = place.open();
    assert!(!rig.is_rebuilt);
    assert_eq!(rig.content(), expected);
    some_commits(&mut rig, 200..210);
    (200..210).for_each(|n| apply(&mut expected, &nth_commit(n)));
    rig.close();
    lose_index(place);
    let rig = place.open();
    assert_eq!((rig.is_rebuilt, rig.content()), (true, expected));
}

#[test]
fn where_the_log_lost_what_the_index_has_a_checkpoint_is_written_from_the_index() {
    let losses: [fn(&Place); 6] = [
        // The end: the last segment, half of its last record, a bit of it, everything.
        |place| std::fs::remove_file(last_segment(place.path())).unwrap(),
        |place| {
            let last = last_segment(place.path());
            let bytes = std::fs::read(&last).unwrap();
            std::fs::write(&last, &bytes[..record_ends(&last).pop().unwrap() - 5]).unwrap();
        },
        |place| {
            let last = last_segment(place.path());
            flip(&last, record_ends(&last).pop().unwrap() - 5);
        },
        |place| std::fs::remove_dir_all(place.file("wal")).unwrap(),
        // The beginning.
        |place| std::fs::remove_dir_all(place.file("checkpoint")).unwrap(),
        |place| flip(&checkpoint(place), 20),
    ];
    for (n, lose) in losses.into_iter().enumerate() {
        let (place, expected) = closed_store();
        lose(&place);
        // What is lost is lost, where the index is lost too.
        let both = Place::new();
        copy(place.path(), both.path());
        lose_index(&both);
        if let Ok(rig) = Rig::open(both.path()) {
            // A torn end cannot be told from one that was being written, nor a segment from one not begun.
            assert!(n < 4, "loss {n}");
            assert_ne!(rig.content(), Model::new(), "loss {n}");
        }
        assert_healed(&place, expected);
    }
}

#[test]
fn everything_but_the_index_may_be_lost() {
    let (place, expected) = closed_store();
    std::fs::remove_dir_all(place.file("wal")).unwrap();
    std::fs::remove_dir_all(place.file("checkpoint")).unwrap();
    assert_healed(&place, expected);
}

#[test]
fn a_checkpoint_that_is_damaged_in_its_middle_is_named_where_nothing_else_has_its_rows() {
    let (place, expected) = closed_store();
    let path = checkpoint(&place);
    flip(&path, usize::try_from(std::fs::metadata(&path).unwrap().len()).unwrap() / 2);
    assert_eq!(place.open().content(), expected, "the index has them");
    lose_index(&place);
    let refused = place.refused();
    assert!(refused.contains("checkpoint is damaged") && refused.contains("store restore"), "{refused}");
}

#[test]
fn a_segment_in_the_middle_that_is_lost_or_damaged_is_noticed_where_the_index_lacks_it() {
    let changes: [fn(&Path); 3] = [
        |path| std::fs::remove_file(path).unwrap(),
        |path| flip(path, 10),
        |path| flip(path, Header::BYTES + 100),
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let (covered, expected) = closed_store();
        let middle = covered.segments().remove(1);
        change(&middle);
        assert_eq!(covered.open().content(), expected, "the index has it");
        lose_index(&covered);
        if n == 1 {
            // Of its header: each record has its own number and checksum.
            assert_eq!(covered.open().content(), expected);
            continue;
        }
        let refused = covered.refused();
        let named = refused.contains(middle.file_name().unwrap().to_str().unwrap());
        assert!(refused.contains("is missing") || n > 0 && named, "{refused}");
        assert!(refused.contains("hint: restore it from a copy"), "{refused}");
    }
}

#[test]
fn a_missing_index_beside_an_unreadable_log_is_not_taken_for_a_new_store() {
    // Only a checkpoint, as after compacting; and only a segment, as of a young store.
    let place = Place::new();
    let mut rig = place.open();
    some_commits(&mut rig, 0..9);
    rig.drain();
    rig.checkpoint();
    rig.close();
    std::fs::remove_dir_all(place.file("wal")).unwrap();
    lose_index(&place);
    flip(&checkpoint(&place), 30);
    let refused = place.refused();
    assert!(refused.contains("is damaged"), "{refused}");

    let young = Place::new();
    let mut rig = young.open();
    some_commits(&mut rig, 0..9);
    rig.close();
    lose_index(&young);
    flip(&last_segment(young.path()), 30);
    let refused = young.refused();
    assert!(refused.contains("is damaged"), "{refused}");
}

#[test]
fn a_damaged_header_hides_no_record_that_the_index_lacks() {
    // Of the only segment of a young store, and of the last of several.
    for with_checkpoint in [false, true] {
        let place = Place::new();
        let mut rig = place.open();
        some_commits(&mut rig, 0..5);
        rig.drain();
        if with_checkpoint {
            rig.checkpoint();
        }
        some_commits(&mut rig, 5..9);
        let expected = rig.content();
        let place = killed(rig);
        flip(&last_segment(place.path()), 30);
        match Rig::open(place.path()) {
            Ok(rig) => assert_eq!(rig.content(), expected),
            Err(refused) => assert!(refused.to_string().contains("is damaged"), "{refused}"),
        }
    }
}

#[test]
fn a_damaged_record_with_others_behind_it_is_no_end_wherever_the_damage_is() {
    let (place, _) = killed_store();
    let last = last_segment(place.path());
    let whole = std::fs::read(&last).unwrap();
    let ends = record_ends(&last);
    // The first that the index lacks; not the last.
    for at in ends[3]..ends[4] {
        let there = Place::new();
        let name = there.file("wal").join(last.file_name().unwrap());
        std::fs::create_dir(there.file("wal")).unwrap();
        std::fs::write(&name, &whole).unwrap();
        flip(&name, at);
        let segments = wal::list(&there.file("wal")).unwrap();
        let first = segments[0].from;
        let replayed = wal::replay::<io::Error>(&segments, first + 3, |_, _| Ok(())).unwrap();
        let gap = replayed.gap.unwrap_or_else(|| panic!("byte {at} is taken for the end"));
        assert_eq!((gap.have, gap.end, gap.damaged), (first + 3, first + 9, Some(name)), "byte {at}");
    }
    flip(&last, ends[3] + 2);
    let refused = place.refused();
    assert!(refused.contains("is damaged"), "{refused}");
}

#[test]
fn a_damaged_record_that_the_index_has_hides_none_of_those_behind_it() {
    let (place, expected) = killed_store();
    let last = last_segment(place.path());
    // The second of the four that the index has, of ten; in its length and in its content.
    for at in [record_ends(&last)[0], record_ends(&last)[0] + 20] {
        let damaged = Place::new();
        copy(place.path(), damaged.path());
        flip(&last_segment(damaged.path()), at);
        assert_healed(&damaged, expected.clone());
    }
}

#[test]
fn a_segment_under_the_name_of_another_is_damaged() {
    let (place, _) = closed_store();
    lose_index(&place);
    let segments = place.segments();
    std::fs::rename(&segments[1], place.file("wal").join("00000000000000000070.wal")).unwrap();
    let refused = place.refused();
    assert!(refused.contains("damaged") || refused.contains("missing"), "{refused}");
}

#[test]
fn an_index_that_was_written_without_a_log_replaces_what_is_left_of_one() {
    let (place, mut expected) = closed_store();
    // As version 0.2 left it where the log was turned off.
    let engine = SledEngine::open(&place.file("index"), 8 << 20).unwrap();
    engine.apply(&[Mark::OFF.to_write().unwrap(), (vec![b'z'], Some(vec![1]))]).unwrap();
    engine.flush().unwrap();
    drop(engine);
    std::fs::remove_file(place.file("index.sums")).unwrap();
    expected.insert(vec![b'z'], vec![1]);
    assert_healed(&place, expected);
}

#[test]
fn healing_can_be_interrupted() {
    // An index without a mark, and no log.
    let place = Place::new();
    let engine = SledEngine::open(&place.file("index"), 8 << 20).unwrap();
    engine.apply(&[(vec![b'z'], Some(vec![1]))]).unwrap();
    engine.flush().unwrap();
    drop(engine);
    let before = Place::new();
    copy(place.path(), before.path());
    drop(place.open());
    // The mark is written, and nothing else.
    std::fs::remove_dir_all(before.file("index")).unwrap();
    copy(&place.file("index"), &before.file("index"));
    assert_healed(&before, Model::from([(vec![b'z'], vec![1])]));
}

#[test]
fn a_checkpoint_that_needs_more_of_the_log_than_there_is_is_refused() {
    let place = Place::new();
    let mut rig = place.open();
    some_commits(&mut rig, 0..20);
    rig.drain();
    let (folder, lineage, last) = (rig.folder.clone(), rig.lineage, rig.database.seq());
    checkpoint::from_index(&*rig.engine, &folder.checkpoint(), lineage, last, &|| last + 5, &|| false)
        .unwrap();
    rig.close();
    assert!(place.refused().contains(&format!("and had {}", last + 5)), "{}", place.refused());
}
