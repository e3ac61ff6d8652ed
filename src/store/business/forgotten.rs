//! The record that a person was forgotten, under a salted hash of each id. Events about the person from
//! before are dropped, messages from before that name the person are not quarantined, and a customer with
//! that id is not linked to a fan who was registered before.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::queues::OpenBooks;
use super::roll::{self, Entry};
use super::words::words;
use crate::domain::event::Event;
use crate::domain::far_off::{FarOff, far_off};
use crate::domain::ids::{ExternalUserid, FanKey, Unionid};
use crate::domain::time::Timestamp;
use crate::store::rows::keys;
use crate::store::rows::records::Record;
use crate::store::rows::txn::Txn;
use crate::store::rows::view::Read;
use crate::store::{InboxEvent, StoreError};

/// When the person with this id was forgotten.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Forgotten(pub(crate) Timestamp);

impl Record for Forgotten {}

pub(crate) fn salted(salt: [u8; 16], purpose: &str, id: &str) -> [u8; 16] {
    let digest = Sha256::new().chain_update(salt).chain_update(purpose).chain_update([0]).chain_update(id);
    let mut short = [0; 16];
    short.copy_from_slice(&digest.finalize()[..16]);
    short
}

pub(crate) fn mark(salt: [u8; 16], id: &str) -> Vec<u8> {
    keys::forgotten(salted(salt, "forgotten", id))
}

/// When the person with this id was forgotten, if ever. A damaged record counts as of the far future: rather
/// lose a customer than keep one who asked to be forgotten.
pub(crate) fn forgotten_at(
    read: &impl Read,
    salt: [u8; 16],
    id: &str,
) -> Result<Option<Timestamp>, StoreError> {
    match read.record::<Forgotten>(&mark(salt, id)) {
        Err(StoreError::Damaged(_)) => Ok(Some(Timestamp::from_millis(i64::MAX))),
        found => Ok(found?.map(|Forgotten(at)| at)),
    }
}

/// Whether the person that an event is about was forgotten after it was received; or after it happened, if it
/// is late (see [`brings_back`]).
pub(crate) fn outlived(txn: &Txn<'_>, event: &InboxEvent) -> Result<bool, StoreError> {
    let at = forgotten_at(txn, txn.salt(), event.event.contact.external_userid.as_str())?;
    Ok(at.is_some_and(|at| event.received_at <= at) || brings_back(txn, &event.event, event.received_at)?)
}

/// Whether an event is late and the person was forgotten after it happened: an old callback was sent again.
/// An event in time is about a customer who has come back, even if WeCom's clock is a little behind ours.
pub(crate) fn brings_back(txn: &Txn<'_>, event: &Event, received_at: Timestamp) -> Result<bool, StoreError> {
    if far_off(event.created_at, received_at) != Some(FarOff::Past) {
        return Ok(false);
    }
    let at = forgotten_at(txn, txn.salt(), event.contact.external_userid.as_str())?;
    Ok(at.is_some_and(|at| event.created_at <= at))
}

/// Whether a message to be quarantined names a person who was forgotten after it was sent; if it does not say
/// when that was, at any time: rather lose a message than keep one about somebody who asked to be forgotten.
pub(crate) fn is_named(
    txn: &Txn<'_>,
    message: &[u8],
    created_at: Option<Timestamp>,
) -> Result<bool, StoreError> {
    // No person was ever forgotten.
    if txn.meta.forgotten_at.is_none() {
        return Ok(false);
    }
    for word in words(message) {
        let at = forgotten_at(txn, txn.salt(), word)?;
        if at.is_some_and(|at| created_at.is_none_or(|created_at| created_at <= at)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a relation that a list or an event reports began, at `since`, before its customer was forgotten:
/// it does not bring the customer back.
pub(crate) fn is_back(
    txn: &Txn<'_>,
    customer: &ExternalUserid,
    since: Timestamp,
) -> Result<bool, StoreError> {
    let at = forgotten_at(txn, txn.salt(), customer.as_str())?;
    Ok(at.is_some_and(|at| since <= at))
}

/// Whether a fan was forgotten at this time or later.
pub(crate) fn forgotten_since(txn: &Txn<'_>, fan: &Unionid, since: Timestamp) -> Result<bool, StoreError> {
    let at = forgotten_at(txn, txn.salt(), fan.as_str())?;
    Ok(at.is_some_and(|at| since <= at))
}

/// Whether this customer was forgotten after a fan was registered, so that the two must not be linked.
pub(crate) fn stands_between(
    txn: &Txn<'_>,
    customer: &ExternalUserid,
    registered_at: Timestamp,
) -> Result<bool, StoreError> {
    let at = forgotten_at(txn, txn.salt(), customer.as_str())?;
    Ok(at.is_some_and(|at| registered_at < at))
}

/// Erases a fan who turned out to be a customer that was forgotten, and leaves the rest of that person to
/// [`People::finish_forgetting`](crate::store::People::finish_forgetting).
pub(crate) fn found_out(txn: &mut Txn<'_>, key: &FanKey, now: Timestamp) -> Result<(), StoreError> {
    tracing::info!(app = %key.app, "a fan turned out to be a customer who was forgotten, and is forgotten too");
    txn.mark(keys::to_forget(&key.unionid));
    erase_fan(txn, key, now).map(drop)
}

pub(crate) fn erase_fan(txn: &mut Txn<'_>, key: &FanKey, now: Timestamp) -> Result<bool, StoreError> {
    let Some(Entry { number, fan, .. }) = roll::fan(txn, key)? else { return Ok(false) };
    roll::erase(txn, number, key, &fan)?;
    let mut books = OpenBooks::open(txn, &key.app, now)?;
    books.erase(&fan);
    books.close(txn)?;
    let salt = txn.salt();
    txn.put(mark(salt, key.unionid.as_str()), &Forgotten(now))?;
    Ok(true)
}
