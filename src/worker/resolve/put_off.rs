//! Work that can only wait: the calls of its lane are held back by a circuit breaker, or its lane is full.
//!
//! It stays in its queue as it is, put off in the store and known here by its id. So an outage of WeCom, however many
//! callbacks arrive meanwhile, rewrites nothing.
//!
//! Deliberately absent: why a lane takes no work.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::lane::LaneKey;
use crate::domain::ids::CorpId;
use crate::store::WorkId;

/// Items that are put off at the same time, some 200 bytes each; more are rescheduled in the store.
const ITEMS_MAX: usize = 200_000;
/// How often it is looked which lanes take work again.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(25);
/// Items that are taken up at once: those of one full lane.
const AT_ONCE_MAX: usize = super::lane::LANE_HELD_MAX;

/// Work that is put off, by its lane and the corp of its customers, the oldest first.
#[derive(Default)]
pub(super) struct PutOff {
    items: BTreeMap<(LaneKey, CorpId), VecDeque<WorkId>>,
    count: usize,
    looked_at: Option<Instant>,
}

impl PutOff {
    /// Adds an item. False if it would be one too many.
    pub(super) fn add(&mut self, key: LaneKey, customers: CorpId, id: WorkId) -> bool {
        if self.count >= ITEMS_MAX {
            return false;
        }
        self.items.entry((key, customers)).or_default().push_back(id);
        self.count += 1;
        true
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Removes what can be worked on now, if it is time to look; `room` says how many items a lane takes.
    pub(super) fn take(&mut self, now: Instant, room: impl Fn(&LaneKey, &CorpId) -> usize) -> Vec<WorkId> {
        if self.looked_at.is_some_and(|at| now.saturating_duration_since(at) < LOOK_EVERY) {
            return Vec::new();
        }
        self.looked_at = Some(now);
        let mut taken = Vec::new();
        let mut taken_for: Option<(LaneKey, usize)> = None;
        for ((lane, customers), ids) in &mut self.items {
            // The customers of several corps may share a lane; they are next to each other.
            let before = taken_for.take().filter(|(key, _)| key == lane).map_or(0, |(_, count)| count);
            let count =
                room(lane, customers).saturating_sub(before).min(AT_ONCE_MAX - taken.len()).min(ids.len());
            taken.extend(ids.drain(..count));
            taken_for = Some((lane.clone(), before + count));
            if taken.len() == AT_ONCE_MAX {
                break;
            }
        }
        if !taken.is_empty() {
            self.items.retain(|_, ids| !ids.is_empty());
            self.count -= taken.len();
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::super::lane::LaneClass;
    use super::super::tests::corp;
    use super::*;
    use crate::domain::time::Timestamp;
    use crate::store::EventId;
    use crate::worker::scripted::app;

    fn lane(owner: &str) -> LaneKey {
        LaneKey { app: app(), owner: corp(owner), chat_id: None, class: LaneClass::Live }
    }

    const fn id(n: u64) -> WorkId {
        WorkId::Event(Timestamp::EPOCH, EventId(n))
    }

    #[test]
    fn what_is_put_off_is_taken_up_as_far_as_its_lane_has_room_the_oldest_first() {
        let (mut put_off, start) = (PutOff::default(), Instant::now());
        for n in 0..4 {
            assert!(put_off.add(lane("wpA"), corp("wpA"), id(n)));
            assert!(put_off.add(lane("wpB"), corp("wpB"), id(10 + n)));
        }
        let taken = put_off.take(start, |lane, _| if lane.owner == corp("wpA") { 0 } else { 3 });
        assert_eq!(taken, [id(10), id(11), id(12)]);
        assert_eq!(put_off.take(start, |_, _| 9), [], "it is too soon to look again");
        let taken = put_off.take(start + LOOK_EVERY, |_, _| 9);
        assert_eq!(taken, [id(0), id(1), id(2), id(3), id(13)]);
        assert!(put_off.is_empty());
    }

    #[test]
    fn customers_of_several_corps_share_the_room_of_their_lane() {
        let (mut put_off, start) = (PutOff::default(), Instant::now());
        for (n, customers) in (0..).zip(["wpA", "wpA", "wpB", "wpB", "wpC"]) {
            assert!(put_off.add(lane("wwBRAND"), corp(customers), id(n)));
        }
        let room = |_: &LaneKey, customers: &CorpId| if *customers == corp("wpB") { 0 } else { 3 };
        assert_eq!(put_off.take(start, room), [id(0), id(1), id(4)]);
    }

    #[test]
    fn it_is_bounded_and_taken_up_in_portions() {
        let (mut put_off, start) = (PutOff::default(), Instant::now());
        let all = u64::try_from(ITEMS_MAX).unwrap();
        assert!((0..all).all(|n| put_off.add(lane("wpA"), corp("wpA"), id(n))));
        assert!(!put_off.add(lane("wpA"), corp("wpA"), id(all)));
        assert_eq!(put_off.take(start, |_, _| usize::MAX).len(), AT_ONCE_MAX);
        assert!(put_off.add(lane("wpA"), corp("wpA"), id(all)));
    }
}
