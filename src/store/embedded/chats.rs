//! Transactions on customer groups; the pure rules are in [`crate::domain::chat`].

use super::super::{ChatToRead, PageFound, StoreError};
use super::contacts::{self, FoundBy};
use super::records::{Record, readable};
use super::txn::Txn;
use super::{forgotten, keys};
use crate::domain::chat::{Chat, ChatEvent, MemberVersion};
use crate::domain::far_off::{FarOff, far_off};
use crate::domain::ids::{AppName, ChatId, ContactKey, CorpId};
use crate::domain::link::Source;
use crate::domain::lookup::Haste;
use crate::domain::sighting::{Sighting, SightingPlace};
use crate::domain::time::Timestamp;

impl Record for Chat {}

/// Applies an event that was received at `received_at`: queues the lookups of the customers who joined, and a
/// reading of the member list, if one is needed.
pub(super) fn apply(
    txn: &mut Txn<'_>,
    app: &AppName,
    event: &ChatEvent,
    received_at: Timestamp,
) -> Result<(), StoreError> {
    let ChatEvent { corp_id, created_at, chat_id, change } = event;
    let mut effects = None;
    change_chat(txn, app, corp_id, chat_id, |chat| {
        let found = chat.apply(change, received_at);
        let is_gone = found.is_gone;
        effects = Some(found);
        !is_gone
    })?;
    let is_late = far_off(*created_at, received_at) == Some(FarOff::Past);
    for external_userid in effects.map(|effects| effects.joined).unwrap_or_default() {
        if is_late && forgotten::is_back(txn, &external_userid, *created_at)? {
            continue;
        }
        let key = ContactKey { app: app.clone(), corp_id: corp_id.clone(), external_userid };
        let place = SightingPlace::Chat(chat_id.clone());
        // A join that is reported in time is later than an earlier erasure, even if WeCom's clock is a little
        // behind ours.
        let since = Some(if is_late { *created_at } else { received_at.plus_ms(1) });
        let sighting = Sighting { external_userid: key.external_userid.clone(), place, since };
        contacts::see(txn, &key, &sighting, member_list(received_at), received_at)?;
    }
    Ok(())
}

/// Applies the customers of a group's member list, whose reading began at `began_at`.
pub(super) fn see_all(
    txn: &mut Txn<'_>,
    group: &ChatToRead,
    customers: Vec<Sighting>,
    began_at: Timestamp,
) -> Result<PageFound, StoreError> {
    let mut found = PageFound::default();
    for sighting in customers {
        let key = ContactKey {
            app: group.app.clone(),
            corp_id: group.corp_id.clone(),
            external_userid: sighting.external_userid.clone(),
        };
        found += contacts::see(txn, &key, &sighting, member_list(began_at), began_at)?;
    }
    Ok(found)
}

const fn member_list(read_at: Timestamp) -> FoundBy {
    FoundBy { read_at, source: Source::Chat, haste: Haste::Live, is_of_run: false }
}

/// Records a reading of a group's member list that began at `began_at`.
pub(super) fn read(
    txn: &mut Txn<'_>,
    group: &ChatToRead,
    version: Option<MemberVersion>,
    began_at: Timestamp,
) -> Result<(), StoreError> {
    change_chat(txn, &group.app, &group.corp_id, &group.chat_id, |chat| {
        chat.read(version, began_at);
        true
    })
}

/// Defers the reading of a group until `until`; `None` deletes the group.
pub(super) fn unread(
    txn: &mut Txn<'_>,
    group: &ChatToRead,
    until: Option<Timestamp>,
) -> Result<(), StoreError> {
    change_chat(txn, &group.app, &group.corp_id, &group.chat_id, |chat| {
        if let Some(until) = until {
            chat.put_off(until);
        }
        until.is_some()
    })
}

/// Makes the reading of a group due `by_ms` later, or earlier if that is negative. `place` is its key in the
/// queue of readings.
pub(super) fn move_reading(txn: &mut Txn<'_>, place: &[u8], by_ms: i64) -> Result<(), StoreError> {
    let mut parts = keys::Parts::of(place);
    let _due_at = parts.instant()?;
    let ((app, corp_id), chat_id) = (parts.corp()?, parts.chat_id()?);
    change_chat(txn, &app, &corp_id, &chat_id, |chat| {
        chat.shift(by_ms);
        true
    })
}

/// Changes the record of a group, and its place in the queue of readings. `change` returns false to delete
/// the group.
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
