//! The input of an explanation: what is known about a person, and what delays their fans and events.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::domain::contact::Contact;
use crate::domain::dealer::{Dealer, named};
use crate::domain::fan::Fan;
use crate::domain::ids::{AppName, ContactKey, CorpId, FanKey, SinkName};
use crate::domain::text::Text;
use crate::domain::time::Timestamp;

/// Everything known about the id that is asked about: a fan's unionid, or a customer's `external_userid`.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The fans with this unionid, or those linked to a customer with this `external_userid`. Each with what
    /// keeps it from getting a `pending_id`: WeCom's rejection, or an open circuit breaker.
    pub fans: Vec<(FanKey, Fan, Option<Trouble>)>,
    /// The customers with this `external_userid`, or those linked to this unionid. Each with the open circuit
    /// breaker of its dealer.
    pub contacts: Vec<(ContactKey, Contact, Option<Trouble>)>,
    /// Events of these customers that are in the inbox, among the dead letters or in quarantine.
    pub events: Vec<HeldEvent>,
    /// The dealers concerned, those that have left included.
    pub dealers: HashMap<(AppName, CorpId), Dealer>,
    /// What to do about the codes with which WeCom refused to look the customers of an app up.
    pub remedies: HashMap<(AppName, i64), Text>,
    /// The agency-developed apps that cannot call WeCom, because they have no authorisation that can be used.
    pub unauthorized: BTreeMap<AppName, Unauthorized>,
    /// The apps that do not look up the existing customers of a fan.
    pub without_existing: BTreeSet<AppName>,
    /// When the person's data was erased, if ever.
    pub forgotten_at: Option<Timestamp>,
    /// When the first fan that is queued for a `pending_id` is expected to have it.
    pub turn_at: Option<Timestamp>,
    /// The backlog of each sink.
    pub sinks: Vec<SinkLag>,
}

impl Facts {
    /// A corp as the texts name it: a dealer by its name, with the id behind it.
    pub(super) fn corp(&self, app: &AppName, corp_id: &CorpId) -> Text {
        let dealer = self.dealer(app, corp_id);
        let (en, zh) = if dealer.is_some() { ("dealer", "经销商") } else { ("corp", "企业") };
        let name = dealer.map(|dealer| dealer.name.as_str()).filter(|name| !name.is_empty());
        let corp = named(name, corp_id.as_str());
        Text { en: format!("{en} {corp}"), zh: format!("{zh} {corp}") }
    }

    /// The dealer; `None` if it is not known, or if the corp is the brand itself.
    pub(super) fn dealer(&self, app: &AppName, corp_id: &CorpId) -> Option<&Dealer> {
        self.dealers.get(&(app.clone(), corp_id.clone()))
    }
}

/// Why an agency-developed app has no authorisation that can be used.
#[derive(Debug, Clone)]
pub struct Unauthorized {
    /// Why.
    pub why: NoAuthorization,
    /// What to do.
    pub remedy: Text,
}

/// Why an agency-developed app cannot call WeCom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoAuthorization {
    /// There is none yet, it is being read, or it cannot be used for another reason, which the remedy names.
    Waiting,
    /// Several brands, by id and name, have authorised the suite, and the app is configured for none of them.
    Ambiguous(Vec<(CorpId, String)>),
    /// The brand has cancelled.
    Cancelled {
        /// When.
        at: Timestamp,
    },
}

/// A failure and its remedy.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// WeCom's code, if WeCom answered.
    pub errcode: Option<i64>,
    /// What to do, or what happened if no remedy is known.
    pub remedy: Text,
    /// When the next retry is due.
    pub retry_at: Option<Timestamp>,
}

/// An event or message that has not been processed.
#[derive(Debug, Clone)]
pub struct HeldEvent {
    /// The id as users see it: `evt_42`.
    pub id: String,
    /// The corp whose customer it is about; `None` for a message in quarantine.
    pub corp: Option<(AppName, CorpId)>,
    /// When it was received.
    pub received_at: Timestamp,
    /// Where it is.
    pub place: Place,
}

/// Where an event is, and why.
#[derive(Debug, Clone)]
pub enum Place {
    /// In the inbox; with the time when it is due, and the open circuit breaker of its dealer.
    Inbox(Timestamp, Option<Trouble>),
    /// Among the dead letters.
    Dead(Trouble),
    /// In quarantine, with what to do about it.
    Quarantined(Text),
}

/// The backlog of a sink.
#[derive(Debug, Clone)]
pub struct SinkLag {
    /// The sink.
    pub name: SinkName,
    /// Feed entries it has yet to receive.
    pub entries: u64,
    /// When the oldest of them was written.
    pub oldest_at: Option<Timestamp>,
    /// Whether it is paused or disabled, and waits for an operator.
    pub is_stopped: bool,
    /// Why the last delivery failed.
    pub reason: Option<String>,
}
