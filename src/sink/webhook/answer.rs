//! What a receiver's answer, or its absence, means. A reason never holds the URL: it may carry a password or a token.

use std::error::Error;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};

use super::reach::PrivateAddress;
use crate::domain::time::Timestamp;
use crate::sink::Again;

/// A receiver that asks for more is tried after this all the same, lest one slip of its pen stop the sink for days.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);
/// One that asks for less, or for an instant that has passed, is not hammered.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);

/// What an answer means.
pub(super) fn verdict(
    status: StatusCode,
    headers: &HeaderMap,
    now: Timestamp,
) -> Result<(), (Again, String)> {
    let code = status.as_u16();
    if status.is_success() {
        return Ok(());
    }
    if status == StatusCode::GONE {
        let reason = "the receiver answered 410: it wants no more deliveries; resume the sink once it does";
        return Err((Again::Never, reason.to_owned()));
    }
    let again = retry_after(headers, now).map_or(Again::Later, Again::After);
    let meaning = if status.is_redirection() {
        ", a redirect, which is not followed; configure the URL it leads to"
    } else {
        match code {
            401 | 403 => ": it refuses the signature or the credentials; does it have the sink's secret?",
            404 | 405 => ": it takes no webhook at this URL",
            413 => ": the request is too large for it; lower the sink's batch",
            429 => ": too many requests",
            503 => ": it is not available",
            _ => "",
        }
    };
    Err((again, format!("the receiver answered {code}{meaning}")))
}

/// How long the receiver asks to be left alone, within bounds.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let since_epoch = httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
        let at_ms = i64::try_from(since_epoch.as_millis()).ok()?;
        Duration::from_millis(u64::try_from(Timestamp::from_millis(at_ms).millis_since(now)).unwrap_or(0))
    };
    Some(wait.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX))
}

/// Why there is no answer.
pub(super) fn broken(error: &reqwest::Error) -> String {
    let causes = || std::iter::successors(error.source(), |cause| (*cause).source());
    if causes().any(<dyn Error>::is::<PrivateAddress>) {
        return format!("{PrivateAddress}, which is refused; set private_addresses = true if that is meant");
    }
    if error.is_timeout() {
        return "the receiver did not answer in time".to_owned();
    }
    // The innermost cause says it shortest, and of all of them it alone knows no URL.
    let cause = causes().last().map(|cause| format!(": {cause}")).unwrap_or_default();
    if error.is_connect() {
        format!("no connection to the receiver{cause}")
    } else {
        format!("the connection to the receiver broke{cause}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_309_323;

    fn waits(text: &str) -> Option<u64> {
        let headers = [(RETRY_AFTER, text.parse().unwrap())].into_iter().collect();
        retry_after(&headers, Timestamp::from_secs(NOW)).map(|wait| wait.as_secs())
    }

    #[test]
    fn a_wait_is_understood_in_both_forms_and_bounded() {
        let date = |secs: i64| {
            let since_epoch = Duration::from_secs(u64::try_from(secs).unwrap());
            httpdate::fmt_http_date(std::time::UNIX_EPOCH + since_epoch)
        };
        assert_eq!(waits("120"), Some(120));
        assert_eq!(waits("0"), Some(1));
        assert_eq!(waits("999999999999999999999999"), Some(3_600));
        assert_eq!(waits(&date(NOW + 90)), Some(90));
        assert_eq!(waits(&date(NOW - 90)), Some(1));
        assert_eq!(waits(&date(NOW + 90_000)), Some(3_600));
        assert_eq!(waits("soon"), None);
        assert_eq!(waits("-5"), None);
        assert_eq!(waits(""), None);
    }
}
