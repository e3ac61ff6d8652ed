//! Deleting what has expired: deduplication records and quarantined messages, some in each transaction.
//!
//! Deliberately absent: when that is done, which is the housekeeping worker's, and how a record is recognised
//! as expired (see `arrivals` and `set_aside`).

use super::super::{EventId, StoreError};
use super::Patience;
use super::{Backend, ROWS_PER_TRANSACTION, RowStore};
use crate::domain::time::{DAY_MS, Timestamp};
use crate::store::business::{arrivals, set_aside};
use crate::store::rows::expiry::Expiries;
use crate::store::rows::keys;
use crate::store::rows::txn::Txn;

/// How often the deduplication records of messages without a `CreateTime` are read at most: they are not in
/// the order in which they expire, so finding the expired ones means reading all of them.
const UNDATED_EVERY_MS: i64 = DAY_MS;

impl<B: Backend> RowStore<B> {
    /// Deletes the deduplication records that have expired at `now`, those of messages without a `CreateTime`
    /// up to [`UNDATED_EVERY_MS`] later. Returns how many.
    pub(super) async fn sweep_seen(&self, now: Timestamp) -> Result<u64, StoreError> {
        let cutoff = now.plus_ms(-DAY_MS * i64::from(self.limits.dedupe_days));
        let Expiries { dated, undated, .. } = &self.expiries;
        let (first, first_dated) = keys::seen_undated();
        let mut deleted = 0;
        if undated.is_due(cutoff, now) {
            let (count, oldest_kept) = self.sweep_seen_in(first, &first_dated, cutoff).await?;
            deleted += count;
            let next = cutoff.plus_ms(UNDATED_EVERY_MS);
            undated.swept(now, oldest_kept.map(|oldest| oldest.max(next)));
        }
        if dated.is_due(cutoff, now) {
            let end = keys::seen_from(cutoff);
            let (count, oldest_kept) = self.sweep_seen_in(first_dated, &end, cutoff).await?;
            deleted += count;
            // The next ones are looked at when their hour is over.
            let next_hour = self.backend.read(|view| arrivals::next_seen_hour(view, &end)).await?;
            dated.swept(now, oldest_kept.into_iter().chain(next_hour.map(|end| end.plus_ms(-1))));
        }
        Ok(deleted)
    }

    /// Deletes those deduplication records from `from` on and before `to` whose message was received before
    /// `cutoff`. Returns how many, and when the oldest message of the others was received.
    async fn sweep_seen_in(
        &self,
        mut from: Vec<u8>,
        to: &[u8],
        cutoff: Timestamp,
    ) -> Result<(u64, Option<Timestamp>), StoreError> {
        let (mut deleted, mut oldest_kept) = (0, None::<Timestamp>);
        loop {
            let page =
                self.backend.read(|view| arrivals::seen_page(view, &from, to, ROWS_PER_TRANSACTION)).await?;
            let Some((last, _)) = page.last() else { return Ok((deleted, oldest_kept)) };
            from = keys::next(last);
            let mut old = Vec::new();
            for (key, received_at) in page {
                match received_at {
                    Some(received_at) if received_at < cutoff => old.push(key),
                    kept => oldest_kept = oldest_kept.into_iter().chain(kept).min(),
                }
            }
            if old.is_empty() {
                tokio::task::yield_now().await;
                continue;
            }
            deleted += old.len() as u64;
            self.backend
                .run(move |txn| {
                    for key in old {
                        txn.delete(key);
                    }
                    Ok(())
                })
                .await?;
        }
    }

    /// Deletes a batch of the quarantined messages that have expired at `now`, one transaction each: a long
    /// message has many records. Returns how many, also after an error.
    pub(super) async fn delete_expired_messages(&self, now: Timestamp) -> (u64, Result<(), StoreError>) {
        const BATCH_MESSAGES: u64 = 1_000;
        let cutoff = now.plus_ms(-DAY_MS * i64::from(self.limits.quarantine_days));
        if !self.expiries.quarantined.is_due(cutoff, now) {
            return (0, Ok(()));
        }
        let (mut after, mut deleted, mut oldest_kept) = (EventId(0), 0, None::<Timestamp>);
        while deleted < BATCH_MESSAGES {
            let page = match self
                .backend
                .read(|view| set_aside::swept_page(view, after, cutoff, ROWS_PER_TRANSACTION))
                .await
            {
                Ok(page) => page,
                Err(error) => return (deleted, Err(error)),
            };
            let transactions = page
                .expired
                .into_iter()
                .map(|id| move |txn: &mut Txn<'_>| set_aside::expire(txn, id, cutoff));
            let results = self.run_all(transactions, Patience::UntilDecided).await;
            deleted += results.iter().filter(|result| matches!(result, Ok(true))).count() as u64;
            if let Some(error) = results.into_iter().find_map(Result::err) {
                return (deleted, Err(error));
            }
            oldest_kept = oldest_kept.into_iter().chain(page.oldest_kept).min();
            let Some(last) = page.last else {
                self.expiries.quarantined.swept(now, oldest_kept);
                break;
            };
            after = last;
            tokio::task::yield_now().await;
        }
        (deleted, Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::{ContactChange, ContactEvent, Event, QuarantineReason};
    use crate::domain::ids::{AppName, CorpId, ExternalUserid, UserId};
    use crate::domain::time::HOUR_MS;
    use crate::store::business::inbox::{Seen, SetAside};
    use crate::store::embedded::engine::Memory;
    use crate::store::embedded::{EmbeddedStore, Settings};
    use crate::store::rows::records::encode;
    use crate::store::{
        Appended, Arrival, EventState, FailureReason, MessageDigest, Outcome, Payload, Quarantined, Store,
    };

    const T0: Timestamp = Timestamp::from_secs(1_795_309_323);

    /// A message to quarantine, of several records.
    fn quarantine(received_at: Timestamp) -> Arrival {
        let payload = Payload::Quarantine {
            reason: QuarantineReason::ReceiveId,
            receive_id: "wwOTHER".to_owned(),
            created_at: None,
            message: vec![7; 9_000],
            event: None,
        };
        let app = AppName::new("brand").unwrap();
        Arrival { app, digest: MessageDigest([7; 16]), received_at, payload }
    }

    /// A store with one quarantined message of several records.
    async fn with_message() -> (EmbeddedStore, EventId) {
        let store = EmbeddedStore::in_memory(Memory::default(), Settings::default()).unwrap();
        let Ok(Appended::New(id)) = store.append(quarantine(T0)).await else { panic!("not quarantined") };
        (store, id)
    }

    /// The records of dead letters, quarantined messages and their texts.
    fn records(store: &EmbeddedStore) -> usize {
        [b"x", b"z"].map(|kind| store.keys_of(kind[0]).len()).iter().sum()
    }

    #[tokio::test]
    async fn an_expired_or_discarded_message_leaves_no_record() {
        for is_discarded in [false, true] {
            let (store, id) = with_message().await;
            assert_eq!(records(&store), 4);
            if is_discarded {
                assert_eq!(store.discard(vec![id]).await, [Ok(Some(EventState::Quarantined))]);
            } else {
                let later = T0.plus_ms(30 * DAY_MS + 1);
                assert_eq!(store.sweep_quarantine(later).await, (1, Ok(())));
            }
            assert_eq!((records(&store), store.counts().quarantined), (0, 0));
        }
    }

    #[tokio::test]
    async fn a_message_that_has_become_a_dead_letter_before_it_is_deleted_is_kept() {
        let (store, id) = with_message().await;
        let page = set_aside::swept_page(&store.view(), EventId(0), T0.plus_ms(1), 9).unwrap();
        assert_eq!(page.expired, [id]);
        let contact = ContactEvent {
            change: ContactChange::Added,
            user_id: UserId::new("member").unwrap(),
            external_userid: ExternalUserid::new("wmCUSTOMER").unwrap(),
            state: None,
            welcome_code: None,
        };
        let event = Event { corp_id: CorpId::new("wpDEALER").unwrap(), created_at: T0, contact };
        assert_eq!(store.redrive(id, Some(Payload::Event(event)), T0).await, Ok(true));
        let work = store.lease(T0, 1, 1).await.unwrap().remove(0);
        let reason = FailureReason { errcode: None, text: String::new() };
        store.settle(vec![(work, Outcome::Dead(reason))], T0).await.unwrap();
        let cutoff = T0.plus_ms(1);
        assert_eq!(store.backend().run(move |txn| set_aside::expire(txn, id, cutoff)).await, Ok(false));
        assert_eq!((store.counts().dead, store.counts().quarantined), (1, 0));
    }

    #[tokio::test]
    async fn a_sweep_with_nothing_expired_reads_a_few_rows_and_deletes_in_time_what_expires_later() {
        const ROWS: u16 = 3_000;
        let memory = Memory::default();
        let (app, hour, day) = (AppName::new("brand").unwrap(), HOUR_MS, DAY_MS);
        let digest = |n: u16| MessageDigest::of(&app, &n.to_be_bytes());
        let seen = |created_at, received_at: Timestamp, n| {
            let key = keys::seen(created_at, &digest(n));
            (key.clone(), Some(encode(&key, &Seen(received_at)).unwrap()))
        };
        let message = |n: u16| {
            let (id, app) = (EventId(10_000 + u64::from(n)), app.clone());
            let reason = QuarantineReason::ReceiveId;
            let (receive_id, message_bytes) = ("wwOTHER".to_owned(), 0);
            let quarantined = Quarantined { id, app, received_at: T0, reason, receive_id, message_bytes };
            let key = keys::set_aside(id);
            (key.clone(), Some(encode(&key, &SetAside::Quarantined(quarantined)).unwrap()))
        };
        let undated = (0..ROWS).map(|n| seen(Timestamp::EPOCH, T0, n));
        // Messages that came a month late.
        let late = (0..ROWS).map(|n| seen(T0.plus_ms(-30 * day), T0, n));
        let rows = undated.chain(late).chain((1..=ROWS).map(message)).chain([seen(T0, T0, 0)]);
        memory.overwrite(&rows.collect::<Vec<_>>());
        let store = EmbeddedStore::in_memory(memory.clone(), Settings::default()).unwrap();
        let sweep = async |now| (store.sweep(now).await.unwrap(), store.sweep_quarantine(now).await.0);
        assert_eq!(sweep(T0.plus_ms(hour)).await, (0, 0));
        let before = memory.rows_read();
        for n in 2..100 {
            assert_eq!(sweep(T0.plus_ms(n * hour)).await, (0, 0));
        }
        assert!(memory.rows_read() - before < 10, "{} rows", memory.rows_read() - before);
        // Received after the sweeps.
        let aside = store.append(quarantine(T0.plus_ms(2 * day))).await;
        assert!(matches!(aside, Ok(Appended::New(_))));
        assert_eq!(sweep(T0.plus_ms(7 * day)).await, (0, 0), "not older than that");
        assert_eq!(sweep(T0.plus_ms(7 * day + hour)).await.0, 2 * u64::from(ROWS) + 1);
        assert_eq!(sweep(T0.plus_ms(10 * day)).await.0, 1);
        assert_eq!(store.keys_of(b'd').len(), 0);
        let mut deleted = 0;
        loop {
            match sweep(T0.plus_ms(30 * day + 1)).await.1 {
                0 => break,
                count => deleted += count,
            }
        }
        assert_eq!(deleted, u64::from(ROWS));
        assert_eq!(sweep(T0.plus_ms(32 * day + 1)).await.1, 1);
    }
}
