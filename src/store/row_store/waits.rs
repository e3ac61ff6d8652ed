//! Moving stored waits to another instant: all of them when the wall clock was set, or those that a circuit
//! breaker deferred to its next probe.

use std::ops::ControlFlow;

use super::Patience;
use super::{Backend, RowStore};
use crate::domain::lookup::Haste;
use crate::domain::time::Timestamp;
use crate::store::StoreError;
use crate::store::business::{chats, exchanges, fans, suites, work};
use crate::store::rows::keys;
use crate::store::rows::txn::Txn;
use crate::store::rows::view::View;

/// Rows that are moved before an error among them ends the rest.
const ROWS_AT_ONCE: usize = 1_000;

impl<B: Backend> RowStore<B> {
    /// Moves every wait that is due after `after` by `by_ms`. The rows are read before the first is moved, so
    /// that none is moved twice.
    pub(super) async fn shift_stored_waits(&self, by_ms: i64, after: Timestamp) -> Result<(), StoreError> {
        let queues = [
            (keys::inbox_until(after), b'i'),
            (keys::lookups_until(Haste::Live, after), b'y'),
            (keys::lookups_until(Haste::Background, after), b'w'),
            (keys::readings_until(after), b'j'),
        ];
        let leased_too = by_ms < 0;
        for (from, kind) in queues {
            let rows = self.keys_between(&from, &keys::after(&[kind]), |_| Ok(true)).await?;
            let shift = move |txn: &mut Txn<'_>, key: &[u8]| match kind {
                b'j' => chats::move_reading(txn, key, by_ms),
                _ => work::move_to(txn, key, |due_at| due_at.plus_ms(by_ms)).map(drop),
            };
            self.move_each(&rows, leased_too, shift).await?;
        }
        let exchanges = self.backend.read(|view| exchanges::to_shift(view, by_ms, after)).await?;
        self.move_each(&exchanges, leased_too, move |txn, key| exchanges::shift(txn, key, by_ms)).await?;
        let tickets = self.backend.read(suites::tickets).await?;
        self.move_each(&tickets, leased_too, move |txn, key| suites::shift_ticket(txn, key, by_ms, after))
            .await?;
        self.backend.indexed().await?;
        let is_later = |key: &[u8]| Ok(keys::due_of_fan_place(key)? > after);
        let places = self.keys_between(b"t", &keys::after(b"t"), is_later).await?;
        self.move_each(&places, leased_too, move |txn, key| fans::move_place(txn, key, by_ms)).await?;
        Ok(())
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
        for (from, to) in [events, lookups(Haste::Live), lookups(Haste::Background)] {
            let rows = self.keys_between(&from, &to, |_| Ok(true)).await?;
            let were_waiting = self.move_each(&rows, false, move |txn, key| work::move_to(txn, key, |_| now));
            moved += were_waiting.await?.into_iter().map(u64::from).sum::<u64>();
        }
        Ok(moved)
    }

    /// The keys of a range that are wanted; a damaged one is not.
    async fn keys_between(
        &self,
        from: &[u8],
        to: &[u8],
        is_wanted: impl Fn(&[u8]) -> Result<bool, StoreError> + Send + Sync,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut found = Vec::new();
        let look = |view: &View<'_>, key: &[u8], _: &[u8]| {
            let is_wanted = view.undamaged(key, is_wanted(key))?.unwrap_or(false);
            Ok(is_wanted.then(|| key.to_vec()))
        };
        let add = |key: Option<_>| {
            found.extend(key);
            ControlFlow::Continue(())
        };
        self.in_slices(from, to, look, add).await?;
        Ok(found)
    }

    /// Moves rows with `change`, each in a transaction of its own; leased ones only if `leased_too`. Damaged
    /// ones are skipped. Returns the results of the others.
    async fn move_each<T: Send + 'static>(
        &self,
        rows: &[Vec<u8>],
        leased_too: bool,
        change: impl Fn(&mut Txn<'_>, &[u8]) -> Result<T, StoreError> + Copy + Send + Sync + 'static,
    ) -> Result<Vec<T>, StoreError> {
        let mut moved = Vec::new();
        for page in rows.chunks(ROWS_AT_ONCE) {
            let page = page.to_vec();
            let page = if leased_too { page } else { self.queues.not_leased(page) };
            let transactions = page.iter().cloned().map(|key| move |txn: &mut Txn<'_>| change(txn, &key));
            let results = self.run_all(transactions, Patience::InTime).await;
            for (key, result) in page.iter().zip(results) {
                moved.extend(self.backend.damaged().skip(key, result)?);
            }
        }
        Ok(moved)
    }
}
