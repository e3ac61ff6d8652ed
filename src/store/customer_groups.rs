//! Customer groups whose member lists are to be read, and what the lists say.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::error::StoreError;
use super::reconcile::PageFound;
use crate::domain::chat::{Chat, MemberVersion};
use crate::domain::ids::{AppName, ChatId, CorpId};
use crate::domain::sighting::Sighting;
use crate::domain::time::Timestamp;

/// A group whose member list is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatToRead {
    /// The app.
    pub app: AppName,
    /// The corp whose group it is.
    pub corp_id: CorpId,
    /// The group.
    pub chat_id: ChatId,
    /// Its record.
    pub chat: Chat,
}

/// The readings of customer groups.
#[async_trait]
pub trait CustomerGroups: Send + Sync {
    /// Up to `limit` groups whose reading is due at `now`, the longest due first, without the groups of `except`.
    /// Removes outdated places from the queue of readings.
    async fn due_chats(
        &self,
        except: &BTreeSet<(AppName, CorpId)>,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<ChatToRead>, StoreError>;

    /// When the next reading of a group is due.
    async fn next_chat_due(&self) -> Result<Option<Timestamp>, StoreError>;

    /// Records what a reading begun at `began_at` found: queues lookups of customers without a pending id,
    /// takes customers who are not in the list out of the group if the list is up to date, and stores the
    /// version. In several transactions, the version last.
    async fn chat_read(
        &self,
        group: &ChatToRead,
        customers: Vec<Sighting>,
        version: Option<MemberVersion>,
        began_at: Timestamp,
    ) -> Result<PageFound, StoreError>;

    /// Records the answer to a reading begun at `began_at` that the group does not exist: forgets the group,
    /// and its customers are no longer in it, or defers the reading if the group may be too new.
    async fn chat_not_found(&self, group: &ChatToRead, began_at: Timestamp) -> Result<(), StoreError>;

    /// Defers a reading until `until`; `None` forgets the group, because groups are not read; its
    /// customers are still held to be in it.
    async fn chat_unread(&self, group: &ChatToRead, until: Option<Timestamp>) -> Result<(), StoreError>;

    /// Makes the readings of a corp's groups that were put off due at `now`, in several transactions. Returns
    /// how many.
    async fn read_chats_again(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        now: Timestamp,
    ) -> Result<u64, StoreError>;
}
