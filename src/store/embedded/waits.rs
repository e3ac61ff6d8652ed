//! Moving stored waits to another instant: all of them when the wall clock was set, or those that a circuit
//! breaker deferred to its next probe.

use super::EmbeddedStore;
use super::business::{chats, exchanges, fans, suites, work};
use super::rows::keys;
use super::rows::txn::Txn;
use super::writer::Patience;
use crate::domain::lookup::Haste;
use crate::domain::time::Timestamp;
use crate::store::StoreError;

/// Rows that are read, or moved, before other work has its turn.
const ROWS_AT_ONCE: usize = 1_000;

impl EmbeddedStore {
    /// Moves every wait that is due after `after` by `by_ms`. The rows are read before the first is moved, so
    /// that none is moved twice.
    pub(super) async fn shift_stored_waits(&self, by_ms: i64, after: Timestamp) -> Result<(), StoreError> {
        let queues = [
            (keys::inbox_until(after), b'i'),
            (keys::lookups_until(Haste::Live, after), b'y'),
            (keys::lookups_until(Haste::Background, after), b'w'),
            (keys::readings_until(after), b'j'),
        ];
        for (from, kind) in queues {
            let rows = self.keys_between(&from, &keys::after(&[kind]), |_| Ok(true)).await?;
            for page in rows.chunks(ROWS_AT_ONCE) {
                let page = page.to_vec();
                let free = if by_ms < 0 { page } else { self.queues.not_leased(page) };
                let transactions = free.iter().cloned().map(|key| {
                    move |txn: &mut Txn<'_>| match kind {
                        b'j' => chats::move_reading(txn, &key, by_ms),
                        _ => work::move_to(txn, &key, |due_at| due_at.plus_ms(by_ms)).map(drop),
                    }
                });
                let results = self.run_all(transactions, Patience::InTime).await;
                for (key, result) in free.iter().zip(results) {
                    self.damaged.skip(key, result)?;
                }
            }
        }
        let exchanges = exchanges::to_shift(&self.view(), by_ms, after)?;
        for key in exchanges {
            let exchange = key.clone();
            let moved = self.writer.run(move |txn| exchanges::shift(txn, key, by_ms)).await;
            self.damaged.skip(&exchange, moved)?;
        }
        let tickets = suites::tickets(&self.view())?;
        for key in tickets {
            let ticket = key.clone();
            let moved = self.writer.run(move |txn| suites::shift_ticket(txn, key, by_ms, after)).await;
            self.damaged.skip(&ticket, moved)?;
        }
        self.indexed().await?;
        let is_later = |key: &[u8]| Ok(keys::due_of_fan_place(key)? > after);
        let places = self.keys_between(b"t", &keys::after(b"t"), is_later).await?;
        for place in places {
            let key = place.clone();
            let moved = self.writer.run(move |txn| fans::move_place(txn, &key, by_ms)).await;
            self.damaged.skip(&place, moved)?;
        }
        Ok(())
    }

    /// The keys of a range that are wanted, read page by page.
    async fn keys_between(
        &self,
        from: &[u8],
        to: &[u8],
        is_wanted: impl Fn(&[u8]) -> Result<bool, StoreError> + Send + Sync,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let (mut from, mut found) = (from.to_vec(), Vec::new());
        loop {
            let page = self.view().rows(&from, to, ROWS_AT_ONCE, |key, _| Ok(Some(key.to_vec())))?;
            let Some(last) = page.last() else { return Ok(found) };
            from = keys::next(last);
            for key in page {
                if self.damaged.skip(&key, is_wanted(&key))?.unwrap_or(false) {
                    found.push(key);
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Makes the work that is due exactly at `due_at` due at `now`, except leased work. Returns the number of
    /// pieces.
    pub(super) async fn bring_work_forward(
        &self,
        due_at: Timestamp,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let (just_before, mut moved) = (due_at.plus_ms(-1), 0);
        let lookups = |haste| (keys::lookups_until(haste, just_before), keys::lookups_until(haste, due_at));
        let events = (keys::inbox_until(just_before), keys::inbox_until(due_at));
        for (mut from, to) in [events, lookups(Haste::Live), lookups(Haste::Background)] {
            loop {
                let page = self.view().rows(&from, &to, ROWS_AT_ONCE, |key, _| Ok(Some(key.to_vec())))?;
                let Some(last) = page.last() else { break };
                from = keys::next(last);
                let free = self.queues.not_leased(page);
                let transactions = free
                    .iter()
                    .cloned()
                    .map(|key| move |txn: &mut Txn<'_>| work::move_to(txn, &key, |_| now));
                let results = self.run_all(transactions, Patience::InTime).await;
                for (key, result) in free.iter().zip(results) {
                    moved += u64::from(self.damaged.skip(key, result)?.unwrap_or(false));
                }
            }
        }
        Ok(moved)
    }
}
