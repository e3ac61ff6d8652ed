//! The comparison of one dealer's customers: one step makes one call and stores what it returned with the
//! next place.
//!
//! Deliberately absent: what follows from a failed call, and which dealer is next (see
//! [`reconcile`](super)).

use std::time::Duration;

use tokio::time::Instant;

use super::super::corp::{CorpLists, Obstacle};
use crate::domain::dealer_activity::DealerTrouble;
use crate::domain::ids::{ChatId, UserId};
use crate::domain::reconcile::{
    CONTACT_LIST_CURSOR_LIFE_MS, ReconcilePlace, ReconcileTask, batch_after, chat_after, is_plausible,
};
use crate::domain::sighting::{Sighting, SightingPlace};
use crate::domain::time::Timestamp;
use crate::store::{FailureReason, StoreError};
use crate::wecom::{
    Api, CallError, ChatMembers, Class, CustomerPage, is_bad_cursor, is_call_forbidden, is_chat_gone,
};

/// The longest wait for the lookups of customers who were found. They may be held back for other reasons.
const LOOKUPS_WAITED_FOR: Duration = Duration::from_hours(1);

/// What a step did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Something was read that is not stored.
    Read,
    /// A page was stored.
    Stored,
    /// The place could not be used any more: the traversal, or a part of it, begins anew.
    BeginsAnew(FailureReason),
    /// It waits for the lookups of customers who were found.
    WaitsForLookups,
    /// Everything is compared.
    Done,
}

/// The comparison of one dealer, as far as this process has to know more than the store.
pub(super) struct Traversal {
    corp: CorpLists,
    task: ReconcileTask,
    /// The members whose customers are read, in the order of their ids; `None` until this process has read
    /// the list.
    members: Option<Vec<UserId>>,
    /// The page of groups that is being read.
    chats: Option<ChatPage>,
    /// Since when it waits for lookups.
    waits_since: Option<Instant>,
}

/// A page of groups.
struct ChatPage {
    cursor: String,
    /// In the order of their ids.
    chats: Vec<ChatId>,
    next_cursor: String,
}

impl Traversal {
    pub(super) const fn new(corp: CorpLists, task: ReconcileTask) -> Self {
        Self { corp, task, members: None, chats: None, waits_since: None }
    }

    pub(super) const fn corp(&self) -> &CorpLists {
        &self.corp
    }

    pub(super) const fn task(&self) -> &ReconcileTask {
        &self.task
    }

    /// Makes the next call, if it is not to wait.
    pub(super) async fn step(&mut self) -> Result<Step, Obstacle> {
        if self.waits_for_lookups().await? {
            return Ok(Step::WaitsForLookups);
        }
        match self.task.place.clone() {
            ReconcilePlace::Contacts { cursor, since } => self.read_contacts(&cursor, since).await,
            ReconcilePlace::Members { after, cursor } => self.read_customers(after.as_ref(), &cursor).await,
            ReconcilePlace::Chats { cursor, after } => self.read_chats(cursor, after.as_ref()).await,
            ReconcilePlace::Read => self.remove_missing().await,
        }
    }

    async fn waits_for_lookups(&mut self) -> Result<bool, StoreError> {
        if self.task.waits_for_lookups() {
            // In memory is the number of those queued; the store knows how many are left.
            let CorpLists { context, app, corp_id } = &self.corp;
            let tasks = context.store.reconcile_tasks(app).await?;
            let stored = tasks.into_iter().find(|(of_corp, _)| of_corp == corp_id);
            self.task.unresolved = stored.map_or(0, |(_, task)| task.unresolved);
        }
        if !self.task.waits_for_lookups() {
            self.waits_since = None;
            return Ok(false);
        }
        let waited = self.waits_since.get_or_insert_with(Instant::now).elapsed();
        Ok(waited < LOOKUPS_WAITED_FOR)
    }

    /// Reads the list of members before the first page of `contact_list`. Returns whether it was read; where
    /// the app may not, the customers are read all the same, and nobody is removed.
    async fn begin_contacts(&mut self) -> Result<bool, Obstacle> {
        match self.corp.members().await {
            Ok(members) => {
                self.task.begin_with(&members);
                self.members = Some(members);
                Ok(true)
            }
            Err(Obstacle::Call(error)) if leaves_contact_list(&error) => Ok(false),
            Err(obstacle) => Err(obstacle),
        }
    }

    async fn read_contacts(&mut self, cursor: &str, since: Timestamp) -> Result<Step, Obstacle> {
        if cursor.is_empty() && self.task.members.is_none() && self.begin_contacts().await? {
            return Ok(Step::Read);
        }
        let read_at = self.task.read_at(self.corp.context.now());
        if !cursor.is_empty() && read_at.millis_since(since) >= CONTACT_LIST_CURSOR_LIFE_MS {
            let reason = "the place in contact_list is more than four hours old".to_owned();
            return Ok(self.begin_anew(ReconcilePlace::contacts(), None, reason));
        }
        match self.corp.contacts(cursor).await {
            Ok(mut page) => {
                if !self.customer_groups() {
                    page.rows.retain(|row| matches!(row.place, SightingPlace::Follower { .. }));
                }
                let next = self.task.after_contacts(page.next_cursor, read_at);
                self.store(page.rows, next, read_at).await
            }
            Err(Obstacle::Forbidden) => {
                self.task.begin_anew(ReconcilePlace::members());
                Ok(Step::Read)
            }
            Err(Obstacle::Call(error)) if !cursor.is_empty() && refuses_cursor(&error) => {
                Ok(self.begin_anew(ReconcilePlace::contacts(), error.errcode(), error.to_string()))
            }
            Err(obstacle) => Err(obstacle),
        }
    }

    async fn read_customers(&mut self, after: Option<&UserId>, cursor: &str) -> Result<Step, Obstacle> {
        let Some(members) = &self.members else {
            let members = self.corp.members().await?;
            let is_same = !self.task.members_changed(&members);
            self.members = Some(members);
            if is_same {
                return Ok(Step::Read);
            }
            let reason = "the list of members changed before its traversal went on".to_owned();
            return Ok(self.begin_anew(ReconcilePlace::members(), None, reason));
        };
        let read_at = self.task.read_at(self.corp.context.now());
        let batch = batch_after(members, after);
        let page = if batch.is_empty() {
            Ok(CustomerPage::default())
        } else {
            self.corp.customers_of(batch, cursor).await
        };
        match page {
            Ok(page) => {
                let with_chats = self.customer_groups();
                let (next_cursor, unlicensed) = (page.next_cursor, page.unlicensed);
                let next = self.task.after_customers(members, next_cursor, unlicensed, read_at, with_chats);
                self.store(page.rows, next, read_at).await
            }
            Err(Obstacle::Call(error)) if !cursor.is_empty() && refuses_cursor(&error) => {
                // The other batches have been read completely.
                self.task.place = ReconcilePlace::Members { after: after.cloned(), cursor: String::new() };
                let (errcode, text) = (error.errcode(), error.to_string());
                Ok(Step::BeginsAnew(FailureReason { errcode, text }))
            }
            // One of the members has left, or is no longer visible.
            Err(Obstacle::Call(error)) if matches!(error.class(), Class::Item | Class::Invisible) => {
                self.members = None;
                Ok(self.begin_anew(ReconcilePlace::members(), error.errcode(), error.to_string()))
            }
            Err(obstacle) => Err(obstacle),
        }
    }

    async fn read_chats(&mut self, cursor: String, after: Option<&ChatId>) -> Result<Step, Obstacle> {
        let Some(page) = self.chats.take().filter(|page| page.cursor == cursor) else {
            return match self.corp.chats(&cursor).await {
                Ok((chats, next_cursor)) => {
                    self.chats = Some(ChatPage { cursor, chats, next_cursor });
                    Ok(Step::Read)
                }
                Err(Obstacle::Call(error)) if !cursor.is_empty() && refuses_cursor(&error) => {
                    self.task.place = ReconcilePlace::Chats { cursor: String::new(), after: None };
                    let (errcode, text) = (error.errcode(), error.to_string());
                    Ok(Step::BeginsAnew(FailureReason { errcode, text }))
                }
                Err(obstacle) => self.leave_out_chats(obstacle).await,
            };
        };
        let read_at = self.task.read_at(self.corp.context.now());
        let chat_id = chat_after(&page.chats, after);
        let members = match chat_id {
            Some(chat_id) => self.corp.chat(chat_id).await,
            None => Ok(ChatMembers::default()),
        };
        let rows = match members {
            Ok(members) => members.customers,
            // This group is gone, or the app cannot see its owner.
            Err(Obstacle::Call(error)) if concerns_chat(&error) => Vec::new(),
            Err(obstacle) => {
                self.chats = Some(page);
                return self.leave_out_chats(obstacle).await;
            }
        };
        let next = self.task.after_chat(&page.chats, chat_id, &page.next_cursor);
        self.chats = Some(page);
        self.store(rows, next, read_at).await
    }

    /// Goes on without the groups if the app may not read them.
    async fn leave_out_chats(&mut self, obstacle: Obstacle) -> Result<Step, Obstacle> {
        let may_not = match &obstacle {
            Obstacle::Forbidden => true,
            Obstacle::Call(error) => {
                let is_asked = matches!(error, CallError::Refused { api: Api::GroupchatList, .. });
                is_asked && error.class() == Class::Configuration
            }
            Obstacle::HeldBack(_)
            | Obstacle::Busy
            | Obstacle::NotShared
            | Obstacle::Left
            | Obstacle::Store(_) => false,
        };
        if !may_not {
            return Err(obstacle);
        }
        let read_at = self.task.read_at(self.corp.context.now());
        self.store(Vec::new(), self.task.without_chats(), read_at).await
    }

    /// Removes the followers who are missing, after everything was read, if the members are the same as
    /// before.
    async fn remove_missing(&self) -> Result<Step, Obstacle> {
        let CorpLists { context, app, corp_id } = &self.corp;
        let (store, now) = (&context.store, context.now());
        let Some(since) = self.task.confirmed_since(now) else { return Ok(Step::Done) };
        let (present, missing) = store.missing_followers(app, corp_id, since).await?;
        // Without the list of before nobody would be removed.
        if missing.is_empty() || self.task.members.is_none() {
            return Ok(Step::Done);
        }
        let (listed, corp) = (self.corp.members().await?, self.corp.shown());
        if self.task.members_changed(&listed) {
            tracing::info!(%app, corp, missing = missing.len(),
                "the members in the app's visible range changed while a dealer's customers were compared; \
                 followers who are missing are not removed before the next comparison");
        }
        let missing = self.task.removable(missing, &listed);
        let count = missing.len() as u64;
        if !is_plausible(count, present) {
            tracing::warn!(%app, corp, missing = count, followers = present,
                "more than half of a dealer's followers are missing in WeCom's lists; nobody was removed");
            let text = format!(
                "{count} of {present} followers are missing in WeCom's lists, and nobody was removed; check \
                 the app's 可见范围 and permissions with the dealer"
            );
            let trouble = DealerTrouble { errcode: None, text, at: now };
            store.set_trouble(app, corp_id, trouble).await?;
        } else if count > 0 {
            store.remove_followers(app, corp_id, missing, since, now).await?;
            tracing::info!(%app, corp, followers = count, "followers who are no longer listed were removed");
        }
        Ok(Step::Done)
    }

    /// Stores a page with the next place.
    async fn store(
        &mut self,
        rows: Vec<Sighting>,
        next: ReconcileTask,
        read_at: Timestamp,
    ) -> Result<Step, Obstacle> {
        let CorpLists { context, app, corp_id } = &self.corp;
        let found = context.store.page_read(app, corp_id, rows, next.clone(), read_at).await?;
        if found.queued > 0 {
            context.wake.inbox.notify_one();
        }
        let unresolved = self.task.unresolved + found.queued;
        self.task = ReconcileTask { unresolved, ..next };
        Ok(Step::Stored)
    }

    fn begin_anew(&mut self, place: ReconcilePlace, errcode: Option<i64>, text: String) -> Step {
        self.task.begin_anew(place);
        Step::BeginsAnew(FailureReason { errcode, text })
    }

    fn customer_groups(&self) -> bool {
        let CorpLists { context, app, .. } = &self.corp;
        context.apps.get(app).is_some_and(|rules| rules.customer_groups)
    }
}

/// Whether an error of the list of members says nothing about `contact_list`: only the former may be
/// forbidden.
fn leaves_contact_list(error: &CallError) -> bool {
    let is_for_token = matches!(error, CallError::Refused { api: Api::GetToken | Api::CorpGetToken, .. });
    let is_forbidden = error.errcode().is_some_and(is_call_forbidden);
    !is_for_token && (is_forbidden || matches!(error.class(), Class::Item | Class::Invisible))
}

fn refuses_cursor(error: &CallError) -> bool {
    error.errcode().is_some_and(is_bad_cursor)
}

/// Whether an error of `groupchat/get` says something about that group only: it is gone, or the app cannot see
/// its owner, or it is another corp's (92002), or its owner has no licence (701008; document 97176).
fn concerns_chat(error: &CallError) -> bool {
    let is_asked = matches!(error, CallError::Refused { api: Api::GroupchatGet, .. });
    let is_of_chat =
        error.errcode().is_some_and(|code| is_chat_gone(code) || matches!(code, 92_002 | 701_008));
    is_asked && is_of_chat || matches!(error.class(), Class::Item | Class::Invisible)
}
