//! The business transactions as [`Store`] names them: each hands its part to the writer, or reads.

use async_trait::async_trait;
use tokio::sync::watch;

use super::super::{
    Appended, Arrival, Counts, EventId, EventRow, EventState, FanVerdict, FanWork, Happening, InboxEvent,
    LINKS_MAX, LinkBy, LinkQuery, NewFan, Registered, Store, StoreError, Verdict, Work, WorkId,
};
use super::inbox::{MessagePart, Seen, SetAside};
use super::links::StoredEntry;
use super::records::decode;
use super::txn::Txn;
use super::{EmbeddedStore, fans, inbox, keys, links};
use crate::domain::contact::Contact;
use crate::domain::dealer::{Dealer, TokenOwner};
use crate::domain::fan::{Fan, FanStep};
use crate::domain::ids::{AppName, ContactKey, CorpId, FanKey, Unionid};
use crate::domain::link::{FeedEntry, LinkData};
use crate::domain::quota::{Grant, Ledger, Limits};
use crate::domain::time::{DAY_MS, Timestamp};

pub(super) fn lease_key(id: &WorkId) -> Vec<u8> {
    match id {
        WorkId::Event(due_at, id) => keys::inbox(*due_at, *id),
        WorkId::Reask(due_at, contact) => keys::reask(*due_at, contact),
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn append(&self, arrival: Arrival) -> Result<Appended, StoreError> {
        let events_max = self.settings.inbox_events_max;
        self.writer.run(move |txn| inbox::append(txn, arrival, events_max)).await
    }

    async fn lease(&self, now: Timestamp, limit: usize) -> Result<Vec<Work>, StoreError> {
        self.ready()?;
        let mut leased = self.leases();
        let mut work = self.rows(b"i", &keys::inbox_until(now), limit, |key, value| {
            if leased.contains(key) {
                return Ok(None);
            }
            let Some(event) = self.undamaged(key, decode::<InboxEvent>(key, value))? else { return Ok(None) };
            let (id, contact) = (WorkId::Event(event.due_at, event.id), event.contact_key());
            self.known(Work { id, contact, event: Some(event), known: None })
        })?;
        let reasks = self.rows(b"w", &keys::reask_until(now), limit - work.len(), |key, _| {
            if leased.contains(key) {
                return Ok(None);
            }
            let mut parts = keys::Parts::of(key);
            let parsed = parts.instant().and_then(|due_at| Ok((due_at, parts.contact()?)));
            let Some((due_at, contact)) = self.undamaged(key, parsed)? else { return Ok(None) };
            let id = WorkId::Reask(due_at, contact.clone());
            self.known(Work { id, contact, event: None, known: None })
        })?;
        work.extend(reasks);
        // Last, so that an error on the way leaves nothing leased to nobody.
        leased.extend(work.iter().map(|item| lease_key(&item.id)));
        Ok(work)
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        let (event, reask) = (self.first_free(b"i")?, self.first_free(b"w")?);
        let due = |key: Option<Vec<u8>>| key.map(|key| keys::Parts::of(&key).instant()).transpose();
        Ok(due(event)?.into_iter().chain(due(reask)?).min())
    }

    async fn settle(&self, outcomes: Vec<(Work, Verdict)>, now: Timestamp) -> Result<(), StoreError> {
        let outcomes =
            outcomes.into_iter().map(|(work, verdict)| (lease_key(&work.id), (work, verdict, now))).collect();
        self.settle_all(outcomes, |txn, (work, verdict, now)| links::settle(txn, &work, verdict, now)).await
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
        let Some(SetAside::Quarantined(_)) = self.read(&keys::set_aside(id))? else {
            return Ok(None);
        };
        let prefix = keys::message_parts(id);
        let part = |key: &[u8], value: &[u8]| Ok(Some(decode::<MessagePart>(key, value)?.0));
        Ok(Some(self.rows(&prefix, &keys::after(&prefix), usize::MAX, part)?.concat()))
    }

    async fn redrive(
        &self,
        id: EventId,
        becomes: Option<Happening>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.writer.run(move |txn| inbox::redrive(txn, id, becomes, now)).await
    }

    async fn put_fans(&self, fans: Vec<NewFan>, now: Timestamp) -> Result<Vec<Registered>, StoreError> {
        const FANS_PER_TRANSACTION: usize = 40;
        let transactions = fans.chunks(FANS_PER_TRANSACTION).map(|chunk| {
            let chunk = chunk.to_vec();
            move |txn: &mut Txn<'_>| {
                chunk.iter().map(|fan| fans::register(txn, fan, now)).collect::<Result<Vec<_>, _>>()
            }
        });
        let registered: Result<Vec<_>, _> = self.run_all(transactions).await.into_iter().collect();
        Ok(registered?.concat())
    }

    async fn fans(&self, unionid: &Unionid) -> Result<Vec<(FanKey, Fan)>, StoreError> {
        let prefix = keys::fans_of(unionid);
        self.rows(&prefix, &keys::after(&prefix), LINKS_MAX, |key, value| {
            let mut parts = keys::Parts::of(key);
            parts.id()?;
            let app = AppName::new(parts.id()?).map_err(|e| StoreError::Damaged(e.to_string()))?;
            Ok(Some((FanKey { app, unionid: unionid.clone() }, decode(key, value)?)))
        })
    }

    async fn lease_fans(
        &self,
        app: &AppName,
        step: FanStep,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<FanWork>, StoreError> {
        self.ready()?;
        let mut leased = self.leases();
        let prefix = keys::fan_works(app, step);
        let due = self.rows(&prefix, &keys::fan_works_until(app, step, now), limit, |key, _| {
            if leased.contains(key) {
                return Ok(None);
            }
            let mut parts = keys::Parts(&key[prefix.len()..]);
            let parsed = parts.instant().and_then(|due_at| {
                let unionid = Unionid::new(parts.id()?).map_err(|e| StoreError::Damaged(e.to_string()))?;
                Ok((due_at, FanKey { app: app.clone(), unionid }))
            });
            let Some((due_at, fan_key)) = self.undamaged(key, parsed)? else { return Ok(None) };
            let fan: Option<Option<Fan>> = self.undamaged(key, self.read(&keys::fan(&fan_key)))?;
            Ok(fan.flatten().map(|fan| FanWork { key: fan_key, step, due_at, fan }))
        })?;
        leased.extend(due.iter().map(|work| keys::fan_work(&work.key, step, work.due_at)));
        Ok(due)
    }

    async fn next_fan_due(&self, app: &AppName, step: FanStep) -> Result<Option<Timestamp>, StoreError> {
        let prefix = keys::fan_works(app, step);
        let first = self.first_free(&prefix)?;
        first.map(|key| keys::Parts(&key[prefix.len()..]).instant()).transpose()
    }

    async fn settle_fans(
        &self,
        outcomes: Vec<(FanWork, FanVerdict)>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let with_key = |(work, verdict): (FanWork, FanVerdict)| {
            (keys::fan_work(&work.key, work.step, work.due_at), (work, verdict, now))
        };
        let outcomes = outcomes.into_iter().map(with_key).collect();
        self.settle_all(outcomes, |txn, (work, verdict, now)| fans::settle(txn, &work, verdict, now)).await
    }

    async fn reserve(
        &self,
        corp: &CorpId,
        api: &'static str,
        limits: Limits,
        want: u32,
        now: Timestamp,
    ) -> Result<Grant, StoreError> {
        let key = keys::ledger(corp, api);
        self.writer
            .run(move |txn| {
                let mut ledger: Ledger = txn.get(&key)?.unwrap_or_default();
                let grant = ledger.reserve(now, want, limits);
                if let Grant::Permits { .. } = grant {
                    txn.put(key, &ledger)?;
                }
                Ok(grant)
            })
            .await
    }

    async fn block(&self, corp: &CorpId, api: &'static str, until: Timestamp) -> Result<(), StoreError> {
        let key = keys::ledger(corp, api);
        self.writer
            .run(move |txn| {
                let mut ledger: Ledger = txn.get(&key)?.unwrap_or_default();
                ledger.block(until);
                txn.put(key, &ledger)
            })
            .await
    }

    async fn quota_used(
        &self,
        corp: &CorpId,
        api: &'static str,
        now: Timestamp,
    ) -> Result<([u32; 3], Option<Timestamp>), StoreError> {
        let ledger: Ledger = self.read(&keys::ledger(corp, api))?.unwrap_or_default();
        Ok((ledger.used(now), ledger.blocked_until(now)))
    }

    async fn put_dealers(&self, app: &AppName, dealers: Vec<Dealer>) -> Result<(), StoreError> {
        for dealer in dealers {
            let key = keys::dealer(app, &dealer.corp_id);
            self.writer
                .run(move |txn| {
                    // A damaged record is as good as none here, and is mended by being written again.
                    let known: Option<Dealer> = match txn.get(&key) {
                        Err(StoreError::Damaged(_)) => None,
                        read => read?,
                    };
                    let token = known.and_then(|known| known.token).or(dealer.token);
                    txn.put(key, &Dealer { token, ..dealer })
                })
                .await?;
        }
        Ok(())
    }

    async fn dealer(&self, app: &AppName, corp_id: &CorpId) -> Result<Option<Dealer>, StoreError> {
        self.read(&keys::dealer(app, corp_id))
    }

    async fn dealers(&self, app: &AppName) -> Result<Vec<Dealer>, StoreError> {
        let prefix = keys::dealers(app);
        self.rows(&prefix, &keys::after(&prefix), usize::MAX, |key, value| decode(key, value).map(Some))
    }

    async fn remember_token(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        owner: TokenOwner,
    ) -> Result<(), StoreError> {
        let key = keys::dealer(app, corp_id);
        self.writer
            .run(move |txn| match txn.get::<Dealer>(&key)? {
                Some(dealer) => txn.put(key, &Dealer { token: Some(owner), ..dealer }),
                None => Ok(()),
            })
            .await
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
        let mut links = Vec::new();
        for key in contacts.iter().filter(|key| wanted(key)) {
            let contact: Option<Contact> = self.read(&keys::contact(key))?;
            links.extend(contact.and_then(|contact| LinkData::of(key, &contact, now)));
        }
        Ok(links)
    }

    async fn feed(&self, after: u64, limit: usize, now: Timestamp) -> Result<Vec<FeedEntry>, StoreError> {
        let head = *self.writer.shared.feed_head().borrow();
        let (from, to) = (keys::feed(after.saturating_add(1)), keys::feed(head.saturating_add(1)));
        self.rows(&from, &to, limit, |key, value| {
            let seq = key.get(1..9).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
            Ok(Some(decode::<StoredEntry>(key, value)?.into_entry(seq, now)))
        })
    }

    fn feed_head(&self) -> watch::Receiver<u64> {
        self.writer.shared.feed_head()
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
        self.writer.shared.ready()
    }

    fn damaged(&self) -> usize {
        self.damaged_keys().len()
    }

    async fn failed(&self) -> String {
        let mut failure = self.writer.shared.failure();
        let reason = failure.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
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
        self.writer.close().await;
    }
}
