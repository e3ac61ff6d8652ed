//! Redriving one event: a dead letter goes back into the inbox, a quarantined message is classified again. One
//! that was quarantined at a suite's URL is first routed again, and then appended for each app that it is for.
//!
//! Deliberately absent: the choice of events (see `api::events` and [`unrouted`](super::unrouted)).

use super::doors::{Door, Doors, Place, SuiteDoor, without_groups};
use super::payload::{Concern, payload_of};
use crate::callback::VerifiedMessage;
use crate::domain::event::QuarantineReason;
use crate::domain::ids::AppName;
use crate::domain::time::Timestamp;
use crate::intake::{AgeLimit, Classified, Ignored, classify_accepted};
use crate::store::{
    Appended, Arrival, EventId, EventRow, MessageDigest, Payload, Quarantined, Store, StoreError,
};
use crate::worker::Wake;
use crate::worker::apps::Apps;

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
    /// No app of its suite serves the corp that it is about, or its app no brand.
    #[error("no app of the suite serves the corp of the message yet")]
    Unrouted,
    /// The store could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What redriving needs to know beside the event.
#[derive(Clone, Copy)]
pub struct Redrive<'a> {
    /// The store.
    pub store: &'a dyn Store,
    /// The callback URLs.
    pub doors: &'a Doors,
    /// The apps and suites.
    pub apps: &'a Apps,
    /// Wakes the workers.
    pub wake: &'a Wake,
}

/// What becomes of a quarantined message.
enum Becomes {
    /// This, or nothing, under the name that it was quarantined under.
    Itself(Option<Payload>),
    /// This for each of these apps.
    ForApps(Vec<(Classified, AppName)>),
}

impl Redrive<'_> {
    /// Redrives an event and wakes the workers that it concerns, as its first arrival would have. Returns
    /// whether there was anything to redrive: `false` when it was redriven before or is settled.
    ///
    /// # Errors
    /// [`RedriveError`] when the event cannot be redriven.
    pub async fn event(self, id: EventId, now: Timestamp) -> Result<bool, RedriveError> {
        match self.store.event(id).await? {
            None => Ok(false),
            Some(EventRow::Inbox(event) | EventRow::Dead { event, .. }) => {
                self.replace(id, &event.app, None, now).await
            }
            // No age limit: the operator has decided to process the event.
            Some(EventRow::Quarantined(quarantined)) => self.message(&quarantined, None, now).await,
        }
    }

    /// Redrives a quarantined message.
    pub(super) async fn message(
        self,
        quarantined: &Quarantined,
        age_limit: Option<AgeLimit>,
        now: Timestamp,
    ) -> Result<bool, RedriveError> {
        let Quarantined { id, app, received_at, receive_id, .. } = quarantined;
        let Some(text) = self.store.quarantined_message(*id).await? else { return Ok(false) };
        let message = VerifiedMessage::from_quarantine(receive_id, text);
        // Waits begin at this time. It is in the future if the clock was set back since.
        let received_at = (*received_at).min(now);
        match self.becomes(app, &message, age_limit).await? {
            Becomes::Itself(payload) => self.replace(*id, app, payload, now).await,
            Becomes::ForApps(apps) => {
                // Deduplicated for each app: what is repeated after a failure between two has no effect.
                for (classified, app) in apps {
                    self.append(&app, classified, &message, received_at).await?;
                }
                Ok(self.store.redrive(*id, None, now).await?)
            }
        }
    }

    async fn becomes(
        self,
        name: &AppName,
        message: &VerifiedMessage,
        age_limit: Option<AgeLimit>,
    ) -> Result<Becomes, RedriveError> {
        let Self { store, doors, apps, .. } = self;
        let (door, of_app) = match doors.get(name).map(|door| &**door) {
            Some(Door::App(door)) => {
                let classified = door.classify(store, apps, message, age_limit).await?;
                return Ok(Becomes::Itself(self.accepted(name, classified, message)?));
            }
            Some(Door::Suite(door)) => (door, None),
            // An app that uses its suite's URL.
            None => (self.suite_door(name).ok_or(RedriveError::UnknownApp)?, Some(name)),
        };
        let found = match door.place(store, apps, message).await? {
            Place::Apps(found) => found,
            Place::Unrouted(_) => return Err(RedriveError::Unrouted),
            Place::Quarantine(reason) => return Err(reason.into()),
            Place::Suite(_) | Place::Misplaced(_) => {
                return Err(RedriveError::NotUnderstood("it is the suite's own".to_owned()));
            }
        };
        let classified = classify_accepted(message, age_limit);
        let classified_for = |app: &AppName| {
            let customer_groups = apps.get(app).is_none_or(|rules| rules.customer_groups);
            without_groups(classified.clone(), customer_groups)
        };
        match (of_app, &classified) {
            (Some(app), _) if found.contains(app) => {
                Ok(Becomes::Itself(self.accepted(app, classified_for(app), message)?))
            }
            (Some(_), _) => Err(RedriveError::ReceiveId),
            (None, Classified::Quarantine { reason: reason @ QuarantineReason::NotUnderstood(_), .. }) => {
                Err(reason.clone().into())
            }
            (None, _) => {
                let of_app = |app: AppName| (classified_for(&app), app);
                Ok(Becomes::ForApps(found.into_iter().map(of_app).collect()))
            }
        }
    }

    fn suite_door(&self, app: &AppName) -> Option<&SuiteDoor> {
        match &**self.doors.get(self.apps.get(app)?.suite.as_ref()?)? {
            Door::Suite(door) => Some(door),
            Door::App(_) => None,
        }
    }

    /// What a message becomes under the name that it was quarantined under.
    fn accepted(
        self,
        app: &AppName,
        classified: Classified,
        message: &VerifiedMessage,
    ) -> Result<Option<Payload>, RedriveError> {
        match payload_of(classified, message) {
            Ok(Payload::Quarantine { reason: QuarantineReason::FarOff { .. }, event, .. }) => {
                Ok(event.map(Payload::Event))
            }
            Ok(Payload::Quarantine { reason, .. }) => Err(reason.into()),
            Ok(payload) => Ok(Some(payload)),
            Err(ignored) => {
                self.dealers_changed(app, &ignored);
                Ok(None)
            }
        }
    }

    /// Puts a payload in the place of an event or message.
    async fn replace(
        self,
        id: EventId,
        app: &AppName,
        payload: Option<Payload>,
        now: Timestamp,
    ) -> Result<bool, RedriveError> {
        let concern = payload.as_ref().map_or(Concern::Inbox, Concern::of);
        let redriven = self.store.redrive(id, payload, now).await?;
        if redriven {
            concern.wake(self.wake, app);
        }
        Ok(redriven)
    }

    /// Appends a message for an app as if it had arrived for it at once.
    async fn append(
        self,
        app: &AppName,
        classified: Classified,
        message: &VerifiedMessage,
        received_at: Timestamp,
    ) -> Result<(), StoreError> {
        let payload = match payload_of(classified, message) {
            Ok(payload) => payload,
            Err(ignored) => {
                self.dealers_changed(app, &ignored);
                return Ok(());
            }
        };
        let concern = Concern::of(&payload);
        let digest = MessageDigest::of(app, message.text());
        let arrival = Arrival { app: app.clone(), digest, received_at, payload };
        if let Appended::New(_) = self.store.append(arrival).await? {
            concern.wake(self.wake, app);
        }
        Ok(())
    }

    fn dealers_changed(self, app: &AppName, ignored: &Ignored) {
        if ignored.kind.changes_dealers() {
            self.wake.dealers_changed(app);
        }
    }
}

impl From<QuarantineReason> for RedriveError {
    fn from(reason: QuarantineReason) -> Self {
        match reason {
            QuarantineReason::ReceiveId => Self::ReceiveId,
            QuarantineReason::NotUnderstood(why) => Self::NotUnderstood(why),
            QuarantineReason::Unrouted { .. } => Self::Unrouted,
            QuarantineReason::FarOff { .. } => Self::NotUnderstood("the event is too far off".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::callback::{AesKey, Keys};
    use crate::domain::chat::CHAT_LAG_MS;
    use crate::domain::ids::CorpId;
    use crate::http::doors::{AppDoor, AppRecipients};
    use crate::intake::Recipients;
    use crate::store::CustomerGroups as _;
    use crate::store::Reconciling as _;
    use crate::store::embedded::engine::Memory;
    use crate::store::embedded::{EmbeddedStore, Settings};

    #[tokio::test]
    async fn a_quarantined_message_becomes_what_it_means_now() {
        let store = EmbeddedStore::in_memory(Memory::default(), Settings::default()).unwrap();
        let (name, dealer) = (AppName::new("brand").unwrap(), CorpId::new("wpDEALER").unwrap());
        let door = AppDoor {
            name: name.clone(),
            keys: Keys::new(
                "token".into(),
                AesKey::decode("abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG").unwrap(),
            ),
            recipients: AppRecipients::SelfBuilt(Recipients {
                corp_id: CorpId::new("ww00000000000000aa").unwrap(),
                accept_receive_ids: vec!["dkSUITE".to_owned()],
            }),
            customer_groups: true,
        };
        let doors = Doors::from([(name.clone(), Arc::new(Door::App(door)))]);
        let (wake, now) = (Wake::default(), Timestamp::from_secs(1_764_518_400));
        let redrive = Redrive { store: &store, doors: &doors, apps: &Apps::default(), wake: &wake };
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
                created_at: None,
                message: text.into_bytes(),
                event: None,
            };
            let arrival = Arrival { app: name.clone(), digest, received_at: now, payload };
            let Appended::New(id) = store.append(arrival).await.unwrap() else { panic!("{event}") };
            assert_eq!(redrive.event(id, now).await, Ok(true), "{event}");
            assert_eq!(redrive.event(id, now).await, Ok(false), "{event}");
        }
        let chats = store.due_chats(&BTreeSet::new(), now.plus_ms(CHAT_LAG_MS), 10).await.unwrap();
        assert_eq!(chats.iter().map(|chat| chat.chat_id.as_str()).collect::<Vec<_>>(), ["wrINVENTED"]);
        assert!(store.visibility_changes().await.unwrap().into_keys().eq([(name, dealer)]));
        assert_eq!(store.alarms().await.unwrap().len(), 1);
        assert_eq!(store.counts().quarantined, 0);
    }
}
