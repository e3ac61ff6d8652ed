//! Parses instants as people and exports write them: in options, in parameters and in imported files.
//!
//! An instant without an offset is China time, because the systems and operators of brands are in China.

use jiff::civil::DateTime;
use jiff::tz::Offset;

use super::time::Timestamp;

const CHINA: Offset = Offset::constant(8);
/// The formats of an instant without an offset, once `/` is replaced with `-` and `T` with a space.
const FORMATS: [&str; 3] = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d"];

/// How to write an instant, for error messages.
pub const INSTANT_FORMS: &str = "write 2026-11-22 or 2026-11-22 08:30:00 (China time), \
                                 2026-11-22T08:30:00+08:00, or Unix seconds";

/// The instant that `text` is: RFC 3339, a date and time with `-` or `/`, a date (its first instant), or Unix
/// seconds or milliseconds.
#[must_use]
pub fn instant(text: &str) -> Option<Timestamp> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.len() {
        // With these numbers of digits, both cover the years 2001 to 2286.
        10 if digits => text.parse().ok().map(Timestamp::from_secs),
        13 if digits => text.parse().ok().map(Timestamp::from_millis),
        _ => text.parse().ok().or_else(|| with_offset(text)).or_else(|| in_china(text)),
    }
}

/// As [`Timestamp::in_china`] writes it: with a space in front of the offset.
fn with_offset(text: &str) -> Option<Timestamp> {
    let instant = jiff::Timestamp::strptime("%Y-%m-%d %H:%M:%S%.f %:z", text).ok()?;
    Some(Timestamp::from_millis(instant.as_millisecond()))
}

fn in_china(text: &str) -> Option<Timestamp> {
    let text = text.replace('/', "-").replace('T', " ");
    let civil = FORMATS.iter().find_map(|format| DateTime::strptime(format, &text).ok())?;
    // A year of fewer digits is truncated input.
    let instant = CHINA.to_timestamp(civil).ok().filter(|_| civil.year() >= 1000)?;
    Some(Timestamp::from_millis(instant.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_read_as_exports_write_them() {
        for text in [
            "2026-11-01T04:00:00Z",
            "2026-11-01T12:00:00+08:00",
            "2026-11-01 12:00:00 +08:00",
            "2026-11-01 12:00:00",
            "2026-11-01 12:00",
            "2026-11-01T12:00:00.000",
            "2026/11/1 12:00:00",
            "2026/11/01 12:00",
            "1793505600",
            "1793505600000",
        ] {
            assert_eq!(
                instant(text).map(|at| at.to_string()).as_deref(),
                Some("2026-11-01T04:00:00.000Z"),
                "{text}"
            );
        }
        assert_eq!(instant("2026-11-01").unwrap().to_string(), "2026-10-31T16:00:00.000Z");
        assert_eq!(instant("2026-11-01 12:00:00.25").unwrap().to_string(), "2026-11-01T04:00:00.250Z");
        for text in [
            "",
            "0",
            "45967.5",
            "2026",
            "2026-13-01",
            "2026-11-31",
            "2026-11-01 25:00",
            "26/11/1",
            "2026-11-01 12",
            "2026-11-1-2",
            "2026-11-01 12:00:00 PM",
            "+026-11-01",
            "明天",
            "99999999999999999999",
        ] {
            assert_eq!(instant(text), None, "{text}");
        }
    }

    #[test]
    fn what_people_read_can_be_pasted_back() {
        let at = Timestamp::from_secs(1_795_309_323);
        for text in [at.in_china(), at.in_china_for_sheets(), at.to_string()] {
            assert_eq!(instant(&text), Some(at), "{text}");
        }
    }
}
