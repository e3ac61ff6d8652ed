//! The index of contacts by customer group, and leaving a group.
//!
//! The index has the groups in [`Contact::chats`], no others, and changes with it.

use crate::domain::contact::Contact;
use crate::domain::ids::{AppName, ChatId, ContactKey, CorpId};
use crate::store::StoreError;
use crate::store::rows::keys;
use crate::store::rows::records::readable;
use crate::store::rows::txn::Txn;
use crate::store::rows::view::View;

/// Follows a change of a contact's groups.
pub(crate) fn follow(txn: &mut Txn<'_>, key: &ContactKey, before: &[ChatId], after: &[ChatId]) {
    for chat_id in before.iter().filter(|chat_id| !after.contains(chat_id)) {
        txn.delete(keys::chat_member(chat_id, key));
    }
    for chat_id in after.iter().filter(|chat_id| !before.contains(chat_id)) {
        txn.mark(keys::chat_member(chat_id, key));
    }
}

/// Takes a contact out of a group. Does nothing if it is not held to be in it.
pub(crate) fn leave(txn: &mut Txn<'_>, key: &ContactKey, chat_id: &ChatId) -> Result<(), StoreError> {
    let member = keys::chat_member(chat_id, key);
    if !txn.has(&member)? {
        return Ok(());
    }
    txn.delete(member);
    readable(txn.change(keys::contact(key), |contact: &mut Contact| contact.leave(chat_id))).map(drop)
}

/// Takes all contacts of a corp out of a group that has ended, for every app that sees it.
pub(crate) fn leave_ended(txn: &mut Txn<'_>, corp_id: &CorpId, chat_id: &ChatId) -> Result<(), StoreError> {
    let prefix = keys::chat_members(chat_id);
    let contacts = txn.keys(&prefix, usize::MAX >> 1)?;
    let contacts = contacts.iter().filter_map(|key| keys::Parts(&key[prefix.len()..]).contact().ok());
    contacts.filter(|contact| contact.corp_id == *corp_id).try_for_each(|key| leave(txn, &key, chat_id))
}

/// The contacts held to be in a group of a corp, as one app sees it.
pub(crate) fn of_group(
    view: &View<'_>,
    app: &AppName,
    corp_id: &CorpId,
    chat_id: &ChatId,
) -> Result<Vec<ContactKey>, StoreError> {
    let prefix = keys::chat_members(chat_id);
    view.rows(&prefix, &keys::after(&prefix), usize::MAX, |key, _| {
        let contact = view.undamaged(key, keys::Parts(&key[prefix.len()..]).contact())?;
        Ok(contact.filter(|contact| contact.app == *app && contact.corp_id == *corp_id))
    })
}
