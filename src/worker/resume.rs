//! What was paused goes on now: after an operator has asked for it, after a brand has authorised its app, and
//! when WeCom lists a dealer (again).
//!
//! The probes of circuit breakers are due at once, and with them the work that waits for one; lookups and
//! readings of groups that were put off are repeated, and comparisons go on. All of it can be repeated: what
//! the store did not take is done the next time.
//!
//! Deliberately absent: who asks for it, and when; waits for a call limit, which nobody can shorten; sinks.

use std::time::Duration;

use super::breaker::{Breakers, Scope};
use super::directory::Directory;
use super::{Context, Wake};
use crate::domain::ids::{AppName, CorpId};
use crate::domain::time::Timestamp;
use crate::store::{Store, StoreError};

/// The wait before a worker repeats what the store did not take.
pub(super) const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Later than the end of any exchange.
const END_OF_TIME: Timestamp = Timestamp::from_millis(i64::MAX);

/// Where something is resumed.
#[derive(Clone, Copy)]
pub struct Resumer<'a> {
    /// The store.
    pub store: &'a dyn Store,
    /// The circuit breakers.
    pub breakers: &'a Breakers,
    /// The dealer directory, which forgets recent failures.
    pub directory: &'a Directory,
    /// Wakes the workers.
    pub wake: &'a Wake,
    /// The current time.
    pub now: Timestamp,
}

/// What is resumed.
#[derive(Debug, Clone, Copy)]
pub struct Paused<'a> {
    /// The app or suite; `None`: all.
    pub app: Option<&'a AppName>,
    /// The corps, each of an app, at which lookups, readings and comparisons are repeated.
    pub corps: &'a [(AppName, CorpId)],
    /// Which lookups of their customers are repeated.
    pub lookups: Lookups,
}

/// Lookups of customers without a pending id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookups {
    /// None.
    None,
    /// Those that WeCom refused.
    Refused,
    /// Those as well that found nothing.
    All,
}

/// Whether a circuit breaker is of this app or suite and this corp, where they are given.
pub fn is_of<'a>(app: Option<&'a AppName>, corp_id: Option<&'a CorpId>) -> impl Fn(&Scope) -> bool + 'a {
    move |scope| {
        app.is_none_or(|app| scope.app() == app)
            && corp_id.is_none_or(|wanted| {
                scope.corp_id().is_some_and(|corp_id| corp_id.same_corp(wanted.as_str()))
            })
    }
}

/// Tries paused calls now because an operator has asked another replica for it, which has seen to the rest.
///
/// # Errors
/// As [`Resumer::run`].
pub async fn resume_calls(
    context: &Context,
    app: Option<&AppName>,
    corp_id: Option<&CorpId>,
) -> Result<(), StoreError> {
    context.optional_calls.forget(app, corp_id);
    context.directory.forget_refused_codes(app);
    let paused = Paused { app, corps: &[], lookups: Lookups::None };
    Resumer::of(context).run(paused, is_of(app, corp_id)).await.map(drop)
}

/// How much was resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resumed {
    /// Circuit breakers.
    pub breakers: usize,
    /// Lookups of customers.
    pub lookups: u64,
    /// Readings of customer groups.
    pub groups: u64,
    /// Auth codes that could not be exchanged, which are forgotten.
    pub exchanges: u64,
}

impl<'a> Resumer<'a> {
    /// In the service that a worker is of.
    pub(super) fn of(context: &'a Context) -> Self {
        let Context { store, breakers, directory, wake, .. } = context;
        Self { store: &**store, breakers, directory, wake, now: context.now() }
    }

    /// Resumes what is paused, and the scopes of `concerns`.
    ///
    /// # Errors
    /// The first error of the store. The rest was resumed all the same.
    pub async fn run(
        self,
        paused: Paused<'_>,
        concerns: impl Fn(&Scope) -> bool,
    ) -> Result<Resumed, StoreError> {
        let Self { store, breakers, directory, wake, now } = self;
        directory.forget_failures(paused.app);
        let mut resumed = Resumed { breakers: breakers.resume(concerns, now), ..Resumed::default() };
        let mut done = Ok(());
        for due_at in breakers.to_bring_forward() {
            match store.bring_forward(due_at, now).await {
                Ok(_) => breakers.brought_forward(due_at),
                Err(error) => done = done.and(Err(error)),
            }
        }
        wake.calls_resumed();
        for (app, corp_id) in paused.corps {
            let lookups = match paused.lookups {
                Lookups::None => Ok(0),
                Lookups::Refused => store.look_up_again(app, corp_id, false, now).await,
                Lookups::All => store.look_up_again(app, corp_id, true, now).await,
            };
            match lookups {
                Ok(lookups) => resumed.lookups += lookups,
                Err(error) => done = done.and(Err(error)),
            }
            match store.read_chats_again(app, corp_id, now).await {
                Ok(groups) => resumed.groups += groups,
                Err(error) => done = done.and(Err(error)),
            }
            wake.comparison_resumed(app, corp_id);
        }
        if resumed.lookups > 0 {
            wake.inbox.notify_one();
        }
        if resumed.groups > 0 {
            wake.groups.notify_one();
        }
        done.map(|()| resumed)
    }

    /// Resumes a suite: its calls, also with a ticket that WeCom refused, and the reading of corps. The auth
    /// codes that could not be exchanged are forgotten.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_suite(self, suite: &AppName) -> Result<Resumed, StoreError> {
        let paused = Paused { app: Some(suite), corps: &[], lookups: Lookups::None };
        let resumed = self.run(paused, |scope| scope.app() == suite).await;
        let forgotten = self.store.drop_ended_exchanges(suite, END_OF_TIME).await;
        // Last: then the suites are read again.
        self.wake.suite_resumed(suite);
        Ok(Resumed { exchanges: forgotten?, ..resumed? })
    }
}

#[cfg(test)]
mod tests;
