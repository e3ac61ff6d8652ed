//! The file names `links-YYYYMMDD-NNNN.ndjson`, which sort in the order in which the files were created.

use crate::domain::time::{DAY_MS, Timestamp};

const PREFIX: &str = "links-";
const SUFFIX: &str = ".ndjson";

/// The largest number of four digits: with more, names would not sort.
const NUMBER_MAX: u32 = 9_999;

/// The name of a file: its day (UTC), and its number on that day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileName {
    /// As a number: `20261122`.
    pub(super) day: u32,
    number: u32,
}

impl FileName {
    /// The first file of a day.
    pub(super) const fn first(day: u32) -> Self {
        Self { day, number: 1 }
    }

    /// The next file of the same day; `None` after 9,999.
    pub(super) const fn next(self) -> Option<Self> {
        if self.number >= NUMBER_MAX {
            return None;
        }
        Some(Self { day: self.day, number: self.number + 1 })
    }

    /// Parses a file name; `None` for any other file.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (day, number) = text.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.split_once('-')?;
        let digits =
            |text: &str, count| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(day, 8) || !digits(number, 4) {
            return None;
        }
        Some(Self { day: day.parse().ok()?, number: number.parse().ok()? })
    }
}

impl std::fmt::Display for FileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{PREFIX}{:08}-{:04}{SUFFIX}", self.day, self.number)
    }
}

/// The day (UTC) of an instant, as in file names. Instants outside the calendar (hostile clocks only) count
/// as its first or last day.
pub(super) fn day(at: Timestamp) -> u32 {
    const LAST: i64 = 253_402_128_000_000; // 9999-12-30
    let whole = at.as_millis().clamp(0, LAST).div_euclid(DAY_MS) * DAY_MS;
    let date = Timestamp::from_millis(whole).to_string();
    date.get(..10).and_then(|date| date.replace('-', "").parse().ok()).unwrap_or(19_700_101)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_in_the_order_of_the_files() {
        let first = FileName::first(day("2026-11-22T23:59:59.999Z".parse().unwrap()));
        let second = first.next().unwrap();
        let next_day = FileName::first(day("2026-11-23T00:00:00Z".parse().unwrap()));
        let names = [first, second, next_day].map(|name| name.to_string());
        assert_eq!(
            names,
            ["links-20261122-0001.ndjson", "links-20261122-0002.ndjson", "links-20261123-0001.ndjson"]
        );
        assert!(names.is_sorted() && [first, second, next_day].is_sorted());
        assert_eq!(FileName::parse(&names[1]), Some(second));
        assert_eq!(FileName::parse("links-20261122-9999.ndjson").unwrap().next(), None);
    }

    #[test]
    fn other_files_are_ignored() {
        for name in
            ["links-20261122-001.ndjson", "links-20261122-0001.ndjson.gz", "links-+2261122-0001.ndjson", "x"]
        {
            assert_eq!(FileName::parse(name), None, "{name}");
        }
    }

    #[test]
    fn every_instant_has_a_day() {
        assert_eq!(day(Timestamp::EPOCH), 19_700_101);
        assert_eq!(day(Timestamp::from_millis(i64::MIN)), 19_700_101);
        assert_eq!(day(Timestamp::from_millis(i64::MAX)), 99_991_230);
    }
}
