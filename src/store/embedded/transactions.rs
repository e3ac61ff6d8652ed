//! The business transactions as [`Store`] names them: each hands its part to the writer, or reads.

use async_trait::async_trait;

use super::super::{
    Appended, Arrival, Counts, EventId, EventRow, EventState, FanFilter, FanOutcome, FanPage, FanWork,
    InboxEvent, LINKS_MAX, LinkBy, LinkQuery, NewFan, Outcome, Payload, Registered, Store, StoreError, Work,
    WorkId,
};
use super::corp_names::CorpNames;
use super::frontier::Frontiers;
use super::inbox::{Seen, SetAside};
use super::leasing::{fan_lease, lease_key};
use super::queues::{Books, Waiting};
use super::records::decode;
use super::roll::FanNumber;
use super::txn::Txn;
use super::writer::Patience;
use super::{EmbeddedStore, arrivals, dealers, fans, keys, ledgers, links, roll};
use crate::domain::contact::Contact;
use crate::domain::dealer::{Dealer, Qualification, TokenOwner};
use crate::domain::fan::{Fan, FanStep, Priority, Renew};
use crate::domain::ids::{AppName, ContactKey, CorpId, FanKey, Unionid};
use crate::domain::link::LinkData;
use crate::domain::lookup::Haste;
use crate::domain::quota::{Budget, Grant, Ledger, Share};
use crate::domain::tally::Tally;
use crate::domain::time::{DAY_MS, Moment, Timestamp};

#[async_trait]
impl Store for EmbeddedStore {
    async fn append(&self, arrival: Arrival) -> Result<Appended, StoreError> {
        let events_max = self.settings.inbox_events_max;
        self.writer.run(move |txn| arrivals::append(txn, arrival, events_max)).await
    }

    async fn lease(&self, now: Timestamp, limit: usize, background: usize) -> Result<Vec<Work>, StoreError> {
        self.writer.shared.ready()?;
        let mut leased = self.leases();
        let inbox = &self.frontiers.inbox;
        let (mut work, last) =
            self.free_rows(&leased, inbox, &keys::inbox_until(now), limit, |key, value| {
                let Some(event) = self.undamaged(key, decode::<InboxEvent>(key, value))? else {
                    return Ok(None);
                };
                let (id, contact) = (WorkId::Event(event.due_at, event.id), event.contact_key());
                self.known(Work { id, contact, event: Some(event), known: None })
            })?;
        let room = limit - work.len();
        let (live, last_live) = self.free_lookups(&leased, Haste::Live, now, room)?;
        let (others, last_other) = self.free_lookups(&leased, Haste::Background, now, background)?;
        work.extend(live);
        work.extend(others);
        // Last, so that an error on the way leaves nothing leased to nobody, and nothing free behind.
        leased.extend(work.iter().map(|item| lease_key(&item.id)));
        let Frontiers { live, background, .. } = &*self.frontiers;
        for (queue, last) in [(inbox, last), (live, last_live), (background, last_other)] {
            if let Some(last) = last {
                queue.passed(&last);
            }
        }
        Ok(work)
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        let Frontiers { inbox, live, background } = &*self.frontiers;
        let mut next = None;
        for (queue, prefix) in [(inbox, b"i"), (live, b"y"), (background, b"w")] {
            let first = self.first_free(queue, prefix)?;
            let due_at = first.map(|key| keys::Parts::of(&key).instant()).transpose()?;
            next = next.into_iter().chain(due_at).min();
        }
        Ok(next)
    }

    async fn settle(
        &self,
        outcomes: Vec<(Work, Outcome)>,
        now: Timestamp,
    ) -> Result<Vec<Timestamp>, StoreError> {
        self.indexed().await?;
        let outcomes =
            outcomes.into_iter().map(|(work, verdict)| (lease_key(&work.id), (work, verdict, now))).collect();
        let settle = |txn: &mut Txn<'_>, (work, verdict, now): (Work, Outcome, Timestamp)| {
            links::settle(txn, &work, verdict, now)
        };
        Ok(self.settle_all(outcomes, settle).await?.into_iter().flatten().collect())
    }

    async fn bring_forward(&self, due_at: Timestamp, now: Timestamp) -> Result<u64, StoreError> {
        const ROWS_AT_ONCE: usize = 1_000;
        let (just_before, mut moved) = (due_at.plus_ms(-1), 0);
        let lookups = |haste| (keys::lookups_until(haste, just_before), keys::lookups_until(haste, due_at));
        let events = (keys::inbox_until(just_before), keys::inbox_until(due_at));
        for (mut from, to) in [events, lookups(Haste::Live), lookups(Haste::Background)] {
            loop {
                let page = self.rows(&from, &to, ROWS_AT_ONCE, |key, _| Ok(Some(key.to_vec())))?;
                let Some(last) = page.last() else { break };
                from = [last.as_slice(), &[0]].concat();
                let free: Vec<_> = {
                    let leased = self.leases();
                    page.into_iter().filter(|key| !leased.contains(key)).collect()
                };
                let transactions = free
                    .iter()
                    .cloned()
                    .map(|key| move |txn: &mut Txn<'_>| links::bring_forward(txn, &key, now));
                let results = self.run_all(transactions, Patience::InTime).await;
                for (key, result) in free.iter().zip(results) {
                    moved += u64::from(self.undamaged(key, result)?.unwrap_or(false));
                }
            }
        }
        Ok(moved)
    }

    async fn events(
        &self,
        state: EventState,
        after: EventId,
        limit: usize,
    ) -> Result<Vec<EventRow>, StoreError> {
        match state {
            EventState::Waiting => {
                let leased = self.leases().clone();
                self.rows(b"i", &keys::after(b"i"), limit, |key, value| {
                    if leased.contains(key) {
                        return Ok(None);
                    }
                    Ok(self.undamaged(key, decode(key, value))?.map(EventRow::Inbox))
                })
            }
            EventState::Leased => {
                let mut leased: Vec<_> =
                    self.leases().iter().filter(|key| key.starts_with(b"i")).cloned().collect();
                leased.sort_unstable();
                let events = leased.iter().take(limit).map(|key| self.read::<InboxEvent>(key));
                events.filter_map(|event| event.map(|e| e.map(EventRow::Inbox)).transpose()).collect()
            }
            EventState::Dead | EventState::Quarantined => {
                let from = keys::set_aside(EventId(after.0.saturating_add(1)));
                self.rows(&from, &keys::after(b"x"), limit, |key, value| {
                    let row = EventRow::from(decode::<SetAside>(key, value)?);
                    let wanted = matches!(row, EventRow::Dead { .. }) == (state == EventState::Dead);
                    Ok(wanted.then_some(row))
                })
            }
        }
    }

    async fn event(&self, id: EventId) -> Result<Option<EventRow>, StoreError> {
        Ok(self.read::<SetAside>(&keys::set_aside(id))?.map(EventRow::from))
    }

    async fn quarantined_message(&self, id: EventId) -> Result<Option<Vec<u8>>, StoreError> {
        self.message(id)
    }

    async fn redrive(
        &self,
        id: EventId,
        becomes: Option<Payload>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.writer.run(move |txn| arrivals::redrive(txn, id, becomes, now)).await
    }

    async fn put_fans(&self, fans: Vec<NewFan>, now: Timestamp) -> Result<Vec<Registered>, StoreError> {
        // Under the hundred keys of a group, should every one lie on a sheet of its own; a pending id also brings a
        // review and whom it meets.
        const PLAIN_PER_TRANSACTION: usize = 80;
        const MINTED_PER_TRANSACTION: usize = 32;
        self.indexed().await?;
        let alike = fans.chunk_by(|a, b| a.key.app == b.key.app && a.minted.is_some() == b.minted.is_some());
        let chunks = alike.flat_map(|fans| {
            let minted = fans.first().is_some_and(|fan| fan.minted.is_some());
            fans.chunks(if minted { MINTED_PER_TRANSACTION } else { PLAIN_PER_TRANSACTION })
        });
        let transactions = chunks.map(|chunk| {
            let (chunk, app) = (chunk.to_vec(), chunk.first().map(|fan| fan.key.app.clone()));
            move |txn: &mut Txn<'_>| match &app {
                Some(app) => fans::register(txn, app, &chunk, now),
                None => Ok(Vec::new()),
            }
        });
        let registered: Result<Vec<_>, _> =
            self.run_all(transactions, Patience::InTime).await.into_iter().collect();
        Ok(registered?.concat())
    }

    async fn fans(&self, unionid: &Unionid) -> Result<Vec<(FanKey, Fan)>, StoreError> {
        self.indexed().await?;
        Ok(roll::fans_of(self, unionid)?.into_iter().map(|entry| (entry.key, entry.fan)).collect())
    }

    async fn list_fans(
        &self,
        filter: &FanFilter,
        from: u64,
        limit: usize,
        now: Timestamp,
    ) -> Result<FanPage, StoreError> {
        self.fans_from(filter, from, limit, now)
    }

    async fn fan_tallies(&self) -> Result<Vec<(AppName, Tally)>, StoreError> {
        self.rows(b"l", &keys::after(b"l"), usize::MAX, |key, value| {
            let app =
                AppName::new(keys::Parts::of(key).id()?).map_err(|e| StoreError::Damaged(e.to_string()))?;
            Ok(self.undamaged(key, decode::<Books>(key, value))?.map(|books| (app, books.tally)))
        })
    }

    async fn lease_fans(
        &self,
        app: &AppName,
        step: FanStep,
        priorities: &[Priority],
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<FanWork>, StoreError> {
        self.writer.shared.ready()?;
        self.indexed().await?;
        let (mut work, mut strays) = (Vec::new(), Vec::new());
        for priority in priorities {
            let left = limit - work.len();
            match self.lease_of_queue(app, step, *priority, now, left, &mut strays) {
                Ok(more) => work.extend(more),
                // What is leased has to be worked off; the error will be met again.
                Err(error) if work.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        for strays in strays {
            // Whoever comes across them next clears them away just as well.
            if let Err(error) = self.writer.run(move |txn| fans::clear_away(txn, strays)).await {
                tracing::debug!(%error, "left places were not cleared away");
                break;
            }
        }
        Ok(work)
    }

    async fn next_fan_due(
        &self,
        app: &AppName,
        step: FanStep,
        priorities: &[Priority],
    ) -> Result<Option<Timestamp>, StoreError> {
        let leased = self.leases().clone();
        let mut next = None;
        for priority in priorities {
            let queue = keys::fan_queue(app, step, *priority);
            let due = self.rows(&queue, &keys::after(&queue), 1, |key, value| {
                let Some(waiting) = self.undamaged(key, decode::<Waiting>(key, value))? else {
                    return Ok(None);
                };
                let free = waiting.0.iter().any(|number| !leased.contains(&fan_lease(step, *number)));
                free.then(|| keys::Parts(&key[queue.len()..]).instant()).transpose()
            })?;
            next = next.into_iter().chain(due).min();
        }
        Ok(next)
    }

    async fn settle_fans(
        &self,
        outcomes: Vec<(FanWork, FanOutcome)>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.indexed().await?;
        let leased = |work: &FanWork| fan_lease(work.step, FanNumber(work.number));
        let keyed =
            outcomes.into_iter().map(|(work, verdict)| (leased(&work), (work, verdict, now))).collect();
        self.settle_all(keyed, |txn, (work, verdict, now)| fans::settle(txn, &work, verdict, now)).await?;
        Ok(())
    }

    async fn review_fans(&self, app: &AppName, renew: Renew, now: Timestamp) -> Result<usize, StoreError> {
        // Each may touch a sheet of its own.
        const FANS_PER_TRANSACTION: usize = 32;
        self.writer.shared.ready()?;
        self.indexed().await?;
        let first = self.rows(&keys::reviews(app), &keys::reviews_until(app, now), 1, |key, _| {
            Ok((!self.damaged_keys().contains(key)).then(|| key.to_vec()))
        })?;
        let Some(key) = first.into_iter().next() else { return Ok(0) };
        let (app, of) = (app.clone(), key.clone());
        let reviewed =
            self.writer.run(move |txn| fans::review(txn, &app, of, FANS_PER_TRANSACTION, renew, now)).await;
        Ok(self.undamaged(&key, reviewed)?.unwrap_or(0))
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
        self.writer.run(move |txn| ledgers::reserve(txn, accounts, share, want, now)).await
    }

    async fn rate_limited(
        &self,
        account: &str,
        budget: Budget,
        api: &'static str,
        now: Moment,
    ) -> Result<i64, StoreError> {
        let key = keys::ledger(account, api);
        self.writer.run(move |txn| ledgers::rate_limited(txn, key, budget, now)).await
    }

    async fn ledger(&self, account: &str, api: &'static str) -> Result<Ledger, StoreError> {
        Ok(self.read(&keys::ledger(account, api))?.unwrap_or_default())
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
        self.writer
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
        self.writer
            .run(move |txn| {
                dealers::change(txn, &app, &corp_id, |dealer| dealer.qualification = Some(qualification))
            })
            .await?;
        Ok(())
    }

    async fn dealer(&self, app: &AppName, corp_id: &CorpId) -> Result<Option<Dealer>, StoreError> {
        self.read(&keys::dealer(app, corp_id))
    }

    async fn dealers(&self, app: &AppName) -> Result<Vec<Dealer>, StoreError> {
        let prefix = keys::dealers(app);
        self.rows(&prefix, &keys::after(&prefix), usize::MAX, |key, value| decode(key, value).map(Some))
    }

    async fn set_token_owner(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        owner: TokenOwner,
    ) -> Result<(), StoreError> {
        let (app, corp_id) = (app.clone(), corp_id.clone());
        self.writer
            .run(move |txn| dealers::change(txn, &app, &corp_id, |dealer| dealer.token = Some(owner)))
            .await?;
        Ok(())
    }

    async fn links(&self, query: &LinkQuery, now: Timestamp) -> Result<Vec<LinkData>, StoreError> {
        let contacts = match &query.by {
            LinkBy::Unionid(unionid) => self.contacts_in(&keys::linked_to(unionid))?,
            LinkBy::PendingId(pending_id) => self.contacts_in(&keys::contacts_at(pending_id, None))?,
            LinkBy::ExternalUserid(external_userid) => {
                let prefix = keys::contacts_of(external_userid);
                let key = |key: &[u8], _: &[u8]| keys::Parts::of(key).contact().map(Some);
                self.rows(&prefix, &keys::after(&prefix), LINKS_MAX, key)?
            }
        };
        let wanted = |key: &ContactKey| {
            query.app.as_ref().is_none_or(|app| *app == key.app)
                && query.corp_id.as_ref().is_none_or(|corp| *corp == key.corp_id)
        };
        let (mut links, mut names) = (Vec::new(), CorpNames::new(&*self.engine, &self.damaged));
        for key in contacts.iter().filter(|key| wanted(key)) {
            let contact: Option<Contact> = self.read(&keys::contact(key))?;
            if let Some(mut link) = contact.and_then(|contact| contact.link_data(key, now)) {
                names.fill(&mut link)?;
                links.push(link);
            }
        }
        Ok(links)
    }

    fn counts(&self) -> Counts {
        self.writer.shared.counts()
    }

    async fn oldest_event(&self) -> Result<Option<Timestamp>, StoreError> {
        let received = |key: &[u8], value: &[u8]| Ok(Some(decode::<InboxEvent>(key, value)?.received_at));
        // The queue is by due instant; a retried event sits behind younger ones, so look at more than one.
        Ok(self.rows(b"i", &keys::after(b"i"), 1_000, received)?.into_iter().min())
    }

    fn ready(&self) -> Result<(), StoreError> {
        self.writer.shared.ready()?;
        let limit = self.settings.inbox_events_max;
        if self.counts().inbox >= limit { Err(StoreError::InboxFull { limit }) } else { Ok(()) }
    }

    fn damaged_records(&self) -> usize {
        self.damaged_keys().len()
    }

    fn free_disk_bytes(&self) -> Option<u64> {
        self.writer.shared.free_bytes()
    }

    async fn failed(&self) -> String {
        let mut failure = self.writer.shared.failure();
        let reason = failure.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    async fn shift_waits(&self, by_ms: i64, after: Timestamp) -> Result<(), StoreError> {
        self.shift_stored_waits(by_ms, after).await
    }

    async fn last_moment(&self) -> Result<Option<Moment>, StoreError> {
        let key = keys::only("moment");
        Ok(self.undamaged(&key, self.read(&key))?.flatten())
    }

    async fn put_moment(&self, now: Moment) -> Result<(), StoreError> {
        self.writer.run(move |txn| txn.put(keys::only("moment"), &now)).await
    }

    async fn sweep(&self, now: Timestamp) -> Result<u64, StoreError> {
        const LOOKED_AT_AT_ONCE: usize = 80;
        let cutoff = now.plus_ms(-DAY_MS * i64::from(self.settings.dedupe_days));
        let (mut from, to, mut deleted) = (b"d".to_vec(), keys::seen_from(cutoff), 0);
        loop {
            let page = self.rows(&from, &to, LOOKED_AT_AT_ONCE, |key, value| {
                let Seen(received_at) = self.undamaged(key, decode(key, value))?.unwrap_or(Seen(now));
                Ok(Some((key.to_vec(), received_at < cutoff)))
            })?;
            let Some((last, _)) = page.last() else { return Ok(deleted) };
            // The first key after the last one looked at.
            from = [last.as_slice(), &[0]].concat();
            let old: Vec<_> = page.into_iter().filter(|(_, old)| *old).map(|(key, _)| key).collect();
            if old.is_empty() {
                continue;
            }
            deleted += old.len() as u64;
            self.writer
                .run(move |txn| {
                    for key in old {
                        txn.delete(key);
                    }
                    Ok(())
                })
                .await?;
        }
    }

    async fn close(&self) {
        self.indexing.stop().await;
        self.writer.close().await;
        let engine = self.engine.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || engine.close()).await {
            self.writer.shared.fail(&error.0);
        }
    }
}
