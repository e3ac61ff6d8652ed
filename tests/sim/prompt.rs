//! The bounds of the time to a link, once both sides are known and WeCom is healthy: hours after a repair, for
//! what had failed before; seconds when nothing is left to do, also just after the wall clock was set by hours.

use std::sync::atomic::Ordering;
use std::time::Duration;

use unionlink::clock::Clock;
use unionlink::domain::fan::Priority;
use unionlink::store::{LinkBy, LinkQuery};

use crate::agency::Delivery;
use crate::cast::Somebody;
use crate::check::Checker;
use crate::schedule::{MEMBERS, Schedule};
use crate::time::pass;

/// How long after a repair everything that it held up may take: six more failures, each followed by a pause of
/// up to half an hour.
pub const AFTER_REPAIR_SECS: i64 = 4 * 3_600;
/// How long a link may take when nothing is paused: longer than an event that is received just when the clock
/// is set back waits.
const PROMPT: Duration = Duration::from_secs(10);

impl Schedule {
    /// Records what a repair should have set free by now and is not linked.
    pub async fn record_late(&mut self) {
        let Some(service) = self.machine.running() else { return };
        let checker = Checker::new(self, &service);
        let mut late = Vec::new();
        for ((p, d), pair) in &self.cast.pairs {
            let somebody = &self.cast.people[*p];
            // The lookups of a customer who was half-added before are far apart already.
            let was_half = pair.events.iter().any(|event| event.present && !event.confirmed);
            let is_disturbed = self.cast.ids_were_blamed
                || pair.is_disturbed
                || was_half
                || self.cast.dealers[*d].was_troubled;
            let is_owed =
                pair.is_known(somebody) && somebody.is_fan && !somebody.was_forgotten() && !pair.given_up;
            if is_owed
                && !is_disturbed
                && checker.is_found_by_pending_id(somebody, pair).await
                && !self.is_linked(somebody, *d).await
            {
                late.push(format!(
                    "p{p} at d{d} is not linked {AFTER_REPAIR_SECS} s after everything was repaired: {}",
                    checker.known_of(somebody, pair).await
                ));
            }
        }
        self.late.append(&mut late);
    }

    /// Whether this person is linked as a customer of this dealer.
    pub async fn is_linked(&self, somebody: &Somebody, d: usize) -> bool {
        let Some(service) = self.machine.running() else { return false };
        let app = Some(somebody.brand.app.clone());
        let query = LinkQuery { by: LinkBy::Unionid(somebody.unionid()), corp_id: None, app };
        let links = service.store.links(&query, service.clock.now()).await.unwrap();
        links.iter().any(|link| link.corp_id.as_str() == self.cast.dealers[d].dealer.corp_id)
    }

    /// Adds customers while nothing is left to do, after the wall clock was set by hours: each is linked at
    /// once, one of a dealer that the service does not know yet included.
    pub async fn link_promptly(&mut self) {
        // What is left of the last fault, and every pause, ends.
        self.machine.sim.clear_faults();
        pass(Duration::from_secs(3_700)).await;
        for new_dealer in [false, true] {
            let p = self.add_somebody();
            if !self.register_all(&[p], Priority::Live, false).await || !self.is_minted_soon(p).await {
                self.note(format!("p{p} waits for a quota"));
                continue;
            }
            let brand = self.cast.people[p].brand.clone();
            let installed = if new_dealer && self.dealers_install() {
                Some(self.install_in_time(brand.clone()).await)
            } else {
                None
            };
            self.set_the_clock();
            pass(Duration::from_secs(self.dice.between(0, 3))).await;
            let d = match installed {
                Some(d) => d,
                None if new_dealer => self.add_dealer_of(brand, Delivery::Sure),
                None => {
                    let d = self.random_dealer();
                    self.dealer_for(p, d, true)
                }
            };
            let member = self.dice.among(&MEMBERS);
            let (event, flag, what) = self.befriend(p, d, member, false);
            let answer = self.machine.post(&event, &self.machine.seal(&event)).await;
            self.note(format!("{what}: answered {answer:?}"));
            flag.store(answer == Some(200), Ordering::Relaxed);
            self.judged.prompt += 1;
            if answer != Some(200) || !self.is_linked_soon(p, d).await {
                self.late.push(format!(
                    "p{p} at d{d} was answered {answer:?} and is not linked after {PROMPT:?}, with nothing else to do"
                ));
            }
        }
        self.machine.clock.set(0);
    }

    async fn is_minted_soon(&self, p: usize) -> bool {
        for _ in 0..50 {
            pass(Duration::from_millis(100)).await;
            let Somebody { person, brand, .. } = &self.cast.people[p];
            if !self.machine.sim.pending_ids(&brand.corp_id, person).is_empty() {
                // The answer is stored, too.
                pass(Duration::from_secs(1)).await;
                return true;
            }
        }
        false
    }

    async fn is_linked_soon(&self, p: usize, d: usize) -> bool {
        let mut waited = Duration::ZERO;
        while waited < PROMPT {
            if self.is_linked(&self.cast.people[p], d).await {
                return true;
            }
            pass(Duration::from_millis(100)).await;
            waited += Duration::from_millis(100);
        }
        false
    }
}
