//! Redriving one event: a dead letter goes back into the inbox, a quarantined message is classified again.

use super::public::{CallbackApps, classify};
use crate::callback::VerifiedMessage;
use crate::domain::event::QuarantineReason;
use crate::domain::time::Timestamp;
use crate::intake::Classified;
use crate::store::{EventId, EventRow, Store, StoreError};
use crate::worker::Wake;

/// Why a quarantined message stays in quarantine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RedriveError {
    /// Its app is not in the configuration.
    #[error("the message's app is not in the configuration")]
    UnknownApp,
    /// Its receive id is still not accepted.
    #[error("the receive id is still not accepted")]
    ReceiveId,
    /// It still cannot be parsed.
    #[error("the message still cannot be parsed: {0}")]
    NotUnderstood(String),
    /// The store could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Redrives an event and wakes the workers that it concerns, as its first arrival would have. Returns whether
/// there was anything to redrive: `false` when it was redriven before or is settled.
///
/// # Errors
/// [`RedriveError`] when the event cannot be redriven.
pub async fn redrive(
    store: &dyn Store,
    apps: &CallbackApps,
    wake: &Wake,
    id: EventId,
    now: Timestamp,
) -> Result<bool, RedriveError> {
    let event = match store.event(id).await? {
        None => return Ok(false),
        Some(EventRow::Inbox(_) | EventRow::Dead { .. }) => None,
        Some(EventRow::Quarantined(quarantined)) => {
            let Some(text) = store.quarantined_message(id).await? else { return Ok(false) };
            let app = apps.get(&quarantined.app).ok_or(RedriveError::UnknownApp)?;
            let message = VerifiedMessage::from_quarantine(&quarantined.receive_id, text);
            // No age limit: the operator has decided to process the event.
            match classify(store, app, &message, None).await? {
                Classified::Event(event) => Some(event),
                Classified::Ignored(ignored) => {
                    if ignored.kind.changes_dealers() {
                        wake.dealers_changed(&quarantined.app);
                    }
                    None
                }
                Classified::Quarantine { reason, event } => match reason {
                    QuarantineReason::ReceiveId => return Err(RedriveError::ReceiveId),
                    QuarantineReason::NotUnderstood(why) => return Err(RedriveError::NotUnderstood(why)),
                    QuarantineReason::FarOff { .. } => event,
                },
            }
        }
    };
    let redriven = store.redrive(id, event, now).await?;
    if redriven {
        wake.inbox.notify_one();
    }
    Ok(redriven)
}
