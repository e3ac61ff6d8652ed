//! Storing the outcomes of work.

use std::collections::BTreeSet;

use super::super::{Context, until};
use super::outcome::retry_at;
use crate::domain::ids::ContactKey;
use crate::store::{Outcome, Work};

/// Stores outcomes, which were decided in this generation of the circuit breakers or later. Work that was
/// deferred while an operator resumed calls is brought forward.
pub(super) async fn store_outcomes(context: &Context, outcomes: Vec<(Work, Outcome)>, decided_in: u64) {
    if outcomes.is_empty() {
        return;
    }
    for (work, outcome) in &outcomes {
        if let Outcome::Dead(reason) = outcome {
            let ContactKey { app, corp_id, external_userid } = &work.contact;
            let corp = context.dealer_names.shown(app, corp_id);
            tracing::warn!(contact = ?external_userid, corp,
                errcode = reason.errcode, reason = reason.text, "event became a dead letter");
        }
    }
    for (work, outcome) in &outcomes {
        if let (Some(event), Outcome::Resolved(_)) = (&work.event, outcome) {
            let what = if event.attempts == 0 { "converted_at_once_after" } else { "converted_later_after" };
            context.metrics.observed.between(what, event.event.created_at, context.now());
        }
    }
    let deferred_until: BTreeSet<_> = outcomes.iter().filter_map(|(_, outcome)| retry_at(outcome)).collect();
    match context.store.settle(outcomes, context.now()).await {
        Ok(linked) => {
            let now = context.now();
            for received_at in linked {
                context.metrics.linked(until(received_at, now));
            }
        }
        // The leases end and the work is repeated; WeCom gives the same answers.
        Err(error) => {
            let message = "results could not be stored; the work will be repeated";
            context.store_failures.warn(message, &error);
        }
    }
    if context.breakers.generation() == decided_in {
        return;
    }
    for due_at in deferred_until {
        if let Err(error) = context.store.bring_forward(due_at, context.now()).await {
            context.store_failures.warn("resumed work could not be brought forward", &error);
        }
    }
    context.wake.inbox.notify_one();
}
