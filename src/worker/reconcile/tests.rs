//! Comparisons of a dealer's customers, page by page: their cost, interruptions, failures, and who is
//! removed.

use super::super::breaker::Scope;
use super::super::scripted::{Script, T0, World, app, chat_id, customer, dealer, member};
use super::*;
use crate::domain::dealer_activity::DealerActivity;
use crate::domain::event::{ContactChange, ContactEvent, Event};
use crate::domain::ids::{ExternalUserid, UserId};
use crate::store::{Arrival, MessageDigest, Payload};

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
async fn a_large_dealer_with_nothing_new_costs_a_call_a_hundred_rows_and_a_group_and_no_lookup() {
    let mut script = Script::new(30, 6_000).without_contact_list();
    for n in 0..40 {
        script.chats.insert(chat_id(n), (0..50).map(|of| customer(n * 50 + of)).collect());
    }
    let world = compared(script).await;
    world.advance(Duration::from_hours(23)).await;
    begin(&world).await;
    let mut process = Process::of(&world);
    let run = process.finish(&world).await;
    let calls = world.take_calls();
    let count = |name: &str| calls.iter().filter(|call| call.starts_with(name)).count();
    assert_eq!(["members", "customers", "chats", "chat "].map(count), [1, 60, 1, 40]);
    assert_eq!(calls.len(), 61 + 41);
    assert_eq!((process.lookups, run.customers_new, run.customers_seen), (0, 0, 6_000 + 40 * 50));
    assert_eq!(activity(&world).await.reconciled_at, Some(world.context.now()));
}

#[tokio::test]
async fn customers_are_found_through_contact_list_or_else_through_members_and_groups() {
    for script in [small(), small().without_contact_list()] {
        let has_contact_list = script.refused.is_empty();
        let world = World::new(script).await;
        begin(&world).await;
        let mut process = Process::of(&world);
        let run = process.finish(&world).await;
        assert_eq!((run.customers_seen, run.customers_new, process.lookups), (12, 11, 11));
        assert_eq!(followers(&world).await.len(), 9);
        let calls = world.take_calls();
        if has_contact_list {
            let cursors = ["", " 2", " 4", " 6", " 8", " 10"];
            assert_eq!(calls, cursors.map(|cursor| format!("contact_list{cursor}")));
        } else {
            assert_eq!(calls[..3], ["contact_list", "members", "customers member000"]);
            assert_eq!(calls[7..], ["chats", "chat wr000", "chat wr001"]);
            // Not asked for again within a day.
            begin(&world).await;
            process.finish(&world).await;
            assert_eq!(world.take_calls()[0], "members");
        }
    }
}

#[tokio::test]
async fn a_dealer_without_customers_or_without_members_is_compared_at_once() {
    for (members, calls) in [(3, 4), (0, 3)] {
        let world = World::new(Script::new(members, 0).without_contact_list()).await;
        begin(&world).await;
        Process::of(&world).finish(&world).await;
        assert_eq!(world.take_calls().len(), calls, "contact_list, members, their customers, groups");
        assert!(activity(&world).await.reconciled_at.is_some());
    }
}

#[tokio::test]
async fn a_group_that_is_gone_is_left_out_and_so_are_groups_that_may_not_be_read() {
    for (name, errcode, found) in [("chat wr000", 49_008, 10), ("chats", 48_002, 9), ("chat", 48_002, 9)] {
        let mut script = small().without_contact_list();
        script.refused.insert(name, errcode);
        let world = compared(script).await;
        assert_eq!((run(&world).await.customers_new, name), (found, name));
        assert!(activity(&world).await.reconciled_at.is_some());
    }
    let mut world = World::new(small()).await;
    world.change_rules(|rules| rules.customer_groups = false);
    begin(&world).await;
    assert_eq!(Process::of(&world).finish(&world).await.customers_new, 9);
}

#[tokio::test]
async fn the_next_process_goes_on_and_reads_no_page_twice() {
    for script in [small(), small().without_contact_list()] {
        let mut world = World::new(script).await;
        begin(&world).await;
        while Process::of(&world).read_page(&world).await {
            world = world.restart().await;
        }
        let mut pages = world.take_calls();
        pages.retain(|call| call != "members" && call != "chats");
        let count = pages.len();
        pages.sort();
        pages.dedup();
        assert_eq!(pages.len(), count, "{pages:?}");
        assert_eq!((run(&world).await.customers_seen, run(&world).await.customers_new), (12, 11));
    }
}

#[tokio::test]
async fn a_list_of_members_that_changed_over_a_restart_is_read_from_its_beginning() {
    let world = World::new(small().without_contact_list()).await;
    begin(&world).await;
    let mut process = Process::of(&world);
    for _ in 0..2 {
        assert!(process.read_page(&world).await);
    }
    let world = world.restart().await;
    world.wecom.script().members.remove(0);
    world.take_calls();
    Process::of(&world).finish(&world).await;
    assert_eq!(world.take_calls()[..2], ["members", "customers member001"]);
}

#[tokio::test]
async fn a_place_that_can_no_longer_be_used_is_given_up_for_the_beginning() {
    let first_pages = async |refused: bool| {
        let world = World::new(small()).await;
        begin(&world).await;
        let mut process = Process::of(&world);
        process.read_page(&world).await;
        if refused {
            world.wecom.script().next_refused.push_back(60_268);
        } else {
            world.advance(Duration::from_hours(4)).await;
        }
        process.finish(&world).await;
        assert!(activity(&world).await.reconciled_at.is_some());
        world.take_calls()[..4].to_vec()
    };
    let refused = ["contact_list", "contact_list 2", "contact_list", "contact_list 2"];
    assert_eq!(first_pages(true).await, refused);
    let too_old = ["contact_list", "contact_list", "contact_list 2", "contact_list 4"];
    assert_eq!(first_pages(false).await, too_old);
    // But not again and again.
    let mut script = small();
    script.refused.insert("contact_list 2", 60_268);
    let world = compared(script).await;
    let activity = activity(&world).await;
    assert_eq!((activity.reconciled_at, activity.trouble.unwrap().errcode), (None, Some(60_268)));
}

/// The followers who are removed by a second comparison, after a change at the dealer.
async fn removed(script: Script, change: impl FnOnce(&mut Script)) -> Vec<(ExternalUserid, UserId)> {
    let world = compared(script).await;
    let before = followers(&world).await;
    change(&mut world.wecom.script());
    world.advance(DAY).await;
    begin(&world).await;
    Process::of(&world).finish(&world).await;
    let after = followers(&world).await;
    before.into_iter().filter(|follower| !after.contains(follower)).collect()
}

#[tokio::test]
async fn a_follower_who_is_no_longer_listed_is_removed_unless_something_else_explains_it() {
    let scripts: [fn() -> Script; 2] = [small, || small().without_contact_list()];
    for script in scripts {
        let left = removed(script(), |script| script.follows.retain(|(_, id)| *id != customer(4)));
        assert_eq!(left.await, [(customer(4), member(1))]);
        let narrowed_range = removed(script(), |script| {
            script.members.retain(|id| *id != member(1));
        });
        assert_eq!(narrowed_range.await, []);
        let more_than_half = removed(script(), |script| script.follows.truncate(4));
        assert_eq!(more_than_half.await, []);
    }
    let no_licence = removed(small().without_contact_list(), |script| script.unlicensed.push(member(1)));
    assert_eq!(no_licence.await, []);
}

#[tokio::test]
async fn one_who_is_added_while_the_lists_are_read_or_just_before_is_not_removed() {
    for script in [small(), small().without_contact_list()] {
        let world = compared(script).await;
        world.advance(DAY).await;
        begin(&world).await;
        let mut process = Process::of(&world);
        for (n, seconds_ago) in [(0, 120), (1, 0)] {
            assert!(process.read_page(&world).await);
            let now = world.context.now();
            let contact = ContactEvent {
                change: ContactChange::Added,
                user_id: member(n),
                external_userid: customer(8),
                state: None,
                welcome_code: None,
            };
            let created_at = now.plus_ms(-seconds_ago * SECOND_MS);
            let event = Event { corp_id: dealer(), created_at, contact };
            let digest = MessageDigest::of(&app(), &n.to_be_bytes());
            let arrival = Arrival { app: app(), digest, received_at: now, payload: Payload::Event(event) };
            world.context.store.append(arrival).await.unwrap();
            world.resolve().await;
        }
        process.finish(&world).await;
        assert!(activity(&world).await.trouble.is_none());
        let of_customer = followers(&world).await.into_iter().filter(|(id, _)| *id == customer(8));
        let members: Vec<_> = of_customer.map(|(_, member)| member).collect();
        assert_eq!(members, [member(0), member(1), member(2)]);
    }
}

#[tokio::test]
async fn that_more_than_half_are_missing_is_reported() {
    let world = compared(small()).await;
    world.wecom.script().follows.truncate(2);
    world.advance(DAY).await;
    begin(&world).await;
    Process::of(&world).finish(&world).await;
    let trouble = activity(&world).await.trouble.unwrap();
    assert!(trouble.text.starts_with("7 of 9 followers are missing"), "{}", trouble.text);
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
    assert_eq!(waiting(&mut process).await, 1);
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
