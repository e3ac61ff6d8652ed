//! Instants as values: milliseconds since the Unix epoch.
//!
//! Deliberately absent: reading the current time (see [`crate::clock`]).

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One second in milliseconds.
pub const SECOND_MS: i64 = 1_000;
/// One minute in milliseconds.
pub const MINUTE_MS: i64 = 60 * SECOND_MS;
/// One hour in milliseconds.
pub const HOUR_MS: i64 = 60 * MINUTE_MS;
/// One day in milliseconds.
pub const DAY_MS: i64 = 24 * HOUR_MS;

/// An instant, in milliseconds since 1970-01-01T00:00:00Z. Displays as RFC 3339 with milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The Unix epoch.
    pub const EPOCH: Self = Self(0);

    /// The instant this many milliseconds after the epoch.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// The instant this many seconds after the epoch, as WeCom writes `CreateTime`.
    #[must_use]
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(SECOND_MS))
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    #[must_use]
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(SECOND_MS)
    }

    /// This instant moved by `delta_ms`, saturating.
    #[must_use]
    pub const fn plus_ms(self, delta_ms: i64) -> Self {
        Self(self.0.saturating_add(delta_ms))
    }

    /// Milliseconds from `earlier` to `self`; negative if `earlier` is later.
    #[must_use]
    pub const fn millis_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// China time with its offset, to the second, for people: `2026-11-22 09:02:03 +08:00`.
    #[must_use]
    pub fn in_china(self) -> String {
        self.china_time("%F %T %:z")
    }

    /// China time without its offset, to the second, as spreadsheets take a date: `2026-11-22 09:02:03`.
    #[must_use]
    pub fn in_china_for_sheets(self) -> String {
        self.china_time("%F %T")
    }

    fn china_time(self, format: &str) -> String {
        let china = jiff::tz::Offset::constant(8).to_time_zone();
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(instant) => instant.to_zoned(china).strftime(format).to_string(),
            // Years beyond 9999 exist only in hostile input.
            Err(_) => self.to_string(),
        }
    }
}

/// An instant on two clocks: the wall clock, which people and WeCom use and which may be set, and the
/// monotonic boot clock, where the system has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// The wall clock.
    pub wall: Timestamp,
    /// What the wall clock would show had it not been set since the process started.
    pub unset: Timestamp,
    /// The boot clock.
    pub steady: Option<Steady>,
}

/// A reading of the monotonic boot clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steady {
    /// Identifies the boot: differs after each reboot of the machine.
    pub boot: u64,
    /// Milliseconds since that boot, suspended time included.
    pub uptime_ms: i64,
}

impl Moment {
    /// A moment whose wall clock has not been set since the process started.
    #[must_use]
    pub const fn on_the_wall(wall: Timestamp, steady: Option<Steady>) -> Self {
        Self { wall, unset: wall, steady }
    }

    /// Elapsed milliseconds since `earlier`, never negative. Exact within one boot, however the wall clock is
    /// set. Across a reboot only the wall clock is left; if it was set, the shorter of the possible intervals
    /// is taken.
    #[must_use]
    pub const fn millis_since(self, earlier: Self) -> i64 {
        let elapsed = match (self.steady, earlier.steady) {
            (Some(now), Some(then)) if now.boot == then.boot => now.uptime_ms.saturating_sub(then.uptime_ms),
            _ => {
                let now = if self.wall.0 < self.unset.0 { self.wall } else { self.unset };
                let then = if earlier.wall.0 > earlier.unset.0 { earlier.wall } else { earlier.unset };
                now.millis_since(then)
            }
        };
        if elapsed < 0 { 0 } else { elapsed }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(instant) => write!(f, "{instant:.3}"),
            // Years beyond 9999 occur only in hostile input.
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Timestamp {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.parse::<jiff::Timestamp>()?.as_millisecond()))
    }
}

// In text formats (JSON) RFC 3339, in binary records the number.
impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if to.is_human_readable() { to.collect_str(self) } else { to.serialize_i64(self.0) }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        if from.is_human_readable() {
            String::deserialize(from)?.parse().map_err(D::Error::custom)
        } else {
            i64::deserialize(from).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_as_rfc_3339_with_milliseconds() {
        assert_eq!(Timestamp::from_millis(1_795_309_323_456).to_string(), "2026-11-22T01:02:03.456Z");
        assert_eq!(Timestamp::from_secs(1_795_309_323).to_string(), "2026-11-22T01:02:03.000Z");
        let back: Timestamp = "2026-11-22T01:02:03.456Z".parse().unwrap();
        assert_eq!(back.as_millis(), 1_795_309_323_456);
    }

    #[test]
    fn people_read_china_time() {
        assert_eq!(Timestamp::from_millis(1_795_309_323_999).in_china(), "2026-11-22 09:02:03 +08:00");
        assert_eq!(Timestamp::from_secs(1_795_363_200).in_china(), "2026-11-23 00:00:00 +08:00");
        assert_eq!(Timestamp::from_millis(i64::MAX).in_china(), "9223372036854775807ms");
        let for_sheets = Timestamp::from_millis(1_795_309_323_999).in_china_for_sheets();
        assert_eq!(for_sheets, "2026-11-22 09:02:03");
    }

    #[test]
    fn arithmetic_saturates_instead_of_overflowing() {
        assert_eq!(Timestamp::from_millis(i64::MAX).plus_ms(1).as_millis(), i64::MAX);
        assert_eq!(Timestamp::from_secs(i64::MAX).as_millis(), i64::MAX);
        assert_eq!(Timestamp::from_millis(i64::MIN).millis_since(Timestamp::from_millis(1)), i64::MIN);
    }
}
