//! Moving stored waits to another instant: all of them when the wall clock was set, or those that a circuit
//! breaker deferred to its next probe.

use super::{chats, fans, suites, work};
use crate::domain::lookup::Haste;
use crate::domain::time::{Moment, Timestamp};
use crate::store::StoreError;
use crate::store::embedded::EmbeddedStore;
use crate::store::embedded::records::Record;
use crate::store::embedded::rows::keys;
use crate::store::embedded::rows::txn::Txn;
use crate::store::embedded::writer::Patience;

impl Record for Moment {}

/// Rows that are read, or moved, before other work has its turn.
const ROWS_AT_ONCE: usize = 1_000;

impl EmbeddedStore {
    /// Moves every wait that is due after `after` by `by_ms`. The rows are read before the first is moved, so
    /// that none is moved twice.
    pub(crate) async fn shift_stored_waits(&self, by_ms: i64, after: Timestamp) -> Result<(), StoreError> {
        let queues = [
            (keys::inbox_until(after), b'i'),
            (keys::lookups_until(Haste::Live, after), b'y'),
            (keys::lookups_until(Haste::Background, after), b'w'),
            (keys::readings_until(after), b'j'),
        ];
        for (from, kind) in queues {
            let rows =
                self.rows(&from, &keys::after(&[kind]), usize::MAX, |key, _| Ok(Some(key.to_vec())))?;
            for page in rows.chunks(ROWS_AT_ONCE) {
                let free: Vec<_> = {
                    let leased = self.leases();
                    page.iter().filter(|key| by_ms < 0 || !leased.contains(*key)).cloned().collect()
                };
                let transactions = free.iter().cloned().map(|key| {
                    move |txn: &mut Txn<'_>| match kind {
                        b'j' => chats::move_reading(txn, &key, by_ms),
                        _ => work::move_to(txn, &key, |due_at| due_at.plus_ms(by_ms)).map(drop),
                    }
                });
                let results = self.run_all(transactions, Patience::InTime).await;
                for (key, result) in free.iter().zip(results) {
                    self.undamaged(key, result)?;
                }
            }
        }
        for key in self.exchanges_to_move(by_ms, after)? {
            let exchange = key.clone();
            let moved = self.writer.run(move |txn| suites::move_exchange(txn, key, by_ms)).await;
            self.undamaged(&exchange, moved)?;
        }
        for key in self.tickets()? {
            let ticket = key.clone();
            let moved = self.writer.run(move |txn| suites::move_ticket(txn, key, by_ms, after)).await;
            self.undamaged(&ticket, moved)?;
        }
        self.indexed().await?;
        let places = self.rows(b"t", &keys::after(b"t"), usize::MAX, |key, _| {
            let due_at = keys::due_of_fan_place(key)?;
            Ok((due_at > after).then(|| key.to_vec()))
        })?;
        for place in places {
            let key = place.clone();
            let moved = self.writer.run(move |txn| fans::move_place(txn, &key, by_ms)).await;
            self.undamaged(&place, moved)?;
        }
        Ok(())
    }

    /// Makes the work that is due exactly at `due_at` due at `now`, except leased work. Returns the number of
    /// pieces.
    pub(crate) async fn bring_work_forward(
        &self,
        due_at: Timestamp,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
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
                    .map(|key| move |txn: &mut Txn<'_>| work::move_to(txn, &key, |_| now));
                let results = self.run_all(transactions, Patience::InTime).await;
                for (key, result) in free.iter().zip(results) {
                    moved += u64::from(self.undamaged(key, result)?.unwrap_or(false));
                }
            }
        }
        Ok(moved)
    }
}
