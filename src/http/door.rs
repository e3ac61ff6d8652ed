//! What a verified message means for us: an event, nothing, or quarantine. Asked when a callback arrives, and
//! again when a quarantined one is redriven.

use std::collections::HashMap;
use std::sync::Arc;

use crate::callback::{Keys, message};
use crate::domain::event::{Event, Kind, What};
use crate::domain::ids::{AppName, CorpId};
use crate::domain::time::Timestamp;
use crate::store::{Happening, Store, StoreError};

/// What the door knows of an app.
#[derive(Debug)]
pub struct DoorApp {
    /// Its name.
    pub name: AppName,
    /// What it shares with WeCom.
    pub keys: Keys,
    /// The brand's corp.
    pub corp_id: CorpId,
    /// Further receive ids.
    pub accept_receive_ids: Vec<String>,
}

/// What a verified message means.
#[derive(Debug)]
pub enum Meaning {
    /// To be acted upon.
    Act(Kind, Happening),
    /// To be acknowledged and counted. When it happened, where that is said.
    Ignore(Kind, Option<Timestamp>),
    /// To be set aside: sealed for a corp or suite we were not told to accept.
    Stranger,
    /// To be set aside: why it is not understood.
    NotUnderstood(String),
}

/// All apps, and whom their callbacks may be sealed for.
pub struct Door {
    apps: HashMap<AppName, DoorApp>,
    store: Arc<dyn Store>,
}

impl Door {
    /// A door for these apps.
    #[must_use]
    pub fn new(apps: Vec<DoorApp>, store: Arc<dyn Store>) -> Self {
        Self { apps: apps.into_iter().map(|app| (app.name.clone(), app)).collect(), store }
    }

    /// The app of this name.
    #[must_use]
    pub fn app(&self, name: &str) -> Option<&DoorApp> {
        AppName::new(name).ok().and_then(|name| self.apps.get(&name))
    }

    /// What a message sealed for `receive_id` means to `app`.
    ///
    /// # Errors
    /// When the store cannot say whether the receive id is that of a dealer.
    pub async fn meaning(
        &self,
        app: &DoorApp,
        receive_id: &[u8],
        text: &[u8],
    ) -> Result<Meaning, StoreError> {
        if !self.accepts(app, receive_id).await? {
            return Ok(Meaning::Stranger);
        }
        Ok(match message::parse(text) {
            Ok(Event { corp_id, created_at, what }) => match (what.kind(), what) {
                (kind, What::Contact(contact)) => {
                    Meaning::Act(kind, Happening { corp_id, created_at, contact })
                }
                (_, What::Ignored(Kind::Suite)) => Meaning::Ignore(Kind::Suite, None),
                (_, What::Ignored(kind)) => Meaning::Ignore(kind, Some(created_at)),
            },
            Err(error) => Meaning::NotUnderstood(error.to_string()),
        })
    }

    /// The brand's corp, a dealer's, or whatever else was configured. WeCom does not document which of them it
    /// seals a dealer's events for.
    async fn accepts(&self, app: &DoorApp, receive_id: &[u8]) -> Result<bool, StoreError> {
        let Ok(receive_id) = std::str::from_utf8(receive_id) else {
            return Ok(false);
        };
        if app.corp_id.same_corp(receive_id) || app.accept_receive_ids.iter().any(|id| id == receive_id) {
            return Ok(true);
        }
        match CorpId::new(receive_id) {
            Ok(corp_id) => Ok(self.store.dealer(&app.name, &corp_id).await?.is_some()),
            Err(_) => Ok(false),
        }
    }
}
