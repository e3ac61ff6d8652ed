//! [`CustomerGroups`] as the embedded store implements it.
//!
//! Deliberately absent: the transactions (see `chats`).

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::chats;
use crate::domain::chat::{Chat, ChatEvent, MemberVersion};
use crate::domain::ids::{AppName, CorpId};
use crate::domain::sighting::Sighting;
use crate::domain::time::Timestamp;
use crate::store::embedded::EmbeddedStore;
use crate::store::embedded::records::{decode, readable};
use crate::store::embedded::rows::keys;
use crate::store::embedded::rows::txn::Txn;
use crate::store::embedded::small_commits::CUSTOMERS_PER_TRANSACTION;
use crate::store::{ChatToRead, CustomerGroups, PageFound, StoreError};

/// Groups that are looked at before other work has its turn.
const ROWS_AT_ONCE: usize = 1_000;

impl EmbeddedStore {
    /// Applies the joins in an event that names more customers than one transaction takes, a few in each. The
    /// event is to be applied afterwards: to these customers it then makes no difference, and after a crash
    /// in between it is received again. Each transaction is skipped if the event `was_applied`.
    pub(crate) async fn join_ahead(
        &self,
        app: &AppName,
        event: &ChatEvent,
        received_at: Timestamp,
        was_applied: impl Fn(&Txn<'_>) -> Result<bool, StoreError> + Clone + Send + Sync + 'static,
    ) -> Result<(), StoreError> {
        let customers = event.change.customers_joined();
        if customers.len() <= CUSTOMERS_PER_TRANSACTION {
            return Ok(());
        }
        let _held_back = self.hold_back(app, &event.corp_id, received_at);
        let (app, event) = (app.clone(), event.clone());
        let joined = self.in_parts(customers, move |txn, part| {
            if was_applied(txn)? {
                return Ok(());
            }
            chats::join(txn, &app, &event, part, received_at)
        });
        joined.await.map(drop)
    }
}

#[async_trait]
impl CustomerGroups for EmbeddedStore {
    async fn due_chats_except(
        &self,
        corps: &BTreeSet<(AppName, CorpId)>,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<ChatToRead>, StoreError> {
        let mut outdated = Vec::new();
        let due = self.rows(b"j", &keys::readings_until(now), limit, |key, _| {
            let mut parts = keys::Parts::of(key);
            let parsed = parts.instant().and_then(|due_at| Ok((due_at, parts.corp()?, parts.chat_id()?)));
            let parsed = self.undamaged(key, parsed)?.filter(|(_, corp, _)| !corps.contains(corp));
            let Some((due_at, (app, corp_id), chat_id)) = parsed else { return Ok(None) };
            let chat = readable(self.read::<Chat>(&keys::chat(&app, &corp_id, &chat_id)))?;
            let Some(chat) = chat.filter(|chat| chat.is_due_at(due_at)) else {
                outdated.push(key.to_vec());
                return Ok(None);
            };
            Ok(Some(ChatToRead { app, corp_id, chat_id, chat }))
        })?;
        for place in outdated {
            // The next call that finds it corrects it just as well.
            if let Err(error) = self.writer.run(move |txn| chats::correct_place(txn, &place, now)).await {
                tracing::debug!(%error, "an outdated place in the queue of readings was not corrected");
                break;
            }
        }
        Ok(due)
    }

    async fn next_chat_due(&self) -> Result<Option<Timestamp>, StoreError> {
        let first =
            self.rows(b"j", &keys::after(b"j"), 1, |key, _| keys::Parts::of(key).instant().map(Some))?;
        Ok(first.into_iter().next())
    }

    async fn chat_read(
        &self,
        group: &ChatToRead,
        customers: Vec<Sighting>,
        version: Option<MemberVersion>,
        began_at: Timestamp,
    ) -> Result<PageFound, StoreError> {
        let (of, ChatToRead { app, corp_id, chat_id, chat }) = (group.clone(), group);
        let listed: BTreeSet<_> = customers.iter().map(|row| row.external_userid.clone()).collect();
        let _held_back = self.hold_back(app, corp_id, began_at);
        let found =
            self.in_parts(customers, move |txn, part| chats::see_all(txn, &of, part, began_at)).await?;
        if chat.clone().read(version.clone(), began_at) {
            let mut left = self.chat_members(app, corp_id, chat_id)?;
            left.retain(|key| !listed.contains(&key.external_userid));
            let of = group.clone();
            self.in_parts(left, move |txn, part| chats::leave_all(txn, &of, part)).await?;
        }
        let group = group.clone();
        self.writer.run(move |txn| chats::read(txn, &group, version, began_at)).await?;
        Ok(found.into_iter().sum())
    }

    async fn chat_not_found(&self, group: &ChatToRead, began_at: Timestamp) -> Result<(), StoreError> {
        if group.chat.clone().not_found(began_at) {
            let left = self.chat_members(&group.app, &group.corp_id, &group.chat_id)?;
            let of = group.clone();
            self.in_parts(left, move |txn, part| chats::leave_all(txn, &of, part)).await?;
        }
        let group = group.clone();
        self.writer.run(move |txn| chats::not_found(txn, &group, began_at)).await
    }

    async fn chat_unread(&self, group: &ChatToRead, until: Option<Timestamp>) -> Result<(), StoreError> {
        let group = group.clone();
        self.writer.run(move |txn| chats::unread(txn, &group, until)).await
    }

    async fn read_chats_again(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let prefix = keys::of_corp(b'G', app, corp_id);
        let (mut from, to) = (prefix.clone(), keys::after(&prefix));
        let mut put_off = Vec::new();
        loop {
            let page = self.rows(&from, &to, ROWS_AT_ONCE, |key, value| {
                let chat = self.undamaged(key, decode::<Chat>(key, value))?;
                Ok(Some((key.to_vec(), chat.is_some_and(|chat| chats::is_put_off(&chat, now)))))
            })?;
            let Some((last, _)) = page.last() else { break };
            from = [last.as_slice(), &[0]].concat();
            for (key, _) in page.iter().filter(|(_, is_put_off)| *is_put_off) {
                put_off.push(keys::Parts(&key[prefix.len()..]).chat_id()?);
            }
            tokio::task::yield_now().await;
        }
        let (app, corp_id) = (app.clone(), corp_id.clone());
        let moved = self.in_parts(put_off, move |txn, part| {
            let mut moved = 0;
            for chat_id in part {
                moved += u64::from(chats::read_again(txn, &app, &corp_id, &chat_id, now)?);
            }
            Ok(moved)
        });
        Ok(moved.await?.into_iter().sum())
    }
}

#[cfg(test)]
mod tests;
