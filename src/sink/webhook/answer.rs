//! What a receiver's response means: success, or when to try again, with a reason for the operator. Reasons
//! never contain the URL, which may contain a password or a token.

use std::error::Error;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};

use crate::domain::time::Timestamp;
use crate::reach::{PrivateAddress, PublicAddress};
use crate::sink::Retry;

/// Upper limit for `Retry-After`, so that one mistake of a receiver does not stop the sink for days.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);
/// Lower limit for `Retry-After`, which may be 0 or in the past.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);

/// Whether a response is a success; if not, when to try again, and why it failed.
pub(super) fn verdict(
    status: StatusCode,
    headers: &HeaderMap,
    now: Timestamp,
) -> Result<(), (Retry, String)> {
    let code = status.as_u16();
    if status.is_success() {
        return Ok(());
    }
    if status == StatusCode::GONE {
        let reason = "the receiver answered 410: it wants no more deliveries; resume the sink once it does";
        return Err((Retry::Never, reason.to_owned()));
    }
    let retry = retry_after(headers, now).map_or(Retry::Backoff, Retry::After);
    let meaning = if status.is_redirection() {
        ", a redirect, which is not followed; configure the URL it leads to"
    } else {
        match code {
            401 | 403 => ": it refuses the signature or the credentials; does it have the sink's secret?",
            404 | 405 => ": it accepts no webhook at this URL",
            413 => ": the request is too large for it; lower the sink's batch",
            429 => ": too many requests",
            503 => ": it is not available",
            _ => "",
        }
    };
    Err((retry, format!("the receiver answered {code}{meaning}")))
}

/// The time of the header `Retry-After`, in seconds or as a date, within bounds.
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

/// Why nothing is sent to a receiver without TLS at a public address.
pub(super) fn unencrypted() -> String {
    format!("{PublicAddress}; write https:// in url")
}

/// Why there is no response.
pub(super) fn no_response(error: &reqwest::Error) -> String {
    let causes = || std::iter::successors(error.source(), |cause| (*cause).source());
    if causes().any(<dyn Error>::is::<PrivateAddress>) {
        return format!(
            "{PrivateAddress}, which is not allowed; set private_addresses = true if it is intended"
        );
    }
    if causes().any(<dyn Error>::is::<PublicAddress>) {
        return unencrypted();
    }
    if error.is_timeout() {
        return "the receiver did not answer in time".to_owned();
    }
    // The innermost cause is the most precise, and the only one that does not contain the URL.
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
    fn retry_after_is_understood_in_both_forms_and_bounded() {
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
