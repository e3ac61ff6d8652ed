//! Repeats lookups of a dealer's customers, and readings of its groups that were put off, once WeCom has
//! reported that a member there has entered or left the app's visible range, or has changed.
//!
//! One change by an administrator may cause hundreds of reports. The customers whom the app could not see are
//! looked up at once, at most once a minute; all that have no pending id at most once an hour. The dealer's
//! last report stays in the store until the latter is done; one that arrives meanwhile causes another repeat.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::groups::read_again;
use super::super::{Context, overdue};
use crate::domain::ids::{AppName, CorpId};
use crate::domain::time::Moment;
use crate::store::EventId;

/// The shortest time between two lookups of a dealer's customers that were refused.
const REFUSED_APART: Duration = Duration::from_mins(1);
/// The shortest time between two lookups of all of a dealer's customers without a pending id.
const ALL_APART: Duration = Duration::from_hours(1);

/// The dealers at which the app may see other customers than before.
#[derive(Default)]
pub(super) struct Visibility {
    /// Dealers with a report since their lookups were last repeated.
    reported: BTreeSet<(AppName, CorpId)>,
    done: BTreeMap<(AppName, CorpId), Done>,
}

/// When lookups of a dealer's customers were last repeated.
struct Done {
    refused_at: Moment,
    all_at: Moment,
}

impl Visibility {
    /// Repeats the lookups that are due.
    pub(super) async fn look_again(&mut self, context: &Context) {
        self.reported.extend(context.wake.take_visibility());
        let stored = match context.store.visibility_changes().await {
            Ok(stored) => stored,
            Err(error) => {
                let message = "reports about the app's visible range could not be read";
                return context.store_failures.warn(message, &error);
            }
        };
        let now = context.clock.moment();
        self.done.retain(|_, done| !overdue(Some(done.all_at), ALL_APART, now));
        let dealers: BTreeSet<_> = stored.keys().chain(&self.reported).cloned().collect();
        for dealer in dealers {
            let is_reported = self.reported.contains(&dealer);
            let all = match self.done.get(&dealer) {
                None => true,
                Some(done) if is_reported && overdue(Some(done.refused_at), REFUSED_APART, now) => false,
                Some(_) => continue,
            };
            let report = stored.get(&dealer).copied();
            self.repeat(context, dealer, all, report).await;
        }
    }

    /// Repeats the lookups at a dealer whose last stored report is `report`.
    async fn repeat(
        &mut self,
        context: &Context,
        dealer: (AppName, CorpId),
        all: bool,
        report: Option<EventId>,
    ) {
        let (app, corp_id) = &dealer;
        let message = "lookups of a dealer's customers could not be repeated";
        match context.store.look_up_again(app, corp_id, all, context.now()).await {
            Ok(0) => {}
            Ok(lookups) => {
                let dealer = context.dealer_names.shown(app, corp_id);
                tracing::info!(%app, dealer, lookups,
                    "members have changed at a dealer: its customers are looked up again");
                context.wake.inbox.notify_one();
            }
            Err(error) => return context.store_failures.warn(message, &error),
        }
        read_again(context, app, corp_id).await;
        if all
            && let Some(report) = report
            && let Err(error) = context.store.visibility_seen(app, corp_id, report).await
        {
            context.store_failures.warn(message, &error);
        }
        // A report that arrived meanwhile is signalled again.
        self.reported.remove(&dealer);
        let now = context.clock.moment();
        let done = self.done.entry(dealer).or_insert(Done { refused_at: now, all_at: now });
        done.refused_at = now;
    }
}
