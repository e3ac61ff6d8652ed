//! The classification of verified messages: to be acted upon, to be ignored, or to be quarantined for an
//! operator.
//!
//! [`classify`] is asked when a callback arrives and again when a quarantined message is redriven. At a
//! suite's URL, [`at_suite`] is asked first: whether the message is the suite's own, or of which corp's app.
//!
//! Deliberately absent: signatures and encryption (see [`crate::callback`]), and storing the result.

mod fields;
mod message;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
mod suite;
#[cfg(test)]
mod tests;

pub use message::{Ignored, created_at};
use message::{Message, MessageError, parse};
pub use suite::{AtSuite, SuiteContent, SuiteMessage, at_suite, may_contain_secret};

use crate::callback::VerifiedMessage;
use crate::domain::chat::ChatEvent;
use crate::domain::event::{AppAlarm, Event, Kind, QuarantineReason};
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

impl Recipients {
    /// Whether `receive_id` is the brand's, or a further one.
    #[must_use]
    pub fn include(&self, receive_id: &[u8]) -> bool {
        let Ok(receive_id) = std::str::from_utf8(receive_id) else { return false };
        self.corp_id.same_corp(receive_id) || self.accept_receive_ids.iter().any(|id| id == receive_id)
    }
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Classified {
    /// A change between a member and a customer, to be acted upon.
    Event(Event),
    /// A change of a customer group, to be acted upon.
    Chat(ChatEvent),
    /// The visible range of the app at a corp may have changed.
    Visibility {
        /// What kind of message it is.
        kind: Kind,
        /// The corp.
        corp_id: CorpId,
        /// Its `CreateTime`.
        created_at: Timestamp,
    },
    /// A warning about the use of the app at a corp, or its end, for an operator.
    Alarm(AppAlarm),
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

impl Classified {
    /// The kind of the message and its `CreateTime`, if it could be parsed.
    #[must_use]
    pub const fn kind(&self) -> Option<(Kind, Option<Timestamp>)> {
        match self {
            Self::Event(event) | Self::Quarantine { event: Some(event), .. } => {
                Some((event.contact.change.kind(), Some(event.created_at)))
            }
            Self::Chat(event) => Some((Kind::ChangeExternalChat, Some(event.created_at))),
            Self::Visibility { kind, created_at, .. } => Some((*kind, Some(*created_at))),
            Self::Alarm(alarm) => Some((Kind::AppLifeCycle, Some(alarm.created_at))),
            Self::Ignored(ignored) => Some((ignored.kind, ignored.created_at)),
            Self::Quarantine { event: None, .. } => None,
        }
    }

    /// The corp that an accepted message is about; `None` for one to quarantine.
    #[must_use]
    pub const fn corp_id(&self) -> Option<&CorpId> {
        match self {
            Self::Event(Event { corp_id, .. })
            | Self::Chat(ChatEvent { corp_id, .. })
            | Self::Visibility { corp_id, .. }
            | Self::Alarm(AppAlarm { corp_id, .. }) => Some(corp_id),
            Self::Ignored(ignored) => ignored.corp_id.as_ref(),
            Self::Quarantine { .. } => None,
        }
    }

    /// The corp that a message to be quarantined is about, if it is because no app serves that corp.
    #[must_use]
    pub const fn unserved(&self) -> Option<&CorpId> {
        match self {
            Self::Quarantine { reason: QuarantineReason::Unrouted { corp_id }, .. } => Some(corp_id),
            Self::Quarantine { .. }
            | Self::Event(_)
            | Self::Chat(_)
            | Self::Visibility { .. }
            | Self::Alarm(_)
            | Self::Ignored(_) => None,
        }
    }
}

/// Classifies a message. It is accepted if it was encrypted for one of `recipients`, for the corp that it is
/// about, or for a known dealer: WeCom does not document whether it encrypts a dealer's events for the brand
/// or for the dealer, and a dealer's first event may arrive before WeCom has listed the dealer. `is_dealer`
/// says whether a corp is a known dealer. Without an `age_limit` a contact event of any age is accepted.
///
/// # Errors
/// The error of `is_dealer`.
pub async fn classify<E>(
    message: &VerifiedMessage,
    recipients: &Recipients,
    age_limit: Option<AgeLimit>,
    is_dealer: impl AsyncFnOnce(&CorpId) -> Result<bool, E>,
) -> Result<Classified, E> {
    let parsed = parse(message.text());
    let about = parsed.as_ref().ok().and_then(Message::corp_id);
    if !accepts(recipients, message.receive_id(), about, is_dealer).await? {
        return Ok(Classified::Quarantine { reason: QuarantineReason::ReceiveId, event: None });
    }
    Ok(meaning(parsed, age_limit))
}

/// Classifies a message of an app that is accepted, whatever it was encrypted for.
#[must_use]
pub fn classify_accepted(message: &VerifiedMessage, age_limit: Option<AgeLimit>) -> Classified {
    meaning(parse(message.text()), age_limit)
}

fn meaning(parsed: Result<Message, MessageError>, age_limit: Option<AgeLimit>) -> Classified {
    match parsed {
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
        // The age limit is for contact events, because they change followers. Others may be of any age, even
        // replayed: the event of a group or corp leads at most to lookups and a reading of the member list,
        // and WeCom answers those with the current state; an alarm changes no link.
        Ok(Message::Chat(event)) => Classified::Chat(event),
        Ok(Message::Visibility { kind, corp_id, created_at }) => {
            Classified::Visibility { kind, corp_id, created_at }
        }
        Ok(Message::Alarm(alarm)) => Classified::Alarm(alarm),
        Ok(Message::Ignored(ignored)) => Classified::Ignored(ignored),
        Err(error) => {
            let reason = QuarantineReason::NotUnderstood(error.to_string());
            Classified::Quarantine { reason, event: None }
        }
    }
}

/// Whether a message about the corp `about` and encrypted for `receive_id` is accepted.
async fn accepts<E>(
    recipients: &Recipients,
    receive_id: &[u8],
    about: Option<&CorpId>,
    is_dealer: impl AsyncFnOnce(&CorpId) -> Result<bool, E>,
) -> Result<bool, E> {
    if recipients.include(receive_id) {
        return Ok(true);
    }
    let Ok(receive_id) = std::str::from_utf8(receive_id) else { return Ok(false) };
    if about.is_some_and(|about| about.same_corp(receive_id)) {
        return Ok(true);
    }
    match CorpId::new(receive_id) {
        Ok(corp_id) => is_dealer(&corp_id).await,
        Err(_) => Ok(false),
    }
}
