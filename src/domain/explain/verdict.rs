//! A verdict: its code for programs, and the clauses that several verdicts have in common.

use serde::Serialize;
use strum::VariantArray;
use utoipa::ToSchema;

use super::facts::Trouble;
use crate::domain::text::Text;
use crate::domain::time::Timestamp;

/// A verdict for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ToSchema, VariantArray)]
#[schema(as = VerdictCode)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Neither a fan nor a customer of this id is known.
    NeverRegistered,
    /// The fan is queued for a `pending_id`.
    WaitingForQuota,
    /// The fan is queued for a `pending_id`, and minting for its app is held back.
    MintingParked,
    /// WeCom rejects the fan's ids.
    RejectedByWecom,
    /// The fan has a valid `pending_id`, and no dealer is known to have added this person.
    NotAdded,
    /// WeCom returned no `pending_id` for the customer.
    NoPendingId,
    /// WeCom refused to look the customer up, because the app cannot see them.
    NotVisible,
    /// The customer is queued to be looked up for the first time.
    LookupWaiting,
    /// The customer has a `pending_id` that no fan has.
    PendingIdUnknown,
    /// The fan's `pending_id` has expired.
    Expired,
    /// Calls for the dealer's customers are held back.
    DealerParked,
    /// The agency-developed app has no authorisation that can be used, so nothing of it goes on.
    AppNotAuthorized,
    /// The brand has cancelled the authorisation of the agency-developed app.
    AppCancelled,
    /// The app is no longer shared with the dealer.
    DealerLeft,
    /// WeCom has not verified the dealer, whose customers cannot be looked up until then.
    DealerUnverified,
    /// A message about the customer is in quarantine.
    EventQuarantined,
    /// An event of the customer is a dead letter.
    EventDead,
    /// An event of the customer is in the inbox.
    EventWaiting,
    /// Linked, and every sink has received it.
    Linked,
    /// Linked, and a sink has yet to receive it.
    SinkBehind,
    /// Erased, and not registered since.
    Forgotten,
}

/// Code and text, and what to do, if anything.
pub(super) type Verdict = (Code, Text, Option<Text>);

/// A verdict: code and text, then the hint in both languages or as an `Option<Text>`.
macro_rules! verdict {
    ($code:ident, $en:literal, $zh:literal, $hint_en:literal, $hint_zh:literal $(,)?) => {
        $crate::domain::explain::verdict::verdict!(
            $code,
            $en,
            $zh,
            Some($crate::domain::text::text!($hint_en, $hint_zh))
        )
    };
    ($code:ident, $en:literal, $zh:literal, $hint:expr $(,)?) => {
        ($crate::domain::explain::verdict::Code::$code, $crate::domain::text::text!($en, $zh), $hint)
    };
}
pub(super) use verdict;

/// A clause that ends with an instant, in both languages; empty without one.
pub(super) fn when(at: Option<Timestamp>, en: &str, zh: &str) -> (String, String) {
    at.map(Timestamp::in_china).map(|at| (format!("{en}{at}"), format!("{zh}{at}"))).unwrap_or_default()
}

/// WeCom's code and the time of the next retry, if there are any.
pub(super) fn cause(trouble: &Trouble) -> (String, String) {
    let (en, zh) = when(trouble.retry_at, "; it will be tried again at ", "；下次重试时间 ");
    match trouble.errcode {
        Some(errcode) => (format!(" (code {errcode}){en}"), format!("（错误码 {errcode}）{zh}")),
        None => (en, zh),
    }
}
