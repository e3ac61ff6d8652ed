//! `unionlink demo`: runs a scenario with the service and the simulated platform, over real sockets, and
//! prints a summary.
//!
//! It checks its own result: the command fails if a link is missing or wrong, as the simulator knows the true
//! ones.
//!
//! Deliberately absent: the texts and numbers of the result (see `summary`).

mod summary;
mod watcher;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::summary::Summary;
use self::watcher::Watcher;
use super::output::{print, say};
use crate::app::App;
use crate::clock::SystemClock;
use crate::config::{self, Environment};
use crate::lifecycle;
use crate::simulator::{AppSpec, Copies, Dealer, Event, Forgery, Options, Person, Simulator};

const DEALERS: usize = 5;
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
/// The simulated latency of a call to WeCom, typical of a data centre in China.
const LATENCY_MS: u64 = 30;
/// Time-out of one step of the scenario.
const STEP_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Debug, clap::Args)]
pub(super) struct Demo {
    /// Keep everything running afterwards, to explore it
    #[arg(long)]
    stay: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

impl Demo {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let started = Instant::now();
        let stage = Stage::start().await?;
        let summary = stage.play(started).await?;
        if self.json {
            print(&summary.json().to_string())?;
        } else {
            print(&summary.text())?;
        }
        if self.stay {
            let stop = CancellationToken::new();
            lifecycle::listen_for_signals(stop.clone(), stop.clone())?;
            lifecycle::survive_hangups(|| say("received SIGHUP; there is nothing to reload"))?;
            say(&format!(
                "\nstill running: admin API {}, simulated WeCom {}",
                stage.api,
                stage.wecom.base_url()
            ));
            say("stop with Ctrl-C");
            stop.cancelled().await;
        }
        stage.stop().await?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The simulated platform, the service, and a client of its API.
struct Stage {
    wecom: Simulator,
    corp: AppSpec,
    dealers: Vec<Dealer>,
    http: reqwest::Client,
    api: String,
    stop: CancellationToken,
    service: tokio::task::JoinHandle<Result<(), lifecycle::Failure>>,
    _folder: tempfile::TempDir,
}

impl Stage {
    async fn start() -> anyhow::Result<Self> {
        let options = Options { latency_ms: LATENCY_MS, seed: rand::random(), ..Options::default() };
        let wecom = Simulator::start(options, Arc::new(SystemClock)).await?;
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        let corp = wecom.invent_app();
        // The URL for callbacks is set once the service listens and its port is known.
        let callback = wecom.invent_callback("http://127.0.0.1/");
        wecom.add_app(corp.clone());
        // No reconcile run begins by itself: the scenario asks for one.
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[store]\npath = {:?}\ncache_mb = 32\n\
             free_mb_min = 1\n[wecom]\napi_base = \"{}\"\n[[apps]]\nname = \"brand\"\ncorp_id = \"{}\"\nagent_id = {}\n\
             secret = \"{}\"\ncallback_token = \"{}\"\nencoding_aes_key = \"{}\"\nreconcile_hours = 0\n",
            folder.path().join("data").display().to_string(),
            wecom.base_url(),
            corp.corp_id,
            corp.agent_id,
            corp.secret,
            callback.token,
            callback.aes_key
        );
        let config = config::parse(&text, "demo".as_ref(), &Environment::default())?;
        let dealers: Vec<_> =
            (1..=DEALERS).map(|n| wecom.add_dealer(&corp.corp_id, &format!("Dealer {n}"))).collect();
        let stop = CancellationToken::new();
        let app = App::start(&config, Arc::new(SystemClock), stop.clone()).await?;
        let url = format!("http://{}/callback/brand", app.public_address);
        wecom.set_callback(&corp.corp_id, crate::simulator::CallbackSpec { url, ..callback });
        let api = format!("http://{}", app.admin_address);
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?;
        let service = tokio::spawn(app.run());
        say(&format!(
            "simulated WeCom on {}, unionlink on {api}, sled in {}",
            wecom.base_url(),
            folder.path().display()
        ));
        Ok(Self { wecom, corp, dealers, http, api, stop, service, _folder: folder })
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.service.await??;
        self.wecom.stop().await;
        Ok(())
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        Ok(self.http.get(format!("{}{path}", self.api)).send().await?.error_for_status()?.json().await?)
    }

    /// Registers people as fans.
    async fn register(&self, people: &[Person]) -> anyhow::Result<()> {
        let lines: Vec<_> =
            people.iter().map(|p| json!({"unionid": p.unionid, "openid": p.openid}).to_string()).collect();
        let request = self
            .http
            .post(format!("{}/v1/fans", self.api))
            .header("content-type", "application/x-ndjson")
            .body(lines.join("\n"));
        let receipt: Value = request.send().await?.error_for_status()?.json().await?;
        ensure!(receipt["accepted"] == people.len(), "fans were not accepted: {receipt}");
        Ok(())
    }

    /// Waits until `/v1/status` satisfies `is`. Fails after [`STEP_TIMEOUT`]; `what` names the condition in
    /// the error.
    async fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        self.until_answer("/v1/status", what, is).await
    }

    /// Waits until the answer of a path of the API satisfies `is`.
    async fn until_answer(
        &self,
        path: &str,
        what: &str,
        is: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let deadline = Instant::now() + STEP_TIMEOUT;
        loop {
            let answer = self.get(path).await?;
            if is(&answer) {
                return Ok(answer);
            }
            if Instant::now() > deadline {
                bail!("timed out waiting for {what}; {path} answers {answer}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Lets a member of a dealer add a person. Returns the customer's id and the event, which is not sent.
    fn add(&self, person: &Person, dealer: usize, member: &str) -> (String, Event) {
        let dealer = &self.dealers[dealer % self.dealers.len()];
        let friendship = self.wecom.befriend(&dealer.corp_id, person, member, Some("spring-campaign"));
        (friendship.external_userid, friendship.event)
    }

    /// Runs the scenario and checks its result.
    async fn play(&self, started: Instant) -> anyhow::Result<Summary> {
        ensure!(self.wecom.verify_url(&self.corp.corp_id).await, "the callback URL could not be verified");
        say("✓ callback URL verified, as WeCom's admin console does it");

        let people = self.wecom.add_people(FANS + EARLY + STRANGERS);
        let (fans, rest) = people.split_at(FANS);
        let (early, strangers) = rest.split_at(EARLY);
        let (joining, unadded) = fans[LONG_STANDING + ADDS..].split_at(GROUP);
        let unreported = &unadded[..LOST];
        // These people became customers before they were fans: no callback is sent, and a pending id minted
        // later does not match.
        for (n, person) in fans[..LONG_STANDING].iter().enumerate() {
            let _ = self.add(person, n, "laowang");
        }
        let minting = Instant::now();
        self.register(fans).await?;
        self.until("fans to be minted", |s| s["fans"]["minted"] == FANS).await?;
        say(&format!("✓ {FANS} fans registered and minted in {:.1} s", minting.elapsed().as_secs_f64()));

        let watcher = Watcher::start(self.http.clone(), format!("{}/v1/links/feed", self.api));
        // WeCom is asked for the existing customers of all fans before any fan is added: a later answer would
        // include the new customers.
        let are_looked_up = |s: &Value| s["queues"].as_array().is_some_and(Vec::is_empty);
        self.until("existing customers", |s| s["links"] == LONG_STANDING && are_looked_up(s)).await?;
        say(&format!("✓ {LONG_STANDING} existing customers linked without a callback"));

        let mut sent: BTreeMap<String, Instant> = BTreeMap::new();
        let early_events = early.iter().enumerate().map(|(n, person)| self.add(person, n, "xiaoli").1);
        self.deliver(early_events.collect()).await?;
        self.until("the early customers to be resolved", |s| s["inbox"]["waiting"] == 0).await?;
        say(&format!("✓ {EARLY} people added by dealers before they are fans"));

        // As in production: bursts of adds from several dealers and from one member. Some customers are not
        // fans, some callbacks are delivered twice, and forgeries arrive in between.
        let mut adds: Vec<_> =
            fans[LONG_STANDING..LONG_STANDING + ADDS].iter().chain(strangers).enumerate().collect();
        let forging = {
            let (wecom, corp) = (self.wecom.clone(), self.corp.corp_id.clone());
            tokio::spawn(async move {
                let mut statuses = wecom.deliver_forged(&corp, Forgery::Signature, FORGERIES / 2).await;
                for (status, n) in wecom.deliver_forged(&corp, Forgery::Cipher, FORGERIES / 2).await {
                    *statuses.entry(status).or_default() += n;
                }
                statuses
            })
        };
        let mut duplicates = 0;
        while !adds.is_empty() {
            let burst: Vec<_> = adds.drain(..adds.len().min(11)).collect();
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

        self.register(early).await?;
        let links = LONG_STANDING + ADDS + EARLY;
        self.until("links", |s| s["links"] == links && s["inbox"]["waiting"] == 0).await?;
        say(&format!("✓ the {EARLY} people added early became fans and are linked"));

        let links = links + GROUP;
        self.join_group(joining).await?;
        self.until("the people in the group to be linked", |s| s["links"] == links).await?;
        say(&format!("✓ {GROUP} people joined a dealer's customer group and are linked"));

        let links = links + LOST;
        self.lose_callbacks(unreported).await?;
        let status = self.until("the customers of lost callbacks", |s| s["links"] == links).await?;
        say(&format!("✓ {LOST} callbacks lost on the way; the comparison with WeCom's lists found them"));

        let seen = watcher.finish(links).await?;
        let sources = self.check_links(&people, strangers).await?;
        for (part, source) in
            [(&fans[..LONG_STANDING], "existing"), (joining, "chat"), (unreported, "reconcile")]
        {
            check_source(&sources, part, source)?;
        }
        let latencies =
            sent.iter().filter_map(|(id, at)| seen.get(id).map(|seen| seen.duration_since(*at))).collect();
        let examples = self.examples(&people, &seen).await?;
        let mut links_by_source = BTreeMap::<String, usize>::new();
        for source in sources.into_values() {
            *links_by_source.entry(source).or_default() += 1;
        }
        Ok(Summary {
            status,
            links_by_source,
            long_standing: LONG_STANDING,
            counters: self.wecom.counters(),
            latencies,
            round_trip_ms: LATENCY_MS,
            examples,
            api: self.api.clone(),
            took: started.elapsed(),
        })
    }

    /// Sends events. Fails if one is not acknowledged.
    async fn deliver(&self, events: Vec<Event>) -> anyhow::Result<()> {
        let lost = self.wecom.deliver_all(events, 16).await.iter().filter(|d| !d.acknowledged).count();
        ensure!(lost == 0, "{lost} genuine callbacks were not acknowledged");
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
    async fn check_links(
        &self,
        people: &[Person],
        strangers: &[Person],
    ) -> anyhow::Result<BTreeMap<String, String>> {
        let strangers: BTreeSet<_> = strangers.iter().map(|p| p.unionid.as_str()).collect();
        let truth = self.wecom.truth();
        let expected: BTreeSet<_> = truth
            .iter()
            .filter(|t| !strangers.contains(t.unionid.as_str()))
            .map(|t| (t.unionid.clone(), t.corp_id.clone(), t.external_userid.clone()))
            .collect();
        let (mut found, mut sources) = (BTreeSet::new(), BTreeMap::new());
        for person in people {
            let answer = self.get(&format!("/v1/links?unionid={}", person.unionid)).await?;
            for link in answer["links"].as_array().into_iter().flatten() {
                let text = |name: &str| link[name].as_str().unwrap_or_default().to_owned();
                found.insert((text("unionid"), text("corp_id"), text("external_userid")));
                sources.insert(text("unionid"), text("source"));
            }
        }
        ensure!(
            found == expected,
            "{} links are missing and {} are wrong",
            expected.difference(&found).count(),
            found.difference(&expected).count()
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
