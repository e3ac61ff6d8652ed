//! The test harness: the whole service in this process, over real sockets, against the simulated platform.
//! The service as a process of its own is in `process`.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use unionlink::app::App;
use unionlink::clock::{Clock, SystemClock};
use unionlink::config::{self, Environment};
use unionlink::domain::time::{Moment, Steady, Timestamp};
use unionlink::lifecycle::Failure;
use unionlink::simulator::{
    AppSpec, CallbackSpec, Dealer, Event, Options, Person, SenderOptions, Simulator, TemplateSpec,
};

use crate::suites;

/// The time after which a test gives up waiting: generous, for a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// A log filter under which this program and the libraries that handle its connections log everything.
pub const LOG_EVERYTHING: &str =
    "trace,async_nats=trace,axum=trace,hyper=trace,reqwest=trace,rustls=trace,sled=trace,tower=trace";

/// The system clock, moved ahead by what a test skips.
#[derive(Default)]
pub struct SkippingClock(AtomicI64);

impl SkippingClock {
    pub fn skip(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for SkippingClock {
    fn now(&self) -> Timestamp {
        SystemClock.now().plus_ms(self.0.load(Ordering::SeqCst))
    }
}

/// The clocks of the machine that the service runs on: they show the true time, unless a test sets the wall
/// clock.
pub struct MachineClock {
    time: Arc<SkippingClock>,
    set_by_ms: AtomicI64,
}

impl MachineClock {
    /// Sets the wall clock ahead of what it shows, or back if negative.
    pub fn set_wall(&self, by_ms: i64) {
        self.set_by_ms.fetch_add(by_ms, Ordering::SeqCst);
    }
}

impl Clock for MachineClock {
    fn now(&self) -> Timestamp {
        self.moment().wall
    }

    fn moment(&self) -> Moment {
        let unset = self.time.now();
        let wall = unset.plus_ms(self.set_by_ms.load(Ordering::SeqCst));
        Moment { wall, unset, steady: Some(Steady { boot: 1, uptime_ms: unset.as_millis() }) }
    }
}

/// The value of an environment variable that sets the size or the seed of a test.
#[expect(clippy::disallowed_methods, reason = "a setting of the test, not of the service")]
pub fn number_in_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
}

/// The set-up of a test world; the default suits most tests.
pub struct Setup {
    pub options: Options,
    /// Lines of the `[[apps]]` section.
    pub app: String,
    /// Further lines of whole sections: `[server]`, `[store]`, `[wecom]`, `[admin]`.
    pub server: String,
    pub store: String,
    pub wecom: String,
    pub admin: String,
    pub dealers: usize,
    /// The number of templates (代开发应用模版). With any, the app `brand` is one of the first.
    pub templates: usize,
    /// Further lines of the section of the first template.
    pub suite: String,
}

impl Default for Setup {
    fn default() -> Self {
        let sender = SenderOptions { retry_interval_ms: 20, ..SenderOptions::default() };
        Self {
            options: Options { seed: 7, sender, ..Options::default() },
            app: String::new(),
            server: String::new(),
            store: String::new(),
            wecom: String::new(),
            admin: String::new(),
            dealers: 2,
            templates: 0,
            suite: String::new(),
        }
    }
}

/// The result of a command.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Standard output, parsed as one JSON value.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// The simulated platform, the service, and a client of its API.
pub struct World {
    pub wecom: Simulator,
    pub corp: AppSpec,
    pub callback: CallbackSpec,
    pub templates: Vec<TemplateSpec>,
    pub dealers: Vec<Dealer>,
    pub clock: Arc<SkippingClock>,
    pub machine: Arc<MachineClock>,
    pub http: reqwest::Client,
    pub folder: tempfile::TempDir,
    pub setup: Setup,
    pub public: String,
    pub admin: String,
    running: Option<(CancellationToken, tokio::task::JoinHandle<Result<(), Failure>>)>,
}

impl World {
    pub async fn usual() -> Self {
        Self::with(Setup::default()).await
    }

    pub async fn with(setup: Setup) -> Self {
        let clock = Arc::new(SkippingClock::default());
        let machine = Arc::new(MachineClock { time: clock.clone(), set_by_ms: AtomicI64::new(0) });
        let wecom = Simulator::start(setup.options.clone(), clock.clone()).await.unwrap();
        let mut corp = wecom.invent_app();
        let callback = wecom.invent_callback("http://127.0.0.1:9/not-yet");
        corp.callback = Some(callback.clone());
        wecom.add_app(corp.clone());
        let dealers =
            (0..setup.dealers).map(|n| wecom.add_dealer(&corp.corp_id, &format!("Dealer {n}"))).collect();
        let not_yet = |_| wecom.invent_template("http://127.0.0.1:9/not-yet");
        let templates: Vec<_> = (0..setup.templates).map(not_yet).collect();
        for template in &templates {
            wecom.add_template(template.clone());
        }
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut world = Self {
            wecom,
            corp,
            callback,
            templates,
            dealers,
            clock,
            machine,
            http,
            folder,
            setup,
            public: String::new(),
            admin: String::new(),
            running: None,
        };
        world.start().await;
        world
    }

    /// The configuration file this world's service runs with.
    pub fn configuration(&self, public: &str, admin: &str) -> String {
        let Setup { app, server, store, wecom, admin: admin_lines, .. } = &self.setup;
        let open = if admin_lines.contains("token") { "" } else { "open = true" };
        // Most tests count calls, or compare customers themselves.
        let reconcile = if app.contains("reconcile_hours") { "" } else { "reconcile_hours = 0" };
        format!(
            "[server]\nlisten = \"{public}\"\n{server}\n[admin]\nlisten = \"{admin}\"\n{open}\n{admin_lines}\n\
             [store]\npath = {:?}\ncache_mb = 16\nfree_mb_min = 1\n{store}\n[wecom]\napi_base = \"{}\"\n{wecom}\n\
             {}[[apps]]\nname = \"brand\"\n{}\n{reconcile}\n{app}\n",
            self.folder.path().join("data").display().to_string(),
            self.wecom.base_url(),
            suites::sections(&self.templates, &self.setup.suite),
            self.access(),
        )
    }

    /// The keys of the app `brand` with which it calls WeCom and verifies callbacks.
    fn access(&self) -> String {
        if !self.templates.is_empty() {
            return "suite = \"agency\"".to_owned();
        }
        let (AppSpec { corp_id, agent_id, secret, .. }, CallbackSpec { token, aes_key, .. }) =
            (&self.corp, &self.callback);
        format!(
            "corp_id = \"{corp_id}\"\nagent_id = {agent_id}\nsecret = {{ value = \"{secret}\" }}\n\
             callback_token = {{ value = \"{token}\" }}\nencoding_aes_key = {{ value = \"{aes_key}\" }}"
        )
    }

    /// Sends callbacks to where the service listens now.
    pub fn point_callbacks(&self) {
        let at = |name: &str, callback: &CallbackSpec| {
            let url = format!("{}/callback/{name}", self.public);
            CallbackSpec { url, ..callback.clone() }
        };
        self.wecom.set_callback(&self.corp.corp_id, at("brand", &self.callback));
        for (n, template) in self.templates.iter().enumerate() {
            self.wecom.set_template_callback(&template.suite_id, at(&suites::name(n), &template.callback));
        }
    }

    /// The service, over this world's store, on any free ports.
    pub async fn app(&self, stop: CancellationToken) -> App {
        let text = self.configuration("127.0.0.1:0", "127.0.0.1:0");
        let config =
            config::parse(&text, "test".as_ref(), &Environment::default()).unwrap_or_else(|e| panic!("{e}"));
        App::start(&config, self.machine.clone(), stop).await.unwrap_or_else(|e| panic!("{e:?}"))
    }

    pub async fn start(&mut self) {
        assert!(self.running.is_none());
        let stop = CancellationToken::new();
        let app = self.app(stop.clone()).await;
        self.public = format!("http://{}", app.public_address);
        self.admin = format!("http://{}", app.admin_address);
        self.point_callbacks();
        self.running = Some((stop, tokio::spawn(app.run())));
    }

    pub async fn stop(&mut self) -> Result<(), Failure> {
        let (stop, running) = self.running.take().expect("the service runs");
        stop.cancel();
        running.await.expect("the service does not panic")
    }

    pub async fn restart(&mut self) {
        self.stop().await.unwrap();
        self.start().await;
    }

    // The platform's side.

    pub fn befriend(&self, dealer: usize, person: &Person, member: &str) -> (String, Event) {
        let dealer = &self.dealers[dealer].corp_id;
        let friendship = self.wecom.befriend(dealer, person, member, Some("spring"));
        (friendship.external_userid, friendship.event)
    }

    /// A dealer adds a customer, and the callback is acknowledged.
    pub async fn add(&self, dealer: usize, person: &Person, member: &str) -> String {
        let (external_userid, event) = self.befriend(dealer, person, member);
        self.deliver(&event).await;
        external_userid
    }

    pub async fn deliver(&self, event: &Event) {
        let delivery = self.wecom.deliver(event).await;
        assert!(delivery.acknowledged, "not acknowledged: {delivery:?}");
    }

    /// The dealers add these people in turn, and every callback is acknowledged.
    pub async fn add_all(&self, people: &[Person], member: &str) {
        let dealers = self.dealers.len();
        let befriend = |(n, person)| self.befriend(n % dealers, person, member).1;
        let events = people.iter().enumerate().map(befriend).collect();
        assert!(self.wecom.deliver_all(events, 32).await.iter().all(|delivery| delivery.acknowledged));
    }

    // The brand's side.

    pub async fn register(&self, people: &[Person]) {
        let rows: Vec<_> = people.iter().map(|p| json!({"unionid": p.unionid, "openid": p.openid})).collect();
        let response = self.http.post(format!("{}/v1/fans", self.admin)).json(&rows).send().await.unwrap();
        assert_eq!(response.status(), 202);
        let receipt: Value = response.json().await.unwrap();
        assert_eq!(receipt["rejected"], json!([]));
    }

    /// Registers new people and waits until they are minted and their existing customers were queried.
    pub async fn mint(&self, count: usize) -> Vec<Person> {
        let people = self.wecom.add_people(count);
        self.register(&people).await;
        let no_questions = self.setup.app.contains("existing_customers = false");
        for person in &people {
            let path = format!("/v1/fans/{}", person.unionid);
            let asked = |fan: &Value| no_questions || !fan["existing_asked_at"].is_null();
            self.until(&path, |fan| fan["state"] == "minted" && asked(fan)).await;
        }
        people
    }

    pub async fn get(&self, path: &str) -> Value {
        let response = self.http.get(format!("{}{path}", self.admin)).send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{status} {path}: {e}: {text}"))
    }

    /// The status and the text of a response, whatever they are.
    pub async fn text(&self, path: &str) -> (u16, String) {
        let response = self.http.get(format!("{}{path}", self.admin)).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let response = self.http.post(format!("{}{path}", self.admin)).json(body).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// Runs the real binary with these arguments against this world's admin API.
    pub async fn unionlink(&self, arguments: &[&str]) -> Ran {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_unionlink"));
        command.args(arguments).args(["--admin", &self.admin]).env_clear().stdin(Stdio::null());
        let output = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output()).await;
        let output = output.expect("the command ends").unwrap();
        Ran {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Reads `path` until the response satisfies `is`.
    pub async fn until(&self, path: &str, is: impl Fn(&Value) -> bool) -> Value {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let answer = self.get(path).await;
            if is(&answer) {
                return answer;
            }
            assert!(Instant::now() < give_up, "gave up on {path}: {answer:#}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until no event is waiting in the inbox.
    pub async fn settle(&self) -> Value {
        self.until("/v1/status", |status| status["inbox"]["waiting"] == 0).await
    }

    pub async fn links(&self, person: &Person) -> Vec<Value> {
        self.get(&format!("/v1/links?unionid={}", person.unionid)).await["links"].as_array().unwrap().clone()
    }

    /// Waits until everything that can be read is durable and counted: an export starts after the writes
    /// before it.
    pub async fn durable(&self) {
        let url = format!("{}/v1/links/export?corp_id=nobody", self.admin);
        let give_up = Instant::now() + PATIENCE;
        while self.http.get(&url).send().await.unwrap().status() != 200 {
            assert!(Instant::now() < give_up, "gave up on an export");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until this fan has `count` links and they are durable.
    pub async fn linked(&self, person: &Person, count: usize) -> Vec<Value> {
        let path = format!("/v1/links?unionid={}", person.unionid);
        let answer =
            self.until(&path, |a| a["links"].as_array().is_some_and(|links| links.len() == count)).await;
        self.durable().await;
        answer["links"].as_array().unwrap().clone()
    }

    /// The feed, once it has `entries` entries. A link can be read a moment before it is durable and on the
    /// feed.
    pub async fn feed(&self, entries: usize) -> Vec<Value> {
        let enough = |page: &Value| page["entries"].as_array().is_some_and(|found| found.len() >= entries);
        let page = self.until("/v1/links/feed?limit=1000", enough).await;
        page["entries"].as_array().unwrap().clone()
    }

    pub async fn feed_types(&self, entries: usize) -> Vec<String> {
        self.feed(entries).await.iter().map(|entry| entry["type"].as_str().unwrap().to_owned()).collect()
    }

    /// Asserts that these fans have exactly the links the platform knows of, and that the feed has each once,
    /// without gaps.
    pub async fn check_links(&self, fans: &[Person]) {
        let truth = self.wecom.truth();
        let mut links = 0;
        for fan in fans {
            let mut expected: Vec<_> = truth
                .iter()
                .filter(|t| t.unionid == fan.unionid)
                .map(|t| (t.corp_id.clone(), t.external_userid.clone()))
                .collect();
            expected.sort();
            let mut found: Vec<_> = self
                .links(fan)
                .await
                .iter()
                .map(|l| {
                    (
                        l["corp_id"].as_str().unwrap().to_owned(),
                        l["external_userid"].as_str().unwrap().to_owned(),
                    )
                })
                .collect();
            found.sort();
            assert_eq!(found, expected);
            links += found.len();
        }
        let feed = self.feed(links).await;
        assert!(feed.iter().zip(1..).all(|(entry, seq)| entry["seq"] == seq), "the feed has a gap");
        let created = feed.iter().filter(|entry| entry["type"] == "link.created").count();
        assert_eq!(created, links, "each link is announced once");
    }
}
