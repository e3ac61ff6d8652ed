//! Leases: which events, lookups and fans are being worked on. They are in memory: one process owns the
//! folder, so a crash ends them all. And which lookups are held back until more of the same list is stored.

use std::collections::HashSet;
use std::sync::{MutexGuard, PoisonError};

use super::super::{FanWork, InboxEvent, QueuePosition, StoreError, Work, WorkId};
use super::EmbeddedStore;
use super::business::queues::{Strays, Waiting};
use super::business::roll::Entry;
use super::business::{fans, roll};
use super::records::decode;
use super::rows::frontier::{Frontier, Frontiers};
use super::rows::keys;
use super::rows::txn::failed;
use crate::domain::contact::Contact;
use crate::domain::fan::{FanStep, Priority};
use crate::domain::ids::{AppName, CorpId};
use crate::domain::lookup::Haste;
use crate::domain::time::Timestamp;
use crate::store::embedded::rows::ids::FanNumber;

/// The key under which work is leased: that of its row in its queue.
pub(super) fn lease_key(id: &WorkId) -> Vec<u8> {
    match id {
        WorkId::Event(due_at, id) => keys::inbox(*due_at, *id),
        WorkId::Lookup(haste, due_at, contact) => keys::lookup(*haste, *due_at, contact),
    }
}

/// The key under which work on a fan is leased. Shorter than any key of a queue, so that the two differ.
pub(super) fn fan_lease(step: FanStep, number: FanNumber) -> Vec<u8> {
    let mut key = vec![b't', step as u8];
    key.extend(number.0.to_be_bytes());
    key
}

/// Lookups of one corp that are due at one instant, held back while the rest of the list they are from is
/// stored: they are leased together, so that 230 customers cost three calls. When this is dropped, they can be
/// leased. Neither happens while work is being leased, which would find a part of them.
pub(super) struct HeldBack<'a> {
    store: &'a EmbeddedStore,
    lookups: LookupsAt,
}

/// What the keys of some lookups begin and end with.
pub(super) type LookupsAt = (Vec<u8>, Vec<u8>);

impl Drop for HeldBack<'_> {
    fn drop(&mut self) {
        let _not_being_leased = self.store.leases();
        let mut held_back = self.store.held_back();
        if let Some(index) = held_back.iter().position(|lookups| *lookups == self.lookups) {
            held_back.swap_remove(index);
        }
        drop(held_back);
        // In this order: a lease that has skipped them begins with them the next time.
        self.store.frontiers.live.appeared(&self.lookups.0);
    }
}

impl EmbeddedStore {
    /// Holds back the live lookups of a corp that are due at this instant.
    pub(super) fn hold_back(&self, app: &AppName, corp_id: &CorpId, due_at: Timestamp) -> HeldBack<'_> {
        let lookups = keys::lookups_at(Haste::Live, due_at, app, corp_id);
        let _not_being_leased = self.leases();
        self.held_back().push(lookups.clone());
        HeldBack { store: self, lookups }
    }

    fn held_back(&self) -> MutexGuard<'_, Vec<LookupsAt>> {
        self.held_back.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_held_back(&self, key: &[u8]) -> bool {
        self.held_back().iter().any(|(begin, end)| key.starts_with(begin) && key.ends_with(end))
    }

    /// Leases work about customers, as [`Store::lease`](super::super::Store::lease) does.
    pub(super) fn lease_work(
        &self,
        now: Timestamp,
        limit: usize,
        background: usize,
    ) -> Result<Vec<Work>, StoreError> {
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
        // Last, so that after an error nothing stays leased without being returned, and no free row is
        // skipped.
        leased.extend(work.iter().map(|item| lease_key(&item.id)));
        let Frontiers { live, background, .. } = &*self.frontiers;
        for (queue, last) in [(inbox, last), (live, last_live), (background, last_other)] {
            if let Some(last) = last {
                queue.passed(&last);
            }
        }
        Ok(work)
    }

    /// When the next work about a customer that is not leased is due.
    pub(super) fn next_free_work(&self) -> Result<Option<Timestamp>, StoreError> {
        let Frontiers { inbox, live, background } = &*self.frontiers;
        let mut next = None;
        for (queue, prefix) in [(inbox, b"i"), (live, b"y"), (background, b"w")] {
            let first = self.first_free(queue, prefix)?;
            let due_at = first.map(|key| keys::Parts::of(&key).instant()).transpose()?;
            next = next.into_iter().chain(due_at).min();
        }
        Ok(next)
    }

    /// Leases calls for fans, as [`Store::lease_fans`](super::super::Store::lease_fans) does, and removes
    /// outdated places from the queues.
    pub(super) async fn lease_due_fans(
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
                // The fans leased so far have to be returned; the next call meets the error again.
                Err(error) if work.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        for strays in strays {
            // The next lease that finds them removes them just as well.
            if let Err(error) = self.writer.run(move |txn| fans::remove_strays(txn, strays)).await {
                tracing::debug!(%error, "outdated places in a queue were not removed");
                break;
            }
        }
        Ok(work)
    }

    /// When `step` is next due for a fan of `app` that is not leased, in the queues of `priorities`.
    pub(super) fn next_free_fan(
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

    pub(super) fn leases(&self) -> MutexGuard<'_, HashSet<Vec<u8>>> {
        self.leased.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A piece of work with the record of its customer; `None` if that record is damaged.
    fn known(&self, mut work: Work) -> Result<Option<Work>, StoreError> {
        let key = keys::contact(&work.contact);
        let known = self.read::<Contact>(&key).map(|known| work.known = known);
        Ok(self.undamaged(&lease_key(&work.id), known)?.map(|()| work))
    }

    /// Up to `limit` rows of a queue that are not leased, and the key of the last row read.
    fn free_rows<T>(
        &self,
        leased: &HashSet<Vec<u8>>,
        queue: &Frontier,
        to: &[u8],
        limit: usize,
        mut row: impl FnMut(&[u8], &[u8]) -> Result<Option<T>, StoreError>,
    ) -> Result<(Vec<T>, Option<Vec<u8>>), StoreError> {
        let mut last = None::<Vec<u8>>;
        let found = self.rows(&queue.begin(), to, limit, |key, value| {
            key.clone_into(last.get_or_insert_default());
            if leased.contains(key) || self.is_held_back(key) { Ok(None) } else { row(key, value) }
        })?;
        Ok((found, last))
    }

    /// Up to `limit` lookups that are due at `now` and not leased, and the key of the last row read.
    fn free_lookups(
        &self,
        leased: &HashSet<Vec<u8>>,
        haste: Haste,
        now: Timestamp,
        limit: usize,
    ) -> Result<(Vec<Work>, Option<Vec<u8>>), StoreError> {
        let queue = match haste {
            Haste::Live => &self.frontiers.live,
            Haste::Background => &self.frontiers.background,
        };
        if limit == 0 {
            return Ok((Vec::new(), None));
        }
        self.free_rows(leased, queue, &keys::lookups_until(haste, now), limit, |key, _| {
            let mut parts = keys::Parts::of(key);
            let parsed = parts.instant().and_then(|due_at| Ok((due_at, parts.contact()?)));
            let Some((due_at, contact)) = self.undamaged(key, parsed)? else { return Ok(None) };
            let id = WorkId::Lookup(haste, due_at, contact.clone());
            self.known(Work { id, contact, event: None, known: None })
        })
    }

    /// Ends a lease. A row that is still there can be leased again.
    pub(super) fn release(&self, key: &[u8]) {
        self.leases().remove(key);
        // In this order: a row written after the read reports itself.
        if let Some(queue) = self.frontiers.of(key)
            && !matches!(self.engine.get(key), Ok(None))
        {
            queue.appeared(key);
        }
    }

    /// The first key of a queue that is not leased.
    fn first_free(&self, queue: &Frontier, prefix: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let (leased, damaged) = (self.leases(), self.damaged_keys());
        let free = |key: &[u8], _: &[u8]| {
            let is_taken = leased.contains(key) || damaged.contains(key) || self.is_held_back(key);
            Ok((!is_taken).then(|| key.to_vec()))
        };
        Ok(self.rows(&queue.first(), &keys::after(prefix), 1, free)?.pop())
    }

    /// Leases up to `limit` fans of one queue. Fans in its rows that no longer wait in this queue are added
    /// to `strays`.
    fn lease_of_queue(
        &self,
        app: &AppName,
        step: FanStep,
        priority: Priority,
        now: Timestamp,
        limit: usize,
        strays: &mut Vec<Strays>,
    ) -> Result<Vec<FanWork>, StoreError> {
        const LOOKED_AT_MAX: usize = 2_048;
        let mut leased = self.leases();
        let queue = keys::fan_queue(app, step, priority);
        let (mut work, mut taken, mut looked_at) = (Vec::new(), HashSet::new(), 0);
        for row in self.engine.range(&queue, &keys::fan_queue_until(app, step, priority, now)) {
            if work.len() >= limit || looked_at >= LOOKED_AT_MAX {
                break;
            }
            let (place_key, value) = row.map_err(failed)?;
            let Some(waiting) = self.undamaged(&place_key, decode::<Waiting>(&place_key, &value))? else {
                continue;
            };
            let mut parts = keys::Parts(&place_key[queue.len()..]);
            let position = QueuePosition { due_at: parts.instant()?, number: parts.number()? };
            let mut strays_here = Vec::new();
            for number in waiting.0 {
                let lease = fan_lease(step, number);
                // A fan that waits for the second time may still be in an old row of the same queue.
                if work.len() >= limit || leased.contains(&lease) || taken.contains(&lease) {
                    continue;
                }
                looked_at += 1;
                let Some(entry) = self.undamaged(&lease, roll::fan_at(self, number))? else { continue };
                match entry.filter(|entry| entry.fan.queued_for(step) == Some(priority)) {
                    Some(Entry { key, fan, .. }) => {
                        work.push(FanWork { key, step, priority, position, number: number.0, fan });
                        taken.insert(lease);
                    }
                    None => strays_here.push(number),
                }
            }
            if !strays_here.is_empty() {
                strays.push(Strays { place: place_key, step, priority, numbers: strays_here });
            }
        }
        // Last, so that after an error nothing stays leased without being returned.
        leased.extend(taken);
        Ok(work)
    }
}
