//! Which fan has a unionid or a pending id: a table in memory of eight bytes an id, read from the
//! [`roll`](crate::store::embedded::business::roll) when the store is opened.
//!
//! A hash index without the keys: it returns candidates, which are compared with their records. So an entry
//! can be small (four bytes of a hash, four of the fan's number), and a collision costs one read. The hash
//! has random keys of this process, so that ids cannot be chosen to collide.
//!
//! Deliberately absent: any form of it on disk. It is read in seconds (`benches/fans.rs`), callbacks are accepted
//! meanwhile, and after a power cut there is nothing that could disagree with the records.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

use hashbrown::HashTable;

use crate::store::embedded::rows::ids::{FanNumber, PackedRef};

/// What a fan is looked for by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Clue<'a> {
    is_pending_id: bool,
    id: PackedRef<'a>,
}

impl<'a> Clue<'a> {
    pub(crate) const fn unionid(id: PackedRef<'a>) -> Self {
        Self { is_pending_id: false, id }
    }

    pub(crate) const fn pending_id(id: PackedRef<'a>) -> Self {
        Self { is_pending_id: true, id }
    }
}

/// A clue's hash: its shard, and what is kept of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Print {
    shard: usize,
    rest: u32,
}

/// A table grows by doubling, and a part of it is better to double, and to lock, than the whole.
const SHARDS: u64 = 256;

type Shard = Mutex<HashTable<(u32, FanNumber)>>;

/// The table.
pub(crate) struct Index {
    shards: Vec<Shard>,
    random: RandomState,
}

impl Default for Index {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Shard::default()).collect(), random: RandomState::new() }
    }
}

impl Index {
    pub(crate) fn print(&self, clue: &Clue<'_>) -> Print {
        let hash = self.random.hash_one(clue);
        Print { shard: (hash % SHARDS) as usize, rest: (hash >> 32) as u32 }
    }

    /// The fans that may be meant.
    pub(crate) fn find(&self, print: Print) -> Vec<FanNumber> {
        let Some(shard) = self.shards.get(print.shard) else { return Vec::new() };
        let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let same = shard.iter_hash(spread(print.rest)).filter(|(rest, _)| *rest == print.rest);
        same.map(|(_, fan)| *fan).collect()
    }

    /// Records that a clue leads, or no longer leads, to a fan.
    pub(crate) fn set(&self, print: Print, fan: FanNumber, leads: bool) {
        let Some(shard) = self.shards.get(print.shard) else { return };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let is = |entry: &(u32, FanNumber)| *entry == (print.rest, fan);
        match (shard.find_entry(spread(print.rest), is), leads) {
            (Ok(found), false) => drop(found.remove()),
            (Err(_), true) => {
                shard.insert_unique(spread(print.rest), (print.rest, fan), |(rest, _)| spread(*rest));
            }
            (Ok(_), true) | (Err(_), false) => {}
        }
    }
}

/// The table wants its hash again whenever it grows, from what it has: 32 bits, spread over 64.
const fn spread(rest: u32) -> u64 {
    (rest as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_finds_what_a_plain_map_would(
            steps in proptest::collection::vec((0_u8..30, 0_u32..4, any::<bool>()), 0..300)
        ) {
            let (index, mut plain) = (Index::default(), BTreeMap::<u8, BTreeSet<u32>>::new());
            let ids: Vec<_> = (0..30).map(|n| format!("oFAN{n}")).collect();
            let clue = |id: u8| Clue::unionid(PackedRef::Text(&ids[usize::from(id)]));
            for (id, fan, leads) in steps {
                let print = index.print(&clue(id));
                index.set(print, FanNumber(fan), leads);
                let fans = plain.entry(id).or_default();
                if leads { fans.insert(fan) } else { fans.remove(&fan) };
            }
            for (id, fans) in plain {
                let print = index.print(&clue(id));
                prop_assert_eq!(index.find(print).into_iter().map(|fan| fan.0).collect::<BTreeSet<_>>(), fans);
            }
        }
    }
}
