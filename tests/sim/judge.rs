//! What must be true when a schedule has come to rest, judged by what the simulated platform knows and by what was
//! acknowledged to the outside world.

use std::collections::{BTreeMap, BTreeSet};

use unionlink::clock::Clock;
use unionlink::domain::fan::FanState;
use unionlink::domain::link::{ChangeType, EntryData, FeedEntry, LinkData};
use unionlink::simulator::Api;
use unionlink::store::{Feed, LinkBy, LinkQuery, People, Store};

use crate::cast::{Pair, Somebody};
use crate::receiver::Receiver;
use crate::schedule::Schedule;
use crate::service::Service;

/// Who is linked to whom, by the ids of link, person, dealer and customer.
type Link = (String, String, String, String);

fn link_of(data: &LinkData) -> Link {
    let LinkData { link_id, unionid, corp_id, external_userid, .. } = data;
    let text = |id: &str| id.to_owned();
    (link_id.clone(), text(unionid.as_str()), text(corp_id.as_str()), text(external_userid.as_str()))
}

/// One verdict over one schedule.
pub struct Judge<'a> {
    schedule: &'a Schedule,
    service: &'a Service,
    complaints: Vec<String>,
    /// Links that had to be there, and were.
    pub linked: usize,
}

impl<'a> Judge<'a> {
    pub fn new(schedule: &'a Schedule, service: &'a Service) -> Self {
        Self { schedule, service, complaints: Vec::new(), linked: 0 }
    }

    /// Everything there is to complain about, and how many links had to be there and were.
    pub async fn judge(mut self) -> (Vec<String>, usize) {
        let links = self.links().await;
        self.everybody_is_who_they_are(&links);
        self.acknowledged_customers(&links).await;
        self.people().await;
        for receiver in &self.schedule.machine.receivers {
            self.receiver(receiver, &links);
        }
        self.feed().await;
        self.events();
        self.calls().await;
        self.complaints.extend(self.service.store.audit().unwrap());
        let damaged = self.service.store.damaged_records();
        self.expect(damaged == 0, || format!("{damaged} damaged records"));
        let panicked = self.schedule.machine.panicked.is_cancelled();
        self.expect(!panicked, || "a task panicked".to_owned());
        (self.complaints, self.linked)
    }

    fn expect(&mut self, holds: bool, complaint: impl FnOnce() -> String) {
        if !holds {
            self.complaints.push(complaint());
        }
    }

    async fn links(&self) -> Vec<LinkData> {
        let now = self.schedule.machine.clock.now();
        let mut snapshot = self.service.store.snapshot().await.unwrap();
        let mut links = Vec::new();
        while let Some(more) = snapshot.next(now).await.unwrap() {
            links.extend(more);
        }
        links
    }

    /// Nobody is linked to somebody else, in the store or in anything that any receiver was told.
    fn everybody_is_who_they_are(&mut self, links: &[LinkData]) {
        let truth = self.schedule.machine.sim.truth().into_iter();
        let truth: BTreeSet<_> = truth.map(|t| (t.unionid, t.corp_id, t.external_userid)).collect();
        let told = self.schedule.machine.receivers.iter();
        let told: Vec<FeedEntry> = told
            .flat_map(|receiver| receiver.memory().entries.values().cloned().collect::<Vec<_>>())
            .collect();
        for data in links.iter().chain(told.iter().filter_map(|entry| entry.data.link())) {
            let (_, unionid, corp_id, external_userid) = link_of(data);
            let is_true = truth.contains(&(unionid, corp_id, external_userid));
            self.expect(is_true, || format!("a link to somebody else: {data:?}"));
        }
    }

    /// Every customer we said we know, of a fan we said we know, is linked; and followed by whom we were told.
    async fn acknowledged_customers(&mut self, links: &[LinkData]) {
        let schedule = self.schedule;
        for ((p, d), pair) in &schedule.cast.pairs {
            let somebody = &schedule.cast.people[*p];
            let link = links.iter().find(|link| {
                link.external_userid == pair.external_userid
                    && link.corp_id.as_str() == schedule.cast.shops[*d].dealer.corp_id
            });
            if link.is_none() && self.has_to_be_linked(somebody, pair, *d).await {
                let complaint =
                    format!("p{p} at d{d} is not linked: {}", self.known_of(somebody, pair).await);
                self.complaints.push(complaint);
            }
            if somebody.forgotten {
                continue;
            }
            self.linked += usize::from(link.is_some());
            let trace = self.service.store.person_data(pair.external_userid.as_str()).await.unwrap();
            let told = pair.told.iter().any(crate::cast::Told::is_acknowledged);
            self.expect(!told || !trace.contacts.is_empty(), || {
                format!("p{p} at d{d} is not known any more")
            });
            if let (Some(link), Some(expected)) = (link, pair.followers()) {
                let mut followers: Vec<_> =
                    link.followers.iter().map(|follower| follower.user_id.as_str().to_owned()).collect();
                followers.sort();
                self.expect(followers == expected, || {
                    format!("p{p} at d{d} is followed by {followers:?}, and should be by {expected:?}")
                });
            }
        }
    }

    /// What the service and WeCom know of a customer, for whoever looks into a complaint.
    async fn known_of(&self, somebody: &Somebody, pair: &Pair) -> String {
        let Schedule { machine, .. } = self.schedule;
        let contacts = self.service.store.person_data(pair.external_userid.as_str()).await.unwrap().contacts;
        let fans = self.service.store.fans(&somebody.unionid()).await.unwrap();
        let ids = machine.sim.pending_ids(&machine.app.corp_id, &somebody.person);
        format!("found by {:?}, at WeCom {ids:?}; {contacts:?}; {fans:?}", pair.found_by)
    }

    /// Whether WeCom's rules let this customer be found, and nobody asked us not to.
    async fn has_to_be_linked(&self, somebody: &Somebody, pair: &Pair, d: usize) -> bool {
        let Schedule { machine, woke_at, .. } = self.schedule;
        let fans = self.service.store.fans(&somebody.unionid()).await.unwrap();
        let ours: Vec<_> =
            fans.iter().flat_map(|(_, fan)| &fan.ids).map(|id| id.pending_id.as_str()).collect();
        let we_have_it = pair.found_by.as_deref().is_some_and(|id| ours.contains(&id));
        let alive = machine.sim.pending_ids(&machine.app.corp_id, &somebody.person);
        // Unless the machine slept before it could ask, so long that the pending id ended.
        let in_time = pair.befriended_at >= Some(*woke_at)
            || pair.found_by.as_ref().is_some_and(|id| alive.contains(id));
        let found_by_pending_id = we_have_it && in_time;
        // Two systems that mint for one person keep each other's pending ids from being known.
        let kept_from_us = pair.found_by.is_some() && !we_have_it && !somebody.minted_elsewhere.is_empty();
        // Another pending id brings the question about existing customers, which leaves out a dealer who does not share
        // the app.
        let minted_since =
            alive.last().is_some_and(|id| pair.found_by.as_ref() != Some(id) && ours.contains(&id.as_str()));
        let asks_existing = self.schedule.asks_existing && !self.schedule.cast.shops[d].was_unshared;
        pair.is_known()
            && somebody.is_fan
            && !somebody.forgotten
            && !pair.given_up
            && !kept_from_us
            && (found_by_pending_id || asks_existing && minted_since)
    }

    /// Fans are there and minted; who was forgotten is not there, nor linked.
    async fn people(&mut self) {
        let now = self.schedule.machine.clock.now();
        for (p, somebody) in self.schedule.cast.people.iter().enumerate() {
            let fans = self.service.store.fans(&somebody.unionid()).await.unwrap();
            if somebody.is_fan && !somebody.forgotten {
                let states: Vec<_> = fans.iter().map(|(_, fan)| fan.state(now)).collect();
                self.expect(states == [FanState::Minted], || format!("p{p} is a fan who is {states:?}"));
            }
            if somebody.stays_forgotten {
                let query = LinkQuery { by: LinkBy::Unionid(somebody.unionid()), corp_id: None, app: None };
                let links = self.service.store.links(&query, now).await.unwrap();
                self.expect(fans.is_empty() && links.is_empty(), || {
                    format!("p{p} was forgotten and is here: {} fans, {} links", fans.len(), links.len())
                });
            }
        }
    }

    /// A receiver has everything, in order, and can tell from it who is linked now, each once.
    fn receiver(&mut self, receiver: &Receiver, links: &[LinkData]) {
        let memory = receiver.memory();
        self.complaints.extend(memory.complaints.iter().cloned());
        let head = self.service.store.counts().feed_head;
        let name = &receiver.name;
        let have: BTreeSet<u64> = memory.entries.keys().copied().collect();
        let missing: Vec<_> = (1..=head).filter(|seq| !have.contains(seq)).collect();
        self.expect(missing.is_empty(), || format!("{name} never got {missing:?} of {head}"));
        let mut known: BTreeMap<String, Link> = BTreeMap::new();
        let mut ids = BTreeSet::new();
        for entry in memory.entries.values() {
            self.expect(ids.insert(&entry.id), || format!("two entries are called {}", entry.id));
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
        let told: BTreeSet<_> = known.into_values().collect();
        let kept: BTreeSet<_> = links.iter().map(link_of).collect();
        self.expect(told == kept, || format!("{name} was told of {told:?}, and kept are {kept:?}"));
    }

    /// The feed as anybody may read it: from the oldest entry kept to the newest, without a gap.
    async fn feed(&mut self) {
        let (store, now) = (&self.service.store, self.schedule.machine.clock.now());
        let counts = store.counts();
        let entries = store.feed(counts.feed_pruned, usize::MAX >> 1, now).await.unwrap();
        let seqs = entries.iter().map(|entry| entry.seq);
        let whole = seqs.eq(counts.feed_pruned + 1..=counts.feed_head);
        self.expect(whole, || format!("the feed has gaps: {counts:?}"));
    }

    /// Copies of an event are one event, as long as it is remembered. One that was quarantined, and is understood when
    /// it comes again, counts twice.
    fn events(&mut self) {
        let told: usize = self.schedule.cast.pairs.values().map(|pair| pair.told.len()).sum();
        let stored = self.schedule.events_stored;
        let remembered = self.schedule.hasty && self.schedule.sealed_for_brand;
        self.expect(!remembered || stored <= told as u64, || {
            format!("of {told} events {stored} were stored")
        });
    }

    /// No call over quota, no batch over its size, and a ledger that knows of every call.
    async fn calls(&mut self) {
        let machine = &self.schedule.machine;
        let counters = machine.sim.counters();
        let over = (counters.quota_violations, counters.base_violations, counters.blocked_calls);
        self.expect(over == (0, 0, 0), || {
            format!("calls over quota, over base limits, while blocked: {over:?}")
        });
        self.expect(counters.max_batch <= 100, || format!("a batch of {}", counters.max_batch));
        for (api, name) in [
            (Api::UnionidToPendingId, "unionid_to_pending_id"),
            (Api::UnionidToExternalUserid, "unionid_to_external_userid"),
        ] {
            let made = machine.sim.quota_use(&machine.app.corp_id, api);
            let ledger = self.service.store.ledger(&machine.app.corp_id, name).await.unwrap();
            let noted = ledger.used(machine.clock.moment());
            let enough = u64::from(noted.hour) >= made.hour
                && u64::from(noted.day) >= made.day
                && u64::from(noted.month) >= made.month;
            self.expect(enough, || format!("{name}: made {made:?}, noted {noted:?}"));
        }
    }
}
