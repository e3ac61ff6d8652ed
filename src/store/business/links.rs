//! Transactions that link contacts to fans, and looking links up. The pure rules are in
//! [`crate::domain::join`] and [`crate::domain::contact`].
//!
//! Deliberately absent: the records of contacts (see `contacts`) and of fans (see `roll`).

use super::contacts::{self, set_lookup};
use super::corp_names::CorpNames;
use super::{dealers, forgotten, roll, tasks};
use crate::domain::contact::Contact;
use crate::domain::ids::{AppName, ContactKey, FanKey, PendingId};
use crate::domain::join::{self, FanSide, JoinState};
use crate::domain::link::{ChangeType, Claim, LinkData, Source};
use crate::domain::time::Timestamp;
use crate::store::rows::keys;
use crate::store::rows::records::decode;
use crate::store::rows::txn::Txn;
use crate::store::rows::view::View;
use crate::store::{LINKS_MAX, LinkBy, LinkQuery, StoreError};

/// Maximum number of contacts that are joined with one fan when its pending id arrives. A person has one
/// contact per dealer, so no real person reaches it.
const JOIN_CONTACTS_MAX: usize = 1_000;

/// A contact's pending id has arrived: stores it in `contact` and the index, and links the contact if a fan
/// has the same pending id.
pub(crate) fn contact_arrives(
    txn: &mut Txn<'_>,
    key: &ContactKey,
    contact: &mut Contact,
    pending_id: &PendingId,
    now: Timestamp,
) -> Result<Option<ChangeType>, StoreError> {
    if let Some(too_old) = contact.set_pending_id(pending_id) {
        txn.delete(keys::contact_at(&too_old, key));
    }
    txn.mark(keys::contact_at(pending_id, key));
    // An arriving contact is joined with the fan only, so the other contacts are not read.
    let mut state = JoinState { fan: roll::fan_with(txn, &key.app, pending_id)?, ..JoinState::default() };
    if let Some(fan) = &state.fan {
        let is_linked = contact.link.as_ref().is_some_and(|link| link.unionid == fan.unionid);
        let fan = FanKey { app: key.app.clone(), unionid: fan.unionid.clone() };
        let registered_at = roll::fan(txn, &fan)?.map_or(now, |entry| entry.fan.registered_at);
        if !is_linked && forgotten::stands_between(txn, &key.external_userid, registered_at)? {
            forgotten::found_out(txn, &fan, now)?;
            return Ok(None);
        }
    }
    match join::contact_arrives(&mut state, pending_id, key) {
        Some(claim) => accept(txn, key, contact, &claim, now),
        None => Ok(None),
    }
}

/// A fan's pending id has arrived: links the contacts that have the same one. Returns true, and links nobody,
/// if one of them was forgotten after the fan was registered: then the fan is to be erased too.
pub(crate) fn fan_arrives(
    txn: &mut Txn<'_>,
    app: &AppName,
    pending_id: &PendingId,
    fan: FanSide,
    registered_at: Timestamp,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let mut state = JoinState { fan: roll::fan_with(txn, app, pending_id)?, ..JoinState::default() };
    let prefix = keys::contacts_at(pending_id, Some(app));
    for key in txn.keys(&prefix, JOIN_CONTACTS_MAX)? {
        state.contacts.insert(keys::Parts(&key[prefix.len()..]).contact()?);
    }
    let claims = join::fan_arrives(&mut state, pending_id, fan);
    for claim in &claims {
        if forgotten::stands_between(txn, &claim.contact.external_userid, registered_at)? {
            return Ok(true);
        }
    }
    for claim in &claims {
        match settle_claim(txn, claim, now) {
            // The other customers are still linked.
            Err(StoreError::Damaged(reason)) => tracing::error!(reason, "a customer cannot be linked"),
            settled => settled?,
        }
    }
    Ok(false)
}

/// Applies a claim that links a contact to a fan and was not found by a lookup of the contact. Ends its
/// lookups.
pub(crate) fn settle_claim(txn: &mut Txn<'_>, claim: &Claim, now: Timestamp) -> Result<(), StoreError> {
    contacts::update(txn, &claim.contact, now, |txn, contact| {
        let change = accept(txn, &claim.contact, contact, claim, now)?;
        set_lookup(txn, &claim.contact, contact, None)?;
        Ok(change)
    })?;
    Ok(())
}

fn accept(
    txn: &mut Txn<'_>,
    key: &ContactKey,
    contact: &mut Contact,
    claim: &Claim,
    now: Timestamp,
) -> Result<Option<ChangeType>, StoreError> {
    let before = contact.link.as_ref().map(|link| link.unionid.clone());
    let (_, link_id) = txn.next_feed_id();
    let change = contact.accept(claim, link_id, now);
    if change.is_some() {
        if let Some(unionid) = before {
            txn.delete(keys::linked(&unionid, key));
        } else {
            txn.counts().links += 1;
            txn.counts().made.links[claim.source.unwrap_or(contact.source) as usize] += 1;
            dealers::count(txn, key, |counts| counts.links += 1)?;
            if contact.source == Source::Reconcile {
                tasks::count_link(txn)?;
            }
        }
        txn.mark(keys::linked(&claim.unionid, key));
    }
    Ok(change)
}

/// The links that a query asks for, as of `now`.
pub(crate) fn find(view: &View<'_>, query: &LinkQuery, now: Timestamp) -> Result<Vec<LinkData>, StoreError> {
    let contacts = match &query.by {
        LinkBy::Unionid(unionid) => view.contacts_in(&keys::linked_to(unionid))?,
        LinkBy::PendingId(pending_id) => view.contacts_in(&keys::contacts_at(pending_id, None))?,
        LinkBy::ExternalUserid(external_userid) => {
            let contact = |key: &[u8], _: &[u8]| keys::Parts::of(key).contact();
            view.undamaged_under(&keys::contacts_of(external_userid), LINKS_MAX, contact)?
        }
    };
    let is_wanted = |key: &ContactKey| {
        query.app.as_ref().is_none_or(|app| *app == key.app)
            && query.corp_id.as_ref().is_none_or(|corp| *corp == key.corp_id)
    };
    let (mut links, mut names) = (Vec::new(), CorpNames::new(view));
    for key in contacts.iter().filter(|key| is_wanted(key)) {
        let contact = contact(view, key)?;
        if let Some(mut link) = contact.and_then(|contact| contact.link_data(key, now)) {
            names.fill(&mut link)?;
            links.push(link);
        }
    }
    Ok(links)
}

/// The record of a contact; `None` if it is not known, or damaged.
pub(crate) fn contact(view: &View<'_>, key: &ContactKey) -> Result<Option<Contact>, StoreError> {
    view.read_undamaged(&keys::contact(key))
}

/// Where a scan of all links begins.
pub(crate) fn first() -> Vec<u8> {
    b"c".to_vec()
}

/// The links of up to `limit` customers from the key `from` on, as of `now`, and where the next page begins;
/// `None` if there is none.
pub(crate) fn page(
    view: &View<'_>,
    from: &[u8],
    limit: usize,
    now: Timestamp,
) -> Result<(Vec<LinkData>, Option<Vec<u8>>), StoreError> {
    let (mut links, mut names) = (Vec::new(), CorpNames::new(view));
    let (mut customers, mut last) = (0, None);
    for row in view.range(from, &keys::after(b"c")).take(limit) {
        let (key, value) = row?;
        let read = decode::<Contact>(&key, &value)
            .and_then(|contact| Ok((keys::Parts::of(&key).contact()?, contact)));
        let link = view.undamaged(&key, read)?.and_then(|(of, contact)| contact.link_data(&of, now));
        if let Some(mut link) = link {
            names.fill(&mut link)?;
            links.push(link);
        }
        customers += 1;
        last = Some(key);
    }
    // A full page may have been the last one; then the next is empty.
    let next = last.filter(|_| customers == limit).map(|last| keys::next(&last));
    Ok((links, next))
}
