//! What a failed call to WeCom means for circuit breakers and for operators.

use crate::store::FailureReason;
use crate::wecom::{Api, CallError};

/// The reason of a failed call, for operators.
pub(super) fn failure_reason(error: &CallError) -> FailureReason {
    let text = match error {
        CallError::Refused { from_ip: Some(ip), .. } => format!("{error} (WeCom sees our address as {ip})"),
        _ => error.to_string(),
    };
    FailureReason { errcode: error.errcode(), text }
}

/// Whether a setting of the brand's own app is wrong, not one of a dealer.
pub(super) const fn concerns_whole_app(api: Api, errcode: i64) -> bool {
    matches!(api, Api::GetToken) || matches!(errcode, 60_020 | 301_042)
}
