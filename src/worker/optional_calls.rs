//! The calls that this service can do without, and where WeCom does not allow them.
//!
//! A corp may allow some calls and not others (document 90313, 48002). A call that is refused for that reason
//! is not made at that corp for a day; nothing else is held back. Deliberately absent: circuit breakers,
//! which hold back calls that are needed ([`breaker`](super::breaker)).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::ids::{AppName, CorpId};

/// How long a refusal is believed.
const BELIEVED_FOR: Duration = Duration::from_hours(24);

/// A call, or a family of calls with one permission, that this service can do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OptionalCall {
    /// `externalcontact/contact_list`: the lists of members and their customers have the same.
    ContactList,
    /// `externalcontact/groupchat/*`: only the members of groups are missing without it.
    GroupChat,
    /// `corpgroup/corp/get_chain_*`, at the brand: only the verification of dealers is unknown without it.
    Chains,
}

/// Which optional calls WeCom refused, in memory. On the monotonic clock, so that setting the wall clock has
/// no effect.
#[derive(Debug, Default)]
pub struct OptionalCalls(Mutex<HashMap<(AppName, CorpId, OptionalCall), Instant>>);

impl OptionalCalls {
    /// Records that WeCom refused this call at a corp.
    pub fn forbid(&self, app: &AppName, corp_id: &CorpId, call: OptionalCall) {
        self.lock().insert((app.clone(), corp_id.clone(), call), Instant::now());
    }

    /// Whether WeCom refused this call at a corp within the last day.
    #[must_use]
    pub fn is_forbidden(&self, app: &AppName, corp_id: &CorpId, call: OptionalCall) -> bool {
        let refused_at = self.lock().get(&(app.clone(), corp_id.clone(), call)).copied();
        refused_at.is_some_and(|at| at.elapsed() < BELIEVED_FOR)
    }

    /// Forgets the refusals of one app or of all, at one corp or at all: an operator may have granted the
    /// permission.
    pub fn forget(&self, app: Option<&AppName>, corp_id: Option<&CorpId>) {
        let is_other = |of_app: &AppName, of_corp: &CorpId| {
            app.is_some_and(|app| app != of_app)
                || corp_id.is_some_and(|corp_id| !corp_id.same_corp(of_corp.as_str()))
        };
        self.lock().retain(|(of_app, of_corp, _), _| is_other(of_app, of_corp));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(AppName, CorpId, OptionalCall), Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_refused_call_is_left_out_at_that_corp_for_a_day_or_until_an_operator_resumes() {
        let (app, other) = (AppName::new("brand").unwrap(), AppName::new("other").unwrap());
        let [a, b] = ["wpA", "wpB"].map(|id| CorpId::new(id).unwrap());
        let calls = OptionalCalls::default();
        calls.forbid(&app, &a, OptionalCall::GroupChat);
        calls.forbid(&app, &b, OptionalCall::GroupChat);
        assert!(calls.is_forbidden(&app, &a, OptionalCall::GroupChat));
        assert!(!calls.is_forbidden(&app, &a, OptionalCall::ContactList));
        assert!(!calls.is_forbidden(&other, &a, OptionalCall::GroupChat));
        calls.forget(Some(&other), None);
        calls.forget(Some(&app), Some(&b));
        assert!(calls.is_forbidden(&app, &a, OptionalCall::GroupChat));
        assert!(!calls.is_forbidden(&app, &b, OptionalCall::GroupChat));
        tokio::time::advance(BELIEVED_FOR).await;
        assert!(!calls.is_forbidden(&app, &a, OptionalCall::GroupChat));
    }
}
