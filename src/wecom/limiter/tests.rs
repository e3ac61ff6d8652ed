//! Random histories of the limiter over a store, checked with the simulated platform's own call windows:
//! crashes, reboots, a wall clock that is set, 45009, two corps.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};

use proptest::prelude::*;

use super::*;
use crate::app::StoredLedgers;
use crate::clock::ServiceClock;
use crate::domain::quota::Limits;
use crate::domain::time::{DAY_MS, HOUR_MS, MINUTE_MS, Steady, Timestamp};
use crate::simulator::quota::CallWindows;
use crate::store::embedded::engine::Memory;
use crate::store::embedded::{EmbeddedStore, Settings};

const LIMITS: Limits = Limits { per_hour: 60, per_day: 200, per_month: 900 };
const PATIENT: Share = Share::Without { reserve_percent: 10, month_kept: 0 };
const MINT: Api = Api::UnionidToPendingId;

/// True time, the wall clock's error, and the current boot of the machine.
struct World {
    true_ms: AtomicI64,
    wall_off_ms: AtomicI64,
    boot: AtomicU64,
    booted_at_ms: AtomicI64,
    /// True time and wall at the start of the process.
    started: [AtomicI64; 2],
}

impl World {
    fn start_process(&self) {
        let true_ms = self.true_ms.load(SeqCst);
        self.started[0].store(true_ms, SeqCst);
        self.started[1].store(true_ms + self.wall_off_ms.load(SeqCst), SeqCst);
    }

    fn new() -> Arc<Self> {
        let world = Self {
            true_ms: 1_795_309_323_000.into(),
            wall_off_ms: 0.into(),
            boot: 1.into(),
            booted_at_ms: 0.into(),
            started: [0.into(), 0.into()],
        };
        world.start_process();
        Arc::new(world)
    }
}

impl Clock for World {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.true_ms.load(SeqCst) + self.wall_off_ms.load(SeqCst))
    }

    fn moment(&self) -> Moment {
        let uptime_ms = self.true_ms.load(SeqCst) - self.booted_at_ms.load(SeqCst);
        let since_start_ms = self.true_ms.load(SeqCst) - self.started[0].load(SeqCst);
        let unset = Timestamp::from_millis(self.started[1].load(SeqCst) + since_start_ms);
        Moment { wall: self.now(), unset, steady: Some(Steady { boot: self.boot.load(SeqCst), uptime_ms }) }
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// Several callers of one corp at once; their calls reach WeCom `late_ms` later.
    Call {
        corp: usize,
        share: Share,
        callers: usize,
        late_ms: i64,
    },
    Pass(i64),
    SetWall(i64),
    /// The process is killed: permits that were reserved and not used are lost.
    Crash,
    /// The machine reboots, which takes a minute; its wall clock is not ahead of what it was.
    Reboot,
    /// WeCom answers 45009 although no limit is reached.
    RateLimit(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let share = prop_oneof![Just(Share::Whole), Just(PATIENT)];
    let one = prop_oneof![
        12 => (0_usize..2, share, 1_usize..30, 0_i64..10_000)
            .prop_map(|(corp, share, callers, late_ms)| Step::Call { corp, share, callers, late_ms }),
        4 => (0_i64..20 * MINUTE_MS).prop_map(Step::Pass),
        2 => (0_i64..2 * DAY_MS).prop_map(Step::Pass),
        1 => (-40 * DAY_MS..40 * DAY_MS).prop_map(Step::SetWall),
        2 => Just(Step::Crash),
        1 => Just(Step::Reboot),
        1 => (0_usize..2).prop_map(Step::RateLimit),
    ];
    proptest::collection::vec(one, 1..120)
}

fn corps() -> [CorpId; 2] {
    ["wwFIRST", "wwSECOND"].map(|id| CorpId::new(id).unwrap())
}

fn limits() -> Arc<BTreeMap<CorpId, Limits>> {
    Arc::new(corps().into_iter().map(|corp| (corp, LIMITS)).collect())
}

fn limiter(memory: &Memory, clock: &Arc<World>) -> Limiter {
    clock.start_process();
    let store = EmbeddedStore::in_memory(memory.clone(), Settings::default()).unwrap();
    Limiter::new(Arc::new(StoredLedgers(Arc::new(store))), clock.clone(), limits())
}

async fn run_through(steps: Vec<Step>) {
    let memory = Memory::default();
    let clock = World::new();
    let mut limiter = limiter(&memory, &clock);
    let (mut arrivals, mut lowest_off_ms) = ([Vec::new(), Vec::new()], 0);
    for step in steps {
        match step {
            Step::Call { corp, share, callers, late_ms } => {
                for _ in 0..callers {
                    if limiter.permit(&corps()[corp], MINT, share).await.is_ok() {
                        arrivals[corp].push(clock.true_ms.load(SeqCst) + late_ms);
                    }
                }
            }
            Step::Pass(ms) => drop(clock.true_ms.fetch_add(ms, SeqCst)),
            Step::SetWall(off_ms) => {
                clock.wall_off_ms.store(off_ms, SeqCst);
                lowest_off_ms = lowest_off_ms.min(off_ms);
            }
            Step::Crash => limiter = self::limiter(&memory, &clock),
            Step::Reboot => {
                clock.true_ms.fetch_add(MINUTE_MS, SeqCst);
                clock.booted_at_ms.store(clock.true_ms.load(SeqCst), SeqCst);
                clock.boot.fetch_add(1, SeqCst);
                // A wall clock that is set forward just before a reboot is the one case that cannot be
                // detected.
                clock.wall_off_ms.store(lowest_off_ms, SeqCst);
                limiter = self::limiter(&memory, &clock);
                limiter.begin().await;
            }
            Step::RateLimit(corp) => {
                limiter.rate_limited(&corps()[corp], MINT).await;
                let refused = limiter.permit(&corps()[corp], MINT, Share::Whole).await;
                assert!(matches!(refused, Err(CallError::NoPermit { .. })), "{refused:?}");
            }
        }
    }
    let quota = crate::simulator::ConversionQuota {
        per_hour: LIMITS.per_hour.into(),
        per_day: LIMITS.per_day.into(),
        per_month: LIMITS.per_month.into(),
    };
    for calls in &mut arrivals {
        calls.sort_unstable();
        let mut windows = CallWindows::conversion();
        for at in calls {
            assert!(windows.charge(*at, &quota.limits()).is_admitted, "over quota");
        }
    }
    // Whatever happened, a whole hour's quota is available again a month later.
    for corp in corps() {
        let _ = limiter.permit(&corp, MINT, Share::Whole).await;
    }
    clock.true_ms.fetch_add(31 * DAY_MS, SeqCst);
    let (start, mut used) = (clock.true_ms.load(SeqCst), [0, 0]);
    for (corp, used) in corps().iter().zip(&mut used) {
        for (share, least) in [(PATIENT, 54), (Share::Whole, 60)] {
            while limiter.permit(corp, MINT, share).await.is_ok() {
                *used += 1;
            }
            assert_eq!(*used, least, "not all of the quota can be used");
        }
    }
    assert!(clock.true_ms.load(SeqCst) - start < HOUR_MS);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn no_history_exceeds_the_quota_and_each_can_use_all_of_it(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run_through(steps));
    }
}

/// Ledgers on a machine that is suspended for an hour during each of its first `naps` reservations.
struct Sleepy {
    ledgers: StoredLedgers,
    clock: Arc<World>,
    naps: AtomicU64,
    reserved: AtomicU64,
}

#[async_trait]
impl Ledgers for Sleepy {
    async fn reserve(
        &self,
        accounts: &[(String, Budget)],
        api: Api,
        share: Share,
        want: u32,
        now: Moment,
    ) -> Result<Grant, String> {
        let grant = self.ledgers.reserve(accounts, api, share, want, now).await;
        self.reserved.fetch_add(1, SeqCst);
        if self.naps.fetch_update(SeqCst, SeqCst, |naps| naps.checked_sub(1)).is_ok() {
            self.clock.true_ms.fetch_add(HOUR_MS, SeqCst);
        }
        grant
    }

    async fn rate_limited(
        &self,
        account: &str,
        budget: Budget,
        api: Api,
        now: Moment,
    ) -> Result<i64, String> {
        self.ledgers.rate_limited(account, budget, api, now).await
    }
}

#[tokio::test]
async fn a_permit_that_expires_while_the_machine_is_suspended_is_not_used() {
    for (naps, reserved, ok) in [(1, 2, true), (9, 3, false)] {
        let clock = World::new();
        let store = EmbeddedStore::in_memory(Memory::default(), Settings::default()).unwrap();
        let ledgers = StoredLedgers(Arc::new(store));
        let sleepy = Sleepy { ledgers, clock: clock.clone(), naps: naps.into(), reserved: 0.into() };
        let sleepy = Arc::new(sleepy);
        let limiter = Limiter::new(sleepy.clone(), clock, limits());
        let permit = limiter.permit(&corps()[0], MINT, Share::Whole).await;
        assert_eq!((permit.is_ok(), sleepy.reserved.load(SeqCst)), (ok, reserved));
    }
}

/// Ledgers that let all other callers queue up during each reservation.
struct Slow(StoredLedgers);

#[async_trait]
impl Ledgers for Slow {
    async fn reserve(
        &self,
        accounts: &[(String, Budget)],
        api: Api,
        share: Share,
        want: u32,
        now: Moment,
    ) -> Result<Grant, String> {
        tokio::task::yield_now().await;
        self.0.reserve(accounts, api, share, want, now).await
    }

    async fn rate_limited(
        &self,
        account: &str,
        budget: Budget,
        api: Api,
        now: Moment,
    ) -> Result<i64, String> {
        self.0.rate_limited(account, budget, api, now).await
    }
}

#[tokio::test]
async fn bulk_takes_no_permit_that_was_reserved_for_renewals() {
    const BULK: Share = Share::Without { reserve_percent: 10, month_kept: LIMITS.per_month };
    let clock = World::new();
    let store = EmbeddedStore::in_memory(Memory::default(), Settings::default()).unwrap();
    let limiter = Limiter::new(Arc::new(Slow(StoredLedgers(Arc::new(store)))), clock, limits());
    let corp = &corps()[0];
    // While the first permit is reserved, the other callers queue up: the next reservation is for all of them
    // with the same share.
    let (first, second, bulk) = tokio::join!(
        limiter.permit(corp, MINT, PATIENT),
        limiter.permit(corp, MINT, PATIENT),
        limiter.permit(corp, MINT, BULK),
    );
    assert!(first.is_ok() && second.is_ok());
    assert!(matches!(bulk, Err(CallError::NoPermit { .. })), "{bulk:?}");
}

#[tokio::test]
async fn the_next_permit_is_announced_on_the_services_clock() {
    let machine = World::new();
    let clock = Arc::new(ServiceClock::new(machine.clone()));
    let store = EmbeddedStore::in_memory(Memory::default(), Settings::default()).unwrap();
    let limiter = Limiter::new(Arc::new(StoredLedgers(Arc::new(store))), clock.clone(), limits());
    while limiter.permit(&corps()[0], MINT, Share::Whole).await.is_ok() {}
    // The wall clock is set; the service's clock has not followed yet.
    machine.wall_off_ms.store(8 * HOUR_MS, SeqCst);
    let refused = limiter.permit(&corps()[0], MINT, Share::Whole).await;
    let Err(CallError::NoPermit { retry_at, .. }) = refused else { panic!("{refused:?}") };
    let wait_ms = retry_at.millis_since(clock.now());
    assert!((1..HOUR_MS + MINUTE_MS).contains(&wait_ms), "{wait_ms} ms");
}

#[tokio::test]
async fn endless_work_uses_nearly_all_of_a_months_quota() {
    let clock = World::new();
    let memory = Memory::default();
    let (mut limiter, corp) = (limiter(&memory, &clock), corps()[0].clone());
    let (start, mut used, mut crashed) = (clock.true_ms.load(SeqCst), 0_u32, 0);
    while clock.true_ms.load(SeqCst) - start < 60 * DAY_MS {
        match limiter.permit(&corp, MINT, Share::Whole).await {
            Ok(()) => used += 1,
            Err(CallError::NoPermit { retry_at, .. }) => {
                clock.true_ms.fetch_add(retry_at.millis_since(clock.now()).max(1), SeqCst);
                if used / 100 > crashed {
                    crashed = used / 100;
                    limiter = self::limiter(&memory, &clock);
                }
            }
            Err(other) => panic!("{other}"),
        }
    }
    // Two months of 900, and the month's buckets are two hours wide.
    assert!((1_782..=1_800).contains(&used), "{used} of 1800");
}
