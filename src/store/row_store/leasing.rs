//! Leasing work from the queues: events, lookups and fans, and when the next piece is due.
//!
//! Work is leased first and read afterwards: from then on nobody else settles it. Queues are read in slices, and
//! other tasks have their turn after each, so a read of any length delays nobody for long.
//!
//! Leases are in memory: one process works, so a crash ends them all.

use std::time::Instant;

use super::leases::{fan_lease, lease_key};
use super::{Backend, RowStore};
use crate::domain::fan::{FanStep, Priority};
use crate::domain::ids::AppName;
use crate::domain::lookup::Haste;
use crate::domain::time::Timestamp;
use crate::store::business::queues::{self, FanQueue, Strays};
use crate::store::business::roll::{self, Entry};
use crate::store::business::{fans, work};
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

/// The keys of what is being leased. Dropped before they are [kept](Self::keep), they are released: nobody would settle
/// the work.
struct Leasing<'a, B: Backend> {
    store: &'a RowStore<B>,
    keys: Vec<Vec<u8>>,
}

impl<'a, B: Backend> Leasing<'a, B> {
    fn new(store: &'a RowStore<B>) -> Self {
        Self { store, keys: Vec::new() }
    }

    fn keep(mut self) {
        self.keys.clear();
    }
}

impl<B: Backend> Drop for Leasing<'_, B> {
    fn drop(&mut self) {
        self.keys.iter().for_each(|key| self.store.release(key, true));
    }
}

/// A free row that was taken out of its queue, to which it goes back when this is dropped.
struct Looking<'a> {
    queue: &'a WorkQueue,
    key: Option<Vec<u8>>,
}

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        self.key.take().into_iter().for_each(|key| self.queue.add(key));
    }
}

/// Reads a piece of work from its row; `None` if it, or the record of its customer, is damaged.
type ReadWork = fn(&View<'_>, &[u8], &[u8]) -> Result<Option<Work>, StoreError>;

impl<B: Backend> RowStore<B> {
    /// Leases work about customers, as [`Store::lease`](crate::store::Store::lease) does.
    pub(super) async fn lease_work(
        &self,
        now: Timestamp,
        limit: usize,
        background: usize,
    ) -> Result<Vec<Work>, StoreError> {
        self.backend.ready()?;
        let WorkQueues { inbox, live, background: others } = &*self.queues;
        let (mut leasing, mut all) = (Leasing::new(self), Vec::new());
        self.lease_from(inbox, &keys::inbox_until(now), limit, work::of_event, &mut leasing, &mut all)
            .await?;
        let (to, room) = (keys::lookups_until(Haste::Live, now), limit - all.len());
        self.lease_from(live, &to, room, work::of_lookup, &mut leasing, &mut all).await?;
        let to = keys::lookups_until(Haste::Background, now);
        self.lease_from(others, &to, background, work::of_lookup, &mut leasing, &mut all).await?;
        leasing.keep();
        Ok(all)
    }

    /// Leases up to `limit` rows of a queue before `to`, and adds their work to `all`.
    async fn lease_from(
        &self,
        queue: &WorkQueue,
        to: &[u8],
        limit: usize,
        read_work: ReadWork,
        leasing: &mut Leasing<'_, B>,
        all: &mut Vec<Work>,
    ) -> Result<(), StoreError> {
        queue.read_again(Instant::now());
        let full = all.len() + limit;
        while all.len() < full {
            let kept = leasing.keys.len();
            leasing.keys.extend(queue.lease(to, SLICE_ROWS.min(full - all.len())));
            if leasing.keys.len() == kept && !self.read_on(queue, to).await? {
                break;
            }
            let keys = &leasing.keys[kept..];
            let read = |view: &View<'_>| {
                let rows = keys.iter().map(|key| match view.get(key)? {
                    Some(value) => read_work(view, key, &value).map(Some),
                    None => Ok(None),
                });
                rows.collect::<Result<Vec<_>, _>>()
            };
            let rows = self.backend.read(read).await?;
            for (key, row) in leasing.keys.split_off(kept).into_iter().zip(rows) {
                match row {
                    Some(Some(work)) => {
                        leasing.keys.push(key);
                        all.push(work);
                    }
                    // Damaged, or gone.
                    Some(None) | None => queue.release(&key, false),
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Reads the next rows of a queue. Returns false if all rows before `to` are known.
    async fn read_on(&self, queue: &WorkQueue, to: &[u8]) -> Result<bool, StoreError> {
        let Some(from) = queue.to_read(to) else { return Ok(false) };
        let end = queue.end();
        let read = |view: &View<'_>| view.rows(&from, &end, SLICE_ROWS, |key, _| Ok(Some(key.to_vec())));
        let rows = self.backend.read(read).await?;
        let are_last = rows.len() < SLICE_ROWS;
        queue.read(&from, rows, are_last);
        Ok(true)
    }

    /// Allows to lease work again that was put off.
    pub(super) async fn take_up_work(&self, work: &[WorkId]) {
        for slice in work.chunks(SLICE_ROWS) {
            for id in slice {
                self.release(&lease_key(id), true);
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
            let mut looking = Looking { queue, key: queue.pop_free() };
            let Some(key) = &looking.key else {
                if !self.read_on(queue, &queue.end()).await? {
                    return Ok(None);
                }
                tokio::task::yield_now().await;
                continue;
            };
            let due_at = |view: &View<'_>| {
                if view.is_damaged(key) || view.get(key)?.is_none() {
                    return Ok(None);
                }
                view.undamaged(key, keys::Parts::of(key).instant())
            };
            match self.backend.read(due_at).await? {
                None => looking.key = None,
                due_at => return Ok(due_at),
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
        self.backend.ready()?;
        self.backend.indexed().await?;
        let (mut leasing, mut all, mut strays) = (Leasing::new(self), Vec::new(), Vec::new());
        for priority in priorities {
            let queue = FanQueue { app, step, priority: *priority };
            self.lease_of_queue(&queue, now, limit, &mut leasing, &mut all, &mut strays).await?;
        }
        for strays in strays {
            // The next lease that finds them removes them just as well.
            match self.backend.run(move |txn| fans::remove_strays(txn, strays)).await {
                Ok(()) | Err(StoreError::Damaged(_)) => {}
                Err(error) => {
                    tracing::debug!(%error, "outdated places in a queue were not removed");
                    break;
                }
            }
        }
        leasing.keep();
        Ok(all)
    }

    /// Leases fans of one queue until there are `limit` in `work`. Fans in its places that no longer wait in
    /// this queue are added to `strays`.
    async fn lease_of_queue(
        &self,
        queue: &FanQueue<'_>,
        now: Timestamp,
        limit: usize,
        leasing: &mut Leasing<'_, B>,
        work: &mut Vec<FanWork>,
        strays: &mut Vec<Strays>,
    ) -> Result<(), StoreError> {
        let (mut from, to) = (Some(queue.begin()), queue.until(now));
        let mut looked_at = 0;
        while let Some(begin) = from.filter(|_| work.len() < limit && looked_at < LOOKED_AT_MAX) {
            let page =
                self.backend.read(|view| queues::places(view, queue, &begin, &to, SLICE_PLACES)).await?;
            for place in page.places {
                looked_at += self.lease_of_place(queue, place, limit, leasing, work, strays).await?;
            }
            from = page.next;
            if from.is_some() {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Leases fans of one place until there are `limit` in `work`. Returns how many it has looked at.
    async fn lease_of_place(
        &self,
        queue: &FanQueue<'_>,
        place: queues::Place,
        limit: usize,
        leasing: &mut Leasing<'_, B>,
        work: &mut Vec<FanWork>,
        strays: &mut Vec<Strays>,
    ) -> Result<usize, StoreError> {
        let FanQueue { step, priority, .. } = *queue;
        let (mut strays_here, mut looked_at) = (Vec::new(), 0);
        let mut rest = place.numbers.into_iter();
        while work.len() < limit {
            let kept = leasing.keys.len();
            let leased: Vec<_> = rest
                .by_ref()
                .filter(|number| {
                    let lease = fan_lease(step, *number);
                    let is_free = self.fan_leases.lease(&lease);
                    leasing.keys.extend(is_free.then_some(lease));
                    is_free
                })
                .take(limit - work.len())
                .collect();
            if leased.is_empty() {
                break;
            }
            looked_at += leased.len();
            let read = |view: &View<'_>| {
                let here = queues::in_place(view, &place.key)?;
                let fans = leased.iter().map(|number| {
                    // Otherwise its work was settled after the place was read.
                    let fan = here.contains(number).then(|| roll::fan_at(view, *number));
                    fan.map_or(Ok(None), |fan| view.undamaged(&fan_lease(step, *number), fan))
                });
                fans.collect::<Result<Vec<_>, _>>()
            };
            let fans = self.backend.read(read).await?;
            for ((lease, number), fan) in leasing.keys.split_off(kept).into_iter().zip(leased).zip(fans) {
                match fan {
                    Some(Some(Entry { key, fan, .. })) if fan.queued_for(step) == Some(priority) => {
                        let position = place.position;
                        work.push(FanWork { key, step, priority, position, number: number.0, fan });
                        leasing.keys.push(lease);
                        continue;
                    }
                    // A fan that waits for the second time may still be in an old place of the same queue.
                    Some(_) => strays_here.push(number),
                    None => {}
                }
                self.fan_leases.release(&lease);
            }
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
                let page =
                    self.backend.read(|view| queues::places(view, &queue, &begin, &to, SLICE_PLACES)).await?;
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

    /// Ends a lease, or that work is put off. A row that `is_there` can be leased again.
    pub(super) fn release(&self, key: &[u8], is_there: bool) {
        match self.queues.of(key) {
            Some(queue) => queue.release(key, is_there),
            None => self.fan_leases.release(key),
        }
    }
}

#[cfg(test)]
mod tests;
