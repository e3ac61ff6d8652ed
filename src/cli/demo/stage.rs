//! The stage of the demo: the simulated platform with a brand and its dealers, the service, and a client of
//! its API.
//!
//! Deliberately absent: what happens on it (`story`, `agency`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use tokio::sync::Mutex as AsyncMutex;
use tokio_util::sync::CancellationToken;

use super::replica::Replica;
use super::template::Agency;
use crate::app::App;
use crate::cli::output::say;
use crate::clock::SystemClock;
use crate::config::{self, Environment};
use crate::lifecycle;
use crate::simulator::{CallbackSpec, Dealer, Event, Options, Person, Simulator};
use crate::store::postgres::{self, Settings};

/// Number of dealers.
const DEALERS: usize = 5;
/// The simulated latency of a call to WeCom, typical of a data centre in China.
pub(super) const LATENCY_MS: u64 = 30;
/// Time-out of one step of the story. A replica that is killed is replaced within ten seconds.
const STEP_TIMEOUT: Duration = Duration::from_secs(25);

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
    /// The second replica, where the store is a database.
    pub(super) replica: Option<AsyncMutex<Replica>>,
    /// The brand's callback, and the URL of the service in this process.
    callback: CallbackSpec,
    /// The schema that is removed at the end.
    schema: Option<Settings>,
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
    /// Starts everything; with the address of a database two replicas on it, one of which is a process of its own.
    pub(super) async fn start(is_agency: bool, database: Option<&str>) -> anyhow::Result<Self> {
        let options = Options { latency_ms: LATENCY_MS, seed: rand::random(), ..Options::default() };
        let wecom = Simulator::start(options, Arc::new(SystemClock)).await?;
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        let installed = if is_agency { agency_developed(&wecom) } else { self_built(&wecom) };
        let Installed { brand, callback, door, sections, mut agency } = installed;
        let schema = database.map(|url| Settings {
            // It is thrown away.
            allow_unsafe: true,
            ..Settings::of(url, &format!("unionlink_demo_{:08x}", rand::random::<u32>()))
        });
        let store = match &schema {
            None => format!(
                "path = {:?}\ncache_mb = 32\nfree_mb_min = 1",
                folder.path().join("data").display().to_string()
            ),
            Some(Settings { url, schema, .. }) => format!(
                "kind = \"postgres\"\nurl = {{ value = {url:?} }}\nschema = {schema:?}\nallow_unsafe = true"
            ),
        };
        let text = |public: &str, admin: &str| {
            format!(
                "[server]\nlisten = {public:?}\n[admin]\nlisten = {admin:?}\nopen = true\n[store]\n{store}\n\
                 [wecom]\napi_base = \"{}\"\n{sections}",
                wecom.base_url(),
            )
        };
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?;
        let mut replica = None;
        if schema.is_some() {
            replica = Some(Replica::start(folder.path(), http.clone(), &text).await?);
        }
        let any = "127.0.0.1:0";
        let config = config::parse(&text(any, any), "demo".as_ref(), &Environment::default())?;
        let dealers: Vec<_> =
            (1..=DEALERS).map(|n| wecom.add_dealer(&brand, &format!("Dealer {n}"))).collect();
        let stop = CancellationToken::new();
        let app = App::start(&config, Arc::new(SystemClock), stop.clone()).await?;
        let callback =
            CallbackSpec { url: format!("http://{}/callback/{door}", app.public_address), ..callback };
        if let Some(agency) = &mut agency {
            agency.prepare(&wecom, callback.clone(), &dealers);
        } else {
            let at = replica.as_ref().map(|replica| format!("{}/callback/{door}", replica.public));
            let url = at.unwrap_or_else(|| callback.url.clone());
            wecom.set_callback(&brand, CallbackSpec { url, ..callback.clone() });
        }
        let api = format!("http://{}", app.admin_address);
        let service = tokio::spawn(app.run());
        let store = match &schema {
            None => format!("unionlink on {api}, sled in {}", folder.path().display()),
            Some(settings) => format!(
                "two replicas of unionlink, one on {api}, on PostgreSQL in the schema {}",
                settings.schema
            ),
        };
        say(&format!("simulated WeCom on {}, {store}", wecom.base_url()));
        let replica = replica.map(AsyncMutex::new);
        Ok(Self {
            wecom,
            brand,
            dealers,
            agency,
            http,
            api,
            stop,
            service,
            replica,
            callback,
            schema,
            _folder: folder,
        })
    }

    /// Kills the second replica, if there is one; callbacks are sent to the first from then on, as a load balancer does it.
    pub(super) async fn kill_replica(&self) -> anyhow::Result<()> {
        if let Some(replica) = &self.replica {
            replica.lock().await.kill().await?;
            self.wecom.set_callback(&self.brand, self.callback.clone());
        }
        Ok(())
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.service.await??;
        self.wecom.stop().await;
        if let Some(settings) = &self.schema {
            postgres::remove(settings).await.context("the schema of the demo cannot be removed")?;
        }
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
