//! The calls for one batch of a lane, and what they mean for its work.
//!
//! Deliberately absent: which ids are called next ([`Search`]), which token is used and what an error means
//! ([`Conversion`]).

use std::collections::BTreeMap;

use super::super::Context;
use super::super::breaker::{Breaker, Scope};
use super::super::parallelism::ParallelismPermit;
use super::conversion::{Conversion, Failure};
use super::lane::{LaneClass, LaneKey};
use super::outcome::{defer, not_visible, refused_alone, soon};
use super::routing::open_breaker;
use super::settling::store_outcomes;
use crate::domain::backoff::Backoff;
use crate::domain::batch::{Search, Verdict, choice_in_turn};
use crate::domain::ids::ContactKey;
use crate::store::{FailureReason, Outcome, Work};

type Outcomes = Vec<(Work, Outcome)>;

/// A customer, who has one id in a call, with all work about them.
struct Customer {
    contact: ContactKey,
    work: Vec<Work>,
}

impl Customer {
    /// The same outcome for all work about them.
    fn each(self, outcome: &Outcome) -> impl Iterator<Item = (Work, Outcome)> {
        self.work.into_iter().map(move |work| (work, outcome.clone()))
    }
}

/// The calls for one batch.
struct Batch<'a> {
    context: &'a Context,
    lane: &'a LaneKey,
    search: Search<Customer>,
    /// Outcomes that are not stored yet.
    outcomes: Outcomes,
}

/// Makes the call for a batch, or several if refused ids have to be searched for. Returns the outcomes that
/// are not stored yet.
pub(super) async fn resolve(
    context: &Context,
    lane: &LaneKey,
    work: Vec<Work>,
    permit: &mut ParallelismPermit,
    decided_in: u64,
) -> Outcomes {
    let now = context.now();
    let (customers, outcomes) = callable(context, lane, work);
    let asked = customers.iter().flat_map(|customer| &customer.work).filter_map(asked).max();
    let choice = match asked {
        Some(asked) if lane.class == LaneClass::Suspect => choice_in_turn(asked, customers.len()),
        Some(_) | None => context.jitter.of((&lane.owner, now), 0),
    };
    let search = Search::new(customers, choice);
    let mut batch = Batch { context, lane, search, outcomes };
    let mut conversion = Conversion::new(context, lane, permit);
    let mut searching = false;
    while !batch.search.is_done() {
        if searching && lane.class.is_background() {
            if !conversion.yield_to_live().await {
                batch.put_back();
                break;
            }
            // One may have opened meanwhile.
            batch.withdraw_held_back();
        }
        let Some(customers) = batch.search.next_call() else { break };
        let answer = {
            let contacts: Vec<_> = customers.iter().map(|customer| &customer.contact).collect();
            conversion.convert(&contacts, searching).await
        };
        match answer {
            Ok(found) => {
                batch.search.accepted();
                for customer in customers {
                    let pending_id = found.get(&customer.contact.external_userid).cloned();
                    let outcome = pending_id.map_or(Outcome::Missed, Outcome::Resolved);
                    batch.outcomes.extend(customer.each(&outcome));
                }
            }
            Err(failure) => batch.failed(customers, failure),
        }
        searching = true;
        batch.give_up_if_hopeless();
        if !batch.search.is_done() {
            store_outcomes(context, std::mem::take(&mut batch.outcomes), decided_in).await;
        }
    }
    batch.outcomes
}

/// How often WeCom was asked about the customer of this work.
fn asked(work: &Work) -> Option<u32> {
    Some(work.known.as_ref()?.lookup?.asked)
}

/// The customers of a batch, those of one dealer together, and the outcomes for those whose dealer a circuit
/// breaker holds back by now.
fn callable(context: &Context, lane: &LaneKey, work: Vec<Work>) -> (Vec<Customer>, Outcomes) {
    let now = context.now();
    let (mut customers, mut outcomes) = (BTreeMap::<ContactKey, Vec<Work>>::new(), Outcomes::new());
    for work in work {
        let corp_id = &work.contact.corp_id;
        // The breaker of a dealer with a lane of its own was closed when this batch was taken out of it.
        let breaker = if *corp_id == lane.owner {
            None
        } else {
            open_breaker(context, &lane.app, [corp_id, &lane.owner], now)
        };
        match breaker {
            Some(breaker) => outcomes.push((work, defer(breaker.probe_at, breaker.reason))),
            None => customers.entry(work.contact.clone()).or_default().push(work),
        }
    }
    (customers.into_iter().map(|(contact, work)| Customer { contact, work }).collect(), outcomes)
}

impl Batch<'_> {
    /// Applies what a failed call means for its customers, and for those that were to be called next.
    fn failed(&mut self, customers: Vec<Customer>, failure: Failure) {
        let (context, now) = (self.context, self.context.now());
        match failure {
            Failure::OneOf(fault) => match self.search.refused(customers, fault.refusal()) {
                Verdict::Open => {}
                Verdict::Alone(customer) => {
                    self.outcomes.extend(customer.work.into_iter().map(|work| {
                        let outcome = refused_alone(&work, &fault, context.jitter, now);
                        (work, outcome)
                    }));
                }
                Verdict::Whole { probe, rest } => self.refused_wholly(probe, rest, fault.reason()),
            },
            Failure::HeldBack(reason, probe_at) => {
                self.search.failed();
                let LaneKey { app, owner, .. } = self.lane;
                // Everything behind the same breaker; the rest is still called.
                let is_blocked = |customer: &Customer| {
                    open_breaker(context, app, [&customer.contact.corp_id, owner], now).is_some()
                };
                let blocked = self.search.withdraw(is_blocked);
                self.end(customers.into_iter().chain(blocked), &defer(probe_at, reason));
            }
            Failure::TooManyCalls(reason) => {
                let rest = self.search.withdraw(|_| true);
                self.end_soon(customers.into_iter().chain(rest), reason);
            }
            Failure::ChatGone(chat_id) => {
                let rest = self.search.withdraw(|_| true);
                self.end(customers.into_iter().chain(rest), &Outcome::NotInChat(chat_id));
            }
        }
    }

    /// Ends the search because there is no permit for its next call.
    fn put_back(&mut self) {
        let text = "postponed: the concurrent calls of this corp are in use by live work".to_owned();
        let rest = self.search.withdraw(|_| true);
        self.end_soon(rest, FailureReason { errcode: None, text });
    }

    /// Ends the work about customers whom a circuit breaker holds back by now.
    fn withdraw_held_back(&mut self) {
        let (context, now, LaneKey { app, owner, .. }) = (self.context, self.context.now(), self.lane);
        let breaker =
            |customer: &Customer| open_breaker(context, app, [&customer.contact.corp_id, owner], now);
        // Asked once for each: a breaker may close at any moment.
        let mut open = Vec::new();
        let withdrawn = self.search.withdraw(|customer| match breaker(customer) {
            Some(breaker) => {
                open.push(breaker);
                true
            }
            None => false,
        });
        for (customer, Breaker { probe_at, reason, .. }) in withdrawn.into_iter().zip(open) {
            self.end([customer], &defer(probe_at, reason));
        }
    }

    /// Ends a batch that was wholly refused because the app cannot see its customers, and pauses their dealer
    /// if the lane says something about the dealer's other customers. In a batch with customers of several
    /// dealers that is the dealer of the one who was called alone; the others' are called again without them.
    fn refused_wholly(&mut self, probe: Customer, rest: Vec<Customer>, reason: &FailureReason) {
        let (context, now, dealer) = (self.context, self.context.now(), probe.contact.corp_id.clone());
        if self.lane.class == LaneClass::Live && self.lane.chat_id.is_none() {
            let scope = Scope::Corp(self.lane.app.clone(), dealer.clone());
            context.breakers.failed(&scope, reason.clone(), Backoff::CONFIGURATION, now);
        }
        let (same, others): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|customer| customer.contact.corp_id == dealer);
        self.end([probe].into_iter().chain(same), &not_visible(reason.errcode));
        let text = "refused together with customers of another dealer".to_owned();
        self.end(others, &defer(now, FailureReason { errcode: None, text }));
    }

    /// Gives the search up if every single id seems to fail: it is an outage.
    fn give_up_if_hopeless(&mut self) {
        if self.search.is_done() || !self.search.is_hopeless() {
            return;
        }
        let text = "WeCom refuses one customer after another; retried later".to_owned();
        let reason = FailureReason { errcode: None, text };
        let scope = Scope::Corp(self.lane.app.clone(), self.lane.owner.clone());
        let (breakers, now) = (&self.context.breakers, self.context.now());
        let is_live = self.lane.class == LaneClass::Live && self.lane.chat_id.is_none();
        let probe_at = if is_live {
            breakers.failed(&scope, reason.clone(), Backoff::UNKNOWN_CODE, now)
        } else {
            now.plus_ms(Backoff::UNKNOWN_CODE.max_ms)
        };
        let rest = self.search.withdraw(|_| true);
        self.end(rest, &defer(probe_at, reason));
    }

    /// Ends work that is tried again soon, because other calls went first.
    fn end_soon(&mut self, customers: impl IntoIterator<Item = Customer>, reason: FailureReason) {
        let now = self.context.now();
        let retry_at = soon(self.context.jitter.of((&self.lane.owner, now), 1), now);
        self.end(customers, &defer(retry_at, reason));
    }

    /// Ends work with the same outcome.
    fn end(&mut self, customers: impl IntoIterator<Item = Customer>, outcome: &Outcome) {
        self.outcomes.extend(customers.into_iter().flat_map(|customer| customer.each(outcome)));
    }
}

#[cfg(test)]
mod tests;
