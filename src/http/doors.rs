//! The callback URLs: one for each suite, and one for each app that has a token and a key of its own; whose
//! messages each accepts, and which apps a message at a suite's URL is for.
//!
//! WeCom gives an agency-developed app (代开发应用) the URL, token and key of its suite unless the provider
//! enters others. So a suite's URL receives the suite's own messages, those of all its apps, and three kinds
//! of receive id. Nothing outside the ciphertext decides where a message goes.
//!
//! Deliberately absent: HTTP (see [`public`](super::public)), and what is stored (see
//! `callbacks`).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use secrecy::ExposeSecret as _;
use strum::IntoStaticStr;

use crate::at_rest::{Purpose, Sealer};
use crate::callback::{Keys, Refusal, VerifiedMessage};
use crate::domain::event::{Kind, QuarantineReason};
use crate::domain::ids::{AppName, CorpId, SuiteId};
use crate::domain::suite::{CodeId, SuiteChange};
use crate::intake::{
    self, AgeLimit, AtSuite, Classified, Ignored, Recipients, SuiteContent, SuiteMessage, may_contain_secret,
};
use crate::store::{Store, StoreError};
use crate::worker::apps::Apps;

/// The callback URLs, by the name in each.
pub type Doors = HashMap<AppName, Arc<Door>>;

/// A callback URL.
#[derive(Debug)]
pub enum Door {
    /// Of an app.
    App(AppDoor),
    /// Of a suite and of those of its apps that have no URL of their own.
    Suite(SuiteDoor),
}

/// The callback URL of an app.
#[derive(Debug)]
pub struct AppDoor {
    /// The app.
    pub name: AppName,
    /// Its callback token and AES key, shared with WeCom.
    pub keys: Keys,
    /// Whose messages it accepts, apart from its dealers'.
    pub recipients: AppRecipients,
    /// Whether it acts upon the events of customer groups.
    pub customer_groups: bool,
}

/// Whose messages an app's URL accepts.
#[derive(Debug)]
pub enum AppRecipients {
    /// Those of a self-built app.
    SelfBuilt(Recipients),
    /// Those of an agency-developed app: of its suite, but of no other brand.
    Agency(SuiteRecipients),
}

/// The callback URL of a suite.
#[derive(Debug)]
pub struct SuiteDoor {
    /// Its callback token and AES key, shared with WeCom.
    pub keys: Keys,
    /// Whose messages it accepts.
    pub recipients: SuiteRecipients,
    /// Seals the secrets in its messages.
    pub sealer: Arc<Sealer>,
}

/// The receive ids that are accepted for a suite and its apps, apart from the corps that have authorised it.
#[derive(Debug, Clone)]
pub struct SuiteRecipients {
    /// The suite's name in the configuration.
    pub suite: AppName,
    /// Its id at WeCom.
    pub suite_id: SuiteId,
    /// The provider's corp.
    pub provider_corp_id: CorpId,
    /// Further receive ids, from the configuration.
    pub accept_receive_ids: Vec<String>,
}

/// Where a message at a suite's URL goes.
#[derive(Debug)]
pub(super) enum Place {
    /// It is the suite's own.
    Suite(SuiteMessage),
    /// It is for these apps, at least one.
    Apps(Vec<AppName>),
    /// It is about a corp that no app of the suite serves yet.
    Unrouted(CorpId),
    /// It is to be quarantined under the suite's name.
    Quarantine(QuarantineReason),
    /// It has no effect.
    Misplaced(Misplaced),
}

/// Why a verified message has no effect.
#[derive(Debug, Clone, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(super) enum Misplaced {
    /// A suite's message that is not encrypted for the suite's id.
    ReceiveId,
    /// A suite's message that names another suite.
    SuiteId,
    /// A message that may contain a secret of the suite and cannot be read; quarantined, the secret would be
    /// stored unencrypted.
    NotUnderstood(String),
    /// An older ticket, a replayed auth code, a cancellation older than the grant, or news of a corp whose
    /// authorisation is not known.
    Stale,
}

impl Door {
    /// The name in the URL.
    pub(super) const fn name(&self) -> &AppName {
        match self {
            Self::App(door) => &door.name,
            Self::Suite(door) => &door.recipients.suite,
        }
    }

    /// The token and key.
    pub(super) const fn keys(&self) -> &Keys {
        match self {
            Self::App(door) => &door.keys,
            Self::Suite(door) => &door.keys,
        }
    }

    /// Whether it is the URL of a self-built app.
    pub(super) const fn is_self_built(&self) -> bool {
        matches!(self, Self::App(AppDoor { recipients: AppRecipients::SelfBuilt(_), .. }))
    }

    /// Whether a receive id is that of whom the URL belongs to: the brand, or the suite and its provider.
    pub(super) fn is_of(&self, apps: &Apps, receive_id: &str) -> bool {
        match self {
            Self::App(AppDoor { recipients: AppRecipients::SelfBuilt(own), .. }) => {
                own.corp_id.same_corp(receive_id)
            }
            Self::App(door) => door.brand(apps).is_some_and(|brand| brand.same_corp(receive_id)),
            Self::Suite(SuiteDoor { recipients, .. }) => {
                recipients.accepts(apps, receive_id.as_bytes(), None)
            }
        }
    }

    /// Whether a verified URL check may be answered: one for an accepted receive id, whose text is no message.
    /// A recorded message, sent as an echo string, would be decrypted for its sender.
    pub(super) fn check_echo(&self, apps: &Apps, echo: &VerifiedMessage) -> Result<(), Refusal> {
        let accepts = match self {
            // A dealer has no URL to check here.
            Self::App(AppDoor { recipients: AppRecipients::SelfBuilt(recipients), .. }) => {
                recipients.include(echo.receive_id())
            }
            Self::App(AppDoor { recipients: AppRecipients::Agency(recipients), .. })
            | Self::Suite(SuiteDoor { recipients, .. }) => recipients.accepts(apps, echo.receive_id(), None),
        };
        if echo.text().iter().any(|byte| matches!(byte, b'<' | b'{')) {
            Err(Refusal::Echo)
        } else if accepts {
            Ok(())
        } else {
            Err(Refusal::ReceiveId)
        }
    }
}

impl SuiteRecipients {
    /// Whether a message of an app of the suite is accepted that is about the corp `about` and encrypted for
    /// `receive_id`. A corp that has cancelled still counts: its events wait for it to authorise again.
    fn accepts(&self, apps: &Apps, receive_id: &[u8], about: Option<&CorpId>) -> bool {
        let Ok(receive_id) = std::str::from_utf8(receive_id) else { return false };
        let Self { suite, suite_id, provider_corp_id, accept_receive_ids } = self;
        about.is_some_and(|about| about.same_corp(receive_id))
            || suite_id.as_str() == receive_id
            || provider_corp_id.same_corp(receive_id)
            || accept_receive_ids.iter().any(|id| id == receive_id)
            || apps.has_authorized(suite, receive_id)
    }
}

impl AppDoor {
    /// The brand's corp; `None` while no brand has authorised an agency-developed app.
    pub(super) fn brand(&self, apps: &Apps) -> Option<CorpId> {
        match &self.recipients {
            AppRecipients::SelfBuilt(recipients) => Some(recipients.corp_id.clone()),
            AppRecipients::Agency(_) => apps.corp_of(&self.name),
        }
    }

    /// Classifies a message at this URL; used for incoming callbacks and for redriving.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) async fn classify(
        &self,
        store: &dyn Store,
        apps: &Apps,
        message: &VerifiedMessage,
        age_limit: Option<AgeLimit>,
    ) -> Result<Classified, StoreError> {
        let classified = match &self.recipients {
            AppRecipients::SelfBuilt(recipients) => {
                let is_dealer = async |corp_id: &CorpId| self.has_dealer(store, corp_id).await;
                intake::classify(message, recipients, age_limit, is_dealer).await?
            }
            AppRecipients::Agency(recipients) => {
                self.classify_agency(recipients, store, apps, message, age_limit).await?
            }
        };
        Ok(without_groups(classified, self.customer_groups))
    }

    /// While the app serves no brand, what is about a corp waits: it may be the brand, or a dealer of it.
    async fn classify_agency(
        &self,
        recipients: &SuiteRecipients,
        store: &dyn Store,
        apps: &Apps,
        message: &VerifiedMessage,
        age_limit: Option<AgeLimit>,
    ) -> Result<Classified, StoreError> {
        let about = match intake::at_suite(message.text()) {
            AtSuite::App(about) => Some(about),
            AtSuite::Own(_) | AtSuite::NotUnderstood(_) => None,
        };
        if !self.accepts(recipients, store, apps, message.receive_id(), about.as_ref()).await? {
            return Ok(Classified::Quarantine { reason: QuarantineReason::ReceiveId, event: None });
        }
        let classified = intake::classify_accepted(message, age_limit);
        Ok(match about {
            Some(about) if apps.corp_of(&self.name).is_none() => unrouted(classified, &about),
            Some(_) | None => classified,
        })
    }

    /// Whether a message to this app of a suite is accepted that is about the corp `about` and encrypted for
    /// `receive_id`. Another brand's is not, even if it is encrypted with this app's key.
    async fn accepts(
        &self,
        recipients: &SuiteRecipients,
        store: &dyn Store,
        apps: &Apps,
        receive_id: &[u8],
        about: Option<&CorpId>,
    ) -> Result<bool, StoreError> {
        let (suite, is_served) = (&recipients.suite, apps.corp_of(&self.name).is_some());
        let is_of_another = |corp_id: &str| match apps.app_of_brand(suite, corp_id) {
            Some(app) => app != self.name,
            // Without a brand, this app may be the one that will serve it.
            None => is_served && apps.is_authorized_brand(suite, corp_id),
        };
        let receive_id_text = String::from_utf8_lossy(receive_id);
        if apps.app_of_brand(suite, &receive_id_text).is_some_and(|app| app == self.name) {
            return Ok(true);
        }
        if is_of_another(&receive_id_text) || about.is_some_and(|about| is_of_another(about.as_str())) {
            return Ok(false);
        }
        if recipients.accepts(apps, receive_id, about) {
            return Ok(true);
        }
        match CorpId::new(&*receive_id_text) {
            Ok(corp_id) => self.has_dealer(store, &corp_id).await,
            Err(_) => Ok(false),
        }
    }

    async fn has_dealer(&self, store: &dyn Store, corp_id: &CorpId) -> Result<bool, StoreError> {
        Ok(store.dealer(&self.name, corp_id).await?.is_some())
    }

    /// Whether a message that waits because the app served no brand can go on: about the corp `about`, and
    /// encrypted for `receive_id`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) async fn is_routed(
        &self,
        store: &dyn Store,
        apps: &Apps,
        receive_id: &[u8],
        about: &CorpId,
    ) -> Result<bool, StoreError> {
        match &self.recipients {
            AppRecipients::Agency(recipients) if apps.corp_of(&self.name).is_some() => {
                self.accepts(recipients, store, apps, receive_id, Some(about)).await
            }
            AppRecipients::Agency(_) | AppRecipients::SelfBuilt(_) => Ok(false),
        }
    }
}

impl SuiteDoor {
    /// Decides where a message goes. Reads the store only for an app's message.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) async fn place(
        &self,
        store: &dyn Store,
        apps: &Apps,
        message: &VerifiedMessage,
    ) -> Result<Place, StoreError> {
        let accepts = |about| self.recipients.accepts(apps, message.receive_id(), about);
        let reason = match intake::at_suite(message.text()) {
            AtSuite::Own(read) => return Ok(self.place_own(message, read)),
            AtSuite::App(about) => match self.route(store, apps, message.receive_id(), &about).await? {
                Some(found) if found.is_empty() => return Ok(Place::Unrouted(about)),
                Some(found) => return Ok(Place::Apps(found)),
                None => QuarantineReason::ReceiveId,
            },
            AtSuite::NotUnderstood(why) if accepts(None) => QuarantineReason::NotUnderstood(why),
            AtSuite::NotUnderstood(_) => QuarantineReason::ReceiveId,
        };
        Ok(if may_contain_secret(message.text()) {
            Place::Misplaced(Misplaced::of(reason))
        } else {
            Place::Quarantine(reason)
        })
    }

    fn place_own(&self, message: &VerifiedMessage, read: Result<SuiteMessage, String>) -> Place {
        let suite_id = &self.recipients.suite_id;
        if message.receive_id() != suite_id.as_str().as_bytes() {
            return Place::Misplaced(Misplaced::ReceiveId);
        }
        match read {
            Ok(own) if own.suite_id == *suite_id => Place::Suite(own),
            Ok(_) => Place::Misplaced(Misplaced::SuiteId),
            Err(why) => Place::Misplaced(Misplaced::NotUnderstood(why)),
        }
    }

    /// The apps that a message about a corp is for, if it is accepted; they may be none.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) async fn route(
        &self,
        store: &dyn Store,
        apps: &Apps,
        receive_id: &[u8],
        about: &CorpId,
    ) -> Result<Option<Vec<AppName>>, StoreError> {
        let suite = &self.recipients.suite;
        // Encrypted for a brand: its app's, also about a dealer that WeCom has not listed yet.
        let of_receive_id = std::str::from_utf8(receive_id).ok().and_then(|id| apps.app_of_brand(suite, id));
        if let Some(app) = of_receive_id {
            return Ok(Some(vec![app]));
        }
        if !self.recipients.accepts(apps, receive_id, Some(about)) {
            return Ok(None);
        }
        let mut found: BTreeSet<_> = apps.apps_of_dealer(suite, about).into_iter().collect();
        found.extend(apps.app_of_brand(suite, about.as_str()));
        for agency in apps.agency().iter().filter(|agency| agency.suite == *suite) {
            if !found.contains(&agency.app) && store.dealer(&agency.app, about).await?.is_some() {
                found.insert(agency.app.clone());
            }
        }
        Ok(Some(found.into_iter().collect()))
    }

    /// What a message of the suite changes in the store, its secret sealed; `None` if nothing.
    pub(super) fn seal(
        &self,
        content: SuiteContent,
        nonce: impl FnOnce() -> [u8; 12],
    ) -> Option<SuiteChange> {
        Some(match content {
            SuiteContent::Ticket(ticket) => {
                SuiteChange::Ticket(self.sealer.seal(Purpose::Ticket, "", &ticket, nonce()))
            }
            SuiteContent::Code(kind, code) => {
                let id = CodeId::of(&self.recipients.suite, code.expose_secret());
                let code = self.sealer.seal(Purpose::AuthCode, &id.to_string(), &code, nonce());
                SuiteChange::Code { kind, id, code }
            }
            SuiteContent::Changed(corp_id) => SuiteChange::Changed(corp_id),
            SuiteContent::Cancelled(corp_id) => SuiteChange::Cancelled(corp_id),
            SuiteContent::DealersChanged(_) | SuiteContent::Other => return None,
        })
    }
}

impl Misplaced {
    /// Instead of a quarantine for this reason.
    pub(super) fn of(reason: QuarantineReason) -> Self {
        match reason {
            QuarantineReason::NotUnderstood(why) => Self::NotUnderstood(why),
            QuarantineReason::ReceiveId
            | QuarantineReason::FarOff { .. }
            | QuarantineReason::Unrouted { .. } => Self::ReceiveId,
        }
    }
}

/// What becomes of a message about a corp that no app serves yet: it is quarantined, unless it needs no action.
pub(super) fn unrouted(classified: Classified, about: &CorpId) -> Classified {
    let event = match classified {
        Classified::Event(event) => Some(event),
        Classified::Chat(_) | Classified::Visibility { .. } | Classified::Alarm(_) => None,
        other @ (Classified::Ignored(_) | Classified::Quarantine { .. }) => return other,
    };
    Classified::Quarantine { reason: QuarantineReason::Unrouted { corp_id: about.clone() }, event }
}

/// Ignores the events of customer groups for an app that does not act upon them.
pub(super) fn without_groups(classified: Classified, customer_groups: bool) -> Classified {
    match classified {
        Classified::Chat(event) if !customer_groups => Classified::Ignored(Ignored {
            kind: Kind::ChangeExternalChat,
            corp_id: Some(event.corp_id),
            created_at: Some(event.created_at),
        }),
        classified => classified,
    }
}

#[cfg(test)]
mod tests;
