//! Parses instants in options and in imported files.
//!
//! An instant without an offset is China time, because the systems and operators of brands are in China.

use jiff::civil::DateTime;
use jiff::tz::Offset;

use crate::domain::time::Timestamp;

const CHINA: Offset = Offset::constant(8);
/// The formats of an instant without an offset, once `/` is replaced with `-` and `T` with a space.
const FORMATS: [&str; 3] = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d"];

/// The instant that `text` is: RFC 3339, a date and time with `-` or `/`, a date, or Unix seconds or
/// milliseconds.
pub(super) fn instant(text: &str) -> Option<Timestamp> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.len() {
        // With these numbers of digits, both cover the years 2001 to 2286.
        10 if digits => text.parse().ok().map(Timestamp::from_secs),
        13 if digits => text.parse().ok().map(Timestamp::from_millis),
        _ => text.parse().ok().or_else(|| in_china(text)),
    }
}

fn in_china(text: &str) -> Option<Timestamp> {
    let text = text.replace('/', "-").replace('T', " ");
    let civil = FORMATS.iter().find_map(|format| DateTime::strptime(format, &text).ok())?;
    // A year of fewer digits is truncated input.
    let instant = CHINA.to_timestamp(civil).ok().filter(|_| civil.year() >= 1000)?;
    Some(Timestamp::from_millis(instant.as_millisecond()))
}
