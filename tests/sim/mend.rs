//! The end of a schedule: everything works again, operators do their part, and time passes until nothing is left to do.

use std::time::Duration;

use unionlink::clock::Clock;
use unionlink::domain::fan::{Existing, Mint, Priority};
use unionlink::store::{CursorState, Feed, People, Store};

use crate::receiver::Mood;
use crate::schedule::Schedule;
use crate::time::pass;

/// How long is slept at a time, in seconds: enough for every wait that the service has, and for budgets to come back.
const NAPS_SECS: [u64; 15] =
    [5, 30, 90, 120, 300, 700, 1_900, 3_700, 3_700, 7_200, 21_700, 86_500, 86_500, 259_300, 3_700];
/// And then so many times a day: less than the life of a pending id, whose renewal would mend too much.
const DAYS: usize = 45;
const DAY_SECS: u64 = 86_500;

impl Schedule {
    /// Mends everything and waits for the end. What is still to be done then, if anything.
    pub async fn come_to_rest(&mut self) -> Option<String> {
        self.note("all is mended");
        self.mend_wecom();
        self.machine.sim.configure(|options| options.latency_ms = 0);
        self.machine.clock.set(0);
        self.machine.disk.slow.store(false, std::sync::atomic::Ordering::Relaxed);
        *self.machine.disk.fate.lock().unwrap() = None;
        for receiver in &self.machine.receivers {
            receiver.memory().mood = Mood::Well;
        }
        self.machine.start().await;
        // The last trouble passes by itself.
        self.trouble_at_wecom(Some(6));
        self.note_who_was_given_up().await;
        let mut left = None;
        for nap in NAPS_SECS.into_iter().chain(std::iter::repeat_n(DAY_SECS, DAYS)) {
            pass(Duration::from_millis(2_500)).await;
            let cared = self.care().await;
            pass(Duration::from_millis(1_200)).await;
            left = self.left().await.or(cared);
            if left.is_none() {
                break;
            }
            pass(Duration::from_secs(nap)).await;
        }
        left
    }

    /// What an operator does who looks after things: resumes sinks, redrives dead letters, and registers again whom
    /// WeCom refused. Of whom, if of anybody.
    async fn care(&mut self) -> Option<String> {
        let service = self.machine.running()?;
        for receiver in &self.machine.receivers {
            let cursor = service.store.cursor(&receiver.name).await.unwrap();
            if cursor.is_some_and(|cursor| cursor.state != CursorState::Running) {
                service.store.set_state(&receiver.name, CursorState::Running).await.unwrap();
                service.sinks.wake(&receiver.name);
            }
        }
        let counts = service.store.counts();
        let set_aside = counts.dead + counts.quarantined;
        if set_aside > 0 {
            self.redrive().await;
        }
        let mut refused = Vec::new();
        for (p, somebody) in self.cast.people.iter().enumerate().filter(|(_, somebody)| somebody.is_fan) {
            for (_, fan) in service.store.fans(&somebody.unionid()).await.unwrap() {
                let is_refused = matches!(fan.mint, Mint::Rejected { .. })
                    || matches!(fan.existing, Existing::Refused { .. });
                refused.extend(is_refused.then_some(p));
            }
        }
        if !refused.is_empty() {
            self.register_all(&refused, Priority::Live).await;
        }
        let cared = set_aside > 0 || !refused.is_empty();
        cared.then(|| format!("{set_aside} were redriven and {refused:?} registered again"))
    }

    /// What there is still to do.
    async fn left(&self) -> Option<String> {
        let Some(service) = self.machine.running() else { return Some("no process".to_owned()) };
        if !self.telling.is_empty() {
            return Some(format!("{} messages of WeCom are on their way", self.telling.len()));
        }
        let store = &service.store;
        let counts = store.counts();
        if counts.inbox + counts.waiting + counts.dead + counts.quarantined > 0 {
            return Some(format!("{counts:?}"));
        }
        for (_, tally) in store.fan_tallies().await.unwrap() {
            let settled = tally.minted + tally.rejected == tally.registered;
            let waiting: u64 = unionlink::domain::fan::FanStep::ALL
                .into_iter()
                .flat_map(|step| Priority::ALL.map(|priority| tally.waiting(step, priority)))
                .sum();
            if !settled || waiting > 0 {
                return Some(format!("{tally:?}"));
            }
        }
        let now = self.machine.clock.now();
        for somebody in &self.cast.people {
            let fans = store.fans(&somebody.unionid()).await.unwrap();
            if let Some((_, due)) = fans.iter().find(|(_, fan)| fan.review_at().is_some_and(|at| at <= now)) {
                return Some(format!("{due:?} is to be looked at"));
            }
        }
        for receiver in &self.machine.receivers {
            let cursor = store.cursor(&receiver.name).await.unwrap();
            if cursor.as_ref().map(|cursor| cursor.after) != Some(counts.feed_head) {
                return Some(format!("{}: {cursor:?} of {}", receiver.name, counts.feed_head));
            }
        }
        None
    }

    /// Customers whom WeCom was asked about often enough while it had nothing to say: only a fan who is registered
    /// anew still finds them.
    async fn note_who_was_given_up(&mut self) {
        let Some(service) = self.machine.running() else { return };
        for pair in self.cast.pairs.values_mut() {
            let trace = service.store.person_data(pair.external_userid.as_str()).await.unwrap();
            let given_up = trace.contacts.iter().any(|(_, contact)| {
                contact.pending_id.is_none()
                    && contact.lookup_retry.is_some_and(|retry| retry.due_at.is_none())
            });
            pair.given_up = given_up;
        }
        self.events_stored = service.store.counts().event_head;
        let now = self.machine.clock.now();
        self.note(format!("it is {now}"));
    }
}
