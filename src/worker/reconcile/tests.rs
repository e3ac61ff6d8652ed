//! When a dealer's customers are compared, and what becomes of failures.

use super::super::breaker::Scope;
use super::super::scripted::{Script, T0, app, chat_id, contact_event, customer, dealer, member};
use super::super::world::World;
use super::*;
use crate::domain::dealer::Dealer;
use crate::domain::dealer_activity::DealerActivity;
use crate::domain::event::{ContactChange, Event};
use crate::domain::ids::{ExternalUserid, UserId};
use crate::store::Payload;
use crate::worker::parallelism::Purpose;

mod lists;
mod removal;

const DAY: Duration = Duration::from_hours(24);

/// The comparisons of one process.
struct Process {
    comparison: Comparison,
    state: State,
    lookups: usize,
}

impl Process {
    fn of(world: &World) -> Self {
        let context = world.context.clone();
        let comparison = Comparison { context, app: app(), log: Arc::default(), state: Arc::default() };
        Self { comparison, state: State::default(), lookups: 0 }
    }

    async fn step(&mut self) -> Option<Duration> {
        self.comparison.step(&mut self.state).await
    }

    /// Goes on until the run is over, with every lookup answered at once.
    async fn finish(&mut self, world: &World) -> ReconcileRun {
        for _ in 0..5_000 {
            let wait = self.step().await;
            self.lookups += world.resolve().await;
            let run = run(world).await;
            if !run.is_running() {
                return run;
            }
            if let Some(wait) = wait.filter(|wait| !wait.is_zero()) {
                world.advance(wait).await;
            }
        }
        panic!("the run does not end");
    }

    /// Goes on until a page was read. Returns false if the run is over first.
    async fn read_page(&mut self, world: &World) -> bool {
        let before = run(world).await.customers_seen;
        while run(world).await.is_running() {
            self.step().await;
            world.resolve().await;
            if run(world).await.customers_seen > before {
                return true;
            }
        }
        false
    }
}

async fn begin(world: &World) {
    let now = world.context.now();
    world.context.store.begin_reconcile(vec![(app(), dealer())], now).await.unwrap();
}

async fn run(world: &World) -> ReconcileRun {
    world.context.store.reconcile_run().await.unwrap().unwrap()
}

async fn activity(world: &World) -> DealerActivity {
    world.context.store.dealer_rows(&app()).await.unwrap().remove(0).activity
}

/// Everybody who follows a customer.
async fn followers(world: &World) -> Vec<(ExternalUserid, UserId)> {
    let for_ever = Timestamp::from_millis(i64::MAX);
    let (_, mut followers) =
        world.context.store.missing_followers(&app(), &dealer(), for_ever).await.unwrap();
    followers.sort();
    followers
}

/// A world in which the dealer was compared once.
async fn compared(script: Script) -> World {
    let world = World::new(script).await;
    begin(&world).await;
    Process::of(&world).finish(&world).await;
    world.take_calls();
    world
}

/// A dealer of three members with nine customers and two groups, in pages of two rows.
fn small() -> Script {
    let mut script = Script::new(3, 9);
    script.page_rows = 2;
    script.chats.insert(chat_id(0), vec![customer(0), customer(20)]);
    script.chats.insert(chat_id(1), vec![customer(21)]);
    script
}

#[tokio::test]
async fn a_failing_call_is_repeated_a_few_times_and_then_the_dealer_is_given_up() {
    let ended = async |errcode: i64, times: usize| {
        let world = World::new(small()).await;
        world.wecom.script().next_refused.extend(std::iter::repeat_n(errcode, times));
        begin(&world).await;
        let run = Process::of(&world).finish(&world).await;
        assert_eq!(run.dealers_done, 1);
        let activity = activity(&world).await;
        (activity.reconciled_at.is_some(), activity.trouble.and_then(|trouble| trouble.errcode))
    };
    assert_eq!(ended(-1, 4).await, (true, None));
    assert_eq!(ended(-1, 5).await, (false, Some(-1)));
    assert_eq!(ended(45_033, 4).await, (true, None));
    assert_eq!(ended(45_009, 1).await, (true, None), "a call limit is waited for");
    assert_eq!(ended(50_003, 1).await, (false, Some(50_003)), "an operator has to correct a setting");
}

#[tokio::test]
async fn a_dealer_that_was_put_off_is_due_at_once_when_its_comparison_is_resumed() {
    let world = World::new(small()).await;
    world.wecom.script().next_refused.push_back(99_999);
    begin(&world).await;
    let mut process = Process::of(&world);
    let makes_a_call = async |process: &mut Process| {
        // It takes up the dealer, unless that is put off.
        for _ in 0..2 {
            process.step().await;
        }
        !world.take_calls().is_empty()
    };
    assert!(makes_a_call(&mut process).await, "the call that fails");
    for (resumed, is_due) in [(CorpId::new("wpOTHER").unwrap(), false), (dealer(), true)] {
        world.context.wake.comparison_resumed(&app(), &resumed);
        assert_eq!(makes_a_call(&mut process).await, is_due);
    }
}

#[tokio::test]
async fn there_is_a_pause_after_a_page_while_callbacks_arrive() {
    let world = World::new(small()).await;
    begin(&world).await;
    let mut process = Process::of(&world);
    assert_eq!(process.step().await, Some(Duration::ZERO), "it takes up the dealer");
    for busy in [false, true, false] {
        if busy {
            let contact = contact_event(ContactChange::Added, member(0), customer(9));
            world.append(Payload::Event(Event { corp_id: dealer(), created_at: T0, contact })).await;
        }
        let wait = process.step().await.unwrap();
        assert_eq!(wait >= PAUSE_MIN, busy, "{wait:?}");
    }
}

#[tokio::test]
async fn no_call_is_made_while_a_breaker_is_open_or_the_dealer_has_left() {
    for is_breaker in [true, false] {
        let world = World::new(small()).await;
        let (context, scope) = (&world.context, Scope::Corp(app(), dealer()));
        if is_breaker {
            let reason = FailureReason { errcode: Some(84_074), text: "no permission".to_owned() };
            let slow = Backoff { first_ms: 4 * MINUTE_MS, max_ms: 4 * MINUTE_MS };
            context.breakers.failed(&scope, reason, slow, T0);
        } else {
            context.store.dealer_left(&app(), &dealer(), T0).await.unwrap();
        }
        begin(&world).await;
        Process::of(&world).finish(&world).await;
        assert_eq!(world.take_calls(), [""; 0]);
        assert_eq!(activity(&world).await.reconciled_at, None);
    }
}

#[tokio::test]
async fn dealers_whose_live_work_takes_all_permits_delay_no_other_and_do_not_fail() {
    let world = World::new(small()).await;
    let (context, now) = (&world.context, world.context.now());
    let others = ["wpA", "wpB", "wpC"].map(|id| CorpId::new(id).unwrap());
    let listed = others.iter().map(|corp_id| Dealer::listed(corp_id.clone(), 7, String::new(), now));
    context.store.put_dealers(&app(), listed.collect()).await.unwrap();
    let live = |corp_id| {
        let permit = || context.parallelism.try_acquire(&app(), corp_id, Purpose::Live);
        std::iter::from_fn(permit).collect::<Vec<_>>()
    };
    let permits: Vec<_> = others.iter().map(live).collect();
    let dealers = others.iter().cloned().chain([dealer()]).map(|corp_id| (app(), corp_id));
    context.store.begin_reconcile(dealers.collect(), now).await.unwrap();
    let mut process = Process::of(&world);
    let began = Instant::now();
    while run(&world).await.dealers_done == 0 {
        let current = process.state.current.as_ref();
        if current.is_some_and(|traversal| others.contains(&traversal.corp().corp_id)) {
            // Skips the wait for a permit.
            tokio::time::pause();
            process.step().await;
            tokio::time::resume();
        } else {
            process.step().await;
            world.resolve().await;
        }
        assert!(began.elapsed() < Duration::from_mins(2), "the other dealer has no turn");
    }
    assert!(world.wecom.count("contact_list") > 0);
    assert!(process.state.failing.values().all(|failing| failing.failures == 0));
    drop(permits);
    let finished = process.finish(&world).await;
    assert_eq!((finished.dealers_done, finished.dealers_total), (4, 4));
}

#[tokio::test]
async fn no_page_is_read_while_many_lookups_are_waited_for_and_the_end_waits_for_all() {
    let mut script = Script::new(1, 1_500);
    script.page_rows = 1_001;
    let world = World::new(script).await;
    begin(&world).await;
    let mut process = Process::of(&world);
    let waiting = async |process: &mut Process| {
        for _ in 0..10 {
            process.step().await;
        }
        world.take_calls().len()
    };
    assert_eq!(waiting(&mut process).await, 2, "the members and a page");
    assert_eq!(world.resolve().await, 1_001);
    assert_eq!(waiting(&mut process).await, 1);
    assert!(run(&world).await.is_running());
    assert_eq!(world.resolve().await, 499);
    process.step().await;
    assert!(!run(&world).await.is_running());
}

#[tokio::test]
async fn a_run_begins_by_itself_when_dealers_are_due_and_a_failed_one_is_not_repeated_at_once() {
    let mut world = World::new(small()).await;
    let mut process = Process::of(&world);
    let begins = async |process: &mut Process, world: &World, after: Duration| {
        world.advance(after).await;
        process.step().await;
        let run = world.context.store.reconcile_run().await.unwrap();
        run.is_some_and(|run| run.is_running())
    };
    let second = Duration::from_secs(1);
    assert!(!begins(&mut process, &world, second).await, "dealers may still be being stored");
    assert!(begins(&mut process, &world, second).await);
    process.finish(&world).await;
    assert!(!begins(&mut process, &world, Duration::from_hours(23)).await);
    assert!(begins(&mut process, &world, Duration::from_hours(1)).await);
    world.wecom.script().refused.insert("contact_list", 50_003);
    process.finish(&world).await;
    assert!(!begins(&mut process, &world, Duration::from_hours(3)).await);
    assert!(begins(&mut process, &world, Duration::from_hours(1)).await);
    process.finish(&world).await;
    world.change_rules(|rules| rules.reconcile_hours = 0);
    let mut process = Process::of(&world);
    for _ in 0..3 {
        assert!(!begins(&mut process, &world, DAY).await, "only when asked");
    }
}

#[tokio::test]
async fn the_worker_makes_one_step_after_the_other_until_the_run_is_over() {
    let world = World::new(small()).await;
    begin(&world).await;
    let stop = CancellationToken::new();
    let worker = tokio::spawn(super::run(world.context.clone(), stop.clone()));
    let give_up = Instant::now() + Duration::from_secs(30);
    while run(&world).await.is_running() {
        assert!(Instant::now() < give_up, "the run does not end");
        world.resolve().await;
        tokio::task::yield_now().await;
    }
    stop.cancel();
    worker.await.unwrap();
    assert_eq!(run(&world).await.customers_seen, 12);
}

#[tokio::test]
async fn the_comparisons_of_an_app_without_an_authorisation_wait_for_one() {
    let mut world = World::new(small()).await;
    begin(&world).await;
    world.change_rules(|rules| rules.suite = Some(AppName::new("agency").unwrap()));
    assert_eq!(Process::of(&world).step().await, None);
    assert_eq!(world.take_calls(), [""; 0]);
    world.change_rules(|rules| rules.suite = None);
    let run = Process::of(&world).finish(&world).await;
    assert_eq!((run.dealers_done, activity(&world).await.trouble), (1, None));
}
