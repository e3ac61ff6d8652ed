//! Why somebody is, or is not, linked: one verdict from what is known, in English and Chinese.
//!
//! Pure: whoever asks gathers the [`Facts`]. The codes are stable; the texts are for people.

use serde::Serialize;
use utoipa::ToSchema;

use super::ids::{AppName, CorpId, SinkName};
use super::link::Source;
use super::time::Timestamp;

mod texts;

/// Everything known about an id.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The fans of this unionid, or whom a customer of this `external_userid` is linked to.
    pub fans: Vec<FanFacts>,
    /// The customers of this `external_userid`, or linked to this unionid.
    pub contacts: Vec<ContactFacts>,
    /// What is in the inbox or set aside about those customers.
    pub events: Vec<EventFacts>,
    /// When this person was forgotten, if ever.
    pub forgotten_at: Option<Timestamp>,
    /// Sinks that have entries still to get.
    pub sinks: Vec<SinkFacts>,
}

/// What is known of a fan.
#[derive(Debug, Clone)]
pub struct FanFacts {
    /// The app.
    pub app: AppName,
    /// When the brand first told us.
    pub registered_at: Timestamp,
    /// How far it is.
    pub state: FanIs,
    /// When the newest pending id was obtained, and when it ends.
    pub minted: Option<(Timestamp, Timestamp)>,
    /// When WeCom was asked which dealers have this person already, and how many it named.
    pub existing: Option<(Timestamp, u32)>,
    /// Why nothing is minted for this app now.
    pub paused: Option<Trouble>,
}

/// How far a fan is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FanIs {
    /// Waiting to be minted, until about then if that can be told.
    Waiting(Option<Timestamp>),
    /// A pending id is within its life.
    Minted,
    /// There was one, and it is over.
    Expired,
    /// WeCom refuses this pair of ids.
    Rejected {
        /// When it said so.
        at: Timestamp,
        /// What it said.
        trouble: Trouble,
    },
}

/// Something that WeCom said, or that went wrong otherwise, and what helps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// WeCom's code.
    pub errcode: Option<i64>,
    /// What to do, or what happened, in English.
    pub en: String,
    /// The same in Chinese.
    pub zh: String,
    /// When it is tried again.
    pub until: Option<Timestamp>,
}

/// What is known of a customer.
#[derive(Debug, Clone)]
pub struct ContactFacts {
    /// The dealer.
    pub corp_id: CorpId,
    /// When we learnt of this customer.
    pub first_seen_at: Timestamp,
    /// Whether WeCom said what the pending id is.
    pub has_pending_id: bool,
    /// Questions about the pending id that found nothing, and when the next is due.
    pub asked: Option<(u32, Option<Timestamp>)>,
    /// Since when it is linked, and through what.
    pub linked: Option<(Timestamp, Source)>,
    /// Why this dealer is left alone now.
    pub paused: Option<Trouble>,
}

/// Something in the inbox or set aside.
#[derive(Debug, Clone)]
pub struct EventFacts {
    /// As shown: `evt_42`.
    pub id: String,
    /// When we received it.
    pub received_at: Timestamp,
    /// Where it is.
    pub place: EventIs,
    /// Why the dealer it came from is left alone now.
    pub paused: Option<Trouble>,
}

/// Where an event is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventIs {
    /// To be worked on then.
    Waiting(Timestamp),
    /// Given up.
    Dead(Trouble),
    /// Not for us, or not understood.
    Quarantined(Trouble),
}

/// A sink with entries still to get.
#[derive(Debug, Clone)]
pub struct SinkFacts {
    /// Which.
    pub name: SinkName,
    /// How many.
    pub entries: u64,
    /// When the oldest of them was written.
    pub oldest_at: Option<Timestamp>,
    /// Why.
    pub reason: Option<String>,
}

/// A text in both languages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Text {
    /// English.
    pub en: String,
    /// Chinese.
    pub zh: String,
}

/// What a verdict says, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ToSchema)]
#[schema(as = VerdictCode)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Neither a fan nor a customer of this id is known.
    NeverRegistered,
    /// The fan waits to be minted.
    WaitingForQuota,
    /// The fan waits, and minting is stopped by a setting.
    MintingParked,
    /// WeCom refuses the fan's ids.
    RejectedByWecom,
    /// The fan has a pending id, and no dealer has added this person since.
    NotAdded,
    /// The customer is known, and WeCom has no pending id for them.
    NoPendingId,
    /// The customer has a pending id that none of our fans has.
    PendingIdUnknown,
    /// The fan's pending id is over.
    Expired,
    /// The dealer's customers cannot be asked about.
    DealerParked,
    /// A message about this customer waits for an operator.
    EventQuarantined,
    /// An event of this customer was given up.
    EventDead,
    /// An event of this customer is being worked on.
    EventWaiting,
    /// Linked, and every sink has it.
    Linked,
    /// Linked, and a sink has not got it yet.
    SinkBehind,
    /// Forgotten, and not registered since.
    Forgotten,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::NeverRegistered,
        Self::WaitingForQuota,
        Self::MintingParked,
        Self::RejectedByWecom,
        Self::NotAdded,
        Self::NoPendingId,
        Self::PendingIdUnknown,
        Self::Expired,
        Self::DealerParked,
        Self::EventQuarantined,
        Self::EventDead,
        Self::EventWaiting,
        Self::Linked,
        Self::SinkBehind,
        Self::Forgotten,
    ];
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// For programs.
    pub code: Code,
    /// What is.
    pub text: Text,
    /// What to do, if anything.
    pub hint: Option<Text>,
}

/// Something that happened, or is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Evidence {
    /// When, if it has a time.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Option<Timestamp>,
    /// For programs.
    pub code: &'static str,
    /// For people.
    pub text: Text,
}

/// Why this id is, or is not, linked as of `now`, and what that rests on, earliest first.
#[must_use]
pub fn explain(facts: &Facts, now: Timestamp) -> (Verdict, Vec<Evidence>) {
    let verdict = linked(facts, now)
        .or_else(|| forgotten(facts))
        .or_else(|| in_trouble(facts))
        .or_else(|| facts.contacts.first().map(unlinked))
        .or_else(|| facts.fans.iter().min_by_key(|fan| hope(fan)).map(alone))
        .unwrap_or_else(texts::never_registered);
    (verdict, texts::evidence(facts))
}

fn linked(facts: &Facts, now: Timestamp) -> Option<Verdict> {
    let links = facts.contacts.iter().filter_map(|contact| Some((contact, contact.linked?)));
    let (contact, (since, source)) = links.min_by_key(|(_, (since, _))| *since)?;
    let newest = facts.contacts.iter().filter_map(|contact| contact.linked).map(|(at, _)| at).max();
    // What a sink still has to get begins at or before the newest of the links.
    let behind = facts.sinks.iter().find(|sink| sink.entries > 0 && sink.oldest_at <= newest);
    let dealers = facts.contacts.iter().filter(|contact| contact.linked.is_some()).count();
    Some(match behind {
        Some(sink) => texts::sink_behind(sink, since, now),
        None => texts::linked(&contact.corp_id, since, source, dealers),
    })
}

fn forgotten(facts: &Facts) -> Option<Verdict> {
    let at = facts.forgotten_at?;
    facts.fans.iter().all(|fan| fan.registered_at < at).then(|| texts::forgotten(at))
}

/// Something stands in the way that an operator can see, or soon will.
fn in_trouble(facts: &Facts) -> Option<Verdict> {
    let waits = |event: &&EventFacts| matches!(event.place, EventIs::Waiting(_));
    let of_events = facts.events.iter().filter(waits).find_map(|event| event.paused.as_ref());
    let asked_again = |contact: &&ContactFacts| contact.asked.is_some_and(|(_, due_at)| due_at.is_some());
    let of_contacts = facts.contacts.iter().filter(asked_again).find_map(|contact| contact.paused.as_ref());
    if let Some(trouble) = of_events.or(of_contacts) {
        return Some(texts::dealer_parked(trouble));
    }
    // The newest says most.
    facts.events.iter().max_by_key(|event| event.received_at).map(|event| match &event.place {
        EventIs::Waiting(due_at) => texts::event_waiting(&event.id, *due_at),
        EventIs::Dead(trouble) => texts::event_dead(&event.id, trouble),
        EventIs::Quarantined(trouble) => texts::event_quarantined(&event.id, trouble),
    })
}

fn unlinked(contact: &ContactFacts) -> Verdict {
    if contact.has_pending_id {
        texts::pending_id_unknown()
    } else {
        texts::no_pending_id(contact.asked.and_then(|(_, due_at)| due_at))
    }
}

/// Of a fan in several apps the one that is nearest to a link says most.
const fn hope(fan: &FanFacts) -> u8 {
    match fan.state {
        FanIs::Minted => 0,
        FanIs::Waiting(_) => 1,
        FanIs::Expired => 2,
        FanIs::Rejected { .. } => 3,
    }
}

fn alone(fan: &FanFacts) -> Verdict {
    match (&fan.state, &fan.paused) {
        (FanIs::Rejected { trouble, .. }, _) => texts::rejected(trouble),
        (FanIs::Waiting(_), Some(trouble)) => texts::minting_parked(trouble),
        (FanIs::Waiting(until), None) => texts::waiting_for_quota(*until),
        (FanIs::Expired, _) => texts::expired(fan.minted.map(|(_, ends)| ends)),
        (FanIs::Minted, _) => texts::not_added(fan.minted.map(|(_, ends)| ends)),
    }
}

#[cfg(test)]
mod tests;
