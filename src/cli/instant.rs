//! Reads the instants that exports and people write.
//!
//! An instant without an offset is China time: every system that exports pending ids runs there, and so do those who
//! ask about their links.

use jiff::civil::DateTime;
use jiff::tz::Offset;

use crate::domain::time::Timestamp;

const CHINA: Offset = Offset::constant(8);

/// The instant `text` names: RFC 3339, a date and time with `-` or `/`, a date, or Unix seconds or milliseconds.
pub(super) fn instant(text: &str) -> Option<Timestamp> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.len() {
        // By their number of digits both mean 2001 to 2286.
        10 if digits => text.parse().ok().map(Timestamp::from_secs),
        13 if digits => text.parse().ok().map(Timestamp::from_millis),
        _ => text.parse().ok().or_else(|| in_china(text)),
    }
}

fn in_china(text: &str) -> Option<Timestamp> {
    let (date, time) = match text.split_once([' ', 'T']) {
        Some((date, time)) => (date, Some(time.trim_start())),
        None => (text, None),
    };
    let separator = if date.contains('/') { '/' } else { '-' };
    let [year, month, day] = numbers(date, separator)?;
    let (hour, minute, second, millis) = match time {
        None => (0, 0, 0, 0),
        Some(time) => {
            let (whole, fraction) = time.split_once('.').unwrap_or((time, "0"));
            let millis = fraction_ms(fraction)?;
            match whole.matches(':').count() {
                1 => numbers(whole, ':').map(|[hour, minute]| (hour, minute, 0, millis))?,
                _ => numbers(whole, ':').map(|[hour, minute, second]| (hour, minute, second, millis))?,
            }
        }
    };
    let small = |number: u16| i8::try_from(number).ok();
    let civil = DateTime::new(
        i16::try_from(year).ok().filter(|year| *year >= 1000)?,
        small(month)?,
        small(day)?,
        small(hour)?,
        small(minute)?,
        small(second)?,
        i32::from(millis) * 1_000_000,
    );
    let instant = CHINA.to_timestamp(civil.ok()?).ok()?;
    Some(Timestamp::from_millis(instant.as_millisecond()))
}

/// Exactly so many numbers between separators.
fn numbers<const N: usize>(text: &str, separator: char) -> Option<[u16; N]> {
    let mut found = [0; N];
    let mut parts = text.split(separator);
    for number in &mut found {
        let part = parts.next()?;
        let plain = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        *number = part.parse().ok().filter(|_| plain)?;
    }
    parts.next().is_none().then_some(found)
}

fn fraction_ms(digits: &str) -> Option<u16> {
    let plain = (1..=9).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let three: String = digits.chars().chain("00".chars()).take(3).collect();
    three.parse().ok().filter(|_| plain)
}
