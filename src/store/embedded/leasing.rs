//! Who works on what. Leases are in memory: one process owns the folder, so a crash ends them all.

use std::collections::HashSet;
use std::sync::{MutexGuard, PoisonError};

use super::super::{FanWork, QueuePosition, StoreError, Work, WorkId};
use super::frontier::Frontier;
use super::queues::{Strays, Waiting};
use super::records::decode;
use super::roll::{Entry, FanNumber};
use super::txn::failed;
use super::{EmbeddedStore, keys, roll};
use crate::domain::contact::Contact;
use crate::domain::fan::{FanStep, Priority};
use crate::domain::ids::AppName;
use crate::domain::lookup::Haste;
use crate::domain::time::Timestamp;

pub(super) fn lease_key(id: &WorkId) -> Vec<u8> {
    match id {
        WorkId::Event(due_at, id) => keys::inbox(*due_at, *id),
        WorkId::Lookup(haste, due_at, contact) => keys::lookup(*haste, *due_at, contact),
    }
}

/// No key of a queue is as short.
pub(super) fn fan_lease(step: FanStep, number: FanNumber) -> Vec<u8> {
    let mut key = vec![b't', step as u8];
    key.extend(number.0.to_be_bytes());
    key
}

impl EmbeddedStore {
    pub(super) fn leases(&self) -> MutexGuard<'_, HashSet<Vec<u8>>> {
        self.leased.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A piece of work with what is known of its customer; `None` if that record is damaged.
    pub(super) fn known(&self, mut work: Work) -> Result<Option<Work>, StoreError> {
        let key = keys::contact(&work.contact);
        let known = self.read::<Contact>(&key).map(|known| work.known = known);
        Ok(self.undamaged(&lease_key(&work.id), known)?.map(|()| work))
    }

    /// Up to `limit` rows of a queue that nobody works on, and the last row looked at.
    pub(super) fn free_rows<T>(
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
            if leased.contains(key) { Ok(None) } else { row(key, value) }
        })?;
        Ok((found, last))
    }

    /// Up to `limit` lookups that are due at `now` and that nobody works on, and the last row looked at.
    pub(super) fn free_lookups(
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

    /// Ends a lease. What is still there can be taken again.
    pub(super) fn release(&self, key: &[u8]) {
        self.leases().remove(key);
        // In this order: whoever writes it again after this tells of it.
        if let Some(queue) = self.frontiers.of(key)
            && !matches!(self.engine.get(key), Ok(None))
        {
            queue.appeared(key);
        }
    }

    /// The first key of a queue that nobody works on.
    pub(super) fn first_free(&self, queue: &Frontier, prefix: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let (leased, damaged) = (self.leases(), self.damaged_keys());
        let free = |key: &[u8], _: &[u8]| {
            Ok((!leased.contains(key) && !damaged.contains(key)).then(|| key.to_vec()))
        };
        Ok(self.rows(&queue.first(), &keys::after(prefix), 1, free)?.pop())
    }

    /// Takes up to `limit` fans out of one queue. Who is found in a place without waiting in this queue is added to
    /// `strays`.
    pub(super) fn lease_of_queue(
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
                // Who waited, was served, and waits again may have an old place in the same queue.
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
        // Last, so that an error on the way leaves nothing leased to nobody.
        leased.extend(taken);
        Ok(work)
    }
}
