//! WeCom's alarms about the use of an app, at the brand or a dealer (document 90240): each is logged with
//! what to do, once in a process, and counted until it ends.

use std::collections::BTreeSet;

use super::super::Context;
use crate::domain::event::AppAlarmKind;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::time::Timestamp;

/// The kinds that are alarms; the others end one.
const ALARMS: [AppAlarmKind; 4] = [
    AppAlarmKind::InactiveAlert,
    AppAlarmKind::CloseInactiveAgent,
    AppAlarmKind::LowActiveAlert,
    AppAlarmKind::LowActive,
];

/// The alarms that had not ended at the last activation.
#[derive(Default)]
pub(super) struct Alarms(BTreeSet<(AppName, CorpId, AppAlarmKind)>);

impl Alarms {
    /// Logs the alarms that are new and those that have ended.
    pub(super) async fn look(&mut self, context: &Context) {
        let alarms = match context.store.alarms().await {
            Ok(alarms) => alarms,
            Err(error) => return context.store_failures.warn("the alarms could not be read", &error),
        };
        let mut open = BTreeSet::new();
        for (app, alarm) in alarms {
            let kind = alarm.kind;
            let key = (app, alarm.corp_id, kind);
            if !self.0.contains(&key) && !open.contains(&key) {
                let corp = context.dealer_names.shown(&key.0, &key.1);
                let effect_at = alarm.effect_at.map(Timestamp::in_china);
                let (app, (remedy, _), kind) = (&key.0, kind.remedy(), <&str>::from(kind));
                tracing::warn!(%app, corp, kind, effect_at, "alarm of WeCom: {remedy}");
            }
            open.insert(key);
        }
        for (app, corp_id, kind) in self.0.difference(&open) {
            let (corp, kind) = (context.dealer_names.shown(app, corp_id), <&str>::from(kind));
            tracing::info!(%app, corp, kind, "an alarm of WeCom has ended");
        }
        for app in &context.apps.names() {
            for kind in ALARMS {
                let count = open.iter().filter(|(of_app, _, of_kind)| (of_app, *of_kind) == (app, kind));
                context.metrics.app_alarms(app, kind, count.count());
            }
        }
        self.0 = open;
    }
}
