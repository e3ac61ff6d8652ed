//! The random steps of one schedule.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::task::TaskTracker;
use unionlink::clock::Clock;
use unionlink::domain::ids::CorpId;
use unionlink::domain::time::Timestamp;
use unionlink::simulator::{By, Event, Sending, Simulator};

use crate::agency::{Agency, Delivery};
use crate::cast::{Cast, DealerState, EventRecord, Pair};
use crate::check::Judged;
use crate::service::{Brand, Machine};
use crate::time::{Dice, TrueTime, pass};

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// The members of every dealer.
pub const MEMBERS: [&str; 3] = ["zhangsan", "lisi", "wangwu"];

/// A running schedule.
pub struct Schedule {
    pub machine: Arc<Machine>,
    pub cast: Cast,
    pub time: TrueTime,
    pub asks_existing: bool,
    /// Callbacks are sealed for the brand, not for dealers, which the service may not know yet.
    pub sealed_for_brand: bool,
    /// Only short waits, so that no event is older than the deduplication window.
    pub short_waits: bool,
    /// The share of the deliveries of callbacks that get lost.
    pub lost_percent: u64,
    /// When the machine last woke from a sleep of hours or more.
    pub woke_at: Timestamp,
    /// Links that came too late, or have not come in time.
    pub late: Vec<String>,
    /// When everything was repaired.
    pub repaired_at: Timestamp,
    /// What the verdicts before the end have judged.
    pub judged: Judged,
    /// When each dealer was compared last, at the end of the comparisons that had begun before the repair.
    pub compared_before: Option<BTreeMap<CorpId, Option<Timestamp>>>,
    /// Callbacks that WeCom is still delivering.
    pub deliveries: TaskTracker,
    /// The number of events that WeCom has sent, copies not counted.
    pub events_sent: u64,
    /// The number of events the service had stored when everything was repaired.
    pub events_stored: u64,
    pub dice: Dice,
    /// The suite whose apps the brands have, if they are not self-built.
    pub agency: Option<Agency>,
}

impl Schedule {
    pub fn note(&self, what: impl Into<String>) {
        self.machine.trace.note(what);
    }

    /// Runs the random steps, up to the repair.
    pub async fn play(&mut self) {
        self.machine.start().await;
        self.scan_the_codes();
        for _ in 0..self.dice.between(10, 50) {
            self.step().await;
            self.step_of_the_agency().await;
            let wait = self.wait();
            pass(wait).await;
            if wait >= HOUR {
                self.woke_at = self.time.now();
            }
            self.step_of_the_replicas();
            if !self.machine.is_whole() && self.dice.one_in(2) {
                if self.machine.running().is_none()
                    && self.dice.one_in(8)
                    && self.machine.clock.survives_reboot()
                {
                    self.note("the machine reboots");
                    self.machine.clock.reboot();
                }
                self.machine.start().await;
            }
        }
    }

    /// Suspends a replica now and then, or cuts it off, mostly for longer than its leases last.
    fn step_of_the_replicas(&mut self) {
        let time = {
            let mut lots = self.machine.lots.lock().unwrap();
            (self.machine.setup.replicas > 1 && lots.one_in(8))
                .then(|| (lots.one_in(2), lots.millis(200, 40_000)))
        };
        match time {
            Some((true, time)) => self.machine.suspend(time),
            Some((false, time)) => self.machine.cut_off(time),
            None => {}
        }
    }

    fn wait(&mut self) -> Duration {
        match self.dice.below(100) {
            0..35 => Duration::ZERO,
            35..65 => self.dice.millis(1, 800),
            65..85 => self.dice.millis(800, 3_000),
            85..93 => MINUTE.mul_f64(0.1) * u32::try_from(self.dice.between(1, 100)).unwrap(),
            _ if self.short_waits => self.dice.millis(1, 3_000),
            93..98 => HOUR * u32::try_from(self.dice.between(1, 30)).unwrap(),
            _ => DAY * u32::try_from(self.dice.between(2, 95)).unwrap(),
        }
    }

    async fn step(&mut self) {
        match self.dice.below(100) {
            0..22 => self.befriend_anybody(),
            22..29 => self.unfriend(),
            29..43 => self.change_a_group(),
            43..54 => self.register().await,
            54..57 => self.mint_by_another_system(),
            57..65 => {
                self.trouble_at_wecom(None);
            }
            65..69 => self.trouble_with_an_id(),
            69..73 => self.trouble_with_a_dealer(),
            73..76 => self.repair_wecom(),
            76..79 => self.trouble_at_a_receiver(),
            79..82 => self.operate_a_sink().await,
            82..84 => self.redrive().await,
            84..86 => self.forget().await,
            86..88 => self.compare().await,
            88..90 => self.disturb_the_clock(),
            90..91 => self.slow_disk(),
            91..93 => self.machine.kill(),
            93..96 => self.plan_crash(),
            96..97 => {
                self.note("stop");
                self.machine.stop().await;
            }
            97..98 => self.revoke_tokens(),
            _ => drop(self.add_dealer()),
        }
    }

    pub fn random_person(&mut self) -> usize {
        self.dice.index(self.cast.people.len())
    }

    pub fn random_dealer(&mut self) -> usize {
        self.dice.index(self.cast.dealers.len())
    }

    /// Adds a dealer, and returns its position.
    pub fn add_dealer(&mut self) -> usize {
        let brand = self.any_brand();
        self.add_dealer_of(brand, Delivery::Usual)
    }

    /// Adds a dealer of a brand, and returns its position.
    pub fn add_dealer_of(&mut self, brand: Brand, delivery: Delivery) -> usize {
        let dealer = self.machine.sim.add_dealer(&brand.corp_id, "Dealer");
        let corp_id = dealer.corp_id.clone();
        self.cast.dealers.push(DealerState::new(dealer, brand));
        let d = self.cast.dealers.len() - 1;
        self.note(format!("new dealer d{d}"));
        self.has_to_install(&corp_id, delivery);
        d
    }

    fn befriend_anybody(&mut self) {
        let (p, d) = (self.random_person(), self.random_dealer());
        let d = self.dealer_for(p, d, false);
        self.befriend_somebody(p, d);
    }

    pub fn befriend_somebody(&mut self, p: usize, d: usize) {
        let member = self.dice.among(&MEMBERS);
        let half = self.dice.one_in(6);
        let (event, flag, what) = self.befriend(p, d, member, half);
        self.deliver(&event, &flag, &what);
    }

    /// A member of a dealer adds a person as a customer, or half-adds them. Returns the event, the flag to set
    /// when it is acknowledged, and a description.
    pub fn befriend(
        &mut self,
        p: usize,
        d: usize,
        member: &str,
        half: bool,
    ) -> (Event, Arc<AtomicBool>, String) {
        let state = self.dice.among(&[None, Some("poster"), Some("shelf")]);
        let (person, dealer) = (&self.cast.people[p].person, &self.cast.dealers[d].dealer.corp_id);
        let begin = if half { Simulator::befriend_half } else { Simulator::befriend };
        self.events_sent += 1;
        let friendship = begin(&self.machine.sim, dealer, person, member, state);
        let user_id = self.machine.sim.user_id(dealer, member);
        let record = EventRecord::new(&user_id, self.time.now().as_secs(), true, !half);
        let flag = record.flag();
        let is_unseen = self.cast.dealers[d].unseen.contains(member);
        let pair = self.pair(p, d, !half);
        pair.is_disturbed |= is_unseen;
        pair.events.push(record);
        let what = format!("{}p{p} and d{d}'s {member} are friends", if half { "half " } else { "" });
        (friendship.event, flag, what)
    }

    /// The record of a person whom WeCom knows at a dealer; `is_customer` if the person is a customer now.
    pub fn pair(&mut self, p: usize, d: usize, is_customer: bool) -> &mut Pair {
        let (sim, now) = (&self.machine.sim, self.time.now());
        let (person, dealer) = (&self.cast.people[p].person, &self.cast.dealers[d].dealer.corp_id);
        let corp = &self.cast.dealers[d].brand.corp_id;
        let external_userid = || sim.external_userid(dealer, person).unwrap();
        let pair = self.cast.pairs.entry((p, d)).or_insert_with(|| Pair::new(&external_userid()));
        if is_customer && pair.since.is_none() {
            pair.found_by = sim.pending_ids(corp, person).pop();
            pair.since = Some(now);
        }
        pair
    }

    /// A member or a customer ends their friendship.
    fn unfriend(&mut self) {
        let friends = self.cast.pairs.iter().filter(|(_, pair)| !pair.events.is_empty());
        let pairs: Vec<_> = friends.map(|(key, _)| *key).collect();
        if pairs.is_empty() {
            return self.befriend_anybody();
        }
        let (p, d) = self.dice.among(&pairs);
        let by = if self.dice.one_in(2) { By::Member } else { By::Customer };
        let (person, dealer) = (&self.cast.people[p].person, &self.cast.dealers[d].dealer.corp_id);
        let Some(pair) = self.cast.pairs.get_mut(&(p, d)) else { return };
        let member = pair.events[self.dice.index(pair.events.len())].member.clone();
        self.events_sent += 1;
        let event = self.machine.sim.unfriend(dealer, person, &member, by);
        let mut record = EventRecord::new(&member, self.time.now().as_secs(), false, false);
        record.by_customer = by == By::Customer;
        let flag = record.flag();
        pair.events.push(record);
        self.deliver(&event, &flag, &format!("p{p} and d{d}'s {member} part"));
    }

    /// WeCom delivers a callback: once or several times, at once or late, with a few retries, or never.
    pub fn deliver(&mut self, event: &Event, flag: &Arc<AtomicBool>, what: &str) {
        let copies = if self.dice.one_in(5) { self.dice.between(2, 3) } else { 1 };
        let delays: Vec<_> = (0..copies)
            .map(|_| match (self.dice.below(100) < self.lost_percent, self.dice.below(20)) {
                (true, _) => None,
                (false, 0..15) => Some(Duration::ZERO),
                (false, 15..18) => Some(self.dice.millis(1, 3_000)),
                (false, _) => Some(self.dice.millis(3_000, 90_000)),
            })
            .collect();
        let reseals = self.dice.one_in(2);
        self.note(format!("{what}, delivered after {delays:?}"));
        for delay in delays.into_iter().flatten() {
            self.send(event, flag, what, delay, reseals);
        }
    }

    /// WeCom sends an event after a delay, with a few retries, unless it has no such event.
    pub fn send(&self, event: &Event, flag: &Arc<AtomicBool>, what: &str, delay: Duration, reseals: bool) {
        if event.sending == Sending::Never {
            return;
        }
        let (machine, event, flag, what) =
            (self.machine.clone(), event.clone(), flag.clone(), what.to_owned());
        self.deliveries.spawn(async move {
            const TRIES: u32 = 4;
            tokio::time::sleep(delay).await;
            let mut callback = machine.seal(&event);
            for _ in 0..TRIES {
                let answer = machine.post(&event, &callback).await;
                machine.trace.note(format!("{what}: answered {answer:?}"));
                if answer == Some(200) {
                    return flag.store(true, Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
                if reseals {
                    callback = machine.seal(&event);
                }
            }
        });
    }
}
