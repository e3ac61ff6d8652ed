//! The worker over a scripted platform. The wall clock and the monotonic clock are moved one by one.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio_util::task::TaskTracker;

use super::super::breaker::Breakers;
use super::super::dealer_names::DealerNames;
use super::super::directory::Directory;
use super::super::sink_status::SinkRegistry;
use super::super::{ConversionToken, Wake};
use super::*;
use crate::clock::{Clock as _, ManualClock};
use crate::domain::backoff::Jitter;
use crate::domain::dealer::{Dealer, Qualification};
use crate::domain::event::{AppAlarm, AppAlarmKind, ContactChange, ContactEvent, Event};
use crate::domain::fan::Renew;
use crate::domain::ids::{ChatId, ExternalUserid, Openid, PendingId, Unionid, UserId};
use crate::domain::quota::{Limits, Share};
use crate::domain::tally::Tally;
use crate::domain::time::{DAY_MS, MINUTE_MS, SECOND_MS};
use crate::store::embedded::engine::Memory;
use crate::store::embedded::{EmbeddedStore, Settings};
use crate::store::{Arrival, Counts, DealerRow, MessageDigest, Outcome, Payload, Store, Work};
use crate::wecom::{Api, CallError, ChatMembers, CustomerPage, DealerList, Platform, TokenOf};

const T0: Timestamp = Timestamp::from_secs(1_795_309_323);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// What WeCom answers, and how often each call was made.
#[derive(Default)]
struct Script {
    listed: Vec<CorpId>,
    qualification: Option<Qualification>,
    chains_are_forbidden: bool,
    lists: usize,
    lists_of_one: usize,
    chains: usize,
    qualifications: usize,
}

/// WeCom as scripted.
#[derive(Default)]
struct Scripted(Mutex<Script>);

#[async_trait]
impl Platform for Scripted {
    async fn dealers(&self, _: &AppName, only: Option<&CorpId>) -> Result<DealerList, CallError> {
        let mut script = self.0.lock().unwrap();
        script.lists += usize::from(only.is_none());
        script.lists_of_one += usize::from(only.is_some());
        let listed = script.listed.iter().filter(|id| only.is_none_or(|only| *only == **id));
        let dealer = |id: &CorpId| Dealer::listed(id.clone(), 7, String::new(), T0);
        Ok(DealerList { dealers: listed.map(dealer).collect(), is_complete: true })
    }

    async fn chains(&self, _: &AppName) -> Result<Vec<String>, CallError> {
        let mut script = self.0.lock().unwrap();
        script.chains += 1;
        if script.chains_are_forbidden {
            return Err(CallError::Refused { api: Api::ListAppShareInfo, errcode: 48_002, from_ip: None });
        }
        Ok(vec!["chain".to_owned()])
    }

    async fn qualification(
        &self,
        _: &AppName,
        _: &str,
        _: &CorpId,
    ) -> Result<Option<Qualification>, CallError> {
        let mut script = self.0.lock().unwrap();
        script.qualifications += 1;
        Ok(script.qualification)
    }

    async fn unionid_to_pending_id(
        &self,
        _: &AppName,
        _: &Unionid,
        _: &Openid,
        _: Share,
    ) -> Result<PendingId, CallError> {
        unreachable!()
    }

    async fn unionid_to_external_userid(
        &self,
        _: &AppName,
        _: &Unionid,
        _: &Openid,
        _: Share,
    ) -> Result<Vec<(CorpId, ExternalUserid)>, CallError> {
        unreachable!()
    }

    async fn external_userid_to_pending_id(
        &self,
        _: &AppName,
        _: &TokenOf,
        _: Option<&ChatId>,
        _: &[ExternalUserid],
    ) -> Result<Vec<(ExternalUserid, PendingId)>, CallError> {
        unreachable!()
    }

    async fn members(&self, _: &AppName, _: &TokenOf) -> Result<Vec<UserId>, CallError> {
        unreachable!()
    }

    async fn customers_of(
        &self,
        _: &AppName,
        _: &TokenOf,
        _: &[UserId],
        _: &str,
    ) -> Result<CustomerPage, CallError> {
        unreachable!()
    }

    async fn contacts(&self, _: &AppName, _: &TokenOf, _: &str) -> Result<CustomerPage, CallError> {
        unreachable!()
    }

    async fn chats(&self, _: &AppName, _: &TokenOf, _: &str) -> Result<(Vec<ChatId>, String), CallError> {
        unreachable!()
    }

    async fn chat(&self, _: &AppName, _: &TokenOf, _: &ChatId) -> Result<ChatMembers, CallError> {
        unreachable!()
    }

    fn forget_failures(&self, _: Option<&AppName>) {}
}

fn app() -> AppName {
    AppName::new("brand").unwrap()
}

fn corp(n: usize) -> CorpId {
    CorpId::new(format!("wpDEALER{n}")).unwrap()
}

fn scope(n: usize) -> Scope {
    Scope::Corp(app(), corp(n))
}

fn reason() -> FailureReason {
    FailureReason { errcode: Some(84_074), text: "no permission".to_owned() }
}

/// Moves the timer alone.
async fn elapse(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

struct World {
    wecom: Arc<Scripted>,
    clock: Arc<ManualClock>,
    context: Context,
    dealers: Dealers,
    messages: u32,
}

impl World {
    /// A service that has just started, with this many dealers.
    fn with(dealers: usize) -> Self {
        let store: Arc<dyn Store> =
            Arc::new(EmbeddedStore::in_memory(Memory::default(), Settings::default()).unwrap());
        let (wecom, clock) = (Arc::new(Scripted::default()), Arc::new(ManualClock::new(T0)));
        wecom.0.lock().unwrap().listed = (0..dealers).map(corp).collect();
        let names = Arc::new(DealerNames::default());
        let directory = Directory::new(store.clone(), wecom.clone(), clock.clone(), Arc::clone(&names));
        let rules = AppRules {
            corp_id: CorpId::new("wwBRAND").unwrap(),
            conversion_token: ConversionToken::Auto,
            existing_customers: true,
            customer_groups: true,
            reconcile_hours: 24,
            silent_days: 7,
            renew: Renew::All,
            same_id_extends: false,
            quota: Limits::DOCUMENTED,
            reserve_percent: 10,
        };
        let context = Context {
            store,
            directory: Arc::new(directory),
            platform: wecom.clone(),
            clock: clock.clone(),
            metrics: Arc::default(),
            wake: Arc::new(Wake::default()),
            breakers: Arc::new(Breakers::new(Jitter::default(), Arc::clone(&names))),
            optional_calls: Arc::default(),
            parallelism: Arc::default(),
            dealer_names: names,
            activity: Arc::default(),
            jitter: Jitter::default(),
            apps: Arc::new(BTreeMap::from([(app(), rules)])),
            calls: TaskTracker::new(),
            panicked: CancellationToken::new(),
            calls_max: 1,
            sinks: Arc::new(SinkRegistry::new([])),
            store_failures: Arc::default(),
            feed_kept_ms: 0,
        };
        let dealers = Dealers::new(context.clone());
        Self { wecom, clock, context, dealers, messages: 0 }
    }

    fn script<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        change(&mut self.wecom.0.lock().unwrap())
    }

    /// Moves the clocks.
    async fn pass(&self, time: Duration) {
        self.clock.advance_ms(i64::try_from(time.as_millis()).unwrap());
        elapse(time).await;
    }

    async fn look(&mut self) {
        self.dealers.look().await;
    }

    /// WeCom reports that the dealers have changed.
    async fn report_change(&mut self) {
        self.context.wake.dealers_changed(&app());
        self.look().await;
    }

    async fn append(&mut self, payload: Payload) {
        self.messages += 1;
        let digest = MessageDigest::of(&app(), &self.messages.to_be_bytes());
        let arrival = Arrival { app: app(), digest, received_at: self.clock.now(), payload };
        self.context.store.append(arrival).await.unwrap();
    }

    /// A dealer's customer, the lookup of whom ends in `outcome`.
    async fn add_customer(&mut self, dealer: usize, outcome: Outcome) {
        let contact = ContactEvent {
            change: ContactChange::Added,
            user_id: UserId::new("member").unwrap(),
            external_userid: ExternalUserid::new("wmCUSTOMER").unwrap(),
            state: None,
            welcome_code: None,
        };
        self.append(Payload::Event(Event { corp_id: corp(dealer), created_at: T0, contact })).await;
        let work = self.lease().await.expect("the event is due");
        self.settle(work, outcome).await;
    }

    async fn lease(&self) -> Option<Work> {
        self.context.store.lease(self.clock.now(), 9, 9).await.unwrap().pop()
    }

    async fn settle(&self, work: Work, outcome: Outcome) {
        self.context.store.settle(vec![(work, outcome)], self.clock.now()).await.unwrap();
    }

    /// A customer whose event waits for the probe of its dealer's breaker.
    async fn add_deferred_customer(&mut self, dealer: usize) {
        let now = self.clock.now();
        let due_at = self.context.breakers.failed(&scope(dealer), reason(), Backoff::CONFIGURATION, now);
        self.add_customer(dealer, Outcome::Retry { due_at, reason: reason(), spent: false }).await;
        assert!(!self.is_work_due().await);
    }

    async fn is_work_due(&self) -> bool {
        self.context.store.next_due().await.unwrap().is_some_and(|due_at| due_at <= self.clock.now())
    }

    /// The dealers with reports after which not all lookups were repeated yet.
    async fn marked(&self) -> Vec<(AppName, CorpId)> {
        self.context.store.visibility_changes().await.unwrap()
    }

    async fn row(&self, dealer: usize) -> DealerRow {
        let rows = self.context.store.dealer_rows(&app()).await.unwrap();
        rows.into_iter().find(|row| row.dealer.corp_id == corp(dealer)).unwrap()
    }

    /// The states of the dealers, in the order of their ids.
    async fn states(&self) -> Vec<DealerState> {
        let rows = self.context.store.dealer_rows(&app()).await.unwrap();
        rows.iter().map(|row| row.dealer.state()).collect()
    }

    /// Whether this is a line of the metrics.
    fn measures(&self, line: &str) -> bool {
        let metrics = self.context.metrics.scrape(&Counts::default(), &Tally::default(), 0);
        metrics.lines().any(|each| each == line)
    }
}

#[tokio::test]
async fn a_list_that_lost_half_of_the_dealers_is_believed_when_it_is_read_again() {
    use DealerState::{Left, Shared};
    let mut world = World::with(4);
    world.look().await;
    assert_eq!(world.states().await, [Shared; 4]);
    for lasts in [false, true] {
        world.script(|wecom| wecom.listed = vec![corp(0)]);
        world.pass(MINUTE).await;
        world.report_change().await;
        let lists = world.script(|wecom| wecom.lists);
        world.look().await;
        assert_eq!(world.states().await, [Shared; 4], "not believed yet");
        assert_eq!(world.script(|wecom| wecom.lists), lists, "not read again at once");
        if !lasts {
            world.script(|wecom| wecom.listed = (0..4).map(corp).collect());
        }
        world.pass(DOUBT_FOR).await;
        world.look().await;
        assert_eq!(world.script(|wecom| wecom.lists), lists + 1);
        let expected = if lasts { [Shared, Left, Left, Left] } else { [Shared; 4] };
        assert_eq!(world.states().await, expected);
    }
    assert!(world.measures("unionlink_dealers{app=\"brand\",state=\"left\"} 3"));
}

#[tokio::test]
async fn several_reported_changes_cause_one_reading_a_minute() {
    let mut world = World::with(1);
    world.look().await;
    for _ in 0..5 {
        world.report_change().await;
    }
    assert_eq!(world.script(|wecom| wecom.lists), 1);
    world.pass(MINUTE).await;
    world.look().await;
    world.look().await;
    assert_eq!(world.script(|wecom| wecom.lists), 2);
}

#[tokio::test]
async fn setting_the_wall_clock_neither_stalls_nor_repeats_the_daily_reading() {
    let mut world = World::with(1);
    world.look().await;
    for days in [10, -20] {
        world.clock.set_wall(days * DAY_MS);
        world.look().await;
        assert_eq!(world.script(|wecom| wecom.lists), 1);
    }
    world.pass(DAY).await;
    world.look().await;
    assert_eq!(world.script(|wecom| wecom.lists), 2);
}

#[tokio::test]
async fn the_work_of_a_dealer_that_is_listed_again_is_resumed() {
    let mut world = World::with(3);
    world.look().await;
    world.script(|wecom| wecom.listed = vec![corp(0), corp(1)]);
    world.pass(MINUTE).await;
    world.report_change().await;
    assert_eq!(world.row(2).await.dealer.state(), DealerState::Left);
    assert_eq!(world.context.directory.find(&app(), &corp(2)).await.unwrap(), None);
    world.add_deferred_customer(2).await;
    world.script(|wecom| wecom.listed.push(corp(2)));
    world.pass(MINUTE).await;
    world.report_change().await;
    assert_eq!(world.row(2).await.dealer.state(), DealerState::Shared);
    assert!(world.is_work_due().await);
}

#[tokio::test]
async fn a_corp_that_is_not_listed_is_asked_about_once_a_minute_and_resumed_once_it_is() {
    let mut world = World::with(1);
    world.look().await;
    world.add_deferred_customer(7).await;
    let directory = world.context.directory.clone();
    for _ in 0..3 {
        assert_eq!(directory.find(&app(), &corp(7)).await.unwrap(), None);
    }
    assert_eq!(world.script(|wecom| wecom.lists_of_one), 1);
    world.script(|wecom| wecom.listed.push(corp(7)));
    world.pass(MINUTE).await;
    assert!(directory.find(&app(), &corp(7)).await.unwrap().is_some());
    assert_eq!(world.script(|wecom| wecom.lists_of_one), 2);
    world.look().await;
    assert!(world.is_work_due().await);
}

#[tokio::test]
async fn verification_is_asked_for_in_rounds_and_daily() {
    let mut world = World::with(30);
    world.script(|wecom| wecom.qualification = Some(Qualification::Certified));
    let asked = |world: &World| world.script(|wecom| (wecom.chains, wecom.qualifications));
    for expected in [20, 30, 30] {
        world.look().await;
        world.look().await;
        assert_eq!(asked(&world), (1, expected));
        world.pass(MINUTE).await;
    }
    assert_eq!(world.row(29).await.dealer.qualification, Some(Qualification::Certified));
    world.pass(DAY).await;
    world.look().await;
    assert_eq!(asked(&world), (2, 50));
}

#[tokio::test]
async fn an_app_that_may_not_read_chains_tries_again_in_a_day_and_nothing_is_paused() {
    let mut world = World::with(1);
    world.script(|wecom| wecom.chains_are_forbidden = true);
    for (wait, chains) in [(HOUR, 1), (DAY, 1), (HOUR, 2)] {
        world.look().await;
        assert_eq!(world.script(|wecom| wecom.chains), chains);
        assert!(world.context.breakers.all(world.clock.now()).is_empty());
        world.pass(wait).await;
    }
}

#[tokio::test]
async fn a_dealer_that_is_not_verified_is_resumed_once_it_is() {
    let mut world = World::with(1);
    world.script(|wecom| wecom.qualification = Some(Qualification::Unverified));
    world.look().await;
    assert_eq!(world.states().await, [DealerState::Unverified]);
    assert!(world.measures("unionlink_dealers{app=\"brand\",state=\"unverified\"} 1"));
    world.add_deferred_customer(0).await;
    world.script(|wecom| wecom.qualification = Some(Qualification::Verified));
    world.pass(HOUR).await;
    world.look().await;
    assert_eq!(world.states().await, [DealerState::Shared]);
    assert!(world.is_work_due().await);
}

#[tokio::test]
async fn a_dealer_without_callbacks_falls_silent_and_comes_back() {
    let mut world = World::with(2);
    world.look().await;
    let silent = |n| format!("unionlink_dealers_silent{{app=\"brand\"}} {n}");
    world.context.activity.seen(&app(), &corp(0), T0);
    world.pass(RECORD_EVERY).await;
    world.look().await;
    assert_eq!(world.row(0).await.activity.last_event_at, Some(T0));
    world.clock.advance_ms(7 * DAY_MS);
    world.pass(MINUTE).await;
    world.report_change().await;
    assert!(world.measures(&silent(0)), "callbacks may have been missed before the start");
    world.pass(HOUR).await;
    world.look().await;
    assert_eq!(world.row(0).await.activity.silent_since, Some(world.clock.now()));
    assert_eq!(world.row(1).await.activity.silent_since, None, "it never had any");
    assert!(world.measures(&silent(1)));
    world.context.activity.seen(&app(), &corp(0), world.clock.now());
    world.pass(RECORD_EVERY).await;
    world.look().await;
    world.look().await;
    assert_eq!(world.row(0).await.activity.silent_since, None);
    assert!(world.measures(&silent(0)));
}

#[tokio::test]
async fn what_is_not_recorded_yet_is_recorded_when_the_service_stops() {
    let mut world = World::with(1);
    world.look().await;
    world.context.activity.seen(&app(), &corp(0), T0);
    let stopped = CancellationToken::new();
    stopped.cancel();
    run(world.context.clone(), stopped).await;
    assert_eq!(world.row(0).await.activity.first_event_at, Some(T0));
}

#[tokio::test]
async fn failures_that_open_a_dealers_breaker_are_recorded_once_each() {
    let mut world = World::with(2);
    world.look().await;
    let hour = T0.plus_ms(60 * MINUTE_MS);
    world.context.breakers.hold(scope(1), reason(), T0, hour);
    let probe_at = world.context.breakers.failed(&scope(0), reason(), Backoff::CONFIGURATION, T0);
    for (now, failed_at) in
        [(T0, T0), (T0.plus_ms(SECOND_MS), T0), (probe_at, probe_at), (probe_at.plus_ms(1), probe_at)]
    {
        world.clock.advance_ms(now.millis_since(world.clock.now()));
        if now == probe_at {
            world.context.breakers.failed(&scope(0), reason(), Backoff::CONFIGURATION, now);
        }
        elapse(RECORD_EVERY).await;
        world.look().await;
        let trouble = world.row(0).await.activity.trouble.unwrap();
        assert_eq!((trouble.errcode, trouble.at), (Some(84_074), failed_at));
    }
    assert_eq!(world.row(1).await.activity.trouble, None, "a call limit is no error");
}

#[tokio::test]
async fn after_reports_from_a_dealer_lookups_are_repeated_in_bounded_numbers() {
    let mut world = World::with(1);
    world.look().await;
    world.add_customer(0, Outcome::NotVisible(60_011)).await;
    assert!(!world.is_work_due().await);
    let report = async |world: &mut World| {
        world.append(Payload::Visibility(corp(0))).await;
        world.context.wake.visibility_changed(&app(), &corp(0));
        world.look().await;
    };
    let answer = async |world: &World| {
        let work = world.lease().await.expect("the lookup is due");
        world.settle(work, Outcome::NotVisible(60_011)).await;
    };
    report(&mut world).await;
    answer(&world).await;
    assert!(world.marked().await.is_empty(), "all were looked up");
    for _ in 0..3 {
        report(&mut world).await;
        assert!(!world.is_work_due().await);
    }
    world.pass(MINUTE).await;
    world.look().await;
    answer(&world).await;
    world.pass(MINUTE).await;
    world.look().await;
    assert!(!world.is_work_due().await, "no report since");
    assert_eq!(world.marked().await, [(app(), corp(0))]);
    world.pass(HOUR).await;
    world.look().await;
    assert!(world.is_work_due().await);
    assert!(world.marked().await.is_empty());
}

#[tokio::test]
async fn an_alarm_is_counted_until_it_ends() {
    let mut world = World::with(1);
    let alarm = |kind| AppAlarm { corp_id: corp(0), kind, created_at: T0, effect_at: None };
    for (kind, count) in [(AppAlarmKind::LowActive, 1), (AppAlarmKind::ActiveRestored, 0)] {
        world.append(Payload::Alarm(alarm(kind))).await;
        world.look().await;
        let line = format!("unionlink_app_alarms{{app=\"brand\",kind=\"low_active\"}} {count}");
        assert!(world.measures(&line));
    }
}
