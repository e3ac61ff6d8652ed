//! What becomes of a verified callback: it is classified, and stored before it is acknowledged.
//!
//! A suite's own message takes the shortest way: sealed, appended, acknowledged. WeCom waits one second for
//! it, so it needs no call, no list of dealers and no room in the inbox.
//!
//! Deliberately absent: HTTP (see [`public`](super::public)), and whose messages are accepted (see
//! [`doors`](super::doors)).

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::callback_log::CallbackLog;
use super::door_set::DoorSet;
use super::doors::{AppDoor, Door, Misplaced, Place, SuiteDoor, unrouted, without_groups};
use super::payload::{Concern, payload_of};
use super::strangers::SourceCheck;
use super::unserved::{MESSAGES_MAX, UnservedCorps};
use super::url_checks::UrlChecks;
use crate::at_rest::Nonces;
use crate::callback::VerifiedMessage;
use crate::clock::Clock;
use crate::domain::dealer_activity::DealerTrouble;
use crate::domain::event::Kind;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::suite::SuiteEvent;
use crate::domain::time::Timestamp;
use crate::intake::{
    AgeLimit, Classified, SuiteContent, SuiteMessage, classify_accepted, may_contain_secret,
};
use crate::store::{Appended, Arrival, MessageDigest, Payload, Store, StoreError};
use crate::telemetry::metrics::{CallbackOutcome, Metrics, TimestampSource};
use crate::wecom::{NO_LICENCE, remedy_for};
use crate::worker::Wake;
use crate::worker::activity::Activity;
use crate::worker::apps::Apps;
use crate::worker::history::Notes;

/// The state that the handlers share.
pub struct CallbackState {
    /// The callback URLs.
    pub doors: Arc<DoorSet>,
    /// The apps and suites.
    pub apps: Arc<Apps>,
    /// The nonces that secrets are sealed with.
    pub nonces: Nonces,
    /// The store.
    pub store: Arc<dyn Store>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Wakes the workers.
    pub wake: Arc<Wake>,
    /// Counts the events of each corp.
    pub activity: Arc<Activity>,
    /// What was seen last at each callback URL.
    pub notes: Arc<Notes>,
    /// The corps whose messages wait because no app serves them.
    pub unserved: UnservedCorps,
    /// The URL checks that were refused because of their receive id.
    pub url_checks: Arc<UrlChecks>,
    /// Logs answers.
    pub log: CallbackLog,
    /// The maximum age of an event in days; 0 means no limit.
    pub event_days_max: u32,
    /// The comparison of sources with WeCom's list, if they are compared.
    pub source_check: Option<SourceCheck>,
    /// The largest accepted body, in bytes.
    pub body_bytes_max: usize,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
}

/// A message, and when it was received.
struct Received<'a> {
    message: &'a VerifiedMessage,
    at: Timestamp,
}

impl CallbackState {
    /// Classifies a verified message and stores what it reports, or the message in quarantine. The whole
    /// request had been received at `received_at`.
    pub(super) async fn accept(
        &self,
        door: &Door,
        message: &VerifiedMessage,
        received_at: Instant,
    ) -> Result<CallbackOutcome, StoreError> {
        let now = self.clock.now();
        match door {
            Door::App(door) => self.accept_at_app(door, message, now).await,
            Door::Suite(door) => self.accept_at_suite(door, message, now, received_at).await,
        }
    }

    async fn accept_at_app(
        &self,
        door: &AppDoor,
        message: &VerifiedMessage,
        now: Timestamp,
    ) -> Result<CallbackOutcome, StoreError> {
        let age_limit = Some(self.age_limit(now));
        let classified = door.classify(&*self.store, &self.apps, message, age_limit).await?;
        if classified.unserved().is_some() {
            // The quarantine does not say what kind of message it is.
            self.count_message(&classify_accepted(message, None), now);
        } else {
            self.count_message(&classified, now);
        }
        let received = Received { message, at: now };
        self.keep(&door.name, door.brand(&self.apps), classified, &received).await
    }

    async fn accept_at_suite(
        &self,
        door: &SuiteDoor,
        message: &VerifiedMessage,
        now: Timestamp,
        received_at: Instant,
    ) -> Result<CallbackOutcome, StoreError> {
        let suite = &door.recipients.suite;
        let apps = match door.place(&*self.store, &self.apps, message).await? {
            Place::Suite(own) => {
                let outcome = self.keep_own(door, own, message, now).await?;
                self.metrics.suites.event_answered(received_at.elapsed());
                return Ok(outcome);
            }
            Place::Misplaced(why) => return Ok(self.misplaced(suite, &why)),
            Place::Apps(apps) => apps,
            Place::Unrouted(about) => return self.keep_unrouted(suite, &about, message, now).await,
            Place::Quarantine(reason) => {
                let classified = Classified::Quarantine { reason, event: None };
                let received = Received { message, at: now };
                return self.keep(suite, None, classified, &received).await;
            }
        };
        let classified = classify_accepted(message, Some(self.age_limit(now)));
        self.count_message(&classified, now);
        let received = Received { message, at: now };
        let mut outcome = CallbackOutcome::Duplicate;
        for app in apps {
            let customer_groups = self.apps.get(&app).is_none_or(|rules| rules.customer_groups);
            let own = without_groups(classified.clone(), customer_groups);
            // If this fails, WeCom sends the message again, and the copies appended before are duplicates.
            let kept = self.keep(&app, self.apps.corp_of(&app), own, &received).await?;
            if outcome == CallbackOutcome::Duplicate {
                outcome = kept;
            }
        }
        Ok(outcome)
    }

    /// Stores one of a suite's own messages, with its secret sealed.
    async fn keep_own(
        &self,
        door: &SuiteDoor,
        own: SuiteMessage,
        message: &VerifiedMessage,
        now: Timestamp,
    ) -> Result<CallbackOutcome, StoreError> {
        let SuiteMessage { sent_at, content, .. } = own;
        let suite = &door.recipients.suite;
        self.count_event(content.kind(), Some(sent_at), now);
        if let SuiteContent::DealersChanged(corp_id) = &content
            && let Some(app) = self.apps.app_of_brand(suite, corp_id.as_str())
        {
            self.wake.dealers_changed(&app);
        }
        let Some(change) = door.seal(content, || (self.nonces)()) else {
            return Ok(CallbackOutcome::Ignored);
        };
        let payload = Payload::Suite(SuiteEvent { sent_at, change });
        let digest = MessageDigest::of(suite, message.text());
        let concern = Concern::of(&payload);
        let arrival = Arrival { app: suite.clone(), digest, received_at: now, payload };
        Ok(match self.store.append(arrival).await? {
            Appended::New(_) => {
                concern.wake(&self.wake, suite);
                CallbackOutcome::Accepted
            }
            Appended::Duplicate => CallbackOutcome::Duplicate,
            Appended::Stale => self.misplaced(suite, &Misplaced::Stale),
            Appended::Forgotten => CallbackOutcome::Ignored,
        })
    }

    /// Quarantines a message about a corp that no app of the suite serves yet, unless it needs no action: its
    /// authorisation may not have been read, or it may be a dealer that WeCom has not listed yet.
    async fn keep_unrouted(
        &self,
        suite: &AppName,
        about: &CorpId,
        message: &VerifiedMessage,
        now: Timestamp,
    ) -> Result<CallbackOutcome, StoreError> {
        let classified = classify_accepted(message, None);
        self.count_message(&classified, now);
        if self.unserved.is_reading_due(suite, about) {
            for agency in self.apps.agency().iter().filter(|agency| agency.suite == *suite) {
                if self.apps.corp_of(&agency.app).is_some() {
                    self.wake.dealer_unknown(&agency.app, about);
                }
            }
        }
        let classified = unrouted(classified, about);
        if matches!(classified, Classified::Ignored(_)) {
            return Ok(CallbackOutcome::Ignored);
        }
        let received = Received { message, at: now };
        self.keep(suite, None, classified, &received).await
    }

    /// Stores what a message means for an app, or quarantines it, under the name of an app or a suite.
    async fn keep(
        &self,
        name: &AppName,
        brand: Option<CorpId>,
        classified: Classified,
        received: &Received<'_>,
    ) -> Result<CallbackOutcome, StoreError> {
        let &Received { message, at } = received;
        let corp_id = classified.corp_id().cloned();
        let unserved = classified.unserved().cloned();
        if unserved.as_ref().is_some_and(|corp_id| !self.unserved.has_room(name, corp_id)) {
            return Err(StoreError::InboxFull { limit: MESSAGES_MAX });
        }
        let quarantined = match &classified {
            Classified::Quarantine { reason, event } => {
                // At a self-built app's URL too, which may have been entered as a template's.
                if event.is_none() && may_contain_secret(message.text()) {
                    return Ok(self.misplaced(name, &Misplaced::of(reason.clone())));
                }
                Some(reason.clone())
            }
            Classified::Event(_)
            | Classified::Chat(_)
            | Classified::Visibility { .. }
            | Classified::Alarm(_)
            | Classified::Ignored(_) => None,
        };
        let payload = match payload_of(classified, message) {
            Ok(payload) => payload,
            Err(ignored) => {
                if ignored.kind.changes_dealers() {
                    self.wake.dealers_changed(name);
                }
                if ignored.kind == Kind::UnlicensedNotify {
                    self.note_missing_licence(name, corp_id.as_ref(), at);
                }
                self.note_activity(name, brand, corp_id.as_ref(), at).await;
                return Ok(CallbackOutcome::Ignored);
            }
        };
        let digest = MessageDigest::of(name, message.text());
        let concern = Concern::of(&payload);
        let arrival = Arrival { app: name.clone(), digest, received_at: at, payload };
        Ok(match self.store.append(arrival).await? {
            Appended::New(_) => {
                concern.wake(&self.wake, name);
                if let Some(corp_id) = &unserved {
                    self.unserved.kept(name, corp_id);
                }
                self.note_activity(name, brand, corp_id.as_ref(), at).await;
                match quarantined {
                    None => CallbackOutcome::Accepted,
                    Some(reason) => {
                        self.log.quarantined(name, &reason);
                        CallbackOutcome::Quarantined
                    }
                }
            }
            Appended::Duplicate => CallbackOutcome::Duplicate,
            Appended::Forgotten => {
                self.log.forgotten(name);
                CallbackOutcome::Ignored
            }
            Appended::Stale => CallbackOutcome::Ignored,
        })
    }

    /// Notes as the trouble of a dealer or brand that a member there has no licence: the customers of that
    /// member cannot be read, and WeCom reports none of them. Nothing else of the corp depends on it.
    fn note_missing_licence(&self, app: &AppName, corp_id: Option<&CorpId>, at: Timestamp) {
        let Some(corp_id) = corp_id else { return };
        self.activity.licence_is_missing(app, corp_id, true, at);
        let remedy = remedy_for(NO_LICENCE, self.apps.development(app)).en;
        let text = format!("WeCom sent unlicensed_notify for a member: {remedy}");
        self.activity.trouble(app, corp_id, DealerTrouble { errcode: Some(NO_LICENCE), text, at });
    }

    /// Counts a message from a corp. With the first since the counts were recorded: if the corp is a dealer, logs its
    /// first message with the dealer's name, and has the list of dealers read if the dealer is not on it.
    async fn note_activity(
        &self,
        app: &AppName,
        brand: Option<CorpId>,
        corp_id: Option<&CorpId>,
        now: Timestamp,
    ) {
        let Some(corp_id) = corp_id else { return };
        if !self.activity.seen(app, corp_id, now) {
            return;
        }
        if brand.is_some_and(|brand| brand.same_corp(corp_id.as_str())) {
            return;
        }
        let known = self.store.dealer(app, corp_id).await.ok().flatten();
        if known.as_ref().is_none_or(|dealer| dealer.left_at.is_some()) {
            self.wake.dealers_changed(app);
        }
        if self.log.is_first_of(app, corp_id) {
            let dealer = known.map(|dealer| dealer.name);
            tracing::info!(%app, corp = %corp_id, dealer, "first callback of a dealer since the start");
        }
    }

    fn misplaced(&self, name: &AppName, why: &Misplaced) -> CallbackOutcome {
        self.log.misplaced(name, why);
        CallbackOutcome::Misplaced
    }

    const fn age_limit(&self, now: Timestamp) -> AgeLimit {
        AgeLimit { days_max: self.event_days_max, now }
    }

    fn count_message(&self, classified: &Classified, now: Timestamp) {
        if let Some((kind, created_at)) = classified.kind() {
            self.count_event(kind, created_at, now);
        }
    }

    fn count_event(&self, kind: Kind, created_at: Option<Timestamp>, now: Timestamp) {
        self.metrics.callbacks.event(kind);
        if let Some(created_at) = created_at {
            self.metrics.callbacks.timestamp_seen(TimestampSource::CreateTime, created_at, now);
        }
    }
}

#[cfg(test)]
mod tests;
