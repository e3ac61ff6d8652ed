//! Redriving one event: a dead letter goes back into the inbox, a quarantined message is classified again.

use super::public::{CallbackApps, Concern, classify};
use crate::callback::VerifiedMessage;
use crate::domain::event::QuarantineReason;
use crate::domain::time::Timestamp;
use crate::intake::Classified;
use crate::store::{EventId, EventRow, Payload, Store, StoreError};
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
    let (app, becomes) = match store.event(id).await? {
        None => return Ok(false),
        Some(EventRow::Inbox(event) | EventRow::Dead { event, .. }) => (event.app, None),
        Some(EventRow::Quarantined(quarantined)) => {
            let Some(text) = store.quarantined_message(id).await? else { return Ok(false) };
            let app = apps.get(&quarantined.app).ok_or(RedriveError::UnknownApp)?;
            let message = VerifiedMessage::from_quarantine(&quarantined.receive_id, text);
            // No age limit: the operator has decided to process the event.
            let becomes = match classify(store, app, &message, None).await? {
                Classified::Event(event) => Some(Payload::Event(event)),
                Classified::Chat(event) => Some(Payload::Chat(event)),
                Classified::Visibility { corp_id, .. } => Some(Payload::Visibility(corp_id)),
                Classified::Alarm(alarm) => Some(Payload::Alarm(alarm)),
                Classified::Ignored(ignored) => {
                    if ignored.kind.changes_dealers() {
                        wake.dealers_changed(&quarantined.app);
                    }
                    None
                }
                Classified::Quarantine { reason, event } => match reason {
                    QuarantineReason::ReceiveId => return Err(RedriveError::ReceiveId),
                    QuarantineReason::NotUnderstood(why) => return Err(RedriveError::NotUnderstood(why)),
                    QuarantineReason::FarOff { .. } => event.map(Payload::Event),
                },
            };
            (quarantined.app, becomes)
        }
    };
    let concern = Concern::of(becomes.as_ref());
    let redriven = store.redrive(id, becomes, now).await?;
    if redriven {
        concern.wake(wake, &app);
    }
    Ok(redriven)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::callback::{AesKey, Keys};
    use crate::domain::chat::CHAT_LAG_MS;
    use crate::domain::ids::{AppName, CorpId};
    use crate::http::public::CallbackApp;
    use crate::intake::Recipients;
    use crate::store::embedded::engine::Memory;
    use crate::store::embedded::{EmbeddedStore, Settings};
    use crate::store::{Appended, Arrival, CustomerGroups as _, MessageDigest, Reconciling as _};

    #[tokio::test]
    async fn a_quarantined_message_becomes_what_it_means_now() {
        let store = EmbeddedStore::in_memory(Memory::default(), Settings::default()).unwrap();
        let (name, dealer) = (AppName::new("brand").unwrap(), CorpId::new("wpDEALER").unwrap());
        let app = CallbackApp {
            name: name.clone(),
            keys: Keys::new(
                "token".into(),
                AesKey::decode("abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG").unwrap(),
            ),
            recipients: Recipients {
                corp_id: CorpId::new("ww00000000000000aa").unwrap(),
                accept_receive_ids: vec!["dkSUITE".to_owned()],
            },
            customer_groups: true,
        };
        let apps = CallbackApps::from([(name.clone(), app)]);
        let (wake, now) = (Wake::default(), Timestamp::from_secs(1_764_518_400));
        let group = "<ChatId>wrINVENTED</ChatId><ChangeType>create</ChangeType>";
        for (event, fields) in [("change_external_chat", group), ("subscribe", ""), ("low_active", "")] {
            let text = format!(
                "<xml><ToUserName>wpDEALER</ToUserName><CreateTime>1764518000</CreateTime>\
                 <MsgType>event</MsgType><Event>{event}</Event>{fields}</xml>"
            );
            let digest = MessageDigest::of(&name, text.as_bytes());
            let payload = Payload::Quarantine {
                reason: QuarantineReason::ReceiveId,
                receive_id: "dkSUITE".to_owned(),
                message: text.into_bytes(),
                event: None,
            };
            let arrival = Arrival { app: name.clone(), digest, received_at: now, payload };
            let Appended::New(id) = store.append(arrival).await.unwrap() else { panic!("{event}") };
            assert_eq!(redrive(&store, &apps, &wake, id, now).await, Ok(true), "{event}");
            assert_eq!(redrive(&store, &apps, &wake, id, now).await, Ok(false), "{event}");
        }
        let chats = store.due_chats(now.plus_ms(CHAT_LAG_MS), 10).await.unwrap();
        assert_eq!(chats.iter().map(|chat| chat.chat_id.as_str()).collect::<Vec<_>>(), ["wrINVENTED"]);
        assert!(store.visibility_changes().await.unwrap().into_keys().eq([(name, dealer)]));
        assert_eq!(store.alarms().await.unwrap().len(), 1);
        assert_eq!(store.counts().quarantined, 0);
    }
}
