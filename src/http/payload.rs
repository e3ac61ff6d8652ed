//! From a classified message to what is stored, and the workers that are woken then; for incoming callbacks
//! and for redriving.
//!
//! Deliberately absent: the classification (see [`crate::intake`]) and the store.

use crate::callback::VerifiedMessage;
use crate::domain::ids::{AppName, CorpId};
use crate::intake::{Classified, Ignored, created_at};
use crate::store::Payload;
use crate::worker::Wake;

/// Maximum characters of a receive id that are kept.
const RECEIVE_ID_CHARS: usize = 128;

/// What is to be stored of a classified message, or that it is to be ignored.
pub(super) fn payload_of(classified: Classified, message: &VerifiedMessage) -> Result<Payload, Ignored> {
    Ok(match classified {
        Classified::Event(event) => Payload::Event(event),
        Classified::Chat(event) => Payload::Chat(event),
        Classified::Visibility { corp_id, .. } => Payload::Visibility(corp_id),
        Classified::Alarm(alarm) => Payload::Alarm(alarm),
        Classified::Ignored(ignored) => return Err(ignored),
        Classified::Quarantine { reason, event } => {
            let (receive_id, created_at) = (receive_id(message), created_at(message.text()));
            Payload::Quarantine { reason, receive_id, created_at, message: message.text().to_vec(), event }
        }
    })
}

/// The receive id of a message, for people.
pub(super) fn receive_id(message: &VerifiedMessage) -> String {
    String::from_utf8_lossy(message.receive_id()).chars().take(RECEIVE_ID_CHARS).collect()
}

/// The workers to be woken after something was stored.
pub(super) enum Concern {
    Inbox,
    Groups,
    Visibility(CorpId),
    Alarms,
    Suites,
}

impl Concern {
    /// The workers to be woken after `payload` was stored.
    pub(super) fn of(payload: &Payload) -> Self {
        match payload {
            Payload::Event(_) | Payload::Quarantine { .. } => Self::Inbox,
            Payload::Chat(_) => Self::Groups,
            Payload::Visibility(corp_id) => Self::Visibility(corp_id.clone()),
            Payload::Alarm(_) => Self::Alarms,
            Payload::Suite(_) => Self::Suites,
        }
    }

    /// Wakes the workers.
    pub(super) fn wake(self, wake: &Wake, app: &AppName) {
        match self {
            Self::Inbox => wake.inbox.notify_one(),
            Self::Groups => wake.groups_changed(),
            Self::Visibility(corp_id) => wake.visibility_changed(app, &corp_id),
            Self::Alarms => wake.alarms_changed(),
            Self::Suites => wake.suites_changed(),
        }
    }
}
