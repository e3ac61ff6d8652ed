//! [`Store`] over rows: each method hands in a transaction, or reads.
//!
//! Deliberately absent: the transactions and the reads, each in the file of its subject in `business`.

use async_trait::async_trait;

use super::Patience;
use super::leases::{fan_lease, lease_key};
use super::{Backend, ROWS_PER_TRANSACTION, RowStore};
use crate::domain::dealer::{Dealer, Qualification, TokenOwner};
use crate::domain::fan::{Fan, FanStep, Priority, Renew};
use crate::domain::ids::{AppName, CorpId, FanKey, Unionid};
use crate::domain::link::LinkData;
use crate::domain::quota::{Budget, Grant, Ledger, Share};
use crate::domain::tally::Tally;
use crate::domain::time::{Moment, Timestamp};
use crate::store::business::{
    arrivals, clock, dealers, events, fans, ledgers, links, listing, queues, roll, set_aside, work,
};
use crate::store::rows::ids::FanNumber;
use crate::store::rows::keys;
use crate::store::rows::txn::Txn;
use crate::store::{
    Appended, Arrival, Counts, EventId, EventRow, EventState, FanFilter, FanOutcome, FanPage, FanWork,
    LinkQuery, LogStatus, NewFan, Outcome, Payload, Registered, Replicas, Store, StoreError, Work, WorkId,
};

#[async_trait]
impl<B: Backend> Store for RowStore<B> {
    async fn append(&self, arrival: Arrival) -> Result<Appended, StoreError> {
        let events_max = self.limits.inbox_events_max;
        self.backend.run(move |txn| arrivals::append(txn, arrival, events_max)).await
    }

    async fn lease(&self, now: Timestamp, limit: usize, background: usize) -> Result<Vec<Work>, StoreError> {
        self.lease_work(now, limit, background).await
    }

    async fn put_off(&self, work: &[WorkId]) {
        self.queues.put_off(work.iter().map(lease_key));
    }

    async fn take_up(&self, work: &[WorkId]) {
        self.take_up_work(work).await;
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        self.next_free_work().await
    }

    async fn settle(
        &self,
        outcomes: Vec<(Work, Outcome)>,
        now: Timestamp,
    ) -> Result<Vec<Timestamp>, StoreError> {
        self.backend.indexed().await?;
        let outcomes =
            outcomes.into_iter().map(|(work, outcome)| (lease_key(&work.id), (work, outcome, now))).collect();
        let settle = |txn: &mut Txn<'_>, (work, outcome, now): (Work, Outcome, Timestamp)| {
            work::settle(txn, &work, outcome, now)
        };
        Ok(self.settle_all(outcomes, settle).await?.into_iter().flatten().collect())
    }

    async fn bring_forward(&self, due_at: Timestamp, now: Timestamp) -> Result<u64, StoreError> {
        self.bring_work_forward(due_at, now).await
    }

    async fn events(
        &self,
        state: EventState,
        after: EventId,
        limit: usize,
    ) -> Result<Vec<EventRow>, StoreError> {
        let leased = self.queues.inbox.leased();
        self.backend.read(|view| events::list(view, &leased, state, after, limit)).await
    }

    async fn event(&self, id: EventId) -> Result<Option<EventRow>, StoreError> {
        Ok(self.backend.read(|view| events::set_aside(view, id)).await?.map(EventRow::from))
    }

    async fn quarantined_message(&self, id: EventId) -> Result<Option<Vec<u8>>, StoreError> {
        self.backend.read(|view| events::message(view, id)).await
    }

    async fn redrive(
        &self,
        id: EventId,
        becomes: Option<Payload>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.backend.run(move |txn| arrivals::redrive(txn, id, becomes, now)).await
    }

    async fn discard(&self, ids: Vec<EventId>) -> Vec<Result<Option<EventState>, StoreError>> {
        let transactions = ids.into_iter().map(|id| move |txn: &mut Txn<'_>| set_aside::discard(txn, id));
        self.run_all(transactions, Patience::UntilDecided).await
    }

    async fn put_fans(&self, fans: Vec<NewFan>, now: Timestamp) -> Result<Vec<Registered>, StoreError> {
        self.backend.indexed().await?;
        let shared_clock = self.backend.replicas().is_some();
        let of_apps = fans.chunk_by(|a, b| a.key.app == b.key.app);
        let chunks = of_apps.flat_map(|fans| fans.chunks(ROWS_PER_TRANSACTION));
        let transactions = chunks.map(|chunk| {
            let (chunk, app) = (chunk.to_vec(), chunk.first().map(|fan| fan.key.app.clone()));
            move |txn: &mut Txn<'_>| match &app {
                Some(app) => fans::register(txn, app, &chunk, now, shared_clock),
                None => Ok(Vec::new()),
            }
        });
        let registered: Result<Vec<_>, _> =
            self.run_all(transactions, Patience::InTime).await.into_iter().collect();
        Ok(registered?.concat())
    }

    async fn fans(&self, unionid: &Unionid) -> Result<Vec<(FanKey, Fan)>, StoreError> {
        self.backend.indexed().await?;
        Ok(self
            .backend
            .read(|view| roll::undamaged_fans_of(view, unionid))
            .await?
            .into_iter()
            .map(|entry| (entry.key, entry.fan))
            .collect())
    }

    async fn list_fans(
        &self,
        filter: &FanFilter,
        from: u64,
        limit: usize,
        now: Timestamp,
    ) -> Result<FanPage, StoreError> {
        self.backend.read(|view| listing::fans_from(view, filter, from, limit, now)).await
    }

    async fn fan_tallies(&self) -> Result<Vec<(AppName, Tally)>, StoreError> {
        self.backend.read(queues::tallies).await
    }

    async fn lease_fans(
        &self,
        app: &AppName,
        step: FanStep,
        priorities: &[Priority],
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<FanWork>, StoreError> {
        self.lease_due_fans(app, step, priorities, now, limit).await
    }

    async fn next_fan_due(
        &self,
        app: &AppName,
        step: FanStep,
        priorities: &[Priority],
    ) -> Result<Option<Timestamp>, StoreError> {
        self.next_free_fan(app, step, priorities).await
    }

    async fn settle_fans(
        &self,
        outcomes: Vec<(FanWork, FanOutcome)>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.backend.indexed().await?;
        let leased = |work: &FanWork| fan_lease(work.step, FanNumber(work.number));
        let keyed =
            outcomes.into_iter().map(|(work, outcome)| (leased(&work), (work, outcome, now))).collect();
        let settle = |txn: &mut Txn<'_>, (work, outcome, now): (FanWork, FanOutcome, Timestamp)| {
            fans::settle(txn, &work, outcome, now)
        };
        self.settle_all(keyed, settle).await?;
        Ok(())
    }

    async fn review_fans(&self, app: &AppName, renew: Renew, now: Timestamp) -> Result<usize, StoreError> {
        self.backend.ready()?;
        self.backend.indexed().await?;
        // A record of the timeline that turns out to be damaged is not the first one any more.
        while let Some(key) = self.backend.read(|view| fans::first_review(view, app, now)).await? {
            let (app, of) = (app.clone(), key.clone());
            let review = move |txn: &mut Txn<'_>| fans::review(txn, &app, of, renew, now);
            if let Some(reviewed) = self.backend.damaged().skip(&key, self.backend.run(review).await)? {
                return Ok(reviewed);
            }
        }
        Ok(0)
    }

    async fn reserve(
        &self,
        accounts: &[(String, Budget)],
        api: &'static str,
        share: Share,
        want: u32,
        now: Moment,
    ) -> Result<Grant, StoreError> {
        let accounts: Vec<_> =
            accounts.iter().map(|(account, budget)| (keys::ledger(account, api), *budget)).collect();
        self.backend.run(move |txn| ledgers::reserve(txn, accounts, share, want, now)).await
    }

    async fn rate_limited(
        &self,
        account: &str,
        budget: Budget,
        api: &'static str,
        now: Moment,
    ) -> Result<i64, StoreError> {
        let key = keys::ledger(account, api);
        self.backend.run(move |txn| ledgers::rate_limited(txn, key, budget, now)).await
    }

    async fn ledger(&self, account: &str, api: &'static str) -> Result<Ledger, StoreError> {
        self.backend.read(|view| ledgers::ledger(view, account, api)).await
    }

    async fn put_dealers(&self, app: &AppName, listed: Vec<Dealer>) -> Result<Vec<CorpId>, StoreError> {
        let corps: Vec<_> = listed.iter().map(|dealer| dealer.corp_id.clone()).collect();
        let transactions = listed.into_iter().map(|dealer| {
            let app = app.clone();
            move |txn: &mut Txn<'_>| dealers::put(txn, &app, dealer)
        });
        let results = self.run_all(transactions, Patience::InTime).await;
        let are_new: Vec<_> = results.into_iter().collect::<Result<_, _>>()?;
        Ok(corps.into_iter().zip(are_new).filter(|(_, is_new)| *is_new).map(|(corp, _)| corp).collect())
    }

    async fn dealer_left(&self, app: &AppName, corp_id: &CorpId, now: Timestamp) -> Result<bool, StoreError> {
        let (app, corp_id) = (app.clone(), corp_id.clone());
        self.backend
            .run(move |txn| {
                dealers::change(txn, &app, &corp_id, |dealer| {
                    dealer.left_at.get_or_insert(now);
                })
            })
            .await
    }

    async fn set_qualification(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        qualification: Qualification,
    ) -> Result<(), StoreError> {
        let (app, corp_id) = (app.clone(), corp_id.clone());
        self.backend
            .run(move |txn| {
                dealers::change(txn, &app, &corp_id, |dealer| dealer.qualification = Some(qualification))
            })
            .await?;
        Ok(())
    }

    async fn dealer(&self, app: &AppName, corp_id: &CorpId) -> Result<Option<Dealer>, StoreError> {
        self.backend.read(|view| view.read(&keys::dealer(app, corp_id))).await
    }

    async fn dealers(&self, app: &AppName) -> Result<Vec<Dealer>, StoreError> {
        self.backend.read(|view| dealers::of_app(view, app)).await
    }

    async fn set_token_owner(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        owner: TokenOwner,
    ) -> Result<(), StoreError> {
        let (app, corp_id) = (app.clone(), corp_id.clone());
        self.backend
            .run(move |txn| dealers::change(txn, &app, &corp_id, |dealer| dealer.token = Some(owner)))
            .await?;
        Ok(())
    }

    async fn links(&self, query: &LinkQuery, now: Timestamp) -> Result<Vec<LinkData>, StoreError> {
        self.backend.read(|view| links::find(view, query, now)).await
    }

    fn counts(&self) -> Counts {
        self.backend.counts()
    }

    async fn oldest_event(&self) -> Result<Option<Timestamp>, StoreError> {
        self.backend.read(events::oldest).await
    }

    fn ready(&self) -> Result<(), StoreError> {
        self.backend.ready()?;
        let limit = self.limits.inbox_events_max;
        if self.counts().inbox >= limit { Err(StoreError::InboxFull { limit }) } else { Ok(()) }
    }

    fn damaged_records(&self) -> usize {
        self.backend.damaged().keys().len()
    }

    fn free_disk_bytes(&self) -> Option<u64> {
        self.backend.free_disk_bytes()
    }

    fn log_status(&self) -> Option<LogStatus> {
        self.backend.log_status()
    }

    async fn failed(&self) -> String {
        self.backend.failed().await
    }

    async fn shift_waits(&self, by_ms: i64, after: Timestamp) -> Result<(), StoreError> {
        self.shift_stored_waits(by_ms, after).await
    }

    async fn last_moment(&self) -> Result<Option<Moment>, StoreError> {
        self.backend.read(clock::last_moment).await
    }

    async fn put_moment(&self, now: Moment) -> Result<(), StoreError> {
        self.backend.run(move |txn| clock::put(txn, &now)).await
    }

    async fn sweep(&self, now: Timestamp) -> Result<u64, StoreError> {
        self.sweep_seen(now).await
    }

    async fn sweep_quarantine(&self, now: Timestamp) -> (u64, Result<(), StoreError>) {
        self.delete_expired_messages(now).await
    }

    fn replicas(&self) -> Option<&dyn Replicas> {
        self.backend.replicas()
    }

    fn end_leases(&self) {
        self.queues.end_leases();
        self.fan_leases.end_all();
    }

    async fn close(&self) {
        self.backend.close().await;
    }
}
