//! What a verified message means for us: an event to act upon, nothing, or a case for an operator.
//!
//! [`classify`] is asked when a callback arrives and again when a quarantined message is redriven.
//!
//! Deliberately absent: signatures and encryption (see [`crate::callback`]), and storing the result.

mod message;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
#[cfg(test)]
mod tests;

pub use message::Ignored;
use message::{Message, parse};

use crate::callback::VerifiedMessage;
use crate::domain::event::{Event, QuarantineReason};
use crate::domain::far_off::exceeds_age_limit;
use crate::domain::ids::CorpId;
use crate::domain::time::Timestamp;

/// The corps and suites whose messages an app accepts, apart from its dealers.
#[derive(Debug, Clone)]
pub struct Recipients {
    /// The brand's corp.
    pub corp_id: CorpId,
    /// Further receive ids, from the configuration.
    pub accept_receive_ids: Vec<String>,
}

/// How old an event may be, and the current time.
#[derive(Debug, Clone, Copy)]
pub struct AgeLimit {
    /// How many days ago an event may have happened; 0 means any number.
    pub days_max: u32,
    /// The current time.
    pub now: Timestamp,
}

/// What a message means.
#[derive(Debug, PartialEq, Eq)]
pub enum Classified {
    /// To be acted upon.
    Event(Event),
    /// To be acknowledged and counted only.
    Ignored(Ignored),
    /// To be kept for an operator.
    Quarantine {
        /// Why.
        reason: QuarantineReason,
        /// The event in it, if the message could be parsed.
        event: Option<Event>,
    },
}

/// Classifies a message. `is_dealer` says whether a receive id that is not among `recipients` is a known
/// dealer's: WeCom does not document whether it encrypts a dealer's events for the brand or for the dealer.
/// Without an `age_limit` an event of any age is accepted.
///
/// # Errors
/// The error of `is_dealer`.
pub async fn classify<E>(
    message: &VerifiedMessage,
    recipients: &Recipients,
    age_limit: Option<AgeLimit>,
    is_dealer: impl AsyncFnOnce(&CorpId) -> Result<bool, E>,
) -> Result<Classified, E> {
    if !accepts(recipients, message.receive_id(), is_dealer).await? {
        return Ok(Classified::Quarantine { reason: QuarantineReason::ReceiveId, event: None });
    }
    Ok(match parse(message.text()) {
        Ok(Message::Event(event)) => {
            let created_at = event.created_at;
            let too_far_off = |limit: AgeLimit| exceeds_age_limit(created_at, limit.now, limit.days_max);
            if age_limit.is_some_and(too_far_off) {
                let reason = QuarantineReason::FarOff { created_at };
                Classified::Quarantine { reason, event: Some(event) }
            } else {
                Classified::Event(event)
            }
        }
        Ok(Message::Ignored(ignored)) => Classified::Ignored(ignored),
        Err(error) => {
            let reason = QuarantineReason::NotUnderstood(error.to_string());
            Classified::Quarantine { reason, event: None }
        }
    })
}

async fn accepts<E>(
    recipients: &Recipients,
    receive_id: &[u8],
    is_dealer: impl AsyncFnOnce(&CorpId) -> Result<bool, E>,
) -> Result<bool, E> {
    let Ok(receive_id) = std::str::from_utf8(receive_id) else { return Ok(false) };
    let Recipients { corp_id, accept_receive_ids } = recipients;
    if corp_id.same_corp(receive_id) || accept_receive_ids.iter().any(|id| id == receive_id) {
        return Ok(true);
    }
    match CorpId::new(receive_id) {
        Ok(corp_id) => is_dealer(&corp_id).await,
        Err(_) => Ok(false),
    }
}
