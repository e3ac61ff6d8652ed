//! Leasing work from the queues: events, lookups and fans, and when the next piece is due.
//!
//! Work is leased first and read afterwards: from then on nobody else settles it. Queues are read in slices, and
//! other tasks have their turn after each, so a read of any length delays nobody for long.
//!
//! Leases are in memory: one process owns the folder, so a crash ends them all.

use std::time::Instant;

use super::EmbeddedStore;
use super::leases::{fan_lease, lease_key};
use crate::domain::fan::{FanStep, Priority};
use crate::domain::ids::AppName;
use crate::domain::lookup::Haste;
use crate::domain::time::Timestamp;
use crate::store::business::queues::{self, FanQueue, Strays};
use crate::store::business::roll::{self, Entry};
use crate::store::business::{fans, work};
use crate::store::rows::ids::FanNumber;
use crate::store::rows::keys;
use crate::store::rows::view::View;
use crate::store::rows::work_queue::{WorkQueue, WorkQueues};
use crate::store::{FanWork, StoreError, Work, WorkId};

/// Rows of a queue that are read before other tasks have their turn.
const SLICE_ROWS: usize = 256;
/// The same for places of fans: each has up to 64, and the record of each is read.
const SLICE_PLACES: usize = 4;
/// Fans that one lease looks at in one queue.
const LOOKED_AT_MAX: usize = 2_048;

/// Work that is being leased. Dropped before it is [kept](Self::keep), it ends the leases: nobody would settle them.
struct Leasing<'a, W> {
    store: &'a EmbeddedStore,
    key: fn(&W) -> Vec<u8>,
    work: Vec<W>,
}

impl<'a, W> Leasing<'a, W> {
    fn new(store: &'a EmbeddedStore, key: fn(&W) -> Vec<u8>) -> Self {
        Self { store, key, work: Vec::new() }
    }

    fn keep(mut self) -> Vec<W> {
        std::mem::take(&mut self.work)
    }
}

impl<W> Drop for Leasing<'_, W> {
    fn drop(&mut self) {
        self.work.iter().for_each(|work| self.store.release(&(self.key)(work)));
    }
}

/// Reads a piece of work from its row; `None` if it, or the record of its customer, is damaged.
type ReadWork = fn(&View<'_>, &[u8], &[u8]) -> Result<Option<Work>, StoreError>;

impl EmbeddedStore {
    /// Leases work about customers, as [`Store::lease`](crate::store::Store::lease) does.
    pub(super) async fn lease_work(
        &self,
        now: Timestamp,
        limit: usize,
        background: usize,
    ) -> Result<Vec<Work>, StoreError> {
        self.writer.health.ready()?;
        let WorkQueues { inbox, live, background: others } = &*self.queues;
        let mut leasing = Leasing::new(self, |work: &Work| lease_key(&work.id));
        let all = &mut leasing.work;
        self.lease_from(inbox, &keys::inbox_until(now), limit, work::of_event, all).await?;
        let (to, room) = (keys::lookups_until(Haste::Live, now), limit - all.len());
        self.lease_from(live, &to, room, work::of_lookup, all).await?;
        let to = keys::lookups_until(Haste::Background, now);
        self.lease_from(others, &to, background, work::of_lookup, all).await?;
        Ok(leasing.keep())
    }

    /// Leases up to `limit` rows of a queue before `to`, and adds their work to `all`.
    async fn lease_from(
        &self,
        queue: &WorkQueue,
        to: &[u8],
        limit: usize,
        read_work: ReadWork,
        all: &mut Vec<Work>,
    ) -> Result<(), StoreError> {
        queue.read_again(Instant::now());
        let full = all.len() + limit;
        while all.len() < full {
            let keys = queue.lease(to, SLICE_ROWS.min(full - all.len()));
            if keys.is_empty() && !self.read_on(queue, to)? {
                break;
            }
            self.read_leased(queue, keys, read_work, all)?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Adds the work of leased rows to `all`, and ends the leases of those that are gone or damaged.
    fn read_leased(
        &self,
        queue: &WorkQueue,
        keys: Vec<Vec<u8>>,
        read_work: ReadWork,
        all: &mut Vec<Work>,
    ) -> Result<(), StoreError> {
        let view = self.view();
        let mut keys = keys.into_iter();
        while let Some(key) = keys.next() {
            let work = view.get(&key).and_then(|value| match value {
                Some(value) => read_work(&view, &key, &value).map(Some),
                None => Ok(None),
            });
            match work {
                Ok(Some(Some(work))) => all.push(work),
                // Damaged: it is not leased again.
                Ok(Some(None)) => queue.release(&key),
                // Gone, unless it was written again meanwhile.
                Ok(None) => self.release(&key),
                Err(error) => {
                    for key in std::iter::once(key).chain(keys) {
                        queue.release(&key);
                        queue.add(key);
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Reads the next rows of a queue. Returns false if all rows before `to` are known.
    fn read_on(&self, queue: &WorkQueue, to: &[u8]) -> Result<bool, StoreError> {
        let Some(from) = queue.to_read(to) else { return Ok(false) };
        let rows = self.view().rows(&from, &queue.end(), SLICE_ROWS, |key, _| Ok(Some(key.to_vec())))?;
        let are_last = rows.len() < SLICE_ROWS;
        queue.read(&from, rows, are_last);
        Ok(true)
    }

    /// Allows to lease work again that was put off.
    pub(super) async fn take_up_work(&self, work: &[WorkId]) {
        for slice in work.chunks(SLICE_ROWS) {
            for id in slice {
                self.release(&lease_key(id));
            }
            tokio::task::yield_now().await;
        }
    }

    /// When the next work about a customer that is free is due.
    pub(super) async fn next_free_work(&self) -> Result<Option<Timestamp>, StoreError> {
        let mut next = None;
        for queue in self.queues.all() {
            next = next.into_iter().chain(self.first_free(queue).await?).min();
        }
        Ok(next)
    }

    /// When the first row of a queue that is neither leased nor put off is due.
    async fn first_free(&self, queue: &WorkQueue) -> Result<Option<Timestamp>, StoreError> {
        loop {
            let Some(key) = queue.pop_free() else {
                if !self.read_on(queue, &queue.end())? {
                    return Ok(None);
                }
                tokio::task::yield_now().await;
                continue;
            };
            let view = self.view();
            let is_there = view.get(&key).map(|row| row.is_some() && !view.is_damaged(&key));
            if is_there != Ok(false)
                && let Some(due_at) = view.undamaged(&key, keys::Parts::of(&key).instant())?
            {
                queue.add(key);
                return is_there.map(|_| Some(due_at));
            }
        }
    }

    /// Leases calls for fans, as [`Store::lease_fans`](crate::store::Store::lease_fans) does, and removes
    /// outdated places from the queues.
    pub(super) async fn lease_due_fans(
        &self,
        app: &AppName,
        step: FanStep,
        priorities: &[Priority],
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<FanWork>, StoreError> {
        self.writer.health.ready()?;
        self.indexed().await?;
        let mut leasing = Leasing::new(self, |work: &FanWork| fan_lease(work.step, FanNumber(work.number)));
        let mut strays = Vec::new();
        for priority in priorities {
            let queue = FanQueue { app, step, priority: *priority };
            self.lease_of_queue(&queue, now, limit, &mut leasing.work, &mut strays).await?;
        }
        for strays in strays {
            // The next lease that finds them removes them just as well.
            match self.writer.run(move |txn| fans::remove_strays(txn, strays)).await {
                Ok(()) | Err(StoreError::Damaged(_)) => {}
                Err(error) => {
                    tracing::debug!(%error, "outdated places in a queue were not removed");
                    break;
                }
            }
        }
        Ok(leasing.keep())
    }

    /// Leases fans of one queue until there are `limit` in `work`. Fans in its places that no longer wait in
    /// this queue are added to `strays`.
    async fn lease_of_queue(
        &self,
        queue: &FanQueue<'_>,
        now: Timestamp,
        limit: usize,
        work: &mut Vec<FanWork>,
        strays: &mut Vec<Strays>,
    ) -> Result<(), StoreError> {
        let (mut from, to) = (Some(queue.begin()), queue.until(now));
        let mut looked_at = 0;
        while let Some(begin) = from.filter(|_| work.len() < limit && looked_at < LOOKED_AT_MAX) {
            let page = queues::places(&self.view(), queue, &begin, &to, SLICE_PLACES)?;
            for place in page.places {
                looked_at += self.lease_of_place(queue, place, limit, work, strays)?;
            }
            from = page.next;
            if from.is_some() {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Leases fans of one place until there are `limit` in `work`. Returns how many it has looked at.
    fn lease_of_place(
        &self,
        queue: &FanQueue<'_>,
        place: queues::Place,
        limit: usize,
        work: &mut Vec<FanWork>,
        strays: &mut Vec<Strays>,
    ) -> Result<usize, StoreError> {
        let FanQueue { step, priority, .. } = *queue;
        let (mut strays_here, mut looked_at) = (Vec::new(), 0);
        for number in place.numbers {
            let lease = fan_lease(step, number);
            if work.len() == limit || !self.fan_leases.lease(&lease) {
                continue;
            }
            looked_at += 1;
            let view = self.view();
            let entry = match queues::is_in(&view, &place.key, number) {
                Ok(true) => view.undamaged(&lease, roll::fan_at(&view, number)),
                // Its work was settled after the place was read.
                Ok(false) => Ok(None),
                Err(error) => Err(error),
            };
            // A fan that waits for the second time may still be in an old place of the same queue.
            match entry.map(|entry| {
                entry.map(|entry| entry.filter(|entry| entry.fan.queued_for(step) == Some(priority)))
            }) {
                Ok(Some(Some(Entry { key, fan, .. }))) => {
                    let position = place.position;
                    work.push(FanWork { key, step, priority, position, number: number.0, fan });
                    continue;
                }
                Ok(Some(None)) => strays_here.push(number),
                Ok(None) => {}
                Err(error) => {
                    self.fan_leases.release(&lease);
                    return Err(error);
                }
            }
            self.fan_leases.release(&lease);
        }
        if !strays_here.is_empty() {
            strays.push(Strays { place: place.key, step, priority, numbers: strays_here });
        }
        Ok(looked_at)
    }

    /// When `step` is next due for a fan of `app` that is not leased, in the queues of `priorities`.
    pub(super) async fn next_free_fan(
        &self,
        app: &AppName,
        step: FanStep,
        priorities: &[Priority],
    ) -> Result<Option<Timestamp>, StoreError> {
        let mut next = None;
        for priority in priorities {
            let queue = FanQueue { app, step, priority: *priority };
            let (mut from, to) = (Some(queue.begin()), keys::after(&queue.begin()));
            let mut due_at = None;
            while let Some(begin) = from.filter(|_| due_at.is_none()) {
                let page = queues::places(&self.view(), &queue, &begin, &to, SLICE_PLACES)?;
                let has_free = |place: &&queues::Place| {
                    let leases = place.numbers.iter().map(|number| fan_lease(step, *number));
                    !self.fan_leases.are_all_leased(leases)
                };
                due_at = page.places.iter().find(has_free).map(|place| place.position.due_at);
                from = page.next;
                if due_at.is_none() && from.is_some() {
                    tokio::task::yield_now().await;
                }
            }
            next = next.into_iter().chain(due_at).min();
        }
        Ok(next)
    }

    /// Ends a lease, or that work is put off. A row that is still there can be leased again.
    pub(super) fn release(&self, key: &[u8]) {
        let Some(queue) = self.queues.of(key) else { return self.fan_leases.release(key) };
        queue.release(key);
        // In this order: a row that is written after this look is reported by the writer.
        if !matches!(self.view().get(key), Ok(None)) {
            queue.add(key.to_vec());
        }
    }
}

#[cfg(test)]
mod tests;
