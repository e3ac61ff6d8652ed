//! Reads the member lists of customer groups after events that cannot be trusted, and queues lookups of the
//! customers in them.
//!
//! Up to four lists are read at once, one at a corp. A list that cannot be read now is put off and holds back
//! nothing else: the customers whose ids were in events are looked up all the same. A corp without a permit for
//! the call, because its live work goes first, comes after all other corps the next time.
//!
//! Deliberately absent: which list is due, and when ([`chat`](crate::domain::chat)).

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::corp::{BUSY_WAIT_MS, CorpLists, Obstacle};
use super::failure::limit_ends_at;
use super::{Activation, Context, until};
use crate::domain::backoff::Backoff;
use crate::domain::ids::{AppName, ChatId, CorpId};
use crate::domain::time::{HOUR_MS, MINUTE_MS, Timestamp};
use crate::store::{ChatToRead, StoreError};
use crate::telemetry::throttle::LogThrottle;
use crate::wecom::{CallError, ChatMembers, Class, is_chat_gone};

/// Lists that are read at once.
const CALLS_MAX: usize = 4;
/// Groups whose failures are counted.
const FAILING_MAX: usize = 10_000;
/// For a group that will fail until a setting is corrected, or that fails with an undocumented code.
const SLOW: Backoff = Backoff { first_ms: MINUTE_MS, max_ms: HOUR_MS };

struct Groups {
    context: Context,
    /// The corps with a call in flight.
    busy: Mutex<BTreeSet<(AppName, CorpId)>>,
    /// Until when no group is read at the corps that had no permit the last time.
    no_permit_until: Mutex<HashMap<(AppName, CorpId), Instant>>,
    /// Consecutive failures by group.
    failures: Mutex<HashMap<(AppName, CorpId, ChatId), u32>>,
    /// Limits the log of failures, by WeCom's code.
    failure_log: LogThrottle<Option<i64>>,
}

/// Runs until `stop`; calls in flight go on, tracked by the context.
pub async fn run(context: Context, stop: CancellationToken) {
    let wake = context.wake.clone();
    super::run(&wake.groups, stop, Arc::new(Groups::new(context))).await;
}

impl Activation for Arc<Groups> {
    async fn activate(&mut self) -> Duration {
        match self.start_calls().await {
            Ok(idle) => idle,
            Err(error) => {
                self.context.store_failures.warn("the customer groups to be read could not be found", &error);
                super::LOOK_EVERY
            }
        }
    }
}

impl Groups {
    fn new(context: Context) -> Self {
        let failure_log = LogThrottle::default();
        let (busy, no_permit_until, failures) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { context, busy, no_permit_until, failures, failure_log }
    }

    fn busy(&self) -> MutexGuard<'_, BTreeSet<(AppName, CorpId)>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn no_permit_until(&self) -> MutexGuard<'_, HashMap<(AppName, CorpId), Instant>> {
        self.no_permit_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_slot(&self) -> bool {
        self.busy().len() < CALLS_MAX
    }

    /// The longest due group that is of none of these corps.
    async fn first_due_except(
        &self,
        corps: &BTreeSet<(AppName, CorpId)>,
    ) -> Result<Option<ChatToRead>, StoreError> {
        let store = &self.context.store;
        Ok(store.due_chats(corps, self.context.now(), 1).await?.pop())
    }

    /// Starts calls for the groups that are due, as far as there are slots. Returns after what time to look
    /// for more.
    async fn start_calls(self: &Arc<Self>) -> Result<Duration, StoreError> {
        let (store, now) = (&self.context.store, self.context.now());
        // While the inbox is full, lists are read all the same: customers in them are not events.
        if !matches!(store.ready(), Ok(()) | Err(StoreError::InboxFull { .. })) {
            return Ok(super::LOOK_EVERY);
        }
        let waiting = self.no_permit_until().clone();
        let mut passed_over: BTreeSet<_> = self.busy().iter().chain(waiting.keys()).cloned().collect();
        while self.has_slot()
            && let Some(group) = self.first_due_except(&passed_over).await?
        {
            passed_over.insert((group.app.clone(), group.corp_id.clone()));
            self.start_call(group);
        }
        // Those whose wait is over, the one that has waited for longest first.
        let is_over =
            |corp: &(AppName, CorpId), until: Instant| until <= Instant::now() && !self.busy().contains(corp);
        let mut over: Vec<_> = waiting.into_iter().filter(|(corp, until)| is_over(corp, *until)).collect();
        over.sort_by_key(|(_, until)| *until);
        for (corp, _) in over {
            if !self.has_slot() {
                break;
            }
            passed_over.remove(&corp);
            match self.first_due_except(&passed_over).await? {
                Some(group) => self.start_call(group),
                None => drop(self.no_permit_until().remove(&corp)),
            }
            passed_over.insert(corp);
        }
        // One that is due already waits for a slot: the end of a call wakes this worker.
        let next = store.next_chat_due().await?.filter(|due_at| *due_at > now);
        Ok(next.map_or(super::LOOK_EVERY, |due_at| until(now, due_at)))
    }

    /// Starts the call for a group of a corp that has none in flight.
    fn start_call(self: &Arc<Self>, group: ChatToRead) {
        let corp = (group.app.clone(), group.corp_id.clone());
        self.busy().insert(corp.clone());
        let groups = self.clone();
        self.context.spawn_call(async move {
            let is_stored = groups.read(&group).await;
            groups.busy().remove(&corp);
            // If the store has failed, the group is still due: not to be read again and again.
            if is_stored {
                groups.context.wake.groups.notify_one();
            }
        });
    }

    /// Reads the list of a group, or puts it off. Returns whether that is stored.
    async fn read(&self, group: &ChatToRead) -> bool {
        let Context { store, breakers, .. } = &self.context;
        let (decided_in, began_at) = (breakers.generation(), self.context.now());
        let members = self.members(group).await;
        if !matches!(members, Err(Obstacle::Busy)) {
            self.no_permit_until().remove(&(group.app.clone(), group.corp_id.clone()));
        }
        let until = match members {
            Ok(Some(ChatMembers { customers, version })) => {
                match store.chat_read(group, customers, version, began_at).await {
                    Ok(found) => {
                        self.succeeded(group);
                        if found.queued > 0 {
                            self.context.wake.inbox.notify_one();
                        }
                        return true;
                    }
                    Err(error) => Some(self.put_off(group, &Obstacle::Store(error))),
                }
            }
            Ok(None) => None,
            Err(Obstacle::Call(error)) if error.errcode().is_some_and(is_chat_gone) => {
                self.succeeded(group);
                return self.is_stored(&store.chat_not_found(group, began_at).await);
            }
            Err(obstacle) => Some(self.put_off(group, &obstacle)),
        };
        if until.is_none() {
            self.succeeded(group);
        }
        let is_stored = self.is_stored(&store.chat_unread(group, until).await);
        // Calls were resumed since the decision to put it off.
        if until.is_some() && breakers.generation() != decided_in {
            read_again(&self.context, &group.app, &group.corp_id).await;
        }
        is_stored
    }

    fn is_stored(&self, result: &Result<(), StoreError>) -> bool {
        if let Err(error) = result {
            self.context.store_failures.warn("the reading of a customer group could not be put off", error);
        }
        result.is_ok()
    }

    /// The customers in a group; `None` if groups are not to be read.
    async fn members(&self, group: &ChatToRead) -> Result<Option<ChatMembers>, Obstacle> {
        let ChatToRead { app, corp_id, chat_id, .. } = group;
        if self.context.apps.get(app).is_some_and(|rules| !rules.customer_groups) {
            return Ok(None);
        }
        let corp = CorpLists { context: self.context.clone(), app: app.clone(), corp_id: corp_id.clone() };
        Ok(Some(corp.chat(chat_id).await?))
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<(AppName, CorpId, ChatId), u32>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn succeeded(&self, ChatToRead { app, corp_id, chat_id, .. }: &ChatToRead) {
        self.failures().remove(&(app.clone(), corp_id.clone(), chat_id.clone()));
    }

    /// Counts and logs a failure; to be without a permit is none. Returns until when the reading is put off.
    fn put_off(&self, group: &ChatToRead, obstacle: &Obstacle) -> Timestamp {
        let ChatToRead { app, corp_id, chat_id, .. } = group;
        let now = self.context.now();
        let backoff = match obstacle {
            Obstacle::HeldBack(breaker) => return breaker.probe_at,
            Obstacle::Call(error) => {
                self.log(app, corp_id, error);
                match error.class() {
                    Class::Rate => return limit_ends_at(error, now),
                    Class::Transient | Class::Token => Backoff::CALL,
                    Class::Item | Class::Invisible | Class::Configuration | Class::Unknown => SLOW,
                }
            }
            Obstacle::Store(error) => {
                let message = "the customers in a group could not be stored; it will be read again";
                self.context.store_failures.warn(message, error);
                Backoff::CALL
            }
            Obstacle::Busy => {
                let until = Instant::now() + Duration::from_millis(BUSY_WAIT_MS.unsigned_abs());
                self.no_permit_until().insert((app.clone(), corp_id.clone()), until);
                return now.plus_ms(BUSY_WAIT_MS);
            }
            // Looked at again before the day is over, without a call: an operator may have resumed it.
            Obstacle::Forbidden | Obstacle::NotShared => SLOW,
            // No call is made, and the dealer's return makes it due: as for the lookups of its customers.
            Obstacle::Left => Backoff::CONFIGURATION,
        };
        let key = (app.clone(), corp_id.clone(), chat_id.clone());
        let mut failures = self.failures();
        if failures.len() >= FAILING_MAX {
            failures.clear();
        }
        let jitter_key = (app.as_str(), corp_id.as_str(), chat_id.as_str());
        let count = failures.entry(key).or_default();
        *count = count.saturating_add(1);
        now.plus_ms(backoff.wait_ms(*count, self.context.jitter.of(jitter_key, *count)))
    }

    fn log(&self, app: &AppName, corp_id: &CorpId, error: &CallError) {
        let errcode = error.errcode();
        if let Some(groups) = self.failure_log.count(errcode) {
            let (corp, reason) = (self.context.dealer_names.shown(app, corp_id), error.to_string());
            tracing::warn!(%app, corp, errcode, reason, groups,
                "customer groups could not be read; they are read later");
        }
    }
}

/// Makes the readings of a corp's groups that were put off due now: the reason may be gone.
pub(super) async fn read_again(context: &Context, app: &AppName, corp_id: &CorpId) {
    match context.store.read_chats_again(app, corp_id, context.now()).await {
        Ok(0) => {}
        Ok(_) => context.wake.groups.notify_one(),
        Err(error) => {
            context.store_failures.warn("readings of customer groups could not be brought forward", &error);
        }
    }
}

#[cfg(test)]
mod tests;
