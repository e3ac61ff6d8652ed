//! Transactions on contacts, meetings, links and the feed; the pure rules are in [`crate::domain::join`] and
//! [`crate::domain::contact`].

use serde::{Deserialize, Serialize};

use super::super::{Problem, StoreError, Verdict, Work, WorkId};
use super::inbox;
use super::keys;
use super::records::Record;
use super::txn::Txn;
use crate::domain::backoff::reask_after_ms;
use crate::domain::contact::{Contact, Waiting};
use crate::domain::ids::{ContactKey, PendingId};
use crate::domain::join::{self, FanAtMeeting, Meeting};
use crate::domain::link::{ChangeType, Claim, FeedEntry, LinkData, Source};
use crate::domain::time::Timestamp;

impl Record for Contact {}
impl Record for FanAtMeeting {}

/// A feed entry as stored: the sequence is in the key.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredEntry {
    id: String,
    change: ChangeType,
    occurred_at: Timestamp,
    /// Until when the data's welcome code can be used.
    welcome_until: Option<Timestamp>,
    data: LinkData,
}

impl Record for StoredEntry {}

impl StoredEntry {
    /// The entry as told at `now`: a welcome code that can no longer be used is left out.
    pub(super) fn into_entry(self, seq: u64, now: Timestamp) -> FeedEntry {
        let Self { id, change, occurred_at, welcome_until, mut data } = self;
        data.welcome_code = data.welcome_code.filter(|_| welcome_until > Some(now));
        FeedEntry { seq, id, change, occurred_at, app: data.app.clone(), data }
    }
}

/// The most contacts that meet one fan: a person is a customer of so many dealers at most.
const MEETING_CONTACTS_MAX: usize = 1_000;

/// Writes down what came of one piece of work.
pub(super) fn settle(
    txn: &mut Txn<'_>,
    work: &Work,
    verdict: Verdict,
    now: Timestamp,
) -> Result<(), StoreError> {
    let queue_key = match &work.id {
        WorkId::Event(due_at, id) => keys::inbox(*due_at, *id),
        WorkId::Reask(due_at, contact) => keys::reask(*due_at, contact),
    };
    if !txn.has(&queue_key)? {
        // Settled before, by whoever leased it before a restart.
        return Ok(());
    }
    match (verdict, &work.event) {
        (Verdict::Retry { due_at, problem, spent }, Some(event)) => {
            inbox::reschedule(txn, event, due_at, problem, spent)
        }
        (Verdict::Dead(problem), Some(event)) => inbox::bury(txn, event, problem, now),
        (Verdict::Retry { due_at, .. }, None) => {
            let asked = contact(txn, &work.contact)?.and_then(|c| c.waiting).map_or(0, |w| w.asked);
            update_contact(txn, &work.contact, now, |txn, contact| {
                wait(txn, &work.contact, contact, asked, Some(due_at));
                Ok(None)
            })
        }
        (Verdict::Dead(Problem { .. }), None) => update_contact(txn, &work.contact, now, |txn, contact| {
            let asked = contact.waiting.map_or(0, |w| w.asked);
            wait(txn, &work.contact, contact, asked, None);
            Ok(None)
        }),
        (answer @ (Verdict::Resolved(_) | Verdict::Missed | Verdict::Applied), event) => {
            if let Some(event) = event {
                inbox::done(txn, event);
            }
            update_contact(txn, &work.contact, now, |txn, contact| {
                let news = event
                    .as_ref()
                    .and_then(|event| contact.follow(&event.happening.contact, event.happening.created_at));
                match answer {
                    Verdict::Resolved(pending_id) => {
                        wait(txn, &work.contact, contact, 0, None);
                        contact.waiting = None;
                        let created = resolved(txn, &work.contact, contact, &pending_id, now)?;
                        Ok(created.or(news))
                    }
                    Verdict::Missed => {
                        let asked = match (&work.id, contact.waiting) {
                            (WorkId::Reask(..), Some(waiting)) => waiting.asked + 1,
                            _ => 1,
                        };
                        let due_at = reask_after_ms(asked).map(|wait_ms| now.plus_ms(wait_ms));
                        wait(txn, &work.contact, contact, asked, due_at);
                        Ok(news)
                    }
                    _ => Ok(news),
                }
            })
        }
    }
}

fn contact(txn: &Txn<'_>, key: &ContactKey) -> Result<Option<Contact>, StoreError> {
    txn.get(&keys::contact(key))
}

/// Loads or creates a contact, lets `change` work on it, writes it back and tells the feed what changed.
fn update_contact(
    txn: &mut Txn<'_>,
    key: &ContactKey,
    now: Timestamp,
    change: impl FnOnce(&mut Txn<'_>, &mut Contact) -> Result<Option<ChangeType>, StoreError>,
) -> Result<(), StoreError> {
    let known = contact(txn, key)?;
    if known.is_none() {
        txn.counts().contacts += 1;
    }
    let mut contact = known.unwrap_or_else(|| Contact::new(Source::Callback, now));
    let news = change(txn, &mut contact)?;
    if let Some(news) = news {
        tell(txn, key, &contact, news, now)?;
    }
    contact.drop_stale_welcome(now);
    txn.put(keys::contact(key), &contact)
}

/// Moves the contact's place in the queue of those to be asked about again.
fn wait(txn: &mut Txn<'_>, key: &ContactKey, contact: &mut Contact, asked: u32, due_at: Option<Timestamp>) {
    if let Some(due_before) = contact.waiting.and_then(|waiting| waiting.due_at) {
        txn.delete(keys::reask(due_before, key));
        txn.discount(|counts| &mut counts.waiting);
    }
    if let Some(due_at) = due_at {
        txn.mark(keys::reask(due_at, key));
        txn.counts().waiting += 1;
    }
    contact.waiting = Some(Waiting { asked, due_at });
}

fn resolved(
    txn: &mut Txn<'_>,
    key: &ContactKey,
    contact: &mut Contact,
    pending_id: &PendingId,
    now: Timestamp,
) -> Result<Option<ChangeType>, StoreError> {
    contact.pending_id = Some(pending_id.clone());
    // Only the fan matters to the one who arrives; the other contacts are not loaded.
    let mut meeting = Meeting { fan: txn.get(&keys::fan_at(pending_id, &key.app))?, ..Meeting::default() };
    txn.mark(keys::contact_at(pending_id, key));
    match join::contact_arrives(&mut meeting, pending_id, key) {
        Some(claim) => Ok(accept(txn, key, contact, &claim, now)),
        None => Ok(None),
    }
}

/// A fan was minted: meets the contacts that wait at the pending id.
pub(super) fn fan_arrives(
    txn: &mut Txn<'_>,
    app: &crate::domain::ids::AppName,
    pending_id: &PendingId,
    fan: FanAtMeeting,
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut meeting = Meeting { fan: txn.get(&keys::fan_at(pending_id, app))?, ..Meeting::default() };
    let prefix = keys::contacts_at(pending_id, Some(app));
    for key in txn.keys(&prefix, MEETING_CONTACTS_MAX)? {
        meeting.contacts.insert(keys::Parts(&key[prefix.len()..]).contact()?);
    }
    let claims = join::fan_arrives(&mut meeting, pending_id, fan);
    if let Some(fan) = &meeting.fan {
        txn.put(keys::fan_at(pending_id, app), fan)?;
    }
    claims.iter().try_for_each(|claim| settle_claim(txn, claim, now))
}

/// A claim from elsewhere than the contact's own resolution.
pub(super) fn settle_claim(txn: &mut Txn<'_>, claim: &Claim, now: Timestamp) -> Result<(), StoreError> {
    update_contact(txn, &claim.contact, now, |txn, contact| {
        let change = accept(txn, &claim.contact, contact, claim, now);
        if contact.waiting.is_some() {
            // Who this is has become known: no more questions.
            wait(txn, &claim.contact, contact, 0, None);
            contact.waiting = None;
        }
        Ok(change)
    })
}

fn accept(
    txn: &mut Txn<'_>,
    key: &ContactKey,
    contact: &mut Contact,
    claim: &Claim,
    now: Timestamp,
) -> Option<ChangeType> {
    let before = contact.link.as_ref().map(|link| link.unionid.clone());
    let (_, link_id) = txn.next_feed_id();
    let change = contact.accept(claim, link_id, now);
    if change.is_some() {
        match before {
            Some(unionid) => txn.delete(keys::linked(&unionid, key)),
            None => txn.counts().links += 1,
        }
        txn.mark(keys::linked(&claim.unionid, key));
    }
    change
}

fn tell(
    txn: &mut Txn<'_>,
    key: &ContactKey,
    contact: &Contact,
    change: ChangeType,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Some(data) = LinkData::of(key, contact, now) else {
        return Ok(());
    };
    let (seq, id) = txn.next_feed_id();
    txn.put(
        keys::feed(seq),
        &StoredEntry { id, change, occurred_at: now, welcome_until: contact.welcome_until(), data },
    )?;
    txn.counts().feed_head = seq;
    Ok(())
}
