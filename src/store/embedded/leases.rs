//! Which work is leased, and which lookups are held back. Both are in memory: one process owns the folder, so
//! a crash ends them all.
//!
//! Work is leased while queues are read, slice by slice, and other threads go on meanwhile. So what a slice
//! shows may be out of date when it is leased: its work was settled, or is no longer held back. Such changes
//! are recorded while queues are read, and what they concern is left to the next read.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::rows::ids::FanNumber;
use super::rows::keys;
use crate::domain::fan::FanStep;
use crate::store::WorkId;

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

/// What the keys of some lookups begin and end with.
pub(super) type LookupsAt = (Vec<u8>, Vec<u8>);

/// The leases of some queues.
#[derive(Default)]
pub(super) struct Leases {
    state: Mutex<State>,
    /// One read at a time.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    leased: HashSet<Vec<u8>>,
    /// Neither leased nor to be leased.
    put_off: HashSet<Vec<u8>>,
    held_back: Vec<HeldBackLookups>,
    /// What has ended since the read of the queues began that is under way.
    ended: Option<Ended>,
}

struct HeldBackLookups {
    lookups: LookupsAt,
    /// Those of them that reads have skipped.
    skipped: HashSet<Vec<u8>>,
}

#[derive(Default)]
struct Ended {
    leases: HashSet<Vec<u8>>,
    held_back: Vec<LookupsAt>,
}

fn are_among((begin, end): &LookupsAt, key: &[u8]) -> bool {
    key.starts_with(begin) && key.ends_with(end)
}

impl State {
    fn is_leased_or_put_off(&self, key: &[u8]) -> bool {
        self.leased.contains(key) || self.put_off.contains(key)
    }

    fn is_taken(&self, key: &[u8]) -> bool {
        self.is_leased_or_put_off(key) || self.held_back.iter().any(|held| are_among(&held.lookups, key))
    }
}

impl Leases {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to lease, when no one else does. To be called before the queues are read.
    pub(super) async fn begin(&self) -> Leasing<'_> {
        let turn = self.turn.lock().await;
        self.state().ended = Some(Ended::default());
        Leasing { leases: self, taken: Vec::new(), _turn: turn }
    }

    /// Ends leases of work that is not to be leased again for now.
    pub(super) fn put_off(&self, keys: impl IntoIterator<Item = Vec<u8>>) {
        let mut state = self.state();
        for key in keys {
            state.leased.remove(&key);
            state.put_off.insert(key);
        }
    }

    /// Ends a lease, or that the work is put off.
    pub(super) fn release(&self, key: &[u8]) {
        let mut state = self.state();
        state.leased.remove(key);
        state.put_off.remove(key);
        if let Some(ended) = &mut state.ended {
            ended.leases.insert(key.to_vec());
        }
    }

    /// The keys of all leases.
    pub(super) fn all(&self) -> HashSet<Vec<u8>> {
        self.state().leased.clone()
    }

    /// Those of these keys that are not leased.
    pub(super) fn not_leased(&self, mut keys: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let state = self.state();
        keys.retain(|key| !state.leased.contains(key));
        keys
    }

    /// Those of these keys that are neither leased nor held back.
    pub(super) fn free(&self, mut keys: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let state = self.state();
        keys.retain(|key| !state.is_taken(key));
        keys
    }

    /// Holds lookups back. To be called before the first of them is stored.
    pub(super) fn hold_back(&self, lookups: LookupsAt) {
        self.state().held_back.push(HeldBackLookups { lookups, skipped: HashSet::new() });
    }

    /// Ends that lookups are held back. Those that reads have skipped are reported with `appeared` before the
    /// next read begins, which so finds all of them.
    pub(super) fn let_go(&self, lookups: &LookupsAt, appeared: impl FnMut(&Vec<u8>)) {
        let mut state = self.state();
        let Some(index) = state.held_back.iter().position(|held| held.lookups == *lookups) else { return };
        let HeldBackLookups { lookups, skipped } = state.held_back.swap_remove(index);
        // A read under way has perhaps skipped some of them; the others would be leased without these.
        if let Some(ended) = &mut state.ended {
            ended.held_back.push(lookups);
        }
        skipped.iter().for_each(appeared);
    }
}

/// Leasing under way. Dropped before it is [kept](Self::keep), it ends its leases: nobody would settle them.
pub(super) struct Leasing<'a> {
    leases: &'a Leases,
    taken: Vec<Vec<u8>>,
    _turn: tokio::sync::MutexGuard<'a, ()>,
}

/// What came of leasing some rows.
#[derive(Debug, Default)]
pub(super) struct Leased {
    /// How many of the rows were looked at, from the first on.
    pub(super) looked_at: usize,
    /// The indexes of those that are leased now.
    pub(super) taken: Vec<usize>,
    /// The indexes of those that are free, and left to the next read.
    pub(super) postponed: Vec<usize>,
}

impl Leasing<'_> {
    /// Leases up to `limit` of the rows with these keys, in order.
    pub(super) fn lease<'k>(&mut self, keys: impl IntoIterator<Item = &'k [u8]>, limit: usize) -> Leased {
        let mut state = self.leases.state();
        let mut result = Leased::default();
        for (index, key) in keys.into_iter().enumerate() {
            if result.taken.len() == limit {
                break;
            }
            result.looked_at += 1;
            if state.is_leased_or_put_off(key) {
                continue;
            }
            if let Some(held) = state.held_back.iter_mut().find(|held| are_among(&held.lookups, key)) {
                held.skipped.insert(key.to_vec());
                continue;
            }
            let ended = state.ended.get_or_insert_default();
            // A row that is still there after its lease has ended reports itself.
            if ended.leases.contains(key) {
                continue;
            }
            if ended.held_back.iter().any(|lookups| are_among(lookups, key)) {
                result.postponed.push(index);
                continue;
            }
            state.leased.insert(key.to_vec());
            self.taken.push(key.to_vec());
            result.taken.push(index);
        }
        result
    }

    /// Ends a lease that has just been made.
    pub(super) fn give_up(&self, key: &[u8]) {
        self.leases.state().leased.remove(key);
    }

    /// Keeps what was leased: it is returned to the caller.
    pub(super) fn keep(mut self) {
        self.taken.clear();
    }
}

impl Drop for Leasing<'_> {
    fn drop(&mut self) {
        let mut state = self.leases.state();
        for key in self.taken.drain(..) {
            state.leased.remove(&key);
        }
        state.ended = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&[u8]; 3] = [b"y1 a", b"y1 b", b"y2 a"];

    #[tokio::test]
    async fn what_is_settled_while_queues_are_read_is_not_leased_by_that_read() {
        let leases = Leases::default();
        let mut leasing = leases.begin().await;
        assert_eq!(leasing.lease(KEYS, 9).taken, [0, 1, 2]);
        leasing.keep();
        let mut leasing = leases.begin().await;
        leases.release(KEYS[1]);
        assert_eq!(leasing.lease(KEYS, 9).taken, [0; 0]);
        leasing.keep();
        assert_eq!(leases.begin().await.lease(KEYS, 9).taken, [1]);
    }

    #[tokio::test]
    async fn leasing_that_is_given_up_leaves_nothing_leased() {
        let leases = Leases::default();
        let mut leasing = leases.begin().await;
        assert_eq!(leasing.lease(KEYS, 2).looked_at, 2);
        drop(leasing);
        assert!(leases.all().is_empty());
    }

    #[tokio::test]
    async fn lookups_that_are_held_back_are_leased_together_after_that() {
        let (leases, of_a) = (Leases::default(), (b"y1".to_vec(), b"a".to_vec()));
        leases.hold_back(of_a.clone());
        let mut leasing = leases.begin().await;
        assert_eq!(leasing.lease(KEYS, 9).taken, [1, 2]);
        let mut appeared = Vec::new();
        leases.let_go(&of_a, |key| appeared.push(key.clone()));
        assert_eq!(appeared, [KEYS[0]]);
        let later = leasing.lease([&b"y1 ca"[..]], 9);
        assert_eq!((later.taken, later.postponed), (vec![], vec![0]), "it would be leased without the first");
        leasing.keep();
        assert_eq!(leases.begin().await.lease([KEYS[0], b"y1 ca"], 9).taken, [0, 1]);
    }
}
