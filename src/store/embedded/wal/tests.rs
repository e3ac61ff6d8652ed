use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use proptest::collection::vec;
use proptest::prelude::*;

use super::record::Header;
use super::*;
use crate::store::embedded::rig::{files, flip, nth_commit, record_ends, write_log};
use crate::store::rows::source::Batch;

const LINEAGE: Lineage = [9; 16];

/// What a log holds up to the first record that is missing, and what reading it came to.
fn read(folder: &Path, after: u64) -> (Vec<(u64, Batch)>, read::Replayed) {
    let mut records = Vec::new();
    let replayed = replay::<io::Error>(&list(folder).unwrap(), after, |seq, entries| {
        records.push((seq, entries.into_iter().map(record::owned).collect()));
        Ok(())
    });
    (records, replayed.unwrap())
}

fn numbered(commits: std::ops::Range<u16>) -> Vec<(u64, Batch)> {
    commits.map(|n| (u64::from(n) + 1, nth_commit(n))).collect()
}

/// A log of several segments.
fn log(commits: u16) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_log(folder.path(), LINEAGE, &(0..commits).map(nth_commit).collect::<Vec<_>>(), 600);
    folder
}

#[test]
fn a_record_that_is_torn_at_any_byte_is_the_end_of_the_log_and_nothing_before_it_is_lost() {
    let folder = log(20);
    let last = files(folder.path()).pop().unwrap();
    let (whole, ends) = (std::fs::read(&last).unwrap(), record_ends(&last));
    let before = ends[ends.len() - 2];
    for length in before..whole.len() {
        for filler in [0, 0x5a] {
            // The length of the file may be durable before its content is.
            for filled in [0, whole.len() - length] {
                let mut bytes = whole[..length].to_vec();
                bytes.resize(length + filled, filler);
                std::fs::write(&last, bytes).unwrap();
                let (records, replayed) = read(folder.path(), 0);
                assert_eq!((replayed.gap, replayed.damaged), (None, None), "{length} bytes");
                assert_eq!(records, numbered(0..19), "{length} bytes");
                assert_eq!(replayed.torn, length + filled > before, "{length} bytes");
            }
        }
    }
}

#[test]
fn a_flipped_bit_in_any_record_that_others_follow_is_a_gap_with_the_name_of_its_file() {
    let folder = log(20);
    let segments = files(folder.path());
    assert!(segments.len() > 3);
    let mut seq = 0;
    for (n, segment) in segments.iter().enumerate() {
        let ends = record_ends(segment);
        for [from, to] in [&[Header::BYTES], &ends[..]].concat().array_windows() {
            seq += 1;
            for at in *from..*to {
                flip(segment, at);
                let (records, replayed) = read(folder.path(), 0);
                assert_eq!(records.len() as u64, seq - 1, "byte {at} of segment {n}");
                if seq < 20 {
                    let gap = replayed.gap.expect("it is taken for the end");
                    assert_eq!((gap.have, gap.end, gap.damaged.as_ref()), (seq - 1, 20, Some(segment)));
                } else {
                    assert!(replayed.gap.is_none() && replayed.torn, "nobody can tell");
                }
                // Whoever has it and those before it loses nothing of what follows.
                let (records, replayed) = read(folder.path(), seq);
                assert_eq!(
                    (records.len() as u64, replayed.gap),
                    (20 - seq, None),
                    "byte {at} of segment {n}"
                );
                flip(segment, at);
            }
        }
    }
    for at in 0..Header::BYTES {
        flip(&segments[1], at);
        let (records, replayed) = read(folder.path(), 0);
        assert_eq!((records.len(), replayed.gap), (20, None), "each record has a number of its own");
        assert_eq!(replayed.damaged.as_ref(), Some(&segments[1]));
        flip(&segments[1], at);
    }
}

#[test]
fn a_segment_that_is_missing_is_a_gap_unless_all_of_it_is_known() {
    let folder = log(20);
    let segments = list(folder.path()).unwrap();
    for (n, [segment, next]) in segments.array_windows().enumerate() {
        let bytes = std::fs::read(&segment.path).unwrap();
        std::fs::remove_file(&segment.path).unwrap();
        let gap = read(folder.path(), 0).1.gap.unwrap();
        assert_eq!((gap.have, gap.end, gap.damaged.is_some()), (segment.from - 1, 20, n > 0));
        assert_eq!(read(folder.path(), next.from - 1).1.gap, None);
        std::fs::write(&segment.path, bytes).unwrap();
    }
}

#[derive(Debug, Clone)]
enum Change {
    Cut(usize),
    Overwrite(usize, Vec<u8>),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
}

fn any_change() -> impl Strategy<Value = Change> {
    let bytes = || vec(any::<u8>(), 1..20);
    prop_oneof![
        any::<usize>().prop_map(Change::Cut),
        (any::<usize>(), bytes()).prop_map(|(at, bytes)| Change::Overwrite(at, bytes)),
        (any::<usize>(), bytes()).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (any::<usize>(), 1_usize..200).prop_map(|(at, count)| Change::Remove(at, count)),
    ]
}

fn changed(mut bytes: Vec<u8>, change: &Change) -> Vec<u8> {
    let at = |at: usize, bytes: &[u8]| at % (bytes.len() + 1);
    match change {
        Change::Cut(length) => bytes.truncate(at(*length, &bytes)),
        Change::Overwrite(from, with) => {
            let from = at(*from, &bytes);
            bytes.iter_mut().skip(from).zip(with).for_each(|(byte, with)| *byte = *with);
        }
        Change::Insert(from, more) => {
            let from = at(*from, &bytes);
            bytes.splice(from..from, more.iter().copied());
        }
        Change::Remove(from, count) => {
            let from = at(*from, &bytes);
            bytes.drain(from..(from + count).min(bytes.len()));
        }
    }
    bytes
}

proptest! {
    #[test]
    fn whatever_is_done_to_a_log_what_is_read_of_it_is_what_was_written(
        changes in vec((any::<usize>(), any_change()), 1..5), after in 0_u64..22,
    ) {
        let folder = log(20);
        let segments = files(folder.path());
        for (segment, change) in changes {
            let path = &segments[segment % segments.len()];
            std::fs::write(path, changed(std::fs::read(path).unwrap(), &change)).unwrap();
        }
        let (records, replayed) = read(folder.path(), after);
        let expected = numbered(u16::try_from(after.min(20)).unwrap()..20);
        prop_assert_eq!(&records[..], &expected[..records.len()]);
        prop_assert_eq!(replayed.last, after + records.len() as u64);
        let last_lost = records.len() < expected.len();
        // What is lost without a word is at most the end of the last segment.
        if last_lost && replayed.gap.is_none() {
            prop_assert!(replayed.last + 1 >= list(folder.path()).unwrap().pop().unwrap().from);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn in_whatever_order_it_is_appended_to_and_rotated_a_log_holds_what_was_appended(
        rotations in vec(prop::bool::weighted(0.15), 1..40)
    ) {
        let folder = tempfile::tempdir().unwrap();
        let closed = Arc::new(Mutex::new(Vec::new()));
        let told = closed.clone();
        let rotated = Box::new(move |last| told.lock().unwrap().push(last));
        let mut log = LogWriter::begin(folder.path(), LINEAGE, 1, rotated).unwrap();
        let mut n = 0;
        for rotates in rotations {
            if rotates {
                log.rotate();
                continue;
            }
            log.append(u64::from(n) + 1, &nth_commit(n)).unwrap();
            n += 1;
        }
        drop(log);
        let (records, replayed) = read(folder.path(), 0);
        prop_assert_eq!((records, replayed.gap, replayed.torn), (numbered(0..n), None, false));
        let closed = closed.lock().unwrap().clone();
        prop_assert!(closed.is_sorted_by(|a, b| a < b), "{closed:?}");
        let begun: Vec<_> = list(folder.path()).unwrap().iter().skip(1).map(|segment| segment.from - 1).collect();
        prop_assert_eq!(closed, begun, "each closed segment is told of, with its last record");
    }
}

#[test]
fn a_segment_that_could_not_be_begun_is_begun_with_the_next_record() {
    let folder = tempfile::tempdir().unwrap();
    let closed = Arc::new(Mutex::new(Vec::new()));
    let told = closed.clone();
    let rotated = Box::new(move |last| told.lock().unwrap().push(last));
    let mut log = LogWriter::begin(folder.path(), LINEAGE, 1, rotated).unwrap();
    let in_the_way = folder.path().join(segment_name(2));
    std::fs::create_dir(&in_the_way).unwrap();
    log.append(1, &nth_commit(0)).unwrap();
    log.rotate();
    log.append(2, &nth_commit(1)).unwrap();
    std::fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(*closed.lock().unwrap(), [2], "a person who was forgotten waits for it");
    assert_eq!(read(folder.path(), 0).0, numbered(0..2));
}

/// A file system of 256 KiB, and what to do at its end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
            .arg(folder.path())
            .status();
        mount.is_ok_and(|status| status.success()).then_some(Self(folder))
    }

    fn fill(&self) -> PathBuf {
        let path = self.0.path().join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        while io::Write::write(&mut file, &[1; 512]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_record_for_which_there_is_no_space_is_taken_back_and_can_be_appended_again() {
    let Some(disk) = SmallDisk::mount() else {
        tracing::warn!("skipped: a small file system can be mounted by root only");
        return;
    };
    let folder = disk.0.path().join("wal");
    std::fs::create_dir(&folder).unwrap();
    let mut log = LogWriter::begin(&folder, LINEAGE, 1, Box::new(|_| {})).unwrap();
    let large = Batch::from([(vec![b'x'], Some(vec![7; 20 << 10]))]);
    log.append(1, &nth_commit(0)).unwrap();
    for _ in 0..2 {
        let filler = disk.fill();
        let refused = log.append(2, &large);
        assert!(matches!(refused, Err(AppendError::Full)), "{refused:?}");
        let (records, replayed) = read(&folder, 0);
        assert_eq!((records, replayed.gap, replayed.torn), (numbered(0..1), None, false));
        std::fs::remove_file(filler).unwrap();
    }
    log.append(2, &nth_commit(1)).unwrap();
    drop(log);
    assert_eq!(read(&folder, 0).0, numbered(0..2));
}
