//! Limits, priorities and turns, on a clock that is paused.

use std::pin::pin;

use tokio::time::{advance, timeout};

use super::*;

/// The permits of one corp.
struct Corp {
    parallelism: Arc<Parallelism>,
    owner: Owner,
}

impl Corp {
    fn new() -> Self {
        let owner = (AppName::new("brand").unwrap(), CorpId::new("wpDEALER").unwrap());
        Self { parallelism: Arc::default(), owner }
    }

    /// A corp whose limit is one call.
    async fn of_one_call() -> Self {
        let corp = Self::new();
        for _ in 0..2 {
            corp.refuse(Purpose::Lookup).await;
        }
        corp
    }

    fn try_acquire(&self, purpose: Purpose) -> Option<ParallelismPermit> {
        let (app, corp_id) = &self.owner;
        self.parallelism.try_acquire(app, corp_id, purpose)
    }

    async fn acquire(&self, purpose: Purpose) -> Option<ParallelismPermit> {
        let (app, corp_id) = &self.owner;
        self.parallelism.acquire(app, corp_id, purpose).await
    }

    /// Permits until there is none.
    fn all(&self, purpose: Purpose) -> Vec<ParallelismPermit> {
        std::iter::from_fn(|| self.try_acquire(purpose)).collect()
    }

    /// WeCom refuses a call because too many were in flight.
    async fn refuse(&self, purpose: Purpose) {
        advance(Duration::from_millis(10)).await;
        assert!(self.try_acquire(purpose).unwrap().refused());
    }

    /// The highest number of calls of live work, and of those that read lists.
    async fn limits(&self) -> [usize; 2] {
        let lists = self.all(Purpose::List).len();
        let live = self.all(Purpose::Live).len();
        // Neither asks again.
        advance(Duration::from_secs(2)).await;
        [live, lists]
    }
}

/// Whether it waits for a permit.
async fn waits(acquire: impl Future<Output = Option<ParallelismPermit>>) -> bool {
    timeout(Duration::from_millis(1), acquire).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn a_corp_has_four_calls_in_flight_and_fewer_after_a_refusal() {
    let corp = Corp::new();
    let permits = corp.all(Purpose::Live);
    assert_eq!(permits.len(), 4);
    let (app, other) = (&corp.owner.0, CorpId::new("wpOTHER").unwrap());
    assert!(corp.parallelism.try_acquire(app, &other, Purpose::Live).is_some(), "each corp has its own");
    advance(Duration::from_millis(10)).await;
    assert!(permits.iter().all(ParallelismPermit::refused), "all of them were in flight together");
    drop(permits);
    let permits = corp.all(Purpose::Live);
    assert_eq!(permits.len(), 2);
    advance(Duration::from_secs(10)).await;
    permits[0].succeeded();
    assert_eq!(corp.all(Purpose::Live).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_list_call_slows_lists_down_and_a_refused_conversion_everything() {
    for conversion in [Purpose::Live, Purpose::Retry, Purpose::Lookup] {
        let corp = Corp::new();
        assert_eq!(corp.limits().await, [4, 2]);
        corp.refuse(Purpose::List).await;
        assert_eq!(corp.limits().await, [4, 1]);
        let lookups = corp.all(Purpose::Lookup);
        assert_eq!(lookups.len(), 3, "other conversions have all permits but one");
        drop(lookups);
        advance(Duration::from_secs(10)).await;
        corp.try_acquire(conversion).unwrap().succeeded();
        assert_eq!(corp.limits().await, [4, 1], "a conversion says nothing about lists");
        corp.try_acquire(Purpose::List).unwrap().succeeded();
        assert_eq!(corp.limits().await, [4, 2]);
        corp.refuse(conversion).await;
        assert_eq!(corp.limits().await, [2, 1]);
        advance(Duration::from_secs(10)).await;
        corp.try_acquire(Purpose::List).unwrap().succeeded();
        corp.try_acquire(conversion).unwrap().succeeded();
        assert_eq!(corp.limits().await, [3, 2]);
    }
}

#[tokio::test(start_paused = true)]
async fn other_work_leaves_one_call_to_live_work_and_waits_for_its_turn() {
    let corp = Corp::new();
    let mut permits = corp.all(Purpose::Lookup);
    assert_eq!(permits.len(), 3);
    permits.extend(corp.try_acquire(Purpose::Live));
    assert_eq!(permits.len(), 4);
    assert!(corp.try_acquire(Purpose::Live).is_none());
    let mut list = pin!(corp.acquire(Purpose::List));
    assert!(waits(list.as_mut()).await);
    advance(LOOK_EVERY).await;
    permits.truncate(2);
    corp.parallelism.returned_to_lanes().await;
    assert!(waits(list.as_mut()).await, "live work and the lane of lookups have asked before it");
    assert!(list.await.is_some(), "neither asks again");
}

#[tokio::test(start_paused = true)]
async fn of_one_call_at_a_time_the_next_is_that_of_live_work_that_waits() {
    let corp = Corp::of_one_call().await;
    let lookup = corp.try_acquire(Purpose::Lookup).unwrap();
    let mut list = pin!(corp.acquire(Purpose::List));
    assert!(waits(list.as_mut()).await);
    assert!(corp.try_acquire(Purpose::Live).is_none());
    drop(lookup);
    assert!(waits(list.as_mut()).await);
    let live = corp.try_acquire(Purpose::Live).unwrap();
    assert!(corp.try_acquire(Purpose::Live).is_none());
    drop(live);
    assert!(waits(list.as_mut()).await);
    assert!(list.await.is_some(), "live work does not ask again");
}

#[tokio::test(start_paused = true)]
async fn of_one_call_at_a_time_lanes_and_tasks_have_it_in_the_order_in_which_they_asked() {
    let corp = Corp::of_one_call().await;
    let first = corp.acquire(Purpose::List).await;
    let mut second = pin!(corp.acquire(Purpose::List));
    assert!(waits(second.as_mut()).await);
    assert!(corp.try_acquire(Purpose::Retry).is_none());
    let mut third = pin!(corp.acquire(Purpose::List));
    assert!(waits(third.as_mut()).await);
    assert!(corp.try_acquire(Purpose::Lookup).is_none());

    drop(first);
    assert!(corp.try_acquire(Purpose::Retry).is_none());
    let second = second.await;
    assert!(second.is_some());
    drop(second);
    assert!(corp.try_acquire(Purpose::Lookup).is_none());
    assert!(waits(third.as_mut()).await);
    let retry = corp.try_acquire(Purpose::Retry);
    assert!(retry.is_some(), "its worker is woken up and asks again");
    drop(retry);
    assert!(corp.try_acquire(Purpose::Lookup).is_none());
    drop(third.await);
    assert!(corp.try_acquire(Purpose::Lookup).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_task_that_waits_in_vain_for_ten_seconds_leaves_its_place_to_those_behind_it() {
    let corp = Corp::of_one_call().await;
    let list = corp.acquire(Purpose::List).await;
    let mut in_vain = pin!(corp.acquire(Purpose::List));
    assert!(waits(in_vain.as_mut()).await);
    advance(Duration::from_millis(9_900)).await;
    assert!(corp.try_acquire(Purpose::Lookup).is_none());
    let mut waits_on = pin!(corp.acquire(Purpose::Lookup));
    assert!(waits(waits_on.as_mut()).await);
    assert!(in_vain.await.is_none());
    corp.parallelism.returned_to_lanes().await;
    drop(list);
    assert!(corp.try_acquire(Purpose::Lookup).is_some());
    assert!(waits_on.await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_yields_is_lost_if_live_work_keeps_all_for_ten_seconds() {
    let corp = Corp::of_one_call().await;
    let mut lookup = corp.try_acquire(Purpose::Lookup).unwrap();
    assert!(lookup.yield_to_live().await, "nobody waits for it");
    assert!(corp.try_acquire(Purpose::Live).is_none());
    let live = async {
        corp.parallelism.returned_to_lanes().await;
        corp.try_acquire(Purpose::Live)
    };
    let began = Instant::now();
    let (live, keeps_permit) = tokio::join!(live, lookup.yield_to_live());
    assert_eq!((live.is_some(), keeps_permit, began.elapsed().as_secs()), (true, false, 10));
    drop(live);
    // It was returned once.
    assert_eq!(corp.all(Purpose::Live).len(), 1);
}
