//! Leasing work from the queues: events, lookups and fans, and when the next piece is due.
//!
//! Queues are read in slices. Nothing is locked while a slice is read, and other tasks have their turn after
//! it, so a read of any length delays nobody for long.
//!
//! Deliberately absent: which work is leased (see `leases`).

use std::collections::HashSet;

use super::EmbeddedStore;
use super::business::queues::{self, FanQueue, Strays};
use super::business::roll::{self, Entry};
use super::business::{fans, work};
use super::leases::{Leasing, LookupsAt, fan_lease, lease_key};
use super::rows::frontier::{Frontier, Frontiers, QueueRead};
use super::rows::keys;
use super::rows::view::{View, failed};
use crate::domain::fan::{FanStep, Priority};
use crate::domain::ids::{AppName, CorpId};
use crate::domain::lookup::Haste;
use crate::domain::time::Timestamp;
use crate::store::{FanWork, StoreError, Work, WorkId};

/// Rows of a queue that are read before other tasks have their turn.
const SLICE_ROWS: usize = 256;
/// The first slice of a read that usually ends with its first rows.
const FIRST_SLICE_ROWS: usize = 8;
/// The same for places of fans: each has up to 64, and the record of each is read.
const SLICE_PLACES: usize = 4;
/// Fans that one lease looks at in one queue.
const LOOKED_AT_MAX: usize = 2_048;

/// Lookups of one corp that are due at one instant, held back while the rest of the list they are from is
/// stored: they are leased together, so that 230 customers cost three calls. When this is dropped, they can be
/// leased.
pub(super) struct HeldBack<'a> {
    store: &'a EmbeddedStore,
    lookups: LookupsAt,
}

impl Drop for HeldBack<'_> {
    fn drop(&mut self) {
        let live = &self.store.frontiers.live;
        self.store.leases.let_go(&self.lookups, |skipped| live.appeared(skipped));
    }
}

/// Reads a piece of work from its row; `None` if it, or the record of its customer, is damaged.
type ReadWork = fn(&View<'_>, &[u8], &[u8]) -> Result<Option<Work>, StoreError>;

/// What one slice came to.
struct Slice {
    work: Vec<Work>,
    rows_read: usize,
    is_last: bool,
}

impl EmbeddedStore {
    /// Holds back the live lookups of a corp that are due at this instant, and are still to be stored.
    pub(super) fn hold_back(&self, app: &AppName, corp_id: &CorpId, due_at: Timestamp) -> HeldBack<'_> {
        let lookups = keys::lookups_at(Haste::Live, due_at, app, corp_id);
        self.leases.hold_back(lookups.clone());
        HeldBack { store: self, lookups }
    }

    /// The keys of the leased rows of the inbox and of the queues of lookups.
    pub(super) fn leases(&self) -> HashSet<Vec<u8>> {
        self.leases.all()
    }

    /// Leases work about customers, as [`Store::lease`](crate::store::Store::lease) does.
    pub(super) async fn lease_work(
        &self,
        now: Timestamp,
        limit: usize,
        background: usize,
    ) -> Result<Vec<Work>, StoreError> {
        self.writer.health.ready()?;
        let Frontiers { inbox, live, background: others } = &*self.frontiers;
        // After an error, or if the caller waits no longer, it is dropped and nothing stays leased.
        let mut leasing = self.leases.begin().await;
        let mut all = Vec::new();
        let to = keys::inbox_until(now);
        let events = self.lease_from(&mut leasing, inbox, &to, limit, work::of_event, &mut all).await?;
        let (to, room) = (keys::lookups_until(Haste::Live, now), limit - all.len());
        let lookups = self.lease_from(&mut leasing, live, &to, room, work::of_lookup, &mut all).await?;
        let to = keys::lookups_until(Haste::Background, now);
        let others =
            self.lease_from(&mut leasing, others, &to, background, work::of_lookup, &mut all).await?;
        [events, lookups, others].into_iter().flatten().for_each(QueueRead::end);
        leasing.keep();
        Ok(all)
    }

    /// Leases up to `limit` rows of a queue before `to`, and adds their work to `all`. Returns the read of
    /// the queue, which is to be ended if all is well.
    async fn lease_from<'q>(
        &self,
        leasing: &mut Leasing<'_>,
        queue: &'q Frontier,
        to: &[u8],
        limit: usize,
        read_work: ReadWork,
        all: &mut Vec<Work>,
    ) -> Result<Option<QueueRead<'q>>, StoreError> {
        if limit == 0 {
            return Ok(None);
        }
        let (mut read, mut left, mut rows_read) = (queue.read(), limit, 0);
        while left > 0 {
            let slice = self.lease_slice(leasing, queue, &mut read, to, left, read_work)?;
            left -= slice.work.len();
            all.extend(slice.work);
            if slice.is_last {
                break;
            }
            rows_read += slice.rows_read;
            if rows_read >= SLICE_ROWS {
                rows_read = 0;
                tokio::task::yield_now().await;
            }
        }
        self.patrol(queue, &mut read, to)?;
        Ok(Some(read))
    }

    /// Leases up to `limit` rows of the next slice: of the rows that are known to be before the frontier if
    /// there are any, else of those behind it.
    fn lease_slice(
        &self,
        leasing: &mut Leasing<'_>,
        queue: &Frontier,
        read: &mut QueueRead<'_>,
        to: &[u8],
        limit: usize,
        read_work: ReadWork,
    ) -> Result<Slice, StoreError> {
        let view = self.view();
        let before = read.before(to, limit.min(SLICE_ROWS));
        let (mut rows, rows_max) = (Vec::new(), limit.clamp(FIRST_SLICE_ROWS, SLICE_ROWS));
        let is_behind = before.is_empty();
        if is_behind {
            for row in view.range(&read.from(), to).take(rows_max) {
                rows.push(row.map_err(failed)?);
            }
        } else {
            for key in before {
                rows.extend(view.get(&key)?.map(|value| (key, value)));
            }
        }
        let result = leasing.lease(rows.iter().map(|(key, _)| key.as_slice()), limit);
        for (key, _) in result.postponed.iter().filter_map(|index| rows.get(*index)) {
            queue.appeared(key);
        }
        if let Some((last, _)) = rows[..result.looked_at].last().filter(|_| is_behind) {
            read.passed(last);
        }
        let mut work = Vec::with_capacity(result.taken.len());
        for (key, value) in result.taken.iter().filter_map(|index| rows.get(*index)) {
            match read_work(&view, key, value)? {
                Some(item) => work.push(item),
                None => leasing.give_up(key),
            }
        }
        let is_last = is_behind && rows.len() < rows_max && result.looked_at == rows.len();
        Ok(Slice { work, rows_read: rows.len(), is_last })
    }

    /// Looks at some rows before the frontier, if it is time to. The next lease takes those that are free.
    fn patrol(&self, queue: &Frontier, read: &mut QueueRead<'_>, to: &[u8]) -> Result<(), StoreError> {
        let Some((begin, end)) = read.patrol() else { return Ok(()) };
        let view = self.view();
        let rows = view.rows(begin, end.min(to), SLICE_ROWS, |key, _| Ok(Some(key.to_vec())))?;
        read.patrolled(rows.last().filter(|_| rows.len() == SLICE_ROWS).map(Vec::as_slice));
        for key in self.leases.free(rows).into_iter().filter(|key| !view.is_damaged(key)) {
            queue.appeared(&key);
        }
        Ok(())
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
        let Frontiers { inbox, live, background } = &*self.frontiers;
        let mut next = None;
        for (queue, prefix) in [(inbox, b"i"), (live, b"y"), (background, b"w")] {
            let due_at = self.first_free(queue, prefix).await?;
            next = next.into_iter().chain(due_at).min();
        }
        Ok(next)
    }

    /// When the first row of a queue that is not leased is due.
    async fn first_free(&self, queue: &Frontier, prefix: &[u8]) -> Result<Option<Timestamp>, StoreError> {
        let (before, mut from) = queue.may_be_free();
        for keys in before.chunks(SLICE_ROWS) {
            let mut there = Vec::new();
            for key in keys {
                there.extend(self.view().get(key)?.map(|_| key.clone()));
            }
            if let Some(first) = self.first_free_of(there)? {
                return Ok(Some(first));
            }
            tokio::task::yield_now().await;
        }
        let (to, mut rows) = (keys::after(prefix), FIRST_SLICE_ROWS);
        loop {
            let slice = self.view().rows(&from, &to, rows, |key, _| Ok(Some(key.to_vec())))?;
            let Some(last) = slice.last() else { return Ok(None) };
            from = [last.as_slice(), &[0]].concat();
            if let Some(first) = self.first_free_of(slice)? {
                return Ok(Some(first));
            }
            rows = SLICE_ROWS;
            tokio::task::yield_now().await;
        }
    }

    fn first_free_of(&self, keys: Vec<Vec<u8>>) -> Result<Option<Timestamp>, StoreError> {
        let view = self.view();
        for key in self.leases.free(keys).iter().filter(|key| !view.is_damaged(key)) {
            if let Some(due_at) = view.undamaged(key, keys::Parts::of(key).instant())? {
                return Ok(Some(due_at));
            }
        }
        Ok(None)
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
        // As in `lease_work`.
        let mut leasing = self.fan_leases.begin().await;
        let (mut work, mut strays) = (Vec::new(), Vec::new());
        for priority in priorities {
            let queue = FanQueue { app, step, priority: *priority };
            match self.lease_of_queue(&mut leasing, &queue, now, limit, &mut work, &mut strays).await {
                Ok(()) => {}
                // The fans leased so far have to be returned; the next call meets the error again.
                Err(error) if work.is_empty() => return Err(error),
                Err(_) => break,
            }
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
        leasing.keep();
        Ok(work)
    }

    /// Leases fans of one queue until there are `limit` in `work`. Fans in its places that no longer wait in
    /// this queue are added to `strays`.
    async fn lease_of_queue(
        &self,
        leasing: &mut Leasing<'_>,
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
                looked_at += self.lease_of_place(leasing, queue, place, limit, work, strays)?;
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
        leasing: &mut Leasing<'_>,
        queue: &FanQueue<'_>,
        place: queues::Place,
        limit: usize,
        work: &mut Vec<FanWork>,
        strays: &mut Vec<Strays>,
    ) -> Result<usize, StoreError> {
        let FanQueue { step, priority, .. } = *queue;
        let leases: Vec<_> = place.numbers.iter().map(|number| fan_lease(step, *number)).collect();
        let (view, mut strays_here) = (self.view(), Vec::new());
        let (mut begin, mut looked_at) = (0, 0);
        while begin < leases.len() && work.len() < limit {
            // A fan that waits for the second time may still be in an old place of the same queue.
            let rest = leases[begin..].iter().map(Vec::as_slice);
            let result = leasing.lease(rest, limit - work.len());
            for index in result.taken.iter().map(|index| begin + index) {
                let (number, lease) = (place.numbers[index], &leases[index]);
                looked_at += 1;
                let entry = view.undamaged(lease, roll::fan_at(&view, number))?;
                match entry.map(|entry| entry.filter(|entry| entry.fan.queued_for(step) == Some(priority))) {
                    Some(Some(Entry { key, fan, .. })) => {
                        let (position, number) = (place.position, number.0);
                        work.push(FanWork { key, step, priority, position, number, fan });
                    }
                    Some(None) => {
                        leasing.give_up(lease);
                        strays_here.push(number);
                    }
                    None => leasing.give_up(lease),
                }
            }
            begin += result.looked_at;
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
                    let leases = place.numbers.iter().map(|number| fan_lease(step, *number)).collect();
                    !self.fan_leases.free(leases).is_empty()
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

    /// Ends a lease. A row that is still there can be leased again.
    pub(super) fn release(&self, key: &[u8]) {
        let is_of_fan = key.starts_with(b"t");
        let leases = if is_of_fan { &self.fan_leases } else { &self.leases };
        leases.release(key);
        // In this order: a row written after the read reports itself.
        if let Some(queue) = self.frontiers.of(key)
            && !matches!(self.view().get(key), Ok(None))
        {
            queue.appeared(key);
        }
    }
}

#[cfg(test)]
mod tests;
