//! Transactions on customer groups; the pure rules are in [`crate::domain::chat`].

use super::contacts::{self, FoundBy};
use super::{chat_members, forgotten};
use crate::domain::chat::{Chat, ChatChange, ChatEffects, ChatEvent, MemberVersion};
use crate::domain::far_off::{FarOff, far_off};
use crate::domain::ids::{AppName, ChatId, ContactKey, CorpId, ExternalUserid};
use crate::domain::link::Source;
use crate::domain::lookup::Haste;
use crate::domain::sighting::{Sighting, SightingPlace};
use crate::domain::time::Timestamp;
use crate::store::rows::keys;
use crate::store::rows::records::{Record, readable};
use crate::store::rows::txn::Txn;
use crate::store::{ChatToRead, PageFound, StoreError};

impl Record for Chat {
    /// No released version has written version 1.
    const VERSION: u8 = 2;
}

/// Applies an event that was received at `received_at`: queues the lookups of customers who joined, takes
/// customers who left out of the group, and queues the reading of the group, if one is due.
pub(crate) fn apply(
    txn: &mut Txn<'_>,
    app: &AppName,
    event: &ChatEvent,
    received_at: Timestamp,
) -> Result<(), StoreError> {
    let ChatEvent { corp_id, chat_id, change, .. } = event;
    let mut effects = ChatEffects::default();
    change_chat(txn, app, corp_id, chat_id, |chat| {
        effects = chat.apply(change, received_at);
        !effects.is_gone
    })?;
    if effects.is_gone {
        chat_members::leave_ended(txn, corp_id, chat_id)?;
    }
    for external_userid in effects.left {
        let key = ContactKey { app: app.clone(), corp_id: corp_id.clone(), external_userid };
        chat_members::leave(txn, &key, chat_id)?;
    }
    join(txn, app, event, effects.joined, received_at)
}

/// Adds the customers whom a join event names to the group, and queues their lookups.
fn join(
    txn: &mut Txn<'_>,
    app: &AppName,
    event: &ChatEvent,
    customers: Vec<ExternalUserid>,
    received_at: Timestamp,
) -> Result<(), StoreError> {
    let ChatEvent { corp_id, created_at, chat_id, .. } = event;
    let is_late = far_off(*created_at, received_at) == Some(FarOff::Past);
    for external_userid in customers {
        if is_late && forgotten::is_back(txn, &external_userid, *created_at)? {
            continue;
        }
        let key = ContactKey { app: app.clone(), corp_id: corp_id.clone(), external_userid };
        let place = SightingPlace::Chat(chat_id.clone());
        // A join that is reported in time is later than an earlier erasure, even if WeCom's clock is a little
        // behind ours.
        let since = Some(if is_late { *created_at } else { received_at.plus_ms(1) });
        let sighting = Sighting { external_userid: key.external_userid.clone(), place, since };
        contacts::see(txn, &key, &sighting, member_list(received_at))?;
    }
    Ok(())
}

/// Customers in a group's member list that was read at `began_at`. Does nothing if the group was forgotten
/// meanwhile.
pub(crate) fn see_all(
    txn: &mut Txn<'_>,
    group: &ChatToRead,
    customers: Vec<Sighting>,
    began_at: Timestamp,
) -> Result<PageFound, StoreError> {
    let mut found = PageFound::default();
    if !txn.has(&keys::chat(&group.app, &group.corp_id, &group.chat_id))? {
        return Ok(found);
    }
    for sighting in customers {
        let key = ContactKey {
            app: group.app.clone(),
            corp_id: group.corp_id.clone(),
            external_userid: sighting.external_userid.clone(),
        };
        found += contacts::see(txn, &key, &sighting, member_list(began_at))?;
    }
    Ok(found)
}

/// Records that a comparison found a customer in a group, in a list requested at `read_at`. To be called
/// before the customer is put into the group.
pub(crate) fn note_found(
    txn: &mut Txn<'_>,
    key: &ContactKey,
    chat_id: &ChatId,
    read_at: Timestamp,
) -> Result<(), StoreError> {
    if txn.has(&keys::chat_member(chat_id, key))? {
        return Ok(());
    }
    // Of other groups there is nothing to correct.
    if !txn.has(&keys::chat(&key.app, &key.corp_id, chat_id))? {
        return Ok(());
    }
    change_chat(txn, &key.app, &key.corp_id, chat_id, |chat| {
        chat.note_found(read_at);
        true
    })
}

/// Takes contacts that are not in a list out of the group, unless an event or a comparison has reported more
/// since the list was requested: then there will be another list.
pub(crate) fn leave_all(
    txn: &mut Txn<'_>,
    group: &ChatToRead,
    contacts: Vec<ContactKey>,
) -> Result<(), StoreError> {
    let ChatToRead { app, corp_id, chat_id, chat } = group;
    if readable(txn.get::<Chat>(&keys::chat(app, corp_id, chat_id)))?.as_ref() != Some(chat) {
        return Ok(());
    }
    for key in contacts {
        chat_members::leave(txn, &key, chat_id)?;
    }
    Ok(())
}

const fn member_list(read_at: Timestamp) -> FoundBy {
    FoundBy { read_at, source: Source::Chat, haste: Haste::Live, task: None }
}

/// Records a reading of a group's member list that began at `began_at`.
pub(crate) fn read(
    txn: &mut Txn<'_>,
    group: &ChatToRead,
    version: Option<MemberVersion>,
    began_at: Timestamp,
) -> Result<(), StoreError> {
    change_read(txn, group, |chat| {
        if *chat == group.chat {
            chat.read(version, began_at);
        } else {
            // More was reported since the list was requested, so no customer was taken out of the group.
            chat.read_again(began_at);
        }
        true
    })
}

/// Records the answer to a reading begun at `began_at` that the group does not exist.
pub(crate) fn not_found(
    txn: &mut Txn<'_>,
    group: &ChatToRead,
    began_at: Timestamp,
) -> Result<(), StoreError> {
    change_read(txn, group, |chat| !chat.not_found(began_at))
}

/// Puts the reading of a group off, or forgets the group.
pub(crate) fn unread(
    txn: &mut Txn<'_>,
    group: &ChatToRead,
    until: Option<Timestamp>,
) -> Result<(), StoreError> {
    change_read(txn, group, |chat| {
        if let Some(until) = until {
            chat.put_off(until);
        }
        until.is_some()
    })
}

/// Whether the reading of a group was put off, and can be made earlier: at `now`, but not before the list has
/// every change that was reported.
pub(crate) fn is_put_off(chat: &Chat, now: Timestamp) -> bool {
    chat.reading.as_ref().is_some_and(|reading| reading.complete_at.max(now) < reading.due_at)
}

/// Makes the reading of a group due at `now`, if it was put off. Returns whether it was.
pub(crate) fn read_again(
    txn: &mut Txn<'_>,
    app: &AppName,
    corp_id: &CorpId,
    chat_id: &ChatId,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let mut is_moved = false;
    change_chat(txn, app, corp_id, chat_id, |chat| {
        is_moved = is_put_off(chat, now);
        if let Some(reading) = chat.reading.as_ref().filter(|_| is_moved) {
            chat.put_off(reading.complete_at.max(now));
        }
        // The group may have been dismissed meanwhile.
        *chat != Chat::default()
    })?;
    Ok(is_moved)
}

/// Makes the reading of a group due `by_ms` later, or earlier if that is negative. `place` is its key in the
/// queue of readings; an outdated one is left to [`correct_place`].
pub(crate) fn move_reading(txn: &mut Txn<'_>, place: &[u8], by_ms: i64) -> Result<(), StoreError> {
    let mut parts = keys::Parts::of(place);
    let due_at = parts.instant()?;
    let ((app, corp_id), chat_id) = (parts.corp()?, parts.chat_id()?);
    let chat = readable(txn.get::<Chat>(&keys::chat(&app, &corp_id, &chat_id)))?;
    if !chat.is_some_and(|chat| chat.is_due_at(due_at)) {
        return Ok(());
    }
    change_chat(txn, &app, &corp_id, &chat_id, |chat| {
        chat.shift(by_ms);
        true
    })
}

/// Removes a place in the queue of readings, unless it is that of the group's record. A damaged record is
/// replaced, and the group is read soon after `now`.
pub(crate) fn correct_place(txn: &mut Txn<'_>, place: &[u8], now: Timestamp) -> Result<(), StoreError> {
    let mut parts = keys::Parts::of(place);
    let due_at = parts.instant()?;
    let ((app, corp_id), chat_id) = (parts.corp()?, parts.chat_id()?);
    let is_damaged = match txn.get::<Chat>(&keys::chat(&app, &corp_id, &chat_id)) {
        Ok(Some(chat)) if chat.is_due_at(due_at) => return Ok(()),
        Ok(_) => false,
        Err(StoreError::Damaged(reason)) => {
            tracing::error!(reason, "the record of a customer group is damaged; its member list is read");
            true
        }
        Err(error) => return Err(error),
    };
    txn.delete(place.to_vec());
    if is_damaged {
        change_chat(txn, &app, &corp_id, &chat_id, |chat| {
            chat.apply(&ChatChange::Created, now);
            true
        })?;
    }
    Ok(())
}

/// Changes a group whose list was read, unless it was forgotten meanwhile.
fn change_read(
    txn: &mut Txn<'_>,
    group: &ChatToRead,
    change: impl FnOnce(&mut Chat) -> bool,
) -> Result<(), StoreError> {
    let ChatToRead { app, corp_id, chat_id, .. } = group;
    if !txn.has(&keys::chat(app, corp_id, chat_id))? {
        return Ok(());
    }
    change_chat(txn, app, corp_id, chat_id, change)
}

/// Changes what is known of a group, and its place in the queue of readings. `change` returns whether the
/// group is to be kept.
fn change_chat(
    txn: &mut Txn<'_>,
    app: &AppName,
    corp_id: &CorpId,
    chat_id: &ChatId,
    change: impl FnOnce(&mut Chat) -> bool,
) -> Result<(), StoreError> {
    let key = keys::chat(app, corp_id, chat_id);
    let mut chat = readable(txn.get::<Chat>(&key))?.unwrap_or_default();
    let place = |chat: &Chat| {
        chat.reading.as_ref().map(|reading| keys::reading(reading.due_at, app, corp_id, chat_id))
    };
    if let Some(place) = place(&chat) {
        txn.delete(place);
    }
    if !change(&mut chat) {
        txn.delete(key);
        return Ok(());
    }
    if let Some(place) = place(&chat) {
        txn.mark(place);
    }
    txn.put(key, &chat)
}
