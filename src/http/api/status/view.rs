//! The response of `GET /v1/status`.
//!
//! Deliberately absent: where the values come from.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::reconcile::RunView;
use super::super::sinks::SinkView;
use super::replicas::ReplicaView;
use crate::domain::dealer::DealerState;
use crate::domain::event::AppAlarmKind;
use crate::domain::finding::{Finding, FindingView};
use crate::domain::forecast::Forecast;
use crate::domain::history::{LastRefusal, UrlMarks};
use crate::domain::ids::{AppName, CorpId, SuiteId};
use crate::domain::text::Text;
use crate::domain::time::Timestamp;
use crate::lifecycle::Task;
use crate::store::{DealerRow, LogStatus};

/// The write-ahead log of the store and its checkpoints.
#[derive(Serialize, ToSchema)]
pub(super) struct StoreLog {
    /// Bytes of the log behind the last checkpoint.
    log_bytes: u64,
    checkpoint_bytes: u64,
    /// Checkpoints that failed since the start.
    checkpoints_failed: u64,
    /// Why the last checkpoint failed; absent if it succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint_failure: Option<String>,
    /// Whether the index was missing or damaged at the start, and was built anew.
    index_rebuilt: bool,
}

impl From<LogStatus> for StoreLog {
    fn from(status: LogStatus) -> Self {
        let LogStatus {
            log_bytes,
            checkpoint_bytes,
            checkpoints_failed,
            checkpoint_failure,
            index_rebuilt,
            ..
        } = status;
        Self { log_bytes, checkpoint_bytes, checkpoints_failed, checkpoint_failure, index_rebuilt }
    }
}

/// What was seen last at a callback URL, at any replica, also before the last start.
#[derive(Serialize, ToSchema)]
pub(super) struct UrlView {
    /// The app or suite: the name in the URL.
    #[schema(value_type = String, example = "brand")]
    pub(super) name: AppName,
    /// When a URL check by WeCom was last answered.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) verified_at: Option<Timestamp>,
    /// When a callback was last acknowledged.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) callback_at: Option<Timestamp>,
    /// When a request was last refused.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) refused_at: Option<Timestamp>,
    /// Why: a reason of `unionlink_callback_refusals_total`.
    #[schema(example = "signature")]
    pub(super) refused_because: Option<String>,
}

impl UrlView {
    pub(super) fn of((name, marks): (AppName, UrlMarks)) -> Self {
        let UrlMarks { verified_at, callback_at, refused } = marks;
        let (refused_at, refused_because) =
            refused.map_or((None, None), |LastRefusal { at, reason, .. }| (Some(at), Some(reason)));
        Self { name, verified_at, callback_at, refused_at, refused_because }
    }
}

/// The status of the service. Counters begin at its start.
#[derive(Serialize, ToSchema)]
pub(in super::super) struct Status {
    #[schema(example = "0.2.0")]
    pub(super) version: &'static str,
    #[schema(value_type = String, format = DateTime)]
    pub(super) started_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub(super) now: Timestamp,
    /// Whether a callback could be made durable now.
    pub(super) ready: bool,
    pub(super) not_ready_because: Option<String>,
    /// Records of the store that cannot be read.
    pub(super) damaged_records: usize,
    /// The store's write-ahead log and its checkpoints; absent if the store has none of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) store_log: Option<StoreLog>,
    pub(super) callbacks: CallbackCounts,
    pub(super) inbox: InboxStatus,
    pub(super) contacts: CustomerCounts,
    pub(super) fans: FanCounts,
    /// The queues of fans that are not empty.
    pub(super) queues: Vec<QueueStatus>,
    /// Links that exist.
    pub(super) links: u64,
    /// The sequence number of the newest entry of the feed.
    pub(super) feed_head: u64,
    /// The sequence number of the oldest entry kept.
    pub(super) feed_oldest: u64,
    pub(super) sinks: Vec<SinkView>,
    pub(super) tasks: Vec<Task>,
    /// Calls held back after failures: the open circuit breakers.
    pub(super) paused: Vec<HeldBack>,
    /// Calls that wait for a quota or another call limit, which is no failure.
    pub(super) pacing: Vec<HeldBack>,
    pub(super) quotas: Vec<QuotaStatus>,
    /// The dealers of each app, by state.
    pub(super) dealers: BTreeMap<String, DealerNumbers>,
    /// WeCom's alarms about the use of the apps that have not ended, oldest first.
    pub(super) alarms: Vec<AlarmView>,
    /// The suites of agency-developed apps.
    pub(super) suites: Vec<SuiteStatus>,
    /// What was seen last at each callback URL.
    pub(super) urls: Vec<UrlView>,
    /// What needs somebody, and what to do: the findings of `/v1/doctor` that are `fail`, and those about suites and callback
    /// URLs that are `warn`.
    #[schema(value_type = Vec<FindingView>)]
    pub(super) findings: Vec<Finding>,
    /// The comparison of dealers' customers that is under way, or else the last one.
    pub(super) reconcile: RunView,
    /// The replicas that share the store, this one included; absent if the store is one machine's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) replicas: Vec<ReplicaView>,
    /// Calls to each API of WeCom.
    pub(super) calls: BTreeMap<&'static str, u64>,
    /// How WeCom behaves where its documents are silent: what was seen, and how often, since the store was created. It has no
    /// ids in it.
    #[schema(example = json!({"conversion": {"dealer token: 0": 42}}))]
    pub(super) observed: BTreeMap<String, BTreeMap<String, u64>>,
    /// Customers sent to WeCom for conversion.
    pub(super) ids_asked: u64,
}

/// Callbacks by outcome.
#[derive(Serialize, ToSchema)]
pub(super) struct CallbackCounts {
    pub(super) accepted: u64,
    pub(super) duplicates: u64,
    /// Of a kind that is not acted on.
    pub(super) ignored: u64,
    pub(super) quarantined: u64,
    /// Messages of a suite without effect, such as another suite's or a replay.
    pub(super) misplaced: u64,
    /// Not from WeCom.
    pub(super) refused: u64,
    /// Not acknowledged, because they could not be made durable.
    pub(super) unavailable: u64,
    pub(super) unknown_app: u64,
    pub(super) too_large: u64,
    /// URL checks that were answered.
    pub(super) verified: u64,
}

/// Events in the inbox, dead letters and quarantined messages.
#[derive(Serialize, ToSchema)]
pub(super) struct InboxStatus {
    /// Events in the inbox: due, delayed or leased.
    pub(super) waiting: u64,
    pub(super) dead: u64,
    pub(super) quarantined: u64,
    /// The age of the oldest event in the inbox.
    pub(super) oldest_age_seconds: Option<i64>,
}

/// The dealers' customers.
#[derive(Serialize, ToSchema)]
pub(super) struct CustomerCounts {
    pub(super) known: u64,
    /// Customers without a pending id who are still to be looked up.
    pub(super) waiting: u64,
    pub(super) linked: u64,
}

/// The fans by state.
#[derive(Serialize, ToSchema)]
pub(super) struct FanCounts {
    pub(super) registered: u64,
    pub(super) queued: u64,
    pub(super) minted: u64,
    pub(super) expired: u64,
    pub(super) rejected: u64,
}

/// Fans that wait for one API with one priority.
#[derive(Serialize, ToSchema)]
pub(super) struct QueueStatus {
    #[schema(value_type = String, example = "brand")]
    pub(super) app: AppName,
    #[schema(example = "unionid_to_pending_id")]
    pub(super) api: &'static str,
    /// `live`, `renew_unlinked`, `renew` or `bulk`.
    #[schema(example = "bulk")]
    pub(super) priority: &'static str,
    pub(super) waiting: u64,
    pub(super) oldest_age_seconds: Option<i64>,
}

/// Calls that are held back.
#[derive(Serialize, Deserialize, ToSchema)]
pub(in super::super) struct HeldBack {
    /// `app`: every call; `suite`: exchanging auth codes, and reading the apps at corps; `dealers`: reading
    /// the list of dealers; `corp`: conversions of one corp's customers; `fans`: calls for fans; `renewals`
    /// or `bulk`: those of one class.
    #[schema(value_type = String, example = "corp")]
    pub(super) scope: Cow<'static, str>,
    #[schema(value_type = String, example = "brand")]
    pub(super) app: AppName,
    #[schema(value_type = Option<String>)]
    pub(super) corp_id: Option<CorpId>,
    /// The dealer's name, if it is known.
    #[schema(example = "上海一店")]
    pub(super) corp_name: Option<String>,
    /// The last failure, or the quota that is used up.
    pub(super) reason: String,
    /// The WeCom errcode of the last failure.
    pub(super) errcode: Option<i64>,
    #[schema(value_type = String, format = DateTime)]
    pub(super) since: Timestamp,
    /// When the next call is tried.
    #[schema(value_type = String, format = DateTime)]
    pub(super) until: Timestamp,
    /// Consecutive failures; 0 while a quota is used up.
    pub(super) failures: u32,
}

/// The use of the quota that a corp has for an API.
#[derive(Serialize, ToSchema)]
pub(super) struct QuotaStatus {
    #[schema(value_type = String, example = "brand")]
    pub(super) app: AppName,
    /// The corp whose quota it is; apps of one corp share it.
    #[schema(value_type = String)]
    pub(super) corp_id: CorpId,
    #[schema(example = "unionid_to_pending_id")]
    pub(super) api: &'static str,
    /// Until when calls are held back after WeCom answered that the quota is used up.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) blocked_until: Option<Timestamp>,
    pub(super) hour: QuotaWindow,
    pub(super) day: QuotaWindow,
    /// 30 days.
    pub(super) month: QuotaWindow,
    /// The part of the quota that only live registrations use.
    pub(super) reserve_percent: u8,
    /// Only for `unionid_to_pending_id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) forecast: Option<QuotaForecast>,
}

/// The calls in a sliding window.
#[derive(Serialize, ToSchema)]
pub(super) struct QuotaWindow {
    used: u64,
    limit: u64,
    left: u64,
}

impl QuotaWindow {
    pub(super) fn new(used: u32, limit: u32) -> Self {
        Self { used: used.into(), limit: limit.into(), left: limit.saturating_sub(used).into() }
    }
}

/// What the quota suffices for, if no further fan is registered.
#[derive(Serialize, ToSchema)]
pub(super) struct QuotaForecast {
    /// When the last waiting fan will have its pending id, rounded up to the minute; beyond two days to the
    /// hour. `null` if no fan waits.
    #[schema(value_type = Option<String>, format = DateTime)]
    import_done_at: Option<Timestamp>,
    /// From when on pending ids will expire before the quota allows renewing them; `null` if they will not.
    #[schema(value_type = Option<String>, format = DateTime)]
    renewals_late_from: Option<Timestamp>,
}

impl From<Forecast> for QuotaForecast {
    fn from(Forecast { import_done_at, renewals_late_from }: Forecast) -> Self {
        Self { import_done_at, renewals_late_from }
    }
}

/// The numbers of an app's dealers by state; `GET /v1/dealers` lists them.
#[derive(Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct DealerNumbers {
    /// WeCom lists them.
    pub(super) shared: u64,
    /// WeCom no longer lists them.
    pub(super) left: u64,
    /// WeCom lists them, and has not verified them: their customers cannot be looked up.
    pub(super) unverified: u64,
    /// Of those that have not left, the ones without a callback for `silent_days`.
    pub(super) silent: u64,
}

impl DealerNumbers {
    pub(super) fn of(rows: &[DealerRow]) -> Self {
        rows.iter().fold(Self::default(), |mut numbers, row| {
            let state = row.dealer.state();
            match state {
                DealerState::Shared => numbers.shared += 1,
                DealerState::Left => numbers.left += 1,
                DealerState::Unverified => numbers.unverified += 1,
            }
            numbers.silent += u64::from(state != DealerState::Left && row.activity.silent_since.is_some());
            numbers
        })
    }
}

/// An alarm of WeCom about the use of an app.
#[derive(Serialize, ToSchema)]
pub(super) struct AlarmView {
    #[schema(value_type = String, example = "brand")]
    pub(super) app: AppName,
    /// Where the app is affected: the brand or a dealer.
    #[schema(value_type = String)]
    pub(super) corp_id: CorpId,
    /// The dealer's name, if it is known.
    #[schema(example = "上海一店")]
    pub(super) corp_name: Option<String>,
    #[schema(inline)]
    pub(super) kind: AppAlarmKind,
    #[schema(value_type = String, format = DateTime)]
    pub(super) since: Timestamp,
    /// When it takes effect, for a warning.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) effect_at: Option<Timestamp>,
    /// What to do.
    pub(super) remedy: Text,
}

/// A suite (代开发应用模版).
#[derive(Serialize, ToSchema)]
pub(super) struct SuiteStatus {
    #[schema(value_type = String, example = "agency")]
    pub(super) name: AppName,
    #[schema(value_type = String, example = "dkINVENTED")]
    pub(super) suite_id: SuiteId,
    #[schema(inline)]
    pub(super) state: SuiteState,
    /// When its newest ticket was received.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) ticket_received_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) ticket_expires_at: Option<Timestamp>,
    /// When WeCom should send the next ticket; `null` while there is a valid one.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) waits_until: Option<Timestamp>,
    pub(super) authorizations: AuthorizationCounts,
    pub(super) exchanges: ExchangeCounts,
}

/// Whether a suite can call WeCom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum SuiteState {
    /// It can.
    Ready,
    /// It has no valid ticket, or WeCom has refused it.
    WaitingForTicket,
    /// WeCom refuses its id or secret.
    SecretRefused,
    /// Its calls are held back for another reason, which `paused` has.
    Paused,
}

/// The corps that have authorised a suite, by state; `GET /v1/authorizations` lists them.
#[derive(Clone, Copy, Serialize, ToSchema)]
pub(super) struct AuthorizationCounts {
    pub(super) active: u64,
    /// The app there has not been read yet.
    pub(super) incomplete: u64,
    pub(super) cancelled: u64,
}

/// The auth codes that a suite is to exchange for permanent codes.
#[derive(Serialize, ToSchema)]
pub(super) struct ExchangeCounts {
    pub(super) waiting: u64,
    /// Lost, expired, refused or unreadable; kept for a week.
    pub(super) failed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::dealer::{Dealer, Qualification};
    use crate::domain::dealer_activity::{DealerActivity, DealerCounts};

    #[test]
    fn dealers_are_counted_by_state_and_one_that_has_left_is_not_silent() {
        let row = |left: bool, unverified: bool, silent: bool| {
            let at = Timestamp::EPOCH;
            let mut dealer = Dealer::listed(CorpId::new("wpDEALER").unwrap(), 7, String::new(), at);
            dealer.left_at = left.then_some(at);
            dealer.qualification = unverified.then_some(Qualification::Unverified);
            let activity = DealerActivity { silent_since: silent.then_some(at), ..DealerActivity::default() };
            DealerRow { dealer, activity, counts: DealerCounts::default() }
        };
        let rows = [
            row(false, false, false),
            row(false, false, true),
            row(false, true, true),
            row(true, false, true),
        ];
        let wanted = DealerNumbers { shared: 2, left: 1, unverified: 1, silent: 2 };
        assert_eq!(DealerNumbers::of(&rows), wanted);
    }
}
