//! Batches of ids for one call, and the bisection that finds the ids because of which WeCom refuses a batch.
//!
//! Deliberately absent: the calls, and what becomes of an id that is found to be refused.

use std::collections::VecDeque;

/// Maximum number of ids in one `external_userid_to_pending_id` call (document 97357).
pub const IDS_PER_CALL_MAX: usize = 100;

/// Maximum number of unclear refusals of single ids without an accepted call, before it counts as an outage.
const UNCLEAR_MAX: u32 = 3;

/// The meaning of a refused call for the ids in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The app cannot see one of them now, or a wrong setting hides all of them.
    NotVisible,
    /// One of them is wrong in itself.
    Invalid,
    /// Unclear: it may be an outage.
    Unclear,
}

/// The result of recording a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<T> {
    /// Nothing yet: the search goes on.
    Open,
    /// This id was refused in a call of its own.
    Alone(T),
    /// Everything was refused, and this id in a call of its own too: the other ids count as refused without
    /// further calls. The search is over.
    Whole {
        /// The id that was called alone.
        probe: T,
        /// All other ids that had no answer yet.
        rest: Vec<T>,
    },
}

/// The search for the refused ids of a batch. Every id has its answer in an accepted call, or ends in a
/// [`Verdict`].
///
/// The whole batch is called, then its halves. Once a call was accepted, refused batches are halved until
/// every bad id was called alone: at most 15 calls for one bad id of 100. If nothing was accepted, single ids
/// are called instead, until one is accepted; an id that the app cannot see ends the search, after four calls
/// if it is the first.
#[derive(Debug)]
pub struct Search<T> {
    /// Batches that are to be called, in this order.
    todo: VecDeque<Vec<T>>,
    /// Refused batches, while no call was accepted.
    refused: Vec<Vec<T>>,
    /// Whether the next answer is that of the whole batch.
    is_whole: bool,
    /// Whether the next answer is that of a single id out of `refused`.
    is_probe: bool,
    any_accepted: bool,
    /// Unclear refusals of single ids.
    unclear: u32,
    choice: f64,
}

impl<T> Search<T> {
    /// A search that begins with a call for the whole of `batch`. `choice`, random in `0.0..1.0` or
    /// [in turn](choice_in_turn), decides which ids are called alone if everything else is refused: different
    /// ones each time, so that a good id is not refused again and again because of the same bad one.
    #[must_use]
    pub fn new(batch: Vec<T>, choice: f64) -> Self {
        let todo = [batch].into_iter().filter(|batch| !batch.is_empty()).collect();
        Self {
            todo,
            refused: Vec::new(),
            is_whole: true,
            is_probe: false,
            any_accepted: false,
            unclear: 0,
            choice,
        }
    }

    /// The ids of the next call; `None` when the search is over. The answer is to be recorded before the next
    /// one.
    pub fn next_call(&mut self) -> Option<Vec<T>> {
        self.is_probe = false;
        if let Some(batch) = self.todo.pop_front() {
            return Some(batch);
        }
        let mut place = place_of(self.choice, self.refused.iter().map(Vec::len).sum());
        for batch in &mut self.refused {
            if place < batch.len() {
                self.is_probe = true;
                return Some(vec![batch.remove(place)]);
            }
            place -= batch.len();
        }
        None
    }

    /// Whether no id is left without an answer, apart from those of the current call.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.todo.is_empty() && self.refused.iter().all(Vec::is_empty)
    }

    /// Records that the current call was accepted: its ids have their answer.
    pub fn accepted(&mut self) {
        self.any_accepted = true;
        self.is_whole = false;
        for batch in std::mem::take(&mut self.refused) {
            self.halve(batch);
        }
    }

    /// Records that the current call, for `batch`, was refused.
    #[must_use]
    pub fn refused(&mut self, mut batch: Vec<T>, refusal: Refusal) -> Verdict<T> {
        let is_whole = std::mem::replace(&mut self.is_whole, false);
        if batch.len() > 1 {
            if is_whole || self.any_accepted {
                self.halve(batch);
            } else {
                self.refused.push(batch);
            }
            return Verdict::Open;
        }
        let Some(id) = batch.pop() else { return Verdict::Open };
        self.unclear += u32::from(refusal == Refusal::Unclear);
        if self.is_probe && refusal == Refusal::NotVisible && !self.is_done() {
            return Verdict::Whole { probe: id, rest: self.withdraw(|_| true) };
        }
        Verdict::Alone(id)
    }

    /// Removes and returns the ids that are not to be called any more.
    pub fn withdraw(&mut self, mut is_concerned: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut withdrawn = Vec::new();
        for batch in self.todo.iter_mut().chain(&mut self.refused) {
            withdrawn.extend(batch.extract_if(.., |id| is_concerned(id)));
        }
        self.todo.retain(|batch| !batch.is_empty());
        withdrawn
    }

    /// Records that the current call failed for another reason than its ids, while others may still be
    /// called. It counts as an unclear refusal of a single id.
    pub const fn failed(&mut self) {
        self.is_whole = false;
        self.unclear += 1;
    }

    /// Whether one single id after another was refused for unclear reasons, and no call was accepted.
    #[must_use]
    pub const fn is_hopeless(&self) -> bool {
        !self.any_accepted && self.unclear >= UNCLEAR_MAX
    }

    fn halve(&mut self, mut batch: Vec<T>) {
        let tail = batch.split_off(batch.len() / 2);
        self.todo.extend([batch, tail].into_iter().filter(|half| !half.is_empty()));
    }
}

/// The choice for a [`Search`] among `len` ids that were searched among `before` times: each of them has its turn
/// to be called alone, within `len` searches or one more, even if only every other search is among the same ids.
#[must_use]
pub fn choice_in_turn(before: u32, len: usize) -> f64 {
    let len = u32::try_from(len).unwrap_or(u32::MAX).max(1);
    // Of an odd number, every other one comes round to all.
    let turn = (before % (len | 1)).min(len - 1);
    (f64::from(turn) + 0.5) / f64::from(len)
}

/// The index below `count` that `choice` in `0.0..1.0` selects.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a place in a batch"
)]
fn place_of(choice: f64, count: usize) -> usize {
    ((choice * count as f64) as usize).min(count.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use proptest::prelude::*;

    /// How each id ended, and how often.
    #[derive(Debug, Default)]
    struct Ended {
        accepted: Vec<usize>,
        alone: Vec<usize>,
        whole: Vec<usize>,
        calls: usize,
    }

    impl Ended {
        fn all(&self) -> Vec<usize> {
            let mut all = [&self.accepted[..], &self.alone, &self.whole].concat();
            all.sort_unstable();
            all
        }
    }

    /// A search in a batch of `len` ids of which WeCom refuses those in `bad`.
    fn search(len: usize, bad: &BTreeMap<usize, Refusal>, choice: f64) -> Ended {
        let mut search = Search::new((0..len).collect(), choice);
        let mut ended = Ended::default();
        while let Some(batch) = search.next_call() {
            ended.calls += 1;
            assert!(ended.calls <= 2 * len, "the search does not end");
            let Some(refusal) = batch.iter().find_map(|id| bad.get(id)) else {
                search.accepted();
                ended.accepted.extend(batch);
                continue;
            };
            match search.refused(batch, *refusal) {
                Verdict::Open => {}
                Verdict::Alone(id) => ended.alone.push(id),
                Verdict::Whole { probe, rest } => {
                    assert!(search.is_done());
                    ended.whole.push(probe);
                    ended.whole.extend(rest);
                }
            }
        }
        ended
    }

    fn refusals() -> impl Strategy<Value = Refusal> {
        prop_oneof![Just(Refusal::NotVisible), Just(Refusal::Invalid), Just(Refusal::Unclear)]
    }

    proptest! {
        #[test]
        fn every_id_ends_exactly_once(
            len in 1_usize..=IDS_PER_CALL_MAX,
            bad in proptest::collection::btree_map(0_usize..IDS_PER_CALL_MAX, refusals(), 0..=100),
            choice in 0.0_f64..1.0,
        ) {
            let ended = search(len, &bad, choice);
            prop_assert_eq!(ended.all(), (0..len).collect::<Vec<_>>());
            prop_assert!(ended.alone.iter().all(|id| bad.contains_key(id)));
            prop_assert!(ended.accepted.iter().all(|id| !bad.contains_key(id)));
        }

        #[test]
        fn one_bad_id_is_isolated_with_few_calls(
            len in 1_usize..=IDS_PER_CALL_MAX, seed: usize, choice in 0.0_f64..1.0, refusal in refusals()
        ) {
            let bad = seed % len;
            let ended = search(len, &BTreeMap::from([(bad, refusal)]), choice);
            prop_assert_eq!(&ended.alone, &[bad]);
            prop_assert_eq!(ended.accepted.len(), len - 1);
            prop_assert!(ended.calls <= 15, "{} calls", ended.calls);
        }

        #[test]
        fn some_bad_ids_among_good_ones_are_all_isolated(
            bad in proptest::collection::btree_set(0_usize..50, 1..=50), choice in 0.0_f64..1.0
        ) {
            // The second half is accepted: nothing is decided about an id that was not called alone.
            let bad: BTreeMap<_, _> = bad.into_iter().map(|id| (id, Refusal::NotVisible)).collect();
            let ended = search(100, &bad, choice);
            prop_assert_eq!(ended.alone.into_iter().collect::<BTreeSet<_>>(), bad.keys().copied().collect());
            prop_assert!(ended.whole.is_empty());
        }

        #[test]
        fn the_only_good_id_is_found_when_each_has_had_its_turn(
            len in 1_usize..=20, good: usize, before in 0_u32..100, step in 1_u32..=2
        ) {
            let good = good % len;
            let bad = (0..len).filter(|id| *id != good).map(|id| (id, Refusal::NotVisible)).collect();
            let mut searches = (0..=u32::try_from(len).unwrap()).map(|n| before + n * step);
            let is_found = |before| search(len, &bad, choice_in_turn(before, len)).accepted == [good];
            prop_assert!(searches.any(is_found));
        }

        #[test]
        fn a_batch_that_is_wholly_not_visible_costs_at_most_four_calls(
            len in 3_usize..=IDS_PER_CALL_MAX, choice in 0.0_f64..1.0
        ) {
            let ended = search(len, &(0..len).map(|id| (id, Refusal::NotVisible)).collect(), choice);
            prop_assert_eq!(ended.calls, 4);
            // Half of three ids is a single one, which was called alone.
            prop_assert_eq!(ended.alone.len(), usize::from(len == 3));
            prop_assert_eq!(ended.all().len(), len);
        }
    }

    #[test]
    fn one_or_two_refused_ids_are_each_called_alone() {
        for (len, calls) in [(1, 1), (2, 3)] {
            let ended = search(len, &(0..len).map(|id| (id, Refusal::NotVisible)).collect(), 0.5);
            assert_eq!((ended.alone.len(), ended.whole.len(), ended.calls), (len, 0, calls));
        }
    }

    #[test]
    fn a_good_id_called_alone_makes_the_search_go_on() {
        // Bad ids in both halves, so that only a single id is accepted.
        let bad = BTreeMap::from([(10, Refusal::NotVisible), (90, Refusal::NotVisible)]);
        let mut ended = search(100, &bad, 0.5);
        ended.alone.sort_unstable();
        assert_eq!((ended.alone, ended.accepted.len()), (vec![10, 90], 98));
    }

    #[test]
    fn an_id_that_is_wrong_in_itself_says_nothing_about_the_others() {
        let mut bad: BTreeMap<_, _> = (0..100).map(|id| (id, Refusal::NotVisible)).collect();
        bad.insert(0, Refusal::Invalid);
        // The first id called alone is the invalid one: another one is called.
        let ended = search(100, &bad, 0.0);
        assert_eq!((ended.alone, ended.whole.len(), ended.calls), (vec![0], 99, 5));
    }

    #[test]
    fn a_search_with_unclear_refusals_and_no_success_is_hopeless_after_three_single_ids() {
        let mut search = Search::new((0..100).collect::<Vec<_>>(), 0.3);
        let mut calls = 0;
        while !search.is_hopeless() {
            let batch = search.next_call().unwrap();
            calls += 1;
            let is_single = batch.len() == 1;
            let verdict = search.refused(batch, Refusal::Unclear);
            assert_eq!(is_single, matches!(verdict, Verdict::Alone(_)));
        }
        assert_eq!((calls, search.withdraw(|_| true).len(), search.is_done()), (6, 97, true));
    }

    #[test]
    fn withdrawn_ids_are_not_called() {
        let mut search = Search::new((0..8).collect::<Vec<_>>(), 0.0);
        let whole = search.next_call().unwrap();
        assert_eq!(search.refused(whole, Refusal::Unclear), Verdict::Open);
        let first = search.next_call().unwrap();
        search.failed();
        assert_eq!((first, search.withdraw(|id| id % 2 == 0)), (vec![0, 1, 2, 3], vec![4, 6]));
        assert_eq!((search.next_call(), search.next_call()), (Some(vec![5, 7]), None));
    }
}
