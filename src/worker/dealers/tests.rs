//! The worker over a scripted WeCom: the list of dealers, and what the tests of the other parts share.

use futures_util::FutureExt as _;

use super::super::scripted::{Script, T0, app, contact_event, customer, member};
use super::super::world::World;
use super::*;
use crate::clock::Clock as _;
use crate::domain::chat::{ChatChange, ChatEvent};
use crate::domain::event::{ContactChange, Event};
use crate::domain::ids::ChatId;
use crate::domain::tally::Tally;
use crate::domain::time::{DAY_MS, Timestamp};
use crate::store::{Counts, DealerRow, Outcome, Payload, Work};

mod qualifications;
mod watch;

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

fn corp(n: usize) -> CorpId {
    CorpId::new(format!("wpDEALER{n}")).unwrap()
}

fn scope(n: usize) -> Scope {
    Scope::Corp(app(), corp(n))
}

fn reason() -> FailureReason {
    FailureReason { errcode: Some(84_074), text: "no permission".to_owned() }
}

/// The worker of a service that has just started.
struct Worker {
    world: World,
    watch: Watch,
    dealers: AppDealers,
}

impl Worker {
    /// A worker for an app with this many dealers.
    fn with(dealers: usize) -> Self {
        let world = World::first(Script { listed: (0..dealers).map(corp).collect(), ..Script::new(0, 0) });
        let context = &world.context;
        let dealers = AppDealers::new(context, &app());
        Self { watch: Watch::new(context), dealers, world }
    }

    fn script<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        change(&mut self.world.wecom.script())
    }

    /// How often all dealers were listed.
    fn lists(&self) -> usize {
        self.world.wecom.count("dealers")
    }

    fn now(&self) -> Timestamp {
        self.world.clock.now()
    }

    async fn pass(&self, time: Duration) {
        self.world.advance(time).await;
    }

    async fn look(&mut self) {
        self.watch.look().await;
        self.dealers.look().await;
    }

    /// WeCom reports that the dealers have changed.
    async fn report_change(&mut self) {
        self.world.context.wake.dealers_changed(&app());
        self.look().await;
    }

    /// A dealer's customer, the lookup of whom ends in `outcome`.
    async fn add_customer(&self, dealer: usize, outcome: Outcome) {
        let contact = contact_event(ContactChange::Added, member(0), customer(0));
        self.world.append(Payload::Event(Event { corp_id: corp(dealer), created_at: T0, contact })).await;
        let work = self.lease().await.expect("the event is due");
        self.settle(work, outcome).await;
    }

    async fn lease(&self) -> Option<Work> {
        self.world.context.store.lease(self.now(), 9, 9).await.unwrap().pop()
    }

    async fn settle(&self, work: Work, outcome: Outcome) {
        self.world.context.store.settle(vec![(work, outcome)], self.now()).await.unwrap();
    }

    /// A customer whose event waits for the probe of its dealer's breaker.
    async fn add_deferred_customer(&self, dealer: usize) {
        let breakers = &self.world.context.breakers;
        let due_at = breakers.failed(&scope(dealer), reason(), Backoff::CONFIGURATION, self.now());
        self.add_customer(dealer, Outcome::Retry { due_at, reason: reason(), spent: false }).await;
        assert!(!self.is_work_due().await);
    }

    async fn is_work_due(&self) -> bool {
        let next_due = self.world.context.store.next_due().await.unwrap();
        next_due.is_some_and(|due_at| due_at <= self.now())
    }

    async fn rows(&self) -> Vec<DealerRow> {
        self.world.context.store.dealer_rows(&app()).await.unwrap()
    }

    async fn row(&self, dealer: usize) -> DealerRow {
        self.rows().await.into_iter().find(|row| row.dealer.corp_id == corp(dealer)).unwrap()
    }

    /// The states of the dealers, in the order of their ids.
    async fn states(&self) -> Vec<DealerState> {
        self.rows().await.iter().map(|row| row.dealer.state()).collect()
    }

    /// Whether this is a line of the metrics.
    fn measures(&self, line: &str) -> bool {
        let metrics = self.world.context.metrics.scrape(&Counts::default(), Some(&Tally::default()), 0);
        metrics.lines().any(|each| each == line)
    }
}

#[tokio::test]
async fn a_list_that_lost_half_of_the_dealers_is_believed_when_it_is_read_again() {
    use DealerState::{Left, Shared};
    let mut worker = Worker::with(4);
    worker.look().await;
    assert_eq!(worker.states().await, [Shared; 4]);
    for lasts in [false, true] {
        worker.script(|wecom| wecom.listed = vec![corp(0)]);
        worker.pass(MINUTE).await;
        worker.report_change().await;
        let lists = worker.lists();
        worker.look().await;
        assert_eq!(worker.states().await, [Shared; 4], "not believed yet");
        assert_eq!(worker.lists(), lists, "not read again at once");
        if !lasts {
            worker.script(|wecom| wecom.listed = (0..4).map(corp).collect());
        }
        worker.pass(DOUBT_FOR).await;
        worker.look().await;
        assert_eq!(worker.lists(), lists + 1);
        let expected = if lasts { [Shared, Left, Left, Left] } else { [Shared; 4] };
        assert_eq!(worker.states().await, expected);
    }
    assert!(worker.measures("unionlink_dealers{app=\"brand\",state=\"left\"} 3"));
}

#[tokio::test]
async fn several_reported_changes_cause_one_reading_a_minute() {
    let mut worker = Worker::with(1);
    worker.look().await;
    for _ in 0..5 {
        worker.report_change().await;
    }
    assert_eq!(worker.lists(), 1);
    worker.pass(MINUTE).await;
    worker.look().await;
    worker.look().await;
    assert_eq!(worker.lists(), 2);
}

#[tokio::test]
async fn setting_the_wall_clock_neither_stalls_nor_repeats_the_daily_reading() {
    let mut worker = Worker::with(1);
    worker.look().await;
    for days in [10, -20] {
        worker.world.clock.set_wall(days * DAY_MS);
        worker.look().await;
        assert_eq!(worker.lists(), 1);
    }
    worker.pass(DAY).await;
    worker.look().await;
    assert_eq!(worker.lists(), 2);
}

#[tokio::test]
async fn the_work_of_a_dealer_that_is_listed_again_is_resumed() {
    let mut worker = Worker::with(3);
    worker.look().await;
    worker.script(|wecom| wecom.listed = vec![corp(0), corp(1)]);
    worker.pass(MINUTE).await;
    worker.report_change().await;
    assert_eq!(worker.row(2).await.dealer.state(), DealerState::Left);
    assert_eq!(worker.world.context.directory.find(&app(), &corp(2)).await.unwrap(), None);
    worker.add_deferred_customer(2).await;
    worker.world.context.wake.take_resumed(&app());
    worker.script(|wecom| wecom.listed.push(corp(2)));
    worker.pass(MINUTE).await;
    worker.report_change().await;
    assert_eq!(worker.row(2).await.dealer.state(), DealerState::Shared);
    assert!(worker.is_work_due().await);
    assert!(worker.world.context.wake.take_resumed(&app()).contains(&corp(2)));
}

#[tokio::test]
async fn the_groups_of_a_dealer_that_is_listed_again_are_read_at_once() {
    let mut worker = Worker::with(3);
    worker.look().await;
    worker.script(|wecom| wecom.listed = vec![corp(0), corp(1)]);
    worker.pass(MINUTE).await;
    worker.report_change().await;
    let (chat_id, now) = (ChatId::new("wrGROUP").unwrap(), worker.now());
    let event = ChatEvent { corp_id: corp(2), created_at: now, chat_id, change: ChatChange::Created };
    worker.world.append(Payload::Chat(event)).await;
    let Context { store, wake, .. } = worker.world.context.clone();
    for group in store.due_chats(&BTreeSet::new(), now.plus_ms(DAY_MS), 9).await.unwrap() {
        store.chat_unread(&group, Some(now.plus_ms(DAY_MS))).await.unwrap();
    }
    worker.script(|wecom| wecom.listed.push(corp(2)));
    worker.pass(MINUTE).await;
    worker.report_change().await;
    assert_eq!(store.next_chat_due().await, Ok(Some(worker.now())));
    tokio::time::timeout(MINUTE, wake.groups.notified()).await.unwrap();
}

#[tokio::test]
async fn a_corp_that_is_not_listed_is_asked_about_once_a_minute_and_resumed_once_it_is() {
    let mut worker = Worker::with(1);
    worker.look().await;
    worker.add_deferred_customer(7).await;
    let directory = worker.world.context.directory.clone();
    for _ in 0..3 {
        assert_eq!(directory.find(&app(), &corp(7)).await.unwrap(), None);
    }
    assert_eq!(worker.world.wecom.count("dealer "), 1);
    worker.script(|wecom| wecom.listed.push(corp(7)));
    worker.pass(MINUTE).await;
    assert!(directory.find(&app(), &corp(7)).await.unwrap().is_some());
    assert_eq!(worker.world.wecom.count("dealer "), 2);
    worker.look().await;
    assert!(worker.is_work_due().await);
}

#[tokio::test]
async fn messages_about_a_dealer_that_was_not_listed_are_routed_once_it_is() {
    let mut worker = Worker::with(1);
    worker.look().await;
    let wake = worker.world.context.wake.clone();
    let is_signalled = || wake.unrouted.notified().now_or_never().is_some();
    assert!(is_signalled());
    worker.pass(MINUTE).await;
    worker.report_change().await;
    assert!(!is_signalled(), "no dealer is new");
    worker.script(|wecom| wecom.listed.push(corp(7)));
    worker.pass(MINUTE).await;
    worker.report_change().await;
    assert!(is_signalled());
}

#[tokio::test]
async fn a_corp_that_may_be_a_dealer_is_asked_about_although_the_list_was_read_a_moment_ago() {
    let mut worker = Worker::with(1);
    worker.look().await;
    worker.script(|wecom| wecom.listed.push(corp(7)));
    let Context { wake, store, .. } = worker.world.context.clone();
    for corp_id in [corp(7), corp(8)] {
        wake.dealer_unknown(&app(), &corp_id);
    }
    worker.look().await;
    assert!(store.dealer(&app(), &corp(7)).await.unwrap().is_some());
    assert_eq!(store.dealer(&app(), &corp(8)).await.unwrap(), None);
    assert!(wake.unrouted.notified().now_or_never().is_some());
}

#[tokio::test]
async fn an_app_whose_calls_are_not_answered_delays_no_other() {
    let Worker { mut world, .. } = Worker::with(2);
    // The one that hangs comes first in the order of the names.
    let other = AppName::new("other").unwrap();
    world.add_app(other.clone());
    world.wecom.script().hanging = Some(app());
    let Context { store, activity, directory, .. } = world.context.clone();
    activity.seen(&other, &corp(0), T0);
    let worker = tokio::spawn(run(world.context.clone(), CancellationToken::new()));
    let give_up = tokio::time::Instant::now() + Duration::from_secs(30);
    while store.dealer_rows(&other).await.unwrap().len() < 2 {
        assert!(tokio::time::Instant::now() < give_up, "it waits for the other app");
        tokio::task::yield_now().await;
    }
    assert_eq!(store.dealer_rows(&other).await.unwrap()[0].activity.last_event_at, Some(T0));
    assert_eq!(directory.find(&other, &corp(7)).await.unwrap(), None);
    assert_eq!(store.dealer_rows(&app()).await.unwrap().len(), 0);
    worker.abort();
}

#[tokio::test]
async fn the_dealers_of_an_app_without_an_authorisation_are_not_read() {
    let mut worker = Worker::with(1);
    worker.world.change_rules(|rules| rules.suite = Some(AppName::new("agency").unwrap()));
    worker.look().await;
    assert_eq!(worker.world.take_calls(), [""; 0]);
    assert_eq!(worker.world.context.breakers.all(worker.now()), []);
    worker.world.change_rules(|rules| rules.suite = None);
    worker.look().await;
    assert_eq!(worker.lists(), 1);
}
