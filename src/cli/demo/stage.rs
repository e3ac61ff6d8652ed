//! The stage of the demo: the simulated platform with a brand and its dealers, the service, and a client of
//! its API.
//!
//! Deliberately absent: what happens on it (`story`, `agency`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::template::Agency;
use crate::app::App;
use crate::cli::output::say;
use crate::clock::SystemClock;
use crate::config::{self, Environment};
use crate::lifecycle;
use crate::simulator::{CallbackSpec, Dealer, Event, Options, Person, Simulator};

/// Number of dealers.
const DEALERS: usize = 5;
/// The simulated latency of a call to WeCom, typical of a data centre in China.
pub(super) const LATENCY_MS: u64 = 30;
/// Time-out of one step of the story.
const STEP_TIMEOUT: Duration = Duration::from_secs(15);

/// The simulated platform, the service, and a client of its API.
pub(super) struct Stage {
    pub(super) wecom: Simulator,
    /// The brand's corp id.
    pub(super) brand: String,
    pub(super) dealers: Vec<Dealer>,
    /// The template, if the brand's app is agency-developed.
    pub(super) agency: Option<Agency>,
    pub(super) http: reqwest::Client,
    pub(super) api: String,
    stop: CancellationToken,
    service: tokio::task::JoinHandle<Result<(), lifecycle::Failure>>,
    _folder: tempfile::TempDir,
}

/// The brand's app at the platform, and the sections of the service's configuration about it.
struct Installed {
    brand: String,
    callback: CallbackSpec,
    /// The `{name}` of `/callback/{name}`.
    door: &'static str,
    sections: String,
    agency: Option<Agency>,
}

/// A self-built app. No comparison with WeCom's lists begins by itself: the story asks for one.
fn self_built(wecom: &Simulator) -> Installed {
    let app = wecom.invent_app();
    // The URL for callbacks is set once the service listens and its port is known.
    let callback = wecom.invent_callback("http://127.0.0.1/");
    wecom.add_app(app.clone());
    let sections = format!(
        "[[apps]]\nname = \"brand\"\ncorp_id = \"{}\"\nagent_id = {}\nsecret = \"{}\"\n\
         callback_token = \"{}\"\nencoding_aes_key = \"{}\"\nreconcile_hours = 0\n",
        app.corp_id, app.agent_id, app.secret, callback.token, callback.aes_key
    );
    Installed { brand: app.corp_id, callback, door: "brand", sections, agency: None }
}

/// An agency-developed app.
fn agency_developed(wecom: &Simulator) -> Installed {
    let (agency, brand) = Agency::new(wecom);
    let template = &agency.template;
    let callback = template.callback.clone();
    let sections = format!(
        "[[suites]]\nname = \"agency\"\nprovider_corp_id = \"{}\"\nsuite_id = \"{}\"\nsuite_secret = \"{}\"\n\
         callback_token = \"{}\"\nencoding_aes_key = \"{}\"\n\
         [[apps]]\nname = \"brand\"\nsuite = \"agency\"\nreconcile_hours = 0\n",
        template.provider_corp_id, template.suite_id, template.suite_secret, callback.token, callback.aes_key
    );
    Installed { brand, callback, door: "agency", sections, agency: Some(agency) }
}

impl Stage {
    pub(super) async fn start(is_agency: bool) -> anyhow::Result<Self> {
        let options = Options { latency_ms: LATENCY_MS, seed: rand::random(), ..Options::default() };
        let wecom = Simulator::start(options, Arc::new(SystemClock)).await?;
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        let installed = if is_agency { agency_developed(&wecom) } else { self_built(&wecom) };
        let Installed { brand, callback, door, sections, mut agency } = installed;
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\nopen = true\n[store]\npath = {:?}\ncache_mb = 32\n\
             free_mb_min = 1\n[wecom]\napi_base = \"{}\"\n{sections}",
            folder.path().join("data").display().to_string(),
            wecom.base_url(),
        );
        let config = config::parse(&text, "demo".as_ref(), &Environment::default())?;
        let dealers: Vec<_> =
            (1..=DEALERS).map(|n| wecom.add_dealer(&brand, &format!("Dealer {n}"))).collect();
        let stop = CancellationToken::new();
        let app = App::start(&config, Arc::new(SystemClock), stop.clone()).await?;
        let callback =
            CallbackSpec { url: format!("http://{}/callback/{door}", app.public_address), ..callback };
        if let Some(agency) = &mut agency {
            agency.prepare(&wecom, callback, &dealers);
        } else {
            wecom.set_callback(&brand, callback);
        }
        let api = format!("http://{}", app.admin_address);
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?;
        let service = tokio::spawn(app.run());
        say(&format!(
            "simulated WeCom on {}, unionlink on {api}, sled in {}",
            wecom.base_url(),
            folder.path().display()
        ));
        Ok(Self { wecom, brand, dealers, agency, http, api, stop, service, _folder: folder })
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.service.await??;
        self.wecom.stop().await;
        Ok(())
    }

    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        Ok(self.http.get(format!("{}{path}", self.api)).send().await?.error_for_status()?.json().await?)
    }

    /// Registers people as fans.
    pub(super) async fn register(&self, people: &[Person]) -> anyhow::Result<()> {
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
    pub(super) async fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        self.until_answer("/v1/status", what, is).await
    }

    /// Waits until the answer of a path of the API satisfies `is`.
    pub(super) async fn until_answer(
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
    pub(super) fn add(&self, person: &Person, dealer: usize, member: &str) -> (String, Event) {
        let dealer = &self.dealers[dealer % self.dealers.len()];
        let friendship = self.wecom.befriend(&dealer.corp_id, person, member, Some("spring-campaign"));
        (friendship.external_userid, friendship.event)
    }

    /// Sends events. Fails if one is not acknowledged.
    pub(super) async fn deliver(&self, events: Vec<Event>) -> anyhow::Result<()> {
        let lost = self.wecom.deliver_all(events, 16).await.iter().filter(|d| !d.acknowledged).count();
        ensure!(lost == 0, "{lost} genuine callbacks were not acknowledged");
        Ok(())
    }
}
