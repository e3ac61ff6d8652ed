//! Turns customers into pending ids.
//!
//! Work waits in lanes, one per corp whose token converts it. A lane with no call in flight sends what it has
//! at once; while a call is in flight it gathers, up to 100 ids. So a single customer waits for nobody, and a
//! burst of n costs ⌈n/100⌉ calls. What one call brought is written down while the next is in flight. Answers are
//! matched by id, never by position. A batch rejected because of one id is split in half until that id stands alone.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::pause::{Pause, Scope};
use super::{Activation, Context, ConversionToken, until};
use crate::domain::backoff::{Backoff, Jitter};
use crate::domain::batch::bisect;
use crate::domain::dealer::TokenOwner;
use crate::domain::ids::{AppName, ContactKey, CorpId};
use crate::domain::time::{HOUR_MS, MINUTE_MS, Timestamp};
use crate::store::{Problem, StoreError, Verdict, Work};
use crate::wecom::CallError;

mod conversion;
mod lane;

pub(super) use conversion::hits_the_whole_app;
use conversion::{Blame, Failure, convert};
use lane::{Lane, LaneKey};

/// Pieces of work held in memory at once.
const HELD_MAX: usize = 16_000;
/// A backlog is taken in portions of this size, so that each lane's share of it fills batches.
const PORTION_OF_BACKLOG: usize = HELD_MAX / 4;
/// Customers asked about alone, in vain, before a search is given up as a general outage.
const IN_VAIN_MAX: u32 = 3;
/// Tries of an event that fails with a code nobody documented.
const UNKNOWN_TRIES_MAX: u32 = 5;

struct Resolver {
    context: Context,
    /// Whether the store has more work than there was room for.
    backlog: AtomicBool,
    lanes: Mutex<BTreeMap<LaneKey, Lane>>,
    /// Room for so many batches, from the call until its outcome is written down.
    rooms: Arc<Semaphore>,
    /// Whether a lane that could make a call waits for room.
    full_house: AtomicBool,
    stop: CancellationToken,
}

/// Runs until `stop`; calls under way go on, tracked by the context.
pub async fn run(context: Context, stop: CancellationToken) {
    let rooms = Arc::new(Semaphore::new(context.calls_max));
    let (wake, lanes) = (context.wake.clone(), Mutex::default());
    let (backlog, full_house) = (AtomicBool::new(false), AtomicBool::new(false));
    let resolver = Arc::new(Resolver { context, backlog, lanes, rooms, full_house, stop: stop.clone() });
    super::run(&wake.inbox, stop, resolver).await;
}

/// What a failed call means, in words an operator can act upon.
pub(super) fn problem_of(error: &CallError) -> Problem {
    let text = match error {
        CallError::Refused { from_ip: Some(ip), .. } => format!("{error} (WeCom saw us come from {ip})"),
        _ => error.to_string(),
    };
    Problem { errcode: error.errcode(), text }
}

impl Activation for Arc<Resolver> {
    async fn activate(&mut self) -> Duration {
        let (store, now) = (&self.context.store, self.context.now());
        let held: usize = self.lanes().values().map(|lane| lane.waiting.len()).sum();
        let room = HELD_MAX.saturating_sub(held);
        let wanted = if self.backlog.load(Ordering::Relaxed) { PORTION_OF_BACKLOG } else { 1 };
        let (mut more, mut settled) = (false, Vec::new());
        if room >= wanted {
            match store.lease(now, room).await {
                Ok(work) => {
                    more = work.len() == room;
                    self.backlog.store(more, Ordering::Relaxed);
                    settled = self.route(work, now).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "no work taken");
                    return super::LOOK_EVERY;
                }
            }
        }
        settled.extend(self.clear_paused_lanes(now));
        // Calls first: nobody waits for what is only written down.
        self.start_calls();
        self.settle(settled).await;
        if more {
            return Duration::ZERO;
        }
        match store.next_due().await {
            // What is due already is held up by a full house; the next finished call signals.
            Ok(Some(due_at)) if due_at > now => until(now, due_at),
            Ok(_) => super::LOOK_EVERY,
            Err(error) => {
                tracing::warn!(%error, "the queue cannot be read");
                super::LOOK_EVERY
            }
        }
    }
}

impl Resolver {
    fn lanes(&self) -> std::sync::MutexGuard<'_, BTreeMap<LaneKey, Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts work into lanes. Returns what needs no call, or not now.
    async fn route(&self, work: Vec<Work>, now: Timestamp) -> Vec<(Work, Verdict)> {
        let (mut settled, mut put_off) = (Vec::new(), 0);
        for work in work {
            match self.destination(&work, now).await {
                Ok(key) => {
                    let mut lanes = self.lanes();
                    let lane = lanes.entry(key).or_default();
                    if let Some(work) = lane.take(work) {
                        let text = "a backlog of this dealer is being worked off".to_owned();
                        let problem = Problem { errcode: None, text };
                        let due_at = now.plus_ms(lane.full_for_ms(put_off));
                        put_off += 1;
                        settled.push((work, later(due_at, problem)));
                    }
                }
                Err(verdict) => settled.push((work, verdict)),
            }
        }
        settled
    }

    async fn destination(&self, work: &Work, now: Timestamp) -> Result<LaneKey, Verdict> {
        let leaves = work.event.as_ref().is_some_and(|event| !event.happening.contact.change.is_add());
        let known = work.known.as_ref().is_some_and(|c| c.pending_id.is_some() || c.link.is_some());
        if leaves || known {
            return Err(Verdict::Applied);
        }
        let ContactKey { app, corp_id, .. } = &work.contact;
        let Some(rules) = self.context.apps.get(app) else {
            let text = format!("no app named {app} in the configuration; put it back, or redrive later");
            return Err(later(now.plus_ms(5 * MINUTE_MS), Problem { errcode: None, text }));
        };
        let upstream = match rules.conversion_token {
            ConversionToken::Upstream => true,
            ConversionToken::Downstream => false,
            // A store that cannot be read here fails the lease before; then the lane's call finds out.
            ConversionToken::Auto => matches!(
                self.context.store.dealer(app, corp_id).await,
                Ok(Some(dealer)) if dealer.token == Some(TokenOwner::Upstream)
            ),
        };
        let owner = if upstream { rules.corp_id.clone() } else { corp_id.clone() };
        match self.pause_of(app, [corp_id, &owner], now) {
            Some(pause) => Err(later(pause.until, pause.problem)),
            None => Ok(LaneKey { app: app.clone(), owner }),
        }
    }

    /// Empties the lanes that were paused while work waited in them.
    fn clear_paused_lanes(&self, now: Timestamp) -> Vec<(Work, Verdict)> {
        let mut put_off = Vec::new();
        for (LaneKey { app, owner }, lane) in self.lanes().iter_mut() {
            if let Some(pause) = self.pause_of(app, [owner, owner], now) {
                let verdict = later(pause.until, pause.problem);
                put_off.extend(lane.waiting.drain(..).map(|work| (work, verdict.clone())));
            }
        }
        put_off
    }

    /// Starts a call in each lane that can, as far as there is room; whoever has waited longest comes first.
    fn start_calls(self: &Arc<Self>) {
        let now = self.context.now();
        let mut lanes = self.lanes();
        lanes.retain(|_, lane| !lane.is_idle());
        let mut ready: Vec<_> = lanes
            .iter_mut()
            .filter(|(LaneKey { app, owner }, lane)| {
                lane.can_call() && self.pause_of(app, [owner, owner], now).is_none()
            })
            .collect();
        ready.sort_by_key(|(_, lane)| lane.waiting.front().map(Work::due_at));
        let mut full_house = false;
        for (key, lane) in ready {
            let Ok(room) = self.rooms.clone().try_acquire_owned() else {
                full_house = true;
                break;
            };
            self.start_call(key, lane, room, now);
        }
        self.full_house.store(full_house, Ordering::Relaxed);
    }

    fn start_call(
        self: &Arc<Self>,
        key: &LaneKey,
        lane: &mut Lane,
        room: OwnedSemaphorePermit,
        now: Timestamp,
    ) {
        let (resolver, key, batch) = (self.clone(), key.clone(), lane.begin(now));
        self.context.spawn_call(async move {
            let outcome = resolver.work_off(&key, batch).await;
            let now = resolver.context.now();
            resolver.go_on(&key, now, |lane| lane.ended(now));
            resolver.settle(outcome).await;
            drop(room);
            resolver.go_on(&key, resolver.context.now(), Lane::settled);
        });
    }

    /// Changes a lane in which a call has ended. A full batch of it need not wait until the rest of a backlog was looked
    /// through, unless another lane waits for room.
    fn go_on(self: &Arc<Self>, key: &LaneKey, now: Timestamp, change: impl FnOnce(&mut Lane)) {
        if let Some(lane) = self.lanes().get_mut(key) {
            change(lane);
            let goes_on = lane.can_call()
                && lane.has_full_batch()
                && !self.full_house.load(Ordering::Relaxed)
                && !self.stop.is_cancelled()
                // A full inbox has to be worked off.
                && matches!(self.context.store.ready(), Ok(()) | Err(StoreError::InboxFull { .. }))
                && self.pause_of(&key.app, [&key.owner, &key.owner], now).is_none();
            if goes_on && let Ok(room) = self.rooms.clone().try_acquire_owned() {
                self.start_call(key, lane, room, now);
            }
        }
        self.context.wake.inbox.notify_one();
    }

    /// Makes the calls for a batch. Returns what came of the last of them, which is still to be written down.
    async fn work_off(&self, key: &LaneKey, batch: Vec<Work>) -> Vec<(Work, Verdict)> {
        let mut todo = vec![batch];
        // The search for an id that spoils its batch ends when it looks as if all did.
        let (mut searching, mut in_vain, mut any_ok) = (false, 0, false);
        while let Some(batch) = todo.pop() {
            let settled = match convert(&self.context, &key.app, &key.owner, &batch, searching).await {
                Ok(found) => {
                    any_ok = true;
                    batch
                        .into_iter()
                        .map(|work| {
                            let pending_id = found.get(&work.contact.external_userid).cloned();
                            let verdict = pending_id.map_or(Verdict::Missed, Verdict::Resolved);
                            (work, verdict)
                        })
                        .collect()
                }
                Err(Failure::OneOf(blame)) => match halves(batch) {
                    Ok((head, tail)) => {
                        searching = true;
                        todo.extend([tail, head]);
                        continue;
                    }
                    Err(same) => {
                        let now = self.context.now();
                        in_vain += u32::from(blame.may_be_everybodys());
                        same.into_iter()
                            .map(|work| {
                                let verdict = alone(&work, &blame, self.context.jitter, now);
                                (work, verdict)
                            })
                            .collect()
                    }
                },
                Err(Failure::Paused(problem, resume_at)) => {
                    // What is left and would meet the same end is put off too; the rest is asked.
                    let now = self.context.now();
                    let same_end = |work: &mut Work| {
                        self.pause_of(&key.app, [&work.contact.corp_id, &key.owner], now).is_some()
                    };
                    let mut put_off = batch;
                    for other in &mut todo {
                        put_off.extend(other.extract_if(.., same_end));
                    }
                    todo.retain(|other| !other.is_empty());
                    in_vain += 1;
                    put_off.into_iter().map(|work| (work, later(resume_at, problem.clone()))).collect()
                }
            };
            if todo.is_empty() {
                return settled;
            }
            self.settle(settled).await;
            if in_vain >= IN_VAIN_MAX && !any_ok {
                let text = "WeCom refuses one customer after another; it is tried again later".to_owned();
                let (problem, now) = (Problem { errcode: None, text }, self.context.now());
                let scope = Scope::Corp(key.app.clone(), key.owner.clone());
                let until = self.context.pauses.failed(&scope, problem.clone(), Backoff::UNKNOWN_CODE, now);
                return todo.drain(..).flatten().map(|work| (work, later(until, problem.clone()))).collect();
            }
        }
        Vec::new()
    }

    /// What keeps calls about a corp's customers, made with another's token, from being made at `now`.
    fn pause_of(&self, app: &AppName, [customers, owner]: [&CorpId; 2], now: Timestamp) -> Option<Pause> {
        let corp = |corp_id: &CorpId| Scope::Corp(app.clone(), corp_id.clone());
        let scopes = [Scope::App(app.clone()), corp(customers), corp(owner)];
        self.context.pauses.of(&scopes.each_ref(), now)
    }

    async fn settle(&self, outcomes: Vec<(Work, Verdict)>) {
        if outcomes.is_empty() {
            return;
        }
        for (work, verdict) in &outcomes {
            if let Verdict::Dead(problem) = verdict {
                tracing::warn!(contact = ?work.contact.external_userid, corp = %work.contact.corp_id,
                    errcode = problem.errcode, problem = problem.text, "dead letter");
            }
        }
        // On an error the leases end and the work is done again; WeCom answers the same.
        if let Err(error) = self.context.store.settle(outcomes, self.context.now()).await {
            tracing::warn!(%error, "outcomes not written; the work will be repeated");
        }
    }
}

fn later(due_at: Timestamp, problem: Problem) -> Verdict {
    Verdict::Retry { due_at, problem, spent: false }
}

/// Splits a batch by customer, those of one dealer side by side; `Err` with the same batch if it is all about one.
fn halves(mut batch: Vec<Work>) -> Result<(Vec<Work>, Vec<Work>), Vec<Work>> {
    let mut customers: Vec<_> = batch.iter().map(|work| work.contact.clone()).collect();
    customers.sort();
    customers.dedup();
    match bisect(customers) {
        Some((head, _)) => {
            let tail = batch.extract_if(.., |work| !head.contains(&work.contact)).collect();
            Ok((batch, tail))
        }
        None => Err(batch),
    }
}

/// What becomes of one customer whose question WeCom refuses, asked alone.
fn alone(work: &Work, blame: &Blame, jitter: Jitter, now: Timestamp) -> Verdict {
    use crate::domain::event::ContactChange;
    let Some(event) = &work.event else {
        return match blame {
            // A waiting customer: the schedule of questions bounds this.
            Blame::Invisible | Blame::Item(_) => Verdict::Missed,
            // No answer: none of the few questions is spent on it.
            Blame::Unknown(problem) | Blame::Stuck(problem) => later(now.plus_ms(HOUR_MS), problem.clone()),
        };
    };
    match blame {
        // Seen once the follower comes into the app's range; the schedule asks again.
        Blame::Invisible => Verdict::Missed,
        // Not yet a customer: WeCom may know this person once the member confirms.
        Blame::Item(_) if event.happening.contact.change == ContactChange::HalfAdded => Verdict::Missed,
        Blame::Item(problem) => Verdict::Dead(problem.clone()),
        // A code nobody documented, or one that should pass and does not: a few slow tries, then a dead letter.
        Blame::Unknown(problem) | Blame::Stuck(problem) => {
            let same = event.problem.as_ref().is_some_and(|before| before.errcode == problem.errcode);
            if same && event.attempts + 1 >= UNKNOWN_TRIES_MAX {
                return Verdict::Dead(problem.clone());
            }
            let attempt = event.attempts + 1;
            let wait_ms = Backoff::UNKNOWN_CODE.wait_ms(attempt, jitter.of(event.id, attempt));
            Verdict::Retry { due_at: now.plus_ms(wait_ms), problem: problem.clone(), spent: true }
        }
    }
}

#[cfg(test)]
mod tests;
