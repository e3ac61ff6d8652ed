//! Reading customer groups: the queue of readings, and readings that were put off.
//!
//! Deliberately absent: the transactions (see `chats`), and who is in a group (see `chat_members`).

use std::collections::BTreeSet;

use super::chats;
use crate::domain::chat::Chat;
use crate::domain::ids::{AppName, ChatId, CorpId};
use crate::domain::time::Timestamp;
use crate::store::rows::keys;
use crate::store::rows::records::{decode, readable};
use crate::store::rows::view::View;
use crate::store::{ChatToRead, StoreError};

/// The groups whose reading is due, and the outdated places found among them.
pub(crate) struct DueChats {
    pub(crate) due: Vec<ChatToRead>,
    pub(crate) outdated: Vec<Vec<u8>>,
}

/// Up to `limit` groups whose reading is due at `now`, except those of `corps`.
pub(crate) fn due_except(
    view: &View<'_>,
    corps: &BTreeSet<(AppName, CorpId)>,
    now: Timestamp,
    limit: usize,
) -> Result<DueChats, StoreError> {
    let mut outdated = Vec::new();
    let due = view.rows(b"j", &keys::readings_until(now), limit, |key, _| {
        let mut parts = keys::Parts::of(key);
        let parsed = parts.instant().and_then(|due_at| Ok((due_at, parts.corp()?, parts.chat_id()?)));
        let parsed = view.undamaged(key, parsed)?.filter(|(_, corp, _)| !corps.contains(corp));
        let Some((due_at, (app, corp_id), chat_id)) = parsed else { return Ok(None) };
        let chat = readable(view.read::<Chat>(&keys::chat(&app, &corp_id, &chat_id)))?;
        let Some(chat) = chat.filter(|chat| chat.is_due_at(due_at)) else {
            outdated.push(key.to_vec());
            return Ok(None);
        };
        Ok(Some(ChatToRead { app, corp_id, chat_id, chat }))
    })?;
    Ok(DueChats { due, outdated })
}

/// When the next reading is due.
pub(crate) fn next_due(view: &View<'_>) -> Result<Option<Timestamp>, StoreError> {
    let first = view.undamaged_under(b"j", 1, |key, _| keys::Parts::of(key).instant())?;
    Ok(first.into_iter().next())
}

/// The group in a row, if its reading was put off and can be made earlier.
pub(crate) fn put_off(
    view: &View<'_>,
    key: &[u8],
    value: &[u8],
    now: Timestamp,
) -> Result<Option<ChatId>, StoreError> {
    let mut parts = keys::Parts::of(key);
    let read = parts.corp().and_then(|_| Ok((parts.chat_id()?, decode::<Chat>(key, value)?)));
    let put_off = view.undamaged(key, read)?.filter(|(_, chat)| chats::is_put_off(chat, now));
    Ok(put_off.map(|(chat_id, _)| chat_id))
}
