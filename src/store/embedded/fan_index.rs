//! Which fan has a unionid or a pending id: a table in memory of eight bytes an id, read from the
//! [`roll`](crate::store::business::roll) when the store is opened.
//!
//! A hash index without the keys: it returns candidates, which are compared with their records. So an entry
//! can be small (four bytes of a hash, four of the fan's number), and a collision costs one read. The hash
//! has random keys of this process, so that ids cannot be chosen to collide.
//!
//! Deliberately absent: any form of it on disk. It is read in seconds (`benches/fans.rs`), callbacks are accepted
//! meanwhile, and after a power cut there is nothing that could disagree with the records.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;

use crate::store::rows::clue::{Clue, Print};
use crate::store::rows::ids::FanNumber;

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
        Print(self.random.hash_one(clue))
    }

    fn shard(&self, print: Print) -> Option<MutexGuard<'_, HashTable<(u32, FanNumber)>>> {
        let shard = self.shards.get((print.0 % SHARDS) as usize)?;
        Some(shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The fans that may be meant.
    pub(crate) fn find(&self, print: Print) -> Vec<FanNumber> {
        let Some(shard) = self.shard(print) else { return Vec::new() };
        let rest = kept(print);
        let same = shard.iter_hash(spread(rest)).filter(|(other, _)| *other == rest);
        same.map(|(_, fan)| *fan).collect()
    }

    /// Records that a clue leads, or no longer leads, to a fan.
    pub(crate) fn set(&self, print: Print, fan: FanNumber, leads: bool) {
        let Some(mut shard) = self.shard(print) else { return };
        let rest = kept(print);
        let is = |entry: &(u32, FanNumber)| *entry == (rest, fan);
        match (shard.find_entry(spread(rest), is), leads) {
            (Ok(found), false) => drop(found.remove()),
            (Err(_), true) => {
                shard.insert_unique(spread(rest), (rest, fan), |(rest, _)| spread(*rest));
            }
            (Ok(_), true) | (Err(_), false) => {}
        }
    }
}

/// What is kept of a print.
const fn kept(print: Print) -> u32 {
    (print.0 >> 32) as u32
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
    use crate::store::rows::ids::PackedRef;

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
