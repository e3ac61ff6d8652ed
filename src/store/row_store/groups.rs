//! [`CustomerGroups`] over rows: what takes several transactions.
//!
//! Deliberately absent: the transactions (see `chats`) and the reads (see `customer_groups`).

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use async_trait::async_trait;

use super::{Backend, RowStore};
use crate::domain::chat::MemberVersion;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::sighting::Sighting;
use crate::domain::time::Timestamp;
use crate::store::business::customer_groups::{self, DueChats};
use crate::store::business::{chat_members, chats};
use crate::store::rows::keys;
use crate::store::rows::view::View;
use crate::store::{ChatToRead, CustomerGroups, PageFound, StoreError};

#[async_trait]
impl<B: Backend> CustomerGroups for RowStore<B> {
    async fn due_chats(
        &self,
        corps: &BTreeSet<(AppName, CorpId)>,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<ChatToRead>, StoreError> {
        let DueChats { due, outdated } =
            self.backend.read(|view| customer_groups::due_except(view, corps, now, limit)).await?;
        for place in outdated {
            // The next call that finds it corrects it just as well.
            if let Err(error) = self.backend.run(move |txn| chats::correct_place(txn, &place, now)).await {
                tracing::debug!(%error, "an outdated place in the queue of readings was not corrected");
                break;
            }
        }
        Ok(due)
    }

    async fn next_chat_due(&self) -> Result<Option<Timestamp>, StoreError> {
        self.backend.read(customer_groups::next_due).await
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
        let found =
            self.in_parts(customers, move |txn, part| chats::see_all(txn, &of, part, began_at)).await?;
        if chat.clone().read(version.clone(), began_at) {
            let mut left =
                self.backend.read(|view| chat_members::of_group(view, app, corp_id, chat_id)).await?;
            left.retain(|key| !listed.contains(&key.external_userid));
            let of = group.clone();
            self.in_parts(left, move |txn, part| chats::leave_all(txn, &of, part)).await?;
        }
        let group = group.clone();
        self.backend.run(move |txn| chats::read(txn, &group, version, began_at)).await?;
        Ok(found.into_iter().sum())
    }

    async fn chat_not_found(&self, group: &ChatToRead, began_at: Timestamp) -> Result<(), StoreError> {
        if group.chat.clone().not_found(began_at) {
            let left = self
                .backend
                .read(|view| chat_members::of_group(view, &group.app, &group.corp_id, &group.chat_id))
                .await?;
            let of = group.clone();
            self.in_parts(left, move |txn, part| chats::leave_all(txn, &of, part)).await?;
        }
        let group = group.clone();
        self.backend.run(move |txn| chats::not_found(txn, &group, began_at)).await
    }

    async fn chat_unread(&self, group: &ChatToRead, until: Option<Timestamp>) -> Result<(), StoreError> {
        let group = group.clone();
        self.backend.run(move |txn| chats::unread(txn, &group, until)).await
    }

    async fn read_chats_again(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let (mut put_off, prefix) = (Vec::new(), keys::of_corp(b'G', app, corp_id));
        let look =
            |view: &View<'_>, key: &[u8], value: &[u8]| customer_groups::put_off(view, key, value, now);
        let add = |chat_id: Option<_>| {
            put_off.extend(chat_id);
            ControlFlow::Continue(())
        };
        self.in_slices(&prefix, &keys::after(&prefix), look, add).await?;
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
