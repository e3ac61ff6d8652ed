//! The failures that open dealers' circuit breakers, or keep them open: each is noted as its dealer's last
//! error.

use std::collections::BTreeMap;

use super::super::Context;
use crate::domain::dealer_activity::DealerTrouble;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::time::Timestamp;
use crate::store::FailureReason;

/// The dealers' breakers opened by failures at the last activation, and how many failures there were.
#[derive(Default)]
pub(super) struct Failures(BTreeMap<(AppName, CorpId), (Timestamp, u32)>);

impl Failures {
    /// Notes the failures since the last activation.
    pub(super) fn note(&mut self, context: &Context) {
        let (now, mut failures) = (context.now(), BTreeMap::new());
        for (scope, breaker) in context.breakers.all(now) {
            let (app, Some(corp_id)) = (scope.app(), scope.corp_id()) else { continue };
            let is_brand = context.apps.get(app).is_some_and(|rules| rules.is_brand(corp_id));
            if is_brand || breaker.is_pacing() {
                continue;
            }
            let (dealer, count) = ((app.clone(), corp_id.clone()), (breaker.since, breaker.failures));
            if self.0.get(&dealer) != Some(&count) {
                let FailureReason { errcode, text } = breaker.reason;
                context.activity.trouble(app, corp_id, DealerTrouble { errcode, text, at: now });
            }
            failures.insert(dealer, count);
        }
        self.0 = failures;
    }
}
