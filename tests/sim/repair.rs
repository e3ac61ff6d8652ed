//! The end of a schedule: every fault is repaired, operators intervene, and time passes until nothing is left
//! to do.

use std::collections::BTreeMap;
use std::time::Duration;

use unionlink::clock::Clock;
use unionlink::domain::backoff::REASK_AFTER_MS;
use unionlink::domain::contact::Contact;
use unionlink::domain::fan::{Existing, Mint, Priority};
use unionlink::domain::reconcile::CLOCK_MARGIN_MS;
use unionlink::domain::time::{DAY_MS, HOUR_MS, SECOND_MS, Timestamp};
use unionlink::simulator::Fault;
use unionlink::store::{CursorState, DealerRow};

use crate::check::Checker;
use crate::prompt::AFTER_REPAIR_SECS;
use crate::receiver::Behaviour;
use crate::schedule::Schedule;
use crate::time::pass;

/// The first waits, in seconds: together enough for every timer of the service and for quotas to recover.
const WAITS_SECS: [u64; 15] =
    [5, 30, 90, 120, 300, 700, 1_900, 3_700, 3_700, 7_200, 21_700, 86_500, 86_500, 259_300, 3_700];
/// The number of further waits of a day: together less than the life of a pending id, whose renewal would
/// hide errors.
const DAYS: usize = 45;
const DAY_SECS: u64 = 86_500;
/// How long after the repair the schedule of a lookup that was not refused has ended.
const LOOKUPS_END_WITHIN_MS: i64 = 20 * DAY_MS;
/// Longer than anything is put off that is known in one term of a replica only.
const IN_A_TERM: Duration = Duration::from_secs(20);
/// How long after the repair the last fault may go on.
const LAST_FAULT_MS: i64 = 3_000 * SECOND_MS;

impl Schedule {
    /// Repairs everything and waits until nothing is left to do. Returns what still is at the end, if
    /// anything.
    pub async fn come_to_rest(&mut self) -> Option<String> {
        self.note("everything is repaired");
        self.repaired_at = self.time.now();
        self.judged.takeovers = self.machine.takeovers();
        self.repair_wecom();
        self.tickets_come();
        self.machine.sim.configure(|options| options.latency_ms = 0);
        self.show_old_customers();
        // What it shows last, if it is wrong.
        let (shown, now) = (self.machine.clock.now(), self.time.now());
        self.cast.clock_shows(shown, now);
        self.machine.clock.set(0);
        self.machine.disk.slow.store(false, std::sync::atomic::Ordering::Relaxed);
        *self.machine.disk.crash.lock().unwrap() = None;
        self.machine.disk.is_reliable.store(true, std::sync::atomic::Ordering::Relaxed);
        self.machine.resume_all();
        for receiver in &self.machine.receivers {
            receiver.memory().behaviour = Behaviour::Healthy;
        }
        self.machine.start().await;
        // One last fault that ends by itself.
        let (last, times) = self.trouble_at_wecom(Some(6));
        self.record_given_up().await;
        // After an errcode that it does not know, the service waits for an operator.
        let is_bounded = !matches!(last, Fault::Errcode(_)) && times <= Some(6);
        let left = self.settle(is_bounded.then_some(self.time.now())).await;
        if left.is_some() {
            return left;
        }
        self.judge_lists().await;
        self.link_promptly().await;
        self.settle(None).await
    }

    /// Shows the customers of more than an hour ago in WeCom's answers again: they have few lookups left, and an
    /// empty row looks like that of somebody who is no fan.
    fn show_old_customers(&self) {
        let recent_from_secs = self.time.now().plus_ms(-HOUR_MS).as_secs();
        for pair in self.cast.pairs.values() {
            if pair.events.iter().all(|event| event.at_secs < recent_from_secs) {
                self.machine.sim.hide_rows(pair.external_userid.as_str(), 0);
            }
        }
    }

    /// Judges what has come of the comparisons, before the wall clock is set again.
    async fn judge_lists(&mut self) {
        let Some(service) = self.machine.running() else { return };
        let mut checker = Checker::new(self, &service);
        checker.followers().await;
        checker.memberships().await;
        let Checker { violations, judged, .. } = checker;
        self.late.extend(violations);
        self.judged += judged;
    }

    /// Lets time pass until nothing is left to do. Returns what still is at the end, if anything.
    /// `repaired_at` is when everything was repaired, if that is still to be recovered from.
    async fn settle(&mut self, mut repaired_at: Option<Timestamp>) -> Option<String> {
        let mut left = None;
        for wait in WAITS_SECS.into_iter().chain(std::iter::repeat_n(DAY_SECS, DAYS)) {
            pass(Duration::from_millis(2_500)).await;
            if self.machine.setup.replicas > 1 {
                // The leases have expired in a long wait: what is put off for some seconds in a term begins anew.
                tokio::time::sleep(IN_A_TERM).await;
            }
            let intervened = self.intervene().await;
            pass(Duration::from_millis(1_200)).await;
            if repaired_at.is_some_and(|at| self.time.now().millis_since(at) > LAST_FAULT_MS) {
                // The waits are too long by now for a fault that takes one or two of them each time.
                self.machine.sim.clear_faults();
            }
            if repaired_at
                .take_if(|at| self.time.now().millis_since(*at) > AFTER_REPAIR_SECS * SECOND_MS)
                .is_some()
            {
                self.record_late().await;
            }
            left = self.left().await.or(intervened);
            if left.is_none() {
                left = self.not_compared().await;
            }
            if left.is_none() {
                break;
            }
            pass(Duration::from_secs(wait)).await;
        }
        left
    }

    /// What is missing until every dealer has been compared with WeCom's lists, from beginning to end, after the
    /// repair.
    async fn not_compared(&mut self) -> Option<String> {
        let service = self.machine.running()?;
        let mut rows = Vec::new();
        for brand in &self.machine.brands {
            let tasks = service.store.reconcile_tasks(&brand.app).await.unwrap();
            if !tasks.is_empty() {
                return Some(format!("dealers have yet to be compared: {tasks:?}"));
            }
            rows.extend(service.store.dealer_rows(&brand.app).await.unwrap());
        }
        let compared_at = |row: &DealerRow| (row.dealer.corp_id.clone(), row.activity.reconciled_at);
        let compared: BTreeMap<_, _> = rows.iter().map(compared_at).collect();
        // What is left of the last fault could hide a group from the comparison, until the next one.
        self.machine.sim.clear_faults();
        // A follower who was confirmed just before a comparison is not missing, and neither is one who was
        // confirmed by a clock that was ahead.
        let quiet_at = self.repaired_at.max(self.cast.clock_was_ahead_until).plus_ms(2 * CLOCK_MARGIN_MS);
        if self.compared_before.is_none() && self.time.now() < quiet_at {
            return Some("a comparison would be too soon".to_owned());
        }
        let before = self.compared_before.get_or_insert_with(|| compared.clone());
        let behind = compared.iter().filter(|(corp, at)| before.get(corp).copied().flatten() == **at).count();
        if behind == 0 && rows.len() == self.cast.dealers.len() {
            return None;
        }
        if !self.machine.setup.reconciles_by_itself {
            self.compare().await;
        }
        Some(format!("{behind} of {} dealers are not compared yet", rows.len()))
    }

    /// Does what an operator would: resumes sinks, redrives failed events, and retries rejected fans.
    /// Returns a description, if there was anything to do.
    async fn intervene(&mut self) -> Option<String> {
        let service = self.machine.running()?;
        self.authorize_again().await;
        if self.not_authorized().await.is_some() {
            self.ticket_now().await;
        }
        for receiver in &self.machine.receivers {
            let cursor = service.store.cursor(&receiver.name).await.unwrap();
            if cursor.is_some_and(|cursor| cursor.state != CursorState::Running) {
                service.store.set_state(&receiver.name, CursorState::Running).await.unwrap();
                service.sinks.wake(&receiver.name);
            }
        }
        let counts = service.store.counts();
        let failed = counts.dead + counts.quarantined;
        if failed > 0 {
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
            self.register_all(&refused, Priority::Live, true).await;
        }
        let intervened = failed > 0 || !refused.is_empty();
        intervened.then(|| format!("{failed} events were redriven and {refused:?} retried"))
    }

    /// What is still left to do, if anything.
    async fn left(&self) -> Option<String> {
        let Some(service) = self.machine.running() else { return Some("no process".to_owned()) };
        if !self.machine.is_whole() || !self.machine.is_led() {
            return Some("a replica is missing, or a duty has nobody".to_owned());
        }
        if !self.deliveries.is_empty() {
            return Some(format!("{} callbacks are still being delivered", self.deliveries.len()));
        }
        if let Some(left) = self.not_authorized().await {
            return Some(left);
        }
        let store = &service.store;
        if let Some(due_at) = store.next_chat_due().await.unwrap() {
            return Some(format!("a group is to be read at {due_at}"));
        }
        let counts = store.counts();
        // Those whom WeCom goes on refusing, also if only every other time, because it is asked through the
        // group and the follower in turn, are asked about for months; nothing more comes of it.
        let mut refused = 0;
        let is_late = self.time.now().millis_since(self.repaired_at) > LOOKUPS_END_WITHIN_MS;
        for pair in self.cast.pairs.values() {
            let trace = store.person_data(pair.external_userid.as_str()).await.unwrap();
            let goes_on = |contact: &Contact| {
                let daily = REASK_AFTER_MS.len();
                contact.lookup.is_some_and(|lookup| match lookup.refused {
                    Some(_) => lookup.asked as usize > daily,
                    None => is_late && lookup.asked as usize == daily && !contact.chats().is_empty(),
                })
            };
            refused += trace.contacts.iter().filter(|(_, contact)| goes_on(contact)).count() as u64;
        }
        if counts.inbox + counts.waiting.saturating_sub(refused) + counts.dead + counts.quarantined > 0 {
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
        let now = service.clock.now();
        for somebody in &self.cast.people {
            let fans = store.fans(&somebody.unionid()).await.unwrap();
            if let Some((_, due)) = fans.iter().find(|(_, fan)| fan.review_at().is_some_and(|at| at <= now)) {
                return Some(format!("{due:?} is due for review"));
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

    /// Records the customers that the service no longer asks about: only registering the fan again still
    /// links them.
    async fn record_given_up(&mut self) {
        let Some(service) = self.machine.running() else { return };
        for pair in self.cast.pairs.values_mut() {
            let trace = service.store.person_data(pair.external_userid.as_str()).await.unwrap();
            let given_up = trace.contacts.iter().any(|(_, contact)| {
                contact.pending_id.is_none() && contact.lookup.is_some_and(|lookup| lookup.due_at.is_none())
            });
            pair.given_up = given_up;
        }
        self.events_stored = service.store.counts().event_head;
        self.note(format!("it is {}", service.clock.now()));
    }
}
