//! The file sink on a real disk: what is written where, and what is left after failures.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::clock::ManualClock;
use crate::domain::time::{DAY_MS, HOUR_MS, Timestamp};
use crate::sink::sample::entries;

const NOON: &str = "2026-11-22T12:00:00Z";

struct Place {
    folder: TempDir,
    clock: Arc<ManualClock>,
}

impl Place {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(NOON.parse::<Timestamp>().unwrap()));
        Self { folder: tempfile::tempdir().unwrap(), clock }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("made/links")
    }

    fn open(&self, rotate_bytes: u64, rotate_daily: bool) -> Files {
        Files::new(Settings { path: self.path(), rotate_bytes, rotate_daily }, self.clock.clone())
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn newest(&self) -> PathBuf {
        self.path().join(self.names().last().unwrap())
    }

    /// The sequence numbers in all files, in order.
    fn sequence(&self) -> Vec<u64> {
        self.names().iter().flat_map(|name| numbers(&self.path().join(name))).collect()
    }
}

fn numbers(file: &Path) -> Vec<u64> {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "the last line has no end");
    let number = |line| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap();
    text.lines().map(number).collect()
}

const NO_ROTATION: u64 = u64::MAX;

#[tokio::test]
async fn entries_are_lines_of_files_that_only_this_user_can_read() {
    let place = Place::new();
    let mut sink = place.open(NO_ROTATION, true);
    assert!(!place.path().exists(), "nothing is touched before the first delivery");
    sink.deliver(&entries(1, 2)).await.unwrap();
    sink.deliver(&entries(3, 7)).await.unwrap();
    sink.deliver(&[]).await.unwrap();
    assert_eq!(place.names(), ["links-20261122-0001.ndjson"]);
    let text = fs::read_to_string(place.newest()).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let expected: Vec<_> = entries(1, 7).iter().map(|entry| serde_json::to_value(entry).unwrap()).collect();
    assert_eq!(lines, expected);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.newest()), 0o600);
    assert_eq!((mode(&place.path()), mode(place.path().parent().unwrap())), (0o700, 0o700));
}

#[tokio::test]
async fn a_full_file_is_followed_by_another_and_so_is_a_day() {
    let place = Place::new();
    let three_bytes = lines(&entries(1, 3)).unwrap().len() as u64;
    let mut sink = place.open(three_bytes, true);
    for seq in 1..=4 {
        sink.deliver(&entries(seq, seq)).await.unwrap();
    }
    assert_eq!(place.names(), ["links-20261122-0001.ndjson", "links-20261122-0002.ndjson"]);
    assert_eq!(numbers(&place.newest()), [4]);
    // A delivery that is larger than rotate_bytes is not split.
    sink.deliver(&entries(5, 12)).await.unwrap();
    assert_eq!(numbers(&place.newest()), [5, 6, 7, 8, 9, 10, 11, 12]);
    place.clock.advance_ms(12 * HOUR_MS);
    sink.deliver(&entries(13, 13)).await.unwrap();
    assert_eq!(place.names().last().unwrap(), "links-20261123-0001.ndjson");
    // If the clock is set back, names still sort in the order of the files.
    place.clock.advance_ms(-5 * DAY_MS);
    sink.deliver(&entries(14, 14)).await.unwrap();
    drop(sink);
    place.open(NO_ROTATION, true).deliver(&entries(15, 15)).await.unwrap();
    assert_eq!(numbers(&place.newest()), [13, 14, 15]);
    assert_eq!(place.sequence(), (1..=15).collect::<Vec<_>>());
}

#[tokio::test]
async fn without_daily_rotation_a_file_goes_on_over_midnight() {
    let place = Place::new();
    let mut sink = place.open(NO_ROTATION, false);
    sink.deliver(&entries(1, 1)).await.unwrap();
    place.clock.advance_ms(3 * DAY_MS);
    sink.deliver(&entries(2, 2)).await.unwrap();
    assert_eq!(place.names(), ["links-20261122-0001.ndjson"]);
    let mut small = Files::new(
        Settings { path: place.path(), rotate_bytes: 1, rotate_daily: false },
        place.clock.clone(),
    );
    drop(sink);
    small.deliver(&entries(3, 3)).await.unwrap();
    assert_eq!(place.names().last().unwrap(), "links-20261125-0001.ndjson");
}

#[tokio::test]
async fn an_incomplete_line_is_truncated_when_the_file_is_opened() {
    for garbage in [&b"{\"seq\":4,\"id\":\"ln"[..], b"\0\0\0\0", b"{\"seq\":4}\0\0\n{\"seq\":5}\n"] {
        let place = Place::new();
        place.open(NO_ROTATION, true).deliver(&entries(1, 3)).await.unwrap();
        let mut file = OpenOptions::new().append(true).open(place.newest()).unwrap();
        file.write_all(garbage).unwrap();
        drop(file);
        place.open(NO_ROTATION, true).deliver(&entries(4, 5)).await.unwrap();
        assert_eq!(place.sequence(), [1, 2, 3, 4, 5]);
    }
}

#[tokio::test]
async fn a_file_with_only_an_incomplete_line_is_emptied_and_used() {
    let place = Place::new();
    fs::create_dir_all(place.path()).unwrap();
    fs::write(place.path().join("links-20261122-0001.ndjson"), "{\"seq\":1").unwrap();
    fs::write(place.path().join("links-notes.txt"), "not ours").unwrap();
    place.open(NO_ROTATION, true).deliver(&entries(1, 1)).await.unwrap();
    assert_eq!(numbers(&place.path().join("links-20261122-0001.ndjson")), [1]);
    assert_eq!(fs::read_to_string(place.path().join("links-notes.txt")).unwrap(), "not ours");
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_retried() {
    let place = Place::new();
    let in_the_way = place.folder.path().join("made");
    fs::write(&in_the_way, "a file where the folder should be").unwrap();
    let mut sink = place.open(NO_ROTATION, true);
    let error = sink.deliver(&entries(1, 2)).await.unwrap_err();
    assert_eq!((error.delivered, error.retry), (0, Retry::Backoff));
    assert!(error.reason.contains("made"), "{error}");
    fs::remove_file(&in_the_way).unwrap();
    sink.deliver(&entries(1, 2)).await.unwrap();
    assert_eq!(place.sequence(), [1, 2]);
}

#[tokio::test]
async fn a_file_removed_or_changed_from_outside_is_detected_before_a_line_is_lost() {
    let place = Place::new();
    let mut sink = place.open(NO_ROTATION, true);
    sink.deliver(&entries(1, 2)).await.unwrap();
    let shipped = place.folder.path().join("shipped");
    fs::rename(place.newest(), &shipped).unwrap();
    sink.deliver(&entries(3, 4)).await.unwrap();
    assert_eq!(place.names(), ["links-20261122-0002.ndjson"], "a name is not used for other entries");
    assert_eq!(numbers(&shipped), [1, 2]);
    // Another program appends half a line.
    OpenOptions::new().append(true).open(place.newest()).unwrap().write_all(b"half").unwrap();
    sink.deliver(&entries(5, 5)).await.unwrap();
    // And the whole folder is deleted.
    assert_eq!(place.sequence(), [3, 4, 5]);
    fs::remove_dir_all(place.path()).unwrap();
    sink.deliver(&entries(6, 6)).await.unwrap();
    assert_eq!(place.sequence(), [6]);
}

#[tokio::test]
async fn two_writers_of_one_folder_do_not_mix() {
    let place = Place::new();
    let mut first = place.open(NO_ROTATION, true);
    first.deliver(&entries(1, 1)).await.unwrap();
    let mut second = place.open(NO_ROTATION, true);
    let error = second.deliver(&entries(1, 1)).await.unwrap_err();
    assert!(error.reason.contains("another"), "{error}");
    drop(first);
    second.deliver(&entries(2, 2)).await.unwrap();
    assert_eq!(place.sequence(), [1, 2]);
}

#[tokio::test]
async fn a_cancelled_delivery_does_not_mix_with_the_next() {
    let place = Place::new();
    let mut sink = place.open(NO_ROTATION, true);
    let started = std::future::poll_fn(|context| {
        std::task::Poll::Ready(sink.deliver(&entries(1, 400)).as_mut().poll(context).is_pending())
    });
    assert!(started.await, "the delivery has begun when it is cancelled");
    sink.deliver(&entries(1, 500)).await.unwrap();
    // In either order, each of them is complete.
    let mut sequence = place.sequence();
    assert_eq!(sequence.len(), 900);
    sequence.sort_unstable();
    sequence.dedup();
    assert_eq!(sequence, (1..=500).collect::<Vec<_>>());
}

const FOLDER: &str = "UNIONLINK_TEST_FOLDER";

/// A limit on the size of files, with which the kernel cuts a write short. It applies to a process, so the
/// test runs in a process of its own.
#[tokio::test]
async fn a_write_that_fails_half_way_leaves_nothing_behind() {
    let place = Place::new();
    let test = std::env::current_exe().unwrap();
    let mut limited = tokio::process::Command::new("sh");
    let name = "sink::file::tests::fills_a_file_to_its_limit";
    limited.args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" --ignored --exact \"$1\""]);
    limited.arg(test).arg(name).env(FOLDER, place.path()).kill_on_drop(true);
    let output =
        tokio::time::timeout(std::time::Duration::from_mins(1), limited.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let before = place.sequence();
    assert!(before.len() >= 3 && before.len().is_multiple_of(3), "{before:?}");
    let next = before.len() as u64 + 1;
    place.open(NO_ROTATION, true).deliver(&entries(next, next + 2)).await.unwrap();
    assert_eq!(place.sequence(), (1..=next + 2).collect::<Vec<_>>());
}

#[tokio::test]
#[ignore = "runs with a limit on the size of files, in a process of its own: see the test above"]
async fn fills_a_file_to_its_limit() {
    let path = PathBuf::from(std::env::var_os(FOLDER).unwrap());
    let clock = Arc::new(ManualClock::new(NOON.parse::<Timestamp>().unwrap()));
    let mut sink =
        Files::new(Settings { path: path.clone(), rotate_bytes: NO_ROTATION, rotate_daily: true }, clock);
    let file = path.join("links-20261122-0001.ndjson");
    for first in (1..1_000).step_by(3) {
        let before = fs::read(&file).unwrap_or_default();
        if let Err(error) = sink.deliver(&entries(first, first + 2)).await {
            assert!(error.reason.starts_with("cannot write to"), "{error}");
            assert_eq!(fs::read(&file).unwrap(), before, "the incomplete write is still there");
            return;
        }
    }
    panic!("the limit had no effect");
}

/// A step in the history of a sink.
#[derive(Debug, Clone)]
enum Step {
    /// The worker delivers this number of entries.
    Deliver(u64),
    /// The process dies during a delivery: only a share of the bytes reached the disk, the rest is missing or
    /// zeros.
    Crash { entries: u64, percent: usize, zeros: bool },
    /// Hours pass, or the clock is set back.
    Hours(i64),
    /// Another program reads and removes all files except the newest.
    Ship,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..6_u64).prop_map(Step::Deliver),
        3 => (1..6_u64, 0..=100_usize, any::<bool>())
            .prop_map(|(entries, percent, zeros)| Step::Crash { entries, percent, zeros }),
        1 => (-30..60_i64).prop_map(Step::Hours),
        1 => Just(Step::Ship),
    ];
    proptest::collection::vec(step, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_line_is_complete_and_no_entry_is_missing(steps in steps(), small in any::<bool>()) {
        let place = Place::new();
        let rotate_bytes = if small { 1_500 } else { NO_ROTATION };
        let settings = Settings { path: place.path(), rotate_bytes, rotate_daily: true };
        let mut folder = Folder::new(settings.clone());
        let (mut delivered, mut shipped) = (0, Vec::new());
        for step in steps {
            match step {
                Step::Deliver(count) => {
                    let batch = lines(&entries(delivered + 1, delivered + count)).unwrap();
                    folder.append(&batch, place.clock.now()).unwrap();
                    delivered += count;
                }
                Step::Crash { entries: count, percent, zeros } => {
                    // The worker's cursor does not move: these entries are delivered again.
                    let batch = lines(&entries(delivered + 1, delivered + count)).unwrap();
                    folder.append(&batch, place.clock.now()).unwrap();
                    let file = OpenOptions::new().write(true).open(place.newest()).unwrap();
                    let whole = file.metadata().unwrap().len();
                    let lost = (batch.len() * (100 - percent) / 100) as u64;
                    file.set_len(whole - lost).unwrap();
                    if zeros {
                        file.set_len(whole).unwrap();
                    }
                    folder = Folder::new(settings.clone());
                }
                Step::Hours(hours) => place.clock.advance_ms(hours * HOUR_MS),
                Step::Ship => {
                    let names = if place.path().exists() { place.names() } else { Vec::new() };
                    for name in names.iter().rev().skip(1).rev() {
                        let file = place.path().join(name);
                        shipped.extend(numbers(&file));
                        fs::remove_file(file).unwrap();
                    }
                }
            }
        }
        // A last delivery repairs what the last crash left; then all files are read in the order of their
        // names.
        folder.append(&lines(&entries(delivered + 1, delivered + 1)).unwrap(), place.clock.now()).unwrap();
        shipped.extend(place.sequence());
        let mut seen = BTreeSet::new();
        let first_seen: Vec<u64> = shipped.into_iter().filter(|number| seen.insert(*number)).collect();
        // A crash may have left lines that were never acknowledged.
        prop_assert!(first_seen.len() as u64 > delivered, "{first_seen:?}");
        prop_assert_eq!(&first_seen, &(1..=first_seen.len() as u64).collect::<Vec<_>>());
    }
}
