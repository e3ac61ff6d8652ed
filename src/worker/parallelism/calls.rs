//! The calls with one corp's token: how many are in flight, the two limits, and the queue for permits.
//!
//! Deliberately absent: waiting and waking up, and the clock: the time is a parameter, in milliseconds.

use std::collections::VecDeque;

use crate::domain::pace::CallLimit;

/// The highest number of calls in flight, and of those that read lists: one worker reads the lists of
/// groups, another all others.
const CALLS_MAX: u32 = 4;
const LISTS_MAX: u32 = 2;
/// How long a lane that asked for a permit in vain keeps its place without asking again. Longer than the time
/// between two activations of its worker.
const LANE_WAITS_MS: u64 = 2_000;

/// What a call is made for, which decides when it gets a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The conversion of live work.
    Live,
    /// The delayed conversion of one customer who was refused just after the add.
    Retry,
    /// The conversion of customers who are looked up when that delays no event.
    Lookup,
    /// The reading of a list.
    List,
}

/// What asks for a permit: the lanes with work of one purpose together, or one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asker {
    pub(super) purpose: Purpose,
    /// The number of the task; `None` for lanes.
    pub(super) task: Option<u64>,
}

/// A place in the queue for permits.
#[derive(Debug)]
struct Place {
    asker: Asker,
    /// Until when it is kept; `None`: until it is left.
    until_ms: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Calls {
    /// Limits all calls in flight.
    limit: CallLimit,
    in_flight: u32,
    /// Limits the calls in flight that read lists.
    list_limit: CallLimit,
    lists_in_flight: u32,
    /// Until when live work goes first, because it asked for a permit in vain; 0 if it did not.
    live_first_until_ms: u64,
    /// Whether a lane asked for a permit in vain since the last one was returned.
    lane_waits: bool,
    /// Other work that asked for a permit in vain, in the order in which it first asked.
    queue: VecDeque<Place>,
}

impl Calls {
    pub(super) const fn new() -> Self {
        Self {
            limit: CallLimit::highest(CALLS_MAX),
            in_flight: 0,
            list_limit: CallLimit::highest(LISTS_MAX),
            lists_in_flight: 0,
            live_first_until_ms: 0,
            lane_waits: false,
            queue: VecDeque::new(),
        }
    }

    pub(super) const fn live_goes_first(&self, now_ms: u64) -> bool {
        now_ms < self.live_first_until_ms
    }

    /// Takes a permit if there is one for this asker. If not, the asker is queued, unless it is already.
    pub(super) fn take(&mut self, asker: Asker, now_ms: u64) -> bool {
        self.queue.retain(|place| place.until_ms.is_none_or(|until_ms| now_ms < until_ms));
        if !self.has_permit(asker, now_ms) {
            self.wait(asker, now_ms);
            return false;
        }
        self.in_flight += 1;
        self.lists_in_flight += u32::from(asker.purpose == Purpose::List);
        if asker.purpose == Purpose::Live {
            self.live_first_until_ms = 0;
        } else {
            self.leave(asker);
        }
        true
    }

    fn has_permit(&self, asker: Asker, now_ms: u64) -> bool {
        if asker.purpose == Purpose::Live {
            return self.in_flight < self.limit.calls();
        }
        let for_other_work = (self.limit.calls() - 1).max(1);
        let free = usize::try_from(for_other_work.saturating_sub(self.in_flight)).unwrap_or(0);
        // One that waits for the end of another list call takes no permit from those behind it.
        let may_call =
            |asker: Asker| asker.purpose != Purpose::List || self.lists_in_flight < self.list_limit.calls();
        let earlier = self.queue.iter().map(|place| place.asker).take_while(|earlier| *earlier != asker);
        let taken = earlier.filter(|earlier| may_call(*earlier)).count();
        !self.live_goes_first(now_ms) && may_call(asker) && taken < free
    }

    fn wait(&mut self, asker: Asker, now_ms: u64) {
        self.lane_waits |= asker.task.is_none();
        if asker.purpose == Purpose::Live {
            self.live_first_until_ms = now_ms + LANE_WAITS_MS;
            return;
        }
        let until_ms = asker.task.is_none().then_some(now_ms + LANE_WAITS_MS);
        match self.queue.iter_mut().find(|place| place.asker == asker) {
            Some(place) => place.until_ms = until_ms,
            None => self.queue.push_back(Place { asker, until_ms }),
        }
    }

    /// Removes an asker from the queue. Returns whether it was in it.
    pub(super) fn leave(&mut self, asker: Asker) -> bool {
        let before = self.queue.len();
        self.queue.retain(|place| place.asker != asker);
        self.queue.len() < before
    }

    /// A call for this purpose has ended.
    pub(super) fn give_back(&mut self, purpose: Purpose) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.lists_in_flight = self.lists_in_flight.saturating_sub(u32::from(purpose == Purpose::List));
    }

    /// Whether a lane asked in vain since the last time.
    pub(super) const fn take_lane_waits(&mut self) -> bool {
        std::mem::replace(&mut self.lane_waits, false)
    }

    /// Lowers the limit that a call for this purpose was refused for, and that of list calls in any case.
    /// Returns false if the former is the lowest already.
    pub(super) fn refused(&mut self, purpose: Purpose, begun_ms: u64, now_ms: u64) -> bool {
        let is_list_lower = self.list_limit.refused(begun_ms, now_ms);
        if purpose == Purpose::List { is_list_lower } else { self.limit.refused(begun_ms, now_ms) }
    }

    pub(super) const fn succeeded(&mut self, purpose: Purpose, now_ms: u64) {
        match purpose {
            Purpose::List => self.list_limit.succeeded(now_ms),
            Purpose::Live | Purpose::Retry | Purpose::Lookup => self.limit.succeeded(now_ms),
        }
    }

    /// Whether nothing is lost if this is forgotten.
    pub(super) fn is_idle(&self) -> bool {
        let no_task_waits = self.queue.iter().all(|place| place.asker.task.is_none());
        self.in_flight == 0 && no_task_waits && self.limit.is_highest() && self.list_limit.is_highest()
    }
}
