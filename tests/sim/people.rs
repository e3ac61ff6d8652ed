//! Actions of people in a schedule: registrations by the brand, operators at work, requests to forget a
//! person.

use unionlink::clock::Clock;
use unionlink::domain::audit::AuditBy;
use unionlink::domain::dealer::DealerState;
use unionlink::domain::fan::{Minted, Priority};
use unionlink::domain::ids::{Openid, PendingId};
use unionlink::http::{Redrive, RedriveError};
use unionlink::store::{CursorState, EventId, EventState, NewFan, PersonId, Registered, Seek, StoreError};

use crate::schedule::Schedule;
use crate::time::pass;

impl Schedule {
    /// The brand registers fans: one, some, or all.
    pub async fn register(&mut self) {
        let all = self.cast.people.len();
        let chosen: Vec<_> = match self.dice.below(4) {
            0 | 1 => vec![self.random_person()],
            2 => (0..self.dice.between(2, 4)).map(|_| self.random_person()).collect(),
            _ => (0..all).collect(),
        };
        let priority = if chosen.len() > 2 && self.dice.one_in(2) { Priority::Bulk } else { Priority::Live };
        self.register_all(&chosen, priority, false).await;
    }

    /// Another system of the brand mints a pending id; the next registration carries it.
    pub fn mint_by_another_system(&mut self) {
        let p = self.random_person();
        let somebody = &mut self.cast.people[p];
        let pending_id = self.machine.sim.mint_without_call(&somebody.brand.corp_id, &somebody.person);
        let minted = Minted::new(PendingId::new(pending_id).unwrap(), self.time.now());
        somebody.minted_by_others.push(minted);
        self.note(format!("p{p} is minted by another system"));
    }

    /// Registers these people. Returns whether that was acknowledged.
    pub async fn register_all(&mut self, chosen: &[usize], priority: Priority, retry_rejected: bool) -> bool {
        let fans = chosen.iter().map(|p| {
            let somebody = &self.cast.people[*p];
            NewFan {
                key: somebody.key(),
                openid: Openid::new(&somebody.person.openid).unwrap(),
                ask_existing: self.asks_existing,
                priority,
                minted: somebody.minted_by_others.last().cloned(),
                retry_rejected,
            }
        });
        let fans = fans.collect();
        let put = self.machine.ask(|service| async move {
            let registered = service.store.put_fans(fans, service.clock.now()).await;
            service.wake.fans.notify_one();
            registered
        });
        let answers = put.await;
        let registered = answers.is_some();
        let now_secs = self.time.now().as_secs();
        self.note(format!("fans {chosen:?} {priority:?}: {registered}"));
        for (p, answer) in chosen.iter().zip(0..) {
            // The answer says that the person was erased meanwhile.
            if answers.as_ref().is_some_and(|answers| answers.get(answer) == Some(&Registered::Forgotten)) {
                continue;
            }
            let somebody = &mut self.cast.people[*p];
            // Without an answer the registration may have happened nevertheless.
            somebody.stays_forgotten = false;
            somebody.is_fan |= registered;
            if registered && somebody.was_forgotten() && !self.cast.clock_was_off {
                somebody.known_from_secs = somebody.known_from_secs.min(now_secs + 1);
            }
        }
        registered
    }

    pub async fn operate_a_sink(&mut self) {
        let receiver = self.machine.receivers[self.dice.index(self.machine.receivers.len())].clone();
        let (what, back) = (self.dice.below(4), self.dice.between(1, 9));
        let name = receiver.name.clone();
        let done = self.machine.ask(|service| async move {
            let store = &service.store;
            let done = match what {
                0 => store.set_state(&name, CursorState::Paused { since: service.clock.now() }).await,
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

    /// An operator redrives dead letters and quarantined messages.
    pub async fn redrive(&mut self) {
        let trace = self.machine.trace.clone();
        self.machine
            .ask(|service| async move {
                let now = service.clock.now();
                for state in [EventState::Dead, EventState::Quarantined] {
                    for row in service.store.events(state, EventId(0), 1_000).await? {
                        let doors = service.doors.current();
                        let redrive = Redrive {
                            store: &*service.store,
                            doors: &doors,
                            apps: &service.apps,
                            wake: &service.wake,
                        };
                        let redriven = match redrive.event(row.id(), now).await {
                            Err(RedriveError::Store(error)) => return Err(error),
                            redriven => redriven.unwrap_or(false),
                        };
                        trace.note(format!("redrive of one {state:?}: {redriven}"));
                    }
                }
                Ok::<_, StoreError>(())
            })
            .await;
    }

    /// An operator has the customers of all dealers compared with WeCom's lists.
    pub async fn compare(&mut self) {
        let apps: Vec<_> = self.machine.brands.iter().map(|brand| brand.app.clone()).collect();
        let begun = self.machine.ask(|service| async move {
            let mut present = Vec::new();
            for app in apps {
                let dealers = service.store.dealers(&app).await?.into_iter();
                let dealers = dealers.filter(|dealer| dealer.state() != DealerState::Left);
                present.extend(dealers.map(|dealer| (app.clone(), dealer.corp_id)));
            }
            let run = service.store.begin_reconcile(present, service.clock.now()).await;
            service.wake.reconcile.notify_one();
            run
        });
        let begun = begun.await.is_some();
        self.note(format!("an operator starts a comparison: {begun}"));
    }

    /// A person is forgotten, by unionid or as a customer, and may come back on both sides.
    pub async fn forget(&mut self) {
        let (p, d) = (self.random_person(), self.random_dealer());
        self.forget_somebody(p, d).await;
        if self.dice.one_in(2) {
            pass(self.dice.millis(1_000, 3_000)).await;
            self.register_all(&[p], Priority::Live, false).await;
            pass(self.dice.millis(0, 3_000)).await;
            self.befriend_somebody(p, d);
        }
    }

    async fn forget_somebody(&mut self, p: usize, d: usize) {
        let (person, whole) = match self.cast.pairs.get(&(p, d)) {
            Some(pair) if self.dice.one_in(3) => {
                (PersonId::ExternalUserid(pair.external_userid.clone()), false)
            }
            _ => (PersonId::Unionid(self.cast.people[p].unionid()), true),
        };
        let forget = self.machine.ask(|service| async move {
            service.store.forget(&person, None, AuditBy::service(), service.clock.now()).await
        });
        let forgotten = forget.await.is_some();
        self.note(format!(
            "p{p} is forgotten ({}): {forgotten}",
            if whole { "as a fan" } else { "as a customer" }
        ));
        let now_secs = self.time.now().as_secs();
        let somebody = &mut self.cast.people[p];
        // What begins within the second may be older than the request. One who was forgotten as a customer
        // may be found to be a fan, and forgotten again, until the next registration.
        let is_settled = whole && forgotten && !self.cast.clock_was_off;
        somebody.known_from_secs = if is_settled { now_secs + 1 } else { i64::MAX };
        somebody.is_fan = false;
        somebody.stays_forgotten |= whole && forgotten;
    }
}
