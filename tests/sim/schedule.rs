//! What happens in one schedule, step by step as the dice fall.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use unionlink::clock::Clock;
use unionlink::domain::fan::{Minted, Priority, Renew};
use unionlink::domain::ids::{CorpId, Openid, PendingId};
use unionlink::domain::quota::Limits;
use unionlink::domain::time::Timestamp;
use unionlink::simulator::{
    Api, Event, Fault, Options, Quota, ReceiveId, Remint, Simulator, Target, TokenRule, UnknownId, Unminted,
};
use unionlink::store::embedded::Settings;
use unionlink::store::{CursorState, EventId, EventState, Feed, NewFan, People, Person, Seek, Store};
use unionlink::worker::{AppRules, ConversionToken, MintRules};

use crate::cast::{Cast, Pair, Shop, Somebody, Told};
use crate::receiver::{MOODS, Receiver};
use crate::service::{Machine, Setup};
use crate::time::{Dice, MachineClock, Trace, TrueTime, pass};

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// Every kind of code that WeCom has. Those about one id are not among them: see [`ITEM_CODES`].
const CODES: [i64; 18] = [
    -1, 45_009, 45_033, 40_014, 42_001, 40_001, 48_002, 60_020, 301_002, 84_074, 670_001, 99_999, 99_999,
    99_998, 845_001, 6_000, 50_003, 41_001,
];
/// Codes that blame an id, and are believed.
const ITEM_CODES: [i64; 4] = [40_096, 84_061, 40_058, 60_011];

/// One schedule under way.
pub struct Schedule {
    pub machine: Arc<Machine>,
    pub cast: Cast,
    pub time: TrueTime,
    pub asks_existing: bool,
    /// Callbacks are sealed for the brand, and not for dealers who may not be known yet.
    pub sealed_for_brand: bool,
    /// Only short times pass.
    pub hasty: bool,
    /// Events that the service had stored when all was mended.
    pub events_stored: u64,
    dice: Dice,
}

impl Schedule {
    /// The scene, before anything happens.
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed, 1);
        let time = TrueTime::begin();
        let (trace, clock) = (Trace::new(time), Arc::new(MachineClock::new(time)));
        let options = options(seed, &mut dice);
        let sim = Simulator::unplugged(options.clone(), Arc::new(time));
        let mut app = sim.invent_app();
        app.callback = Some(sim.invent_callback("http://unionlink.invalid/callback/brand"));
        sim.add_app(app.clone());
        let setup = setup(&options, &app.corp_id, &mut dice);
        let asks_existing = !dice.one_in(3);
        let hasty = dice.one_in(2);
        let sealed_for_brand = options.sender.receive_id == ReceiveId::Upstream;
        trace.note(format!(
            "{:?} {:?} {:?} {:?} {:?}, {} ms, quota {:?}; {:?} {:?}; existing {asks_existing}",
            options.token_rule,
            options.remint,
            options.unknown_id,
            options.unminted,
            options.sender.receive_id,
            options.latency_ms,
            options.quota,
            setup.rules.conversion_token,
            setup.rules.mint,
        ));
        let receivers = [("crm", 2), ("cdp", 3)];
        let receivers =
            receivers.map(|(name, purpose)| Receiver::new(name, Dice::new(seed, purpose), trace.clone()));
        let machine = Machine::new(seed, sim, app, setup, clock, receivers.to_vec(), trace);
        let mut schedule = Self {
            machine: Arc::new(machine),
            cast: Cast::default(),
            time,
            asks_existing,
            sealed_for_brand,
            hasty,
            events_stored: 0,
            dice,
        };
        for _ in 0..schedule.dice.between(1, 3) {
            schedule.open_shop();
        }
        for _ in 0..schedule.dice.between(1, 8) {
            let person = schedule.machine.sim.add_person();
            schedule.cast.people.push(Somebody {
                person,
                is_fan: false,
                forgotten: false,
                stays_forgotten: false,
                minted_elsewhere: Vec::new(),
            });
        }
        schedule
    }

    pub fn note(&self, what: impl Into<String>) {
        self.machine.trace.note(what);
    }

    /// Everything that happens, up to the moment when all is mended.
    pub async fn play(&mut self) {
        self.machine.start().await;
        for _ in 0..self.dice.between(10, 50) {
            self.step().await;
            let wait = self.wait();
            pass(wait).await;
            if self.machine.running().is_none() && self.dice.one_in(2) {
                if self.dice.one_in(8) && self.machine.clock.is_right() {
                    self.machine.clock.reboot();
                }
                self.machine.start().await;
            }
        }
    }

    fn wait(&mut self) -> Duration {
        match self.dice.below(100) {
            0..35 => Duration::ZERO,
            35..65 => self.dice.millis(1, 800),
            65..85 => self.dice.millis(800, 3_000),
            85..93 => MINUTE.mul_f64(0.1) * u32::try_from(self.dice.between(1, 100)).unwrap(),
            _ if self.hasty => self.dice.millis(1, 3_000),
            93..98 => HOUR * u32::try_from(self.dice.between(1, 30)).unwrap(),
            _ => DAY * u32::try_from(self.dice.between(2, 95)).unwrap(),
        }
    }

    async fn step(&mut self) {
        match self.dice.below(100) {
            0..28 => self.befriend(),
            28..36 => self.unfriend(),
            36..50 => self.register().await,
            50..54 => self.mint_elsewhere(),
            54..64 => self.trouble_at_wecom(None),
            64..70 => self.trouble_with_an_id(),
            70..74 => self.mend_wecom(),
            74..78 => self.trouble_at_a_receiver(),
            78..82 => self.operate_a_sink().await,
            82..84 => self.redrive().await,
            84..86 => self.forget().await,
            86..88 => self.set_the_clock(),
            88..90 => self.slow_disk(),
            90..93 => self.machine.kill(),
            93..96 => self.doom(),
            96..97 => {
                self.note("stop");
                self.machine.stop().await;
            }
            97..99 => self.tokens_end(),
            _ => self.open_shop(),
        }
    }

    fn somebody(&mut self) -> usize {
        self.dice.index(self.cast.people.len())
    }

    fn some_shop(&mut self) -> usize {
        self.dice.index(self.cast.shops.len())
    }

    fn open_shop(&mut self) {
        let dealer = self.machine.sim.add_dealer(&self.machine.app.corp_id, "Dealer");
        self.cast.shops.push(Shop { dealer, was_unshared: false });
        self.note(format!("shop d{}", self.cast.shops.len() - 1));
    }

    /// A person and a dealer's member become friends, for good or by half.
    fn befriend(&mut self) {
        let (p, d) = (self.somebody(), self.some_shop());
        let member = self.dice.among(&["zhangsan", "lisi", "wangwu"]);
        let state = self.dice.among(&[None, Some("poster"), Some("shelf")]);
        let half = self.dice.one_in(6);
        let (sim, corp) = (&self.machine.sim, &self.machine.app.corp_id);
        let (person, shop) = (&self.cast.people[p].person, &self.cast.shops[d].dealer.corp_id);
        let begin = if half { Simulator::befriend_half } else { Simulator::befriend };
        let friendship = begin(sim, corp, shop, person, member, state);
        let pair = self.cast.pairs.entry((p, d)).or_insert_with(|| Pair::new(&friendship.external_userid));
        if !half && !pair.told.iter().any(|told| told.confirmed) {
            pair.found_by = sim.pending_ids(corp, person).pop();
        }
        let told = Told::new(member, self.time.now().as_secs(), true, !half, state);
        let flag = told.flag();
        pair.told.push(told);
        let what = format!("{}p{p} and d{d}'s {member} are friends", if half { "half " } else { "" });
        self.tell(&friendship.event, &flag, &what);
    }

    /// One of the two has enough of the other.
    fn unfriend(&mut self) {
        let pairs: Vec<_> = self.cast.pairs.keys().copied().collect();
        if pairs.is_empty() {
            return self.befriend();
        }
        let (p, d) = self.dice.among(&pairs);
        let by_member = self.dice.one_in(2);
        let (sim, corp) = (&self.machine.sim, &self.machine.app.corp_id);
        let (person, shop) = (&self.cast.people[p].person, &self.cast.shops[d].dealer.corp_id);
        let Some(pair) = self.cast.pairs.get_mut(&(p, d)) else { return };
        let member = pair.told[self.dice.index(pair.told.len())].member.clone();
        let end = if by_member { Simulator::unfriend_by_member } else { Simulator::unfriend_by_customer };
        let event = end(sim, corp, shop, person, &member);
        let told = Told::new(&member, self.time.now().as_secs(), false, false, None);
        let flag = told.flag();
        pair.told.push(told);
        self.tell(&event, &flag, &format!("p{p} and d{d}'s {member} part"));
    }

    /// WeCom tells the service: once or several times, at once or late, with a few tries or never.
    fn tell(&mut self, event: &Event, flag: &Arc<AtomicBool>, what: &str) {
        let copies = if self.dice.one_in(5) { self.dice.between(2, 3) } else { 1 };
        let delays: Vec<_> = (0..copies)
            .map(|_| match self.dice.below(20) {
                0..14 => Some(Duration::ZERO),
                14..17 => Some(self.dice.millis(1, 3_000)),
                17..19 => Some(self.dice.millis(3_000, 90_000)),
                _ => None,
            })
            .collect();
        let reseals = self.dice.one_in(2);
        self.note(format!("{what}, told after {delays:?}"));
        for delay in delays.into_iter().flatten() {
            let (machine, event, flag, what) =
                (self.machine.clone(), event.clone(), flag.clone(), what.to_owned());
            tokio::spawn(async move {
                const TRIES: u32 = 4;
                tokio::time::sleep(delay).await;
                let mut callback = machine.sim.seal(&event);
                for _ in 0..TRIES {
                    let answer = machine.post(&callback).await;
                    machine.trace.note(format!("{what}: answered {answer:?}"));
                    if answer == Some(200) {
                        return flag.store(true, Ordering::Relaxed);
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    if reseals {
                        callback = machine.sim.seal(&event);
                    }
                }
            });
        }
    }

    /// The brand registers fans: one, some, or everybody.
    async fn register(&mut self) {
        let all = self.cast.people.len();
        let who: Vec<_> = match self.dice.below(4) {
            0 | 1 => vec![self.somebody()],
            2 => (0..self.dice.between(2, 4)).map(|_| self.somebody()).collect(),
            _ => (0..all).collect(),
        };
        let priority = if who.len() > 2 && self.dice.one_in(2) { Priority::Bulk } else { Priority::Live };
        self.register_all(&who, priority).await;
    }

    /// Another system of the brand's obtains a pending id; the service will be told with the next registration.
    fn mint_elsewhere(&mut self) {
        let p = self.somebody();
        let somebody = &mut self.cast.people[p];
        let pending_id = self.machine.sim.mint_elsewhere(&self.machine.app.corp_id, &somebody.person);
        let minted = Minted::new(PendingId::new(pending_id).unwrap(), self.time.now());
        somebody.minted_elsewhere.push(minted);
        self.note(format!("p{p} is minted elsewhere"));
    }

    /// Registers these. Whether that was acknowledged.
    pub async fn register_all(&mut self, who: &[usize], priority: Priority) -> bool {
        let now = self.machine.clock.now();
        let fans = who.iter().map(|p| {
            let somebody = &self.cast.people[*p];
            NewFan {
                key: somebody.key(),
                openid: Openid::new(&somebody.person.openid).unwrap(),
                ask_existing: self.asks_existing,
                priority,
                minted: somebody.minted_elsewhere.last().cloned(),
            }
        });
        let fans = fans.collect();
        let put = self.machine.ask(|service| async move {
            let registered = service.store.put_fans(fans, now).await;
            service.wake.fans.notify_one();
            registered
        });
        let registered = put.await.is_some();
        self.note(format!("fans {who:?} {priority:?}: {registered}"));
        for p in who {
            let somebody = &mut self.cast.people[*p];
            // Without an answer it may have happened all the same.
            somebody.stays_forgotten = false;
            somebody.is_fan |= registered;
        }
        registered
    }

    /// Calls fail, a few times or until somebody mends it.
    pub fn trouble_at_wecom(&mut self, until_mended: Option<u32>) {
        let target = match self.dice.below(8) {
            0 | 1 => Target::Every,
            _ => Target::Only(self.dice.among(&[
                Api::GetToken,
                Api::ListAppShareInfo,
                Api::CorpGetToken,
                Api::UnionidToPendingId,
                Api::ExternalUseridToPendingId,
                Api::ExternalUseridToPendingId,
                Api::UnionidToExternalUserid,
            ])),
        };
        let mut times = self.dice.among(&[Some(1), Some(1), Some(2), Some(4), Some(12), until_mended]);
        let fault = match self.dice.below(10) {
            0..3 => Fault::Errcode(self.dice.among(&CODES)),
            3 => {
                // More of these and WeCom is believed.
                times = Some(1);
                Fault::Errcode(self.dice.among(&ITEM_CODES))
            }
            4 => Fault::HttpStatus(self.dice.among(&[500, 502, 503, 429, 403])),
            5 => Fault::Latency(self.dice.between(1, 15_000)),
            6 => Fault::Hang,
            7 => Fault::Reset,
            8 => Fault::Garbage,
            _ => Fault::ApplyThenDrop,
        };
        self.note(format!("wecom: {target:?} {fault:?} {times:?}"));
        self.machine.sim.inject(target, fault, times);
    }

    /// Trouble that belongs to a customer, a dealer, the app or a person.
    fn trouble_with_an_id(&mut self) {
        let (p, d, sim) = (self.somebody(), self.some_shop(), self.machine.sim.clone());
        let corp = self.cast.shops[d].dealer.corp_id.clone();
        match self.dice.below(6) {
            0 | 1 => {
                let Some(pair) = self.cast.pairs.get(&(p, d)) else { return };
                let calls = u32::try_from(self.dice.between(1, 4)).unwrap();
                sim.hide_rows(pair.external_userid.as_str(), calls);
                self.note(format!("p{p} at d{d} is hidden for {calls} calls"));
            }
            2 => {
                let Some(pair) = self.cast.pairs.get(&(p, d)) else { return };
                sim.poison(pair.external_userid.as_str());
                self.note(format!("p{p} at d{d} is poison"));
            }
            3 => {
                sim.share(&corp, false);
                self.cast.shops[d].was_unshared = true;
                self.note(format!("d{d} shares the app no more"));
            }
            4 => {
                let code = self.dice.among(&[48_002, 84_074, 301_002, -1]);
                sim.set_dealer_error(&corp, Some(code));
                self.note(format!("d{d} answers {code}"));
            }
            _ => {
                let code = self.dice.among(&[610_014, 610_018, 40_073, 845_001]);
                sim.reject_person(&self.cast.people[p].person, Some(code));
                self.note(format!("p{p} is refused with {code}"));
            }
        }
    }

    /// Everything at WeCom works again.
    pub fn mend_wecom(&mut self) {
        self.note("wecom is mended");
        let sim = &self.machine.sim;
        sim.clear_faults();
        for shop in &self.cast.shops {
            sim.share(&shop.dealer.corp_id, true);
            sim.set_dealer_error(&shop.dealer.corp_id, None);
        }
        for somebody in &self.cast.people {
            sim.reject_person(&somebody.person, None);
        }
        for pair in self.cast.pairs.values() {
            sim.cure(pair.external_userid.as_str());
        }
    }

    fn tokens_end(&mut self) {
        let d = self.some_shop();
        let corp = match self.dice.below(2) {
            0 => self.machine.app.corp_id.clone(),
            _ => self.cast.shops[d].dealer.corp_id.clone(),
        };
        self.note("tokens end before their time");
        self.machine.sim.revoke_tokens(&corp);
    }

    fn trouble_at_a_receiver(&mut self) {
        let (receiver, mood) = (self.dice.index(self.machine.receivers.len()), self.dice.among(&MOODS));
        let receiver = &self.machine.receivers[receiver];
        self.note(format!("{} is {mood:?}", receiver.name));
        receiver.memory().mood = mood;
    }

    async fn operate_a_sink(&mut self) {
        let receiver = self.machine.receivers[self.dice.index(self.machine.receivers.len())].clone();
        let (what, back, since) = (self.dice.below(4), self.dice.between(1, 9), self.machine.clock.now());
        let name = receiver.name.clone();
        let done = self.machine.ask(|service| async move {
            let store = &service.store;
            let done = match what {
                0 => store.set_state(&name, CursorState::Paused { since }).await,
                1 => store.set_state(&name, CursorState::Running).await,
                2 => store.seek(&name, Seek::Beginning).await,
                _ => {
                    let after = store.cursor(&name).await?.map_or(0, |cursor| cursor.after);
                    store.seek(&name, Seek::After(after.saturating_sub(back))).await
                }
            };
            service.sinks.wake(&name);
            done
        });
        let done = done.await.is_some();
        self.note(format!("sink {}: operation {what}, {done}", receiver.name));
    }

    /// An operator puts back what was set aside.
    pub async fn redrive(&mut self) {
        let now = self.machine.clock.now();
        let trace = self.machine.trace.clone();
        self.machine
            .ask(|service| async move {
                for state in [EventState::Dead, EventState::Quarantined] {
                    for row in service.store.events(state, EventId(0), 1_000).await? {
                        let redriven = redrive(&service, row, now).await?;
                        trace.note(format!("redrive of one {state:?}: {redriven}"));
                    }
                }
                Ok::<_, unionlink::store::StoreError>(())
            })
            .await;
    }

    /// Somebody asks to be forgotten.
    async fn forget(&mut self) {
        let (p, d, now) = (self.somebody(), self.some_shop(), self.machine.clock.now());
        let (person, whole) = match self.cast.pairs.get(&(p, d)) {
            Some(pair) if self.dice.one_in(3) => {
                (Person::ExternalUserid(pair.external_userid.clone()), false)
            }
            _ => (Person::Unionid(self.cast.people[p].unionid()), true),
        };
        let forget =
            self.machine.ask(|service| async move { service.store.forget(&person, None, now).await });
        let forgotten = forget.await.is_some();
        self.note(format!(
            "p{p} is forgotten ({}): {forgotten}",
            if whole { "as a fan" } else { "as a customer" }
        ));
        let somebody = &mut self.cast.people[p];
        somebody.forgotten = true;
        somebody.is_fan = false;
        somebody.stays_forgotten |= whole && forgotten;
    }

    fn set_the_clock(&mut self) {
        let minutes = i64::try_from(self.dice.between(0, 180)).unwrap() - 90;
        let skew_ms = if self.dice.one_in(3) { 0 } else { minutes * 60_000 };
        self.note(format!("the wall clock is {minutes} min off"));
        self.machine.clock.set(skew_ms);
    }

    fn slow_disk(&mut self) {
        let slow = self.dice.one_in(2);
        self.note(format!("the disk is slow: {slow}"));
        self.machine.disk.slow.store(slow, Ordering::Relaxed);
    }

    /// The process will die at one of the next writes.
    fn doom(&mut self) {
        let fate = (self.dice.below(6), self.dice.one_in(2));
        *self.machine.disk.fate.lock().unwrap() = Some(fate);
    }
}

async fn redrive(
    service: &crate::service::Service,
    row: unionlink::store::EventRow,
    now: Timestamp,
) -> Result<bool, unionlink::store::StoreError> {
    use unionlink::http::door::Meaning;
    use unionlink::store::EventRow;
    let (id, becomes) = match row {
        EventRow::Inbox(_) => return Ok(false),
        EventRow::Dead { event, .. } => (event.id, None),
        EventRow::Quarantined(quarantined) => {
            let (id, app) = (quarantined.id, service.door.app(quarantined.app.as_str()).unwrap());
            let Some(message) = service.store.quarantined_message(id).await? else { return Ok(false) };
            match service.door.meaning(app, quarantined.receive_id.as_bytes(), &message).await? {
                Meaning::Act(_, happening) => (id, Some(happening)),
                Meaning::Ignore(..) => (id, None),
                Meaning::Stranger | Meaning::NotUnderstood(_) => return Ok(false),
            }
        }
    };
    let redriven = service.store.redrive(id, becomes, now).await?;
    service.wake.inbox.notify_one();
    Ok(redriven)
}

/// How WeCom behaves where its documents are silent.
fn options(seed: u64, dice: &mut Dice) -> Options {
    let mut options = Options {
        seed,
        token_rule: dice.among(&[TokenRule::Downstream, TokenRule::Upstream, TokenRule::Either]),
        unknown_id: dice.among(&[UnknownId::OmitRow, UnknownId::EmptyPendingId, UnknownId::FailBatch40096]),
        unminted: dice.among(&[Unminted::OmitRow, Unminted::EmptyPendingId]),
        remint: dice.among(&[Remint::SameId, Remint::SameIdNotRenewed, Remint::NewId]),
        latency_ms: dice.among(&[0, 30, 400]),
        ..Options::default()
    };
    if dice.one_in(2) {
        let per_hour = dice.between(3, 30);
        let per_day = per_hour * dice.between(2, 10);
        options.quota = Quota { per_hour, per_day, per_month: per_day * 30 };
    }
    options.sender.receive_id = dice.among(&[ReceiveId::Upstream, ReceiveId::Upstream, ReceiveId::Dealer]);
    options
}

/// How the service is configured for it.
fn setup(options: &Options, corp_id: &str, dice: &mut Dice) -> Setup {
    let limit = |calls: u64| u32::try_from(calls).unwrap();
    let limits = Limits {
        per_hour: limit(options.quota.per_hour),
        per_day: limit(options.quota.per_day),
        per_month: limit(options.quota.per_month),
    };
    let conversion_token = match options.token_rule {
        TokenRule::Downstream => dice.among(&[ConversionToken::Auto, ConversionToken::Downstream]),
        TokenRule::Upstream => dice.among(&[ConversionToken::Auto, ConversionToken::Upstream]),
        TokenRule::Either => ConversionToken::Auto,
    };
    let mint = MintRules {
        renew: Renew::All,
        same_id_extends: options.remint == Remint::SameId && dice.one_in(2),
        per_hour: limits.per_hour,
        reserve_percent: dice.among(&[0, 5, 20]),
    };
    let rules = AppRules { corp_id: CorpId::new(corp_id).unwrap(), conversion_token, mint };
    let settings = Settings {
        inbox_events_max: dice.among(&[5, 1_000, 1_000]),
        dedupe_days: u32::try_from(dice.between(1, 7)).unwrap(),
        ..Settings::default()
    };
    Setup { rules, limits, settings, calls_max: usize::try_from(dice.between(1, 8)).unwrap() }
}
