//! The invariants that must hold at the end of a schedule, checked against the simulated platform and against
//! what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;

use unionlink::clock::Clock;
use unionlink::domain::fan::FanState;
use unionlink::domain::link::{ChangeType, EntryData, FeedEntry, LinkData};
use unionlink::simulator::Api;
use unionlink::store::{LinkBy, LinkQuery};

use crate::authorizations::JudgedAgency;
use crate::cast::{Pair, Somebody};
use crate::receiver::Receiver;
use crate::schedule::Schedule;
use crate::service::{Brand, Service};

/// A link by its ids: link, person, dealer, customer.
type Link = (String, String, String, String);

fn link_of(data: &LinkData) -> Link {
    let LinkData { link_id, unionid, corp_id, external_userid, .. } = data;
    let text = |id: &str| id.to_owned();
    (link_id.clone(), text(unionid.as_str()), text(corp_id.as_str()), text(external_userid.as_str()))
}

/// What a schedule, or a run of them, gave the verdicts to judge.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    /// Customers of people who were never forgotten that are linked.
    pub links: u64,
    /// Customers of people who were forgotten and have come back that are linked.
    pub back: u64,
    /// Relations of a member and a customer.
    pub followers: u64,
    /// Followers whose removal only WeCom's lists have reported.
    pub removed: u64,
    /// Members of groups who must be held to be in them.
    pub memberships: u64,
    /// Customers who must not be held to be in a group of their dealer.
    pub left: u64,
    /// Links with nothing else to do.
    pub prompt: u64,
    /// Replicas that took the work over from another one, or again.
    pub takeovers: u64,
    /// What agency-developed apps gave to judge.
    pub agency: JudgedAgency,
}

impl AddAssign for Judged {
    fn add_assign(&mut self, more: Self) {
        self.links += more.links;
        self.back += more.back;
        self.followers += more.followers;
        self.removed += more.removed;
        self.memberships += more.memberships;
        self.left += more.left;
        self.prompt += more.prompt;
        self.takeovers += more.takeovers;
        self.agency += more.agency;
    }
}

/// The check of one schedule.
pub struct Checker<'a> {
    pub schedule: &'a Schedule,
    pub service: &'a Service,
    pub violations: Vec<String>,
    pub judged: Judged,
}

impl<'a> Checker<'a> {
    pub fn new(schedule: &'a Schedule, service: &'a Service) -> Self {
        Self { schedule, service, violations: Vec::new(), judged: Judged::default() }
    }

    /// Returns every violation found, and what was judged.
    pub async fn check(mut self) -> (Vec<String>, Judged) {
        let links = self.links().await;
        self.links_are_true(&links);
        self.acknowledged_customers(&links).await;
        self.listed_customers(&links).await;
        self.people().await;
        for receiver in &self.schedule.machine.receivers {
            self.receiver(receiver, &links);
        }
        self.feed().await;
        self.events();
        self.calls().await;
        if let Some(agency) = &self.schedule.agency {
            self.agency(agency, &links).await;
        }
        self.violations.extend(self.service.opened.audit().await);
        let damaged = self.service.store.damaged_records();
        self.expect(damaged == 0, || format!("{damaged} damaged records"));
        let panicked = self.schedule.machine.panicked.is_cancelled();
        self.expect(!panicked, || "a task panicked".to_owned());
        (self.violations, self.judged)
    }

    pub fn expect(&mut self, holds: bool, violation: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(violation());
        }
    }

    async fn links(&self) -> Vec<LinkData> {
        let now = self.service.clock.now();
        let mut scan = self.service.store.scan_links().await.unwrap();
        let mut links = Vec::new();
        while let Some(more) = scan.next(now).await.unwrap() {
            links.extend(more);
        }
        links
    }

    /// Every link, in the store and at every receiver, joins two ids of one person.
    fn links_are_true(&mut self, links: &[LinkData]) {
        let truth = self.schedule.machine.sim.truth().into_iter();
        let truth: BTreeSet<_> = truth.map(|t| (t.unionid, t.corp_id, t.external_userid)).collect();
        let delivered = self.schedule.machine.receivers.iter();
        let delivered: Vec<FeedEntry> = delivered
            .flat_map(|receiver| receiver.memory().entries.values().cloned().collect::<Vec<_>>())
            .collect();
        for data in links.iter().chain(delivered.iter().filter_map(|entry| entry.data.link())) {
            let (_, unionid, corp_id, external_userid) = link_of(data);
            let is_true = truth.contains(&(unionid, corp_id, external_userid));
            self.expect(is_true, || format!("a link between two people: {data:?}"));
        }
    }

    /// Every acknowledged customer of an acknowledged fan is linked.
    async fn acknowledged_customers(&mut self, links: &[LinkData]) {
        let schedule = self.schedule;
        for ((p, d), pair) in &schedule.cast.pairs {
            let somebody = &schedule.cast.people[*p];
            let link = links.iter().find(|link| {
                link.external_userid == pair.external_userid
                    && link.corp_id.as_str() == schedule.cast.dealers[*d].dealer.corp_id
            });
            if link.is_none() && self.has_to_be_linked(somebody, pair, *d).await {
                let violation =
                    format!("p{p} at d{d} is not linked: {}", self.known_of(somebody, pair).await);
                self.violations.push(violation);
            }
            let acknowledged = pair.acknowledged_since(somebody).next().is_some();
            if !somebody.was_forgotten() {
                self.judged.links += u64::from(link.is_some());
            } else if acknowledged {
                self.judged.back += u64::from(link.is_some());
            }
            let data = self.service.store.person_data(pair.external_userid.as_str()).await.unwrap();
            self.expect(!acknowledged || !data.contacts.is_empty(), || {
                format!("p{p} at d{d} is not known any more")
            });
        }
    }

    /// What the service and WeCom know of a customer, to explain a violation.
    pub async fn known_of(&self, somebody: &Somebody, pair: &Pair) -> String {
        let Schedule { machine, .. } = self.schedule;
        let contacts = self.service.store.person_data(pair.external_userid.as_str()).await.unwrap().contacts;
        let fans = self.service.store.fans(&somebody.unionid()).await.unwrap();
        let ids = machine.sim.pending_ids(&somebody.brand.corp_id, &somebody.person);
        format!("found by {:?}, at WeCom {ids:?}; {contacts:?}; {fans:?}", pair.found_by)
    }

    /// Whether WeCom's rules let this customer be found, and the person is a fan who was not forgotten.
    async fn has_to_be_linked(&self, somebody: &Somebody, pair: &Pair, d: usize) -> bool {
        let Schedule { machine, .. } = self.schedule;
        let ours = self.pending_ids(somebody).await;
        let alive = machine.sim.pending_ids(&self.schedule.cast.dealers[d].brand.corp_id, &somebody.person);
        // A new pending id leads to a query for existing customers, which omits dealers the app is not shared
        // with.
        let minted_since =
            alive.last().is_some_and(|id| pair.found_by.as_ref() != Some(id) && ours.contains(id));
        let asks_existing = self.schedule.asks_existing && !self.schedule.cast.dealers[d].was_unshared;
        pair.is_known(somebody)
            && somebody.is_fan
            && !pair.given_up
            && !self.is_minted_by_another(somebody, pair).await
            && (self.is_found_by_pending_id(somebody, pair).await || asks_existing && minted_since)
    }

    /// The pending ids of a fan that the service knows.
    pub async fn pending_ids(&self, somebody: &Somebody) -> Vec<String> {
        let fans = self.service.store.fans(&somebody.unionid()).await.unwrap();
        fans.iter().flat_map(|(_, fan)| &fan.ids).map(|id| id.pending_id.as_str().to_owned()).collect()
    }

    /// Whether WeCom returns a pending id for this customer that the service knows.
    pub async fn is_found_by_pending_id(&self, somebody: &Somebody, pair: &Pair) -> bool {
        let Schedule { machine, woke_at, .. } = self.schedule;
        let Some(found_by) = &pair.found_by else { return false };
        let alive = machine.sim.pending_ids(&somebody.brand.corp_id, &somebody.person);
        // Unless the machine slept before it could ask, for so long that the pending id expired.
        let in_time = pair.since >= Some(*woke_at) || alive.contains(found_by);
        in_time && self.pending_ids(somebody).await.contains(found_by)
    }

    /// Whether WeCom returns a pending id that only another system knows: two systems that mint for one person
    /// do not know each other's pending ids.
    pub async fn is_minted_by_another(&self, somebody: &Somebody, pair: &Pair) -> bool {
        let Some(found_by) = &pair.found_by else { return false };
        !somebody.minted_by_others.is_empty() && !self.pending_ids(somebody).await.contains(found_by)
    }

    /// Every acknowledged fan is stored and minted; a forgotten person is neither stored nor linked.
    async fn people(&mut self) {
        let now = self.service.clock.now();
        for (p, somebody) in self.schedule.cast.people.iter().enumerate() {
            let fans = self.service.store.fans(&somebody.unionid()).await.unwrap();
            if somebody.is_fan {
                let states: Vec<_> = fans.iter().map(|(_, fan)| fan.state(now)).collect();
                self.expect(states == [FanState::Minted], || {
                    format!("p{p} is a fan in the states {states:?}")
                });
            }
            if somebody.stays_forgotten {
                let query = LinkQuery { by: LinkBy::Unionid(somebody.unionid()), corp_id: None, app: None };
                let links = self.service.store.links(&query, now).await.unwrap();
                self.expect(fans.is_empty() && links.is_empty(), || {
                    format!(
                        "p{p} was forgotten and is still there: {} fans, {} links",
                        fans.len(),
                        links.len()
                    )
                });
            }
        }
    }

    /// A receiver has every entry in order, and the links that follow from them are those in the store, each
    /// once.
    fn receiver(&mut self, receiver: &Receiver, links: &[LinkData]) {
        let memory = receiver.memory();
        self.violations.extend(memory.violations.iter().cloned());
        let head = self.service.store.counts().feed_head;
        let name = &receiver.name;
        let have: BTreeSet<u64> = memory.entries.keys().copied().collect();
        let missing: Vec<_> = (1..=head).filter(|seq| !have.contains(seq)).collect();
        self.expect(missing.is_empty(), || format!("{name} never got {missing:?} of {head}"));
        let mut known: BTreeMap<String, Link> = BTreeMap::new();
        let mut ids = BTreeSet::new();
        for entry in memory.entries.values() {
            self.expect(ids.insert(&entry.id), || format!("two entries have the id {}", entry.id));
            match &entry.data {
                EntryData::Link(data) => {
                    let link = link_of(data);
                    let before = known.insert(link.0.clone(), link);
                    let created = entry.change == ChangeType::Created;
                    self.expect(before.is_none() == created, || {
                        format!(
                            "{name}: entry {} is {:?} of a link that was {before:?}",
                            entry.seq, entry.change
                        )
                    });
                }
                EntryData::Erased(erased) => drop(known.remove(&erased.link_id)),
            }
        }
        let delivered: BTreeSet<_> = known.into_values().collect();
        let stored: BTreeSet<_> = links.iter().map(link_of).collect();
        self.expect(delivered == stored, || format!("{name} received {delivered:?}, stored are {stored:?}"));
    }

    /// The feed has no gap between the oldest entry kept and the newest.
    async fn feed(&mut self) {
        let (store, now) = (&self.service.store, self.service.clock.now());
        let counts = store.counts();
        let entries = store.feed(counts.feed_pruned, usize::MAX >> 1, now).await.unwrap();
        let seqs = entries.iter().map(|entry| entry.seq);
        let whole = seqs.eq(counts.feed_pruned + 1..=counts.feed_head);
        self.expect(whole, || format!("the feed has gaps: {counts:?}"));
    }

    /// Copies of an event are stored once, within the deduplication window. A quarantined message counts
    /// twice if it can be classified when it is sent again.
    fn events(&mut self) {
        let Schedule { events_sent: sent, events_stored: stored, .. } = *self.schedule;
        let remembered = self.schedule.short_waits && self.schedule.sealed_for_brand;
        self.expect(!remembered || stored <= sent, || {
            format!("{sent} events were sent, and {stored} stored")
        });
    }

    /// No call exceeds a quota, no batch its size, and the quota ledger has every call.
    async fn calls(&mut self) {
        let machine = &self.schedule.machine;
        let counters = machine.sim.counters();
        // A permanent code that was reset without the service knowing ends in a ban for wrong secrets.
        let blocked = if self.schedule.agency.is_some() { 0 } else { counters.blocked_calls };
        let over = (counters.quota_violations, counters.base_violations, blocked);
        self.expect(over == (0, 0, 0), || {
            format!("calls over quota, over base limits, while blocked: {over:?}")
        });
        self.expect(counters.max_batch <= 100, || format!("a batch of {}", counters.max_batch));
        let apis = [
            (Api::UnionidToPendingId, "unionid_to_pending_id"),
            (Api::UnionidToExternalUserid, "unionid_to_external_userid"),
        ];
        for ((api, name), Brand { corp_id, .. }) in
            machine.brands.iter().flat_map(|brand| apis.map(|api| (api, brand)))
        {
            let made = machine.sim.quota_use(corp_id, api);
            let ledger = self.service.store.ledger(corp_id, name).await.unwrap();
            let noted = ledger.used(self.service.clock.moment());
            let enough = u64::from(noted.hour) >= made.hour
                && u64::from(noted.day) >= made.day
                && u64::from(noted.month) >= made.month;
            self.expect(enough, || format!("{name} of {corp_id}: made {made:?}, in the ledger {noted:?}"));
        }
    }
}
