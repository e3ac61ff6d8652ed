//! Comparing the dealers' customers with WeCom's lists, and the activity of each dealer.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::error::StoreError;
use super::inbox::EventId;
use crate::domain::dealer::Dealer;
use crate::domain::dealer_activity::{DealerActivity, DealerCounts, DealerTrouble, NewActivity};
use crate::domain::event::AppAlarm;
use crate::domain::ids::{AppName, CorpId, ExternalUserid, UserId};
use crate::domain::reconcile::{ReconcileRun, ReconcileTask};
use crate::domain::sighting::Sighting;
use crate::domain::time::{Moment, Timestamp};

/// The customers found in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageFound {
    /// Number of customers that were not known before.
    pub new: u64,
    /// Number of lookups that were queued.
    pub queued: u64,
}

impl std::ops::AddAssign for PageFound {
    fn add_assign(&mut self, other: Self) {
        self.new += other.new;
        self.queued += other.queued;
    }
}

impl std::iter::Sum for PageFound {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), |mut sum, part| {
            sum += part;
            sum
        })
    }
}

/// A dealer with its activity and counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DealerRow {
    /// The dealer.
    pub dealer: Dealer,
    /// Its events by day, its last error, and whether it is silent.
    pub activity: DealerActivity,
    /// The numbers of its customers and links.
    pub counts: DealerCounts,
}

/// Reconcile runs, and the activity of each dealer.
#[async_trait]
pub trait Reconciling: Send + Sync {
    /// Begins a run over these dealers, or adds them to the one that is under way. Durable when it returns.
    async fn begin_reconcile(
        &self,
        dealers: Vec<(AppName, CorpId)>,
        now: Timestamp,
    ) -> Result<ReconcileRun, StoreError>;

    /// The run that is under way, or else the last one.
    async fn reconcile_run(&self) -> Result<Option<ReconcileRun>, StoreError>;

    /// The dealers of an app that have yet to be compared, in the order of their ids.
    async fn reconcile_tasks(&self, app: &AppName) -> Result<Vec<(CorpId, ReconcileTask)>, StoreError>;

    /// Records a page that was read at `read_at`: creates customers that are not known, updates followers and
    /// groups, queues lookups of customers that were never looked up, and moves the task to `next`. In
    /// several transactions, the task last, so that a page that was recorded in part is read again.
    async fn page_read(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        page: Vec<Sighting>,
        next: ReconcileTask,
        read_at: Timestamp,
    ) -> Result<PageFound, StoreError>;

    /// The number of followers of a dealer's customers, and the followers that were last confirmed before
    /// `begun_at`.
    async fn missing_followers(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        begun_at: Timestamp,
    ) -> Result<(u64, Vec<(ExternalUserid, UserId)>), StoreError>;

    /// Removes followers that a complete traversal begun at `begun_at` did not find, in several transactions.
    async fn remove_followers(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        missing: Vec<(ExternalUserid, UserId)>,
        begun_at: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Ends the comparison of a dealer, complete or not, and the run if it was the last one.
    async fn end_task(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        is_complete: bool,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Ends the comparisons for apps other than `apps`: they are no longer in the configuration.
    async fn end_tasks_of_others(&self, apps: &[AppName], now: Timestamp) -> Result<(), StoreError>;

    /// Makes lookups of a dealer's customers without a pending id due at `now`, in several transactions: the
    /// lookups that WeCom refused, or with `all` every one. Returns their number.
    async fn look_up_again(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        all: bool,
        now: Timestamp,
    ) -> Result<u64, StoreError>;

    /// The dealers with a [`Payload::Visibility`](super::Payload::Visibility) that
    /// [`visibility_seen`](Self::visibility_seen) has not removed, and the number of the last one of each.
    async fn visibility_changes(&self) -> Result<BTreeMap<(AppName, CorpId), EventId>, StoreError>;

    /// Removes a dealer from [`visibility_changes`](Self::visibility_changes), unless another report than
    /// `report` is the last one.
    async fn visibility_seen(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        report: EventId,
    ) -> Result<(), StoreError>;

    /// Adds to the dealers' activity, and stores a reading of the clocks if one is given: in one transaction,
    /// or in several if there are many dealers. Returns the dealers whose silence this ends.
    async fn record_activity(
        &self,
        new: Vec<(AppName, CorpId, NewActivity)>,
        moment: Option<Moment>,
    ) -> Result<Vec<CorpId>, StoreError>;

    /// Records that a dealer is silent since `since`.
    async fn set_silent(&self, app: &AppName, corp_id: &CorpId, since: Timestamp) -> Result<(), StoreError>;

    /// Records a dealer's last error.
    async fn set_trouble(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        trouble: DealerTrouble,
    ) -> Result<(), StoreError>;

    /// The dealers of an app, those that have left included, in the order of their ids.
    async fn dealer_rows(&self, app: &AppName) -> Result<Vec<DealerRow>, StoreError>;

    /// The alarms about the use of the apps that have not ended, oldest first.
    async fn alarms(&self) -> Result<Vec<(AppName, AppAlarm)>, StoreError>;
}
