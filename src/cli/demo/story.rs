//! The story of the demo, and the check of its result.
//!
//! Deliberately absent: the part that only an agency-developed app has (`agency`), and the texts and numbers
//! of the result (`summary`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::stage::{LATENCY_MS, Stage};
use super::summary::Summary;
use super::template::Agency;
use super::watcher::Watcher;
use crate::cli::output::say;
use crate::simulator::{Copies, Forgery, Person, Simulator};

/// Number of fans that are registered at the beginning.
const FANS: usize = 500;
/// Number of fans that were a dealer's customers before they were registered.
const LONG_STANDING: usize = 40;
/// Number of people that dealers add before the brand registers them as fans.
const EARLY: usize = 30;
/// Number of customers that are not fans of the brand.
const STRANGERS: usize = 40;
/// Number of fans that dealers add after their registration.
const ADDS: usize = 400;
/// Number of fans that join a dealer's customer group, in one event.
const GROUP: usize = 12;
/// Number of fans that dealers add and whose callbacks are lost.
const LOST: usize = 8;
/// Number of duplicate callbacks.
const DUPLICATES: usize = 60;
/// Number of forged callbacks.
const FORGERIES: usize = 100;
/// Number of people that dealers add at the same time.
const BURST: usize = 11;

/// The people of the story.
struct Cast {
    people: Vec<Person>,
}

impl Cast {
    fn new(wecom: &Simulator) -> Self {
        Self { people: wecom.add_people(FANS + EARLY + STRANGERS) }
    }

    fn fans(&self) -> &[Person] {
        &self.people[..FANS]
    }

    fn long_standing(&self) -> &[Person] {
        &self.people[..LONG_STANDING]
    }

    fn added(&self) -> &[Person] {
        &self.people[LONG_STANDING..][..ADDS]
    }

    fn joining(&self) -> &[Person] {
        &self.people[LONG_STANDING + ADDS..][..GROUP]
    }

    fn unreported(&self) -> &[Person] {
        &self.people[LONG_STANDING + ADDS + GROUP..][..LOST]
    }

    fn early(&self) -> &[Person] {
        &self.people[FANS..][..EARLY]
    }

    fn strangers(&self) -> &[Person] {
        &self.people[FANS + EARLY..]
    }
}

impl Stage {
    /// Plays the story and checks its result.
    pub(super) async fn play(&self, started: Instant) -> anyhow::Result<Summary> {
        self.open().await?;
        let cast = Cast::new(&self.wecom);
        let first_pending_id_ms = self.register_fans(&cast).await?;

        let watcher = Watcher::start(self.http.clone(), format!("{}/v1/links/feed", self.api));
        // WeCom is asked for the existing customers of all fans before any fan is added: a later answer would
        // include the new customers.
        let are_looked_up = |s: &Value| s["queues"].as_array().is_some_and(Vec::is_empty);
        self.until("existing customers", |s| s["links"] == LONG_STANDING && are_looked_up(s)).await?;
        say(&format!("✓ {LONG_STANDING} existing customers linked without a callback"));

        let early_events = cast.early().iter().enumerate().map(|(n, person)| self.add(person, n, "xiaoli").1);
        self.deliver(early_events.collect()).await?;
        self.until("the early customers to be resolved", |s| s["inbox"]["waiting"] == 0).await?;
        say(&format!("✓ {EARLY} people added by dealers before they are fans"));

        let sent = self.add_fans(&cast).await?;
        let links = LONG_STANDING + ADDS + EARLY;
        self.register_early(&cast, links).await?;

        let links = links + GROUP;
        self.join_group(cast.joining()).await?;
        self.until("the people in the group to be linked", |s| s["links"] == links).await?;
        say(&format!("✓ {GROUP} people joined a dealer's customer group and are linked"));

        let links = links + LOST;
        self.lose_callbacks(cast.unreported()).await?;
        let mut status = self.until("the customers of lost callbacks", |s| s["links"] == links).await?;
        if let Some(replica) = &self.replica {
            replica.lock().await.add_counts(&mut status);
        }
        say(&format!("✓ {LOST} callbacks lost on the way; the comparison with WeCom's lists found them"));

        let seen = watcher.finish(links).await?;
        let sources = self.check_links(&cast).await?;
        for (part, source) in
            [(cast.long_standing(), "existing"), (cast.joining(), "chat"), (cast.unreported(), "reconcile")]
        {
            check_source(&sources, part, source)?;
        }
        let latencies =
            sent.iter().filter_map(|(id, at)| seen.get(id).map(|seen| seen.duration_since(*at))).collect();
        let examples = self.examples(&cast.people, &seen).await?;
        let mut links_by_source = BTreeMap::<String, usize>::new();
        for source in sources.into_values() {
            *links_by_source.entry(source).or_default() += 1;
        }
        let agency = self.agency.as_ref().zip(first_pending_id_ms);
        Ok(Summary {
            status,
            links_by_source,
            long_standing: LONG_STANDING,
            counters: self.wecom.counters(),
            latencies,
            round_trip_ms: LATENCY_MS,
            examples,
            agency: agency.map(|(_, took_ms)| Agency::summary(self, took_ms)).transpose()?,
            api: self.api.clone(),
            took: started.elapsed(),
        })
    }

    /// Has the callback URL verified.
    async fn open(&self) -> anyhow::Result<()> {
        if let Some(agency) = &self.agency {
            return agency.open(self).await;
        }
        ensure!(self.wecom.verify_url(&self.brand).await, "the callback URL could not be verified");
        say("✓ callback URL verified, as WeCom's admin console does it");
        Ok(())
    }

    /// Registers the fans and waits until they are minted. Returns what [`Agency::authorise`] measured.
    async fn register_fans(&self, cast: &Cast) -> anyhow::Result<Option<i64>> {
        // These people became customers before they were fans: no callback is sent, and a pending id minted
        // later does not match.
        for (n, person) in cast.long_standing().iter().enumerate() {
            let _ = self.add(person, n, "laowang");
        }
        let mut minting = Instant::now();
        self.register(cast.fans()).await?;
        let mut first_pending_id_ms = None;
        if let Some(agency) = &self.agency {
            say(&format!("✓ {FANS} fans registered; they wait for a brand that authorises"));
            minting = Instant::now();
            first_pending_id_ms = Some(agency.authorise(self).await?);
        }
        self.until("fans to be minted", |s| s["fans"]["minted"] == FANS).await?;
        say(&format!("✓ {FANS} fans registered and minted in {:.1} s", minting.elapsed().as_secs_f64()));
        Ok(first_pending_id_ms)
    }

    /// Lets dealers add people as in production: bursts of adds from several dealers and from one member. Some
    /// customers are not fans, some callbacks are delivered twice, and forgeries arrive in between. In the
    /// middle, the permanent code of an agency-developed app is reset.
    ///
    /// Returns when each customer's callback was sent.
    async fn add_fans(&self, cast: &Cast) -> anyhow::Result<BTreeMap<String, Instant>> {
        let mut sent = BTreeMap::new();
        let mut adds: Vec<_> = cast.added().iter().chain(cast.strangers()).enumerate().collect();
        let mut reset_at = self.agency.as_ref().map(|agency| (adds.len() / 2, agency));
        let mut kill_at = self.replica.as_ref().map(|_| adds.len() / 2);
        let forging = self.forge();
        let mut duplicates = 0;
        while !adds.is_empty() {
            if kill_at.take_if(|left| adds.len() <= *left).is_some() {
                self.kill_replica().await?;
                say("✓ meanwhile the replica that works was killed; the other one receives, and takes over");
            }
            if let Some((_, agency)) = reset_at.take_if(|(left, _)| adds.len() <= *left) {
                agency.reset(self).await?;
            }
            let burst: Vec<_> = adds.drain(..adds.len().min(BURST)).collect();
            let mut events = Vec::new();
            for (n, person) in burst {
                let (external_userid, event) = self.add(person, n % 7, "zhangsan");
                sent.insert(external_userid, Instant::now());
                events.push((event, n));
            }
            let again = events.iter().find(|(_, n)| n % 5 == 0 && duplicates < DUPLICATES).cloned();
            self.deliver(events.into_iter().map(|(event, _)| event).collect()).await?;
            if let Some((event, n)) = again {
                let copies = if n % 2 == 0 { Copies::Identical } else { Copies::Resealed };
                duplicates += self.wecom.deliver_copies(&event, 2, copies).await.len();
            }
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        let refused = forging.await?;
        ensure!(refused.keys().eq([&403]), "a forged callback was not refused: {refused:?}");
        say(&format!(
            "✓ {ADDS} fans and {STRANGERS} others added; {duplicates} duplicates, {FORGERIES} forgeries sent"
        ));
        if self.agency.is_some() {
            say("✓ meanwhile the brand's permanent code was reset and its new one exchanged");
        }
        Ok(sent)
    }

    /// Sends forgeries. Returns the answers by HTTP status.
    fn forge(&self) -> JoinHandle<BTreeMap<u16, u64>> {
        let (wecom, corp) = (self.wecom.clone(), self.brand.clone());
        tokio::spawn(async move {
            let mut statuses = wecom.deliver_forged(&corp, Forgery::Signature, FORGERIES / 2).await;
            for (status, n) in wecom.deliver_forged(&corp, Forgery::Cipher, FORGERIES / 2).await {
                *statuses.entry(status).or_default() += n;
            }
            statuses
        })
    }

    /// Registers the people who are dealers' customers already. With an agency-developed app, the brand has cancelled
    /// its authorisation at that moment, and authorises again.
    async fn register_early(&self, cast: &Cast, links: usize) -> anyhow::Result<()> {
        if let Some(agency) = &self.agency {
            self.until("links", |s| s["links"] == links - EARLY && s["inbox"]["waiting"] == 0).await?;
            agency.cancel(self).await?;
            self.register(cast.early()).await?;
            let is_paused = |s: &Value| s["paused"].as_array().is_some_and(|paused| !paused.is_empty());
            self.until("the app to be paused", is_paused).await?;
            agency.renew(self).await?;
        } else {
            self.register(cast.early()).await?;
        }
        self.until("links", |s| s["links"] == links && s["inbox"]["waiting"] == 0).await?;
        say(&format!("✓ the {EARLY} people added early became fans and are linked"));
        if self.agency.is_some() {
            say("✓ they had to wait: the brand had cancelled its authorisation, and authorised again");
        }
        Ok(())
    }

    /// Lets people join a customer group of the first dealer, in one event.
    async fn join_group(&self, people: &[Person]) -> anyhow::Result<()> {
        let chat_id = self.wecom.add_chat(&self.dealers[0].corp_id);
        self.deliver(vec![self.wecom.join_chat(&chat_id, people)]).await
    }

    /// Lets dealers add people without sending callbacks, then has the customers compared with WeCom's lists.
    async fn lose_callbacks(&self, people: &[Person]) -> anyhow::Result<()> {
        for (n, person) in people.iter().enumerate() {
            let _ = self.add(person, n, "zhangsan");
        }
        let path = "/v1/reconcile";
        let answer = self.http.post(format!("{}{path}", self.api)).json(&json!({})).send().await?;
        ensure!(answer.status() == 202, "the comparison did not begin: {}", answer.status());
        let run = self.until_answer(path, "the comparison to end", |run| run["running"] == false).await?;
        ensure!(run["links_made"] == people.len(), "the comparison made the wrong number of links: {run}");
        Ok(())
    }

    /// Checks that the links are exactly those that the platform's records imply. Returns the source of each
    /// link, by unionid.
    async fn check_links(&self, cast: &Cast) -> anyhow::Result<BTreeMap<String, String>> {
        let strangers: BTreeSet<_> = cast.strangers().iter().map(|p| p.unionid.as_str()).collect();
        let truth = self.wecom.truth();
        let expected: BTreeSet<_> = truth
            .iter()
            .filter(|t| !strangers.contains(t.unionid.as_str()))
            .map(|t| (t.unionid.clone(), t.corp_id.clone(), t.external_userid.clone()))
            .collect();
        let (mut found, mut sources, mut user_ids) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
        for person in &cast.people {
            let answer = self.get(&format!("/v1/links?unionid={}", person.unionid)).await?;
            for link in answer["links"].as_array().into_iter().flatten() {
                let text = |name: &str| link[name].as_str().unwrap_or_default().to_owned();
                found.insert((text("unionid"), text("corp_id"), text("external_userid")));
                sources.insert(text("unionid"), text("source"));
                let members = link["followers"].as_array().into_iter().flatten();
                user_ids.extend(members.filter_map(|member| member["user_id"].as_str().map(str::to_owned)));
            }
        }
        ensure!(
            found == expected,
            "{} links are missing and {} are wrong",
            expected.difference(&found).count(),
            found.difference(&expected).count()
        );
        // The ids of members that an agency-developed app sees are encrypted.
        let are_encrypted = self.agency.is_some();
        ensure!(!user_ids.is_empty(), "no link has a follower");
        ensure!(
            user_ids.iter().all(|user_id| user_id.starts_with("wo") == are_encrypted),
            "members have the ids of another kind of app: {user_ids:?}"
        );
        Ok(sources)
    }

    /// One link of each kind: what it is an example of, the API path that returns it, the link.
    async fn examples(
        &self,
        people: &[Person],
        seen: &BTreeMap<String, Instant>,
    ) -> anyhow::Result<Vec<(&'static str, String, Value)>> {
        ensure!(!seen.is_empty(), "the feed is empty");
        let mut examples = Vec::new();
        for (what, n) in [
            ("a fan, then added by a dealer", LONG_STANDING),
            ("a dealer's customer before the service ran", 0),
            ("added by a dealer, then a fan", FANS),
            ("joined a dealer's customer group", LONG_STANDING + ADDS),
            ("callback lost, found by comparison", LONG_STANDING + ADDS + GROUP),
        ] {
            let path = format!("/v1/links?unionid={}", people[n].unionid);
            let answer = self.get(&path).await?;
            examples.push((what, path, answer["links"][0].clone()));
        }
        Ok(examples)
    }
}

/// Fails unless each of these people has a link with the source `expected`.
fn check_source(sources: &BTreeMap<String, String>, people: &[Person], expected: &str) -> anyhow::Result<()> {
    let is_other = |person: &&Person| sources.get(&person.unionid).is_none_or(|source| source != expected);
    let others = people.iter().filter(is_other).count();
    ensure!(others == 0, "{others} of {} links do not have the source {expected}", people.len());
    Ok(())
}
