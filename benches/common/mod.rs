//! Shared by the benchmarks: a simulated platform with a brand and its dealers, the service connected to it,
//! and the arithmetic of comparisons.
//!
//! Machines are noisy, so variants that are compared are measured in turn (A B C, A B C, …) within one run,
//! and reported as a ratio of medians.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use unionlink::app::App;
use unionlink::clock::SystemClock;
use unionlink::config::{self, Environment};
use unionlink::domain::fan::{Minted, Priority};
use unionlink::domain::ids::{AppName, FanKey, Openid, PendingId, Unionid};
use unionlink::domain::time::Timestamp;
use unionlink::simulator::{
    AppSpec, CallbackSpec, Change, ContactChange, Dealer, Event, Options, Person, Simulator,
};
use unionlink::store::postgres;
use unionlink::store::{NewFan, Store};

use load::Requests;

pub mod handlers;
pub mod load;

/// The value of a command-line argument.
pub fn argument<T: std::str::FromStr>(name: &str, default: T) -> T {
    let given: Vec<_> = std::env::args().collect();
    let value = given.iter().position(|argument| argument == name).and_then(|at| given.get(at + 1));
    value.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} {text}: not a valid value")))
}

/// The value that `percent` percent of `values` do not exceed.
pub fn quantile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted[(sorted.len() - 1) * percent / 100]
}

pub fn median(values: &[f64]) -> f64 {
    quantile(values, 50)
}

/// CPU time of a thread or of the process, in seconds.
pub fn cpu_seconds(clock: ClockId) -> f64 {
    Duration::try_from(clock_gettime(clock)).unwrap().as_secs_f64()
}

const PLATFORM_THREAD: &str = "platform";

/// CPU time of the simulated platform's thread, in seconds.
pub fn platform_cpu_seconds() -> f64 {
    let mut nanoseconds = 0.0;
    for thread in std::fs::read_dir("/proc/self/task").unwrap() {
        let folder = thread.unwrap().path();
        // A thread may end meanwhile.
        let read = |file| std::fs::read_to_string(folder.join(file)).unwrap_or_default();
        if read("comm").trim() == PLATFORM_THREAD {
            let schedstat = read("schedstat");
            nanoseconds += schedstat.split(' ').next().unwrap_or_default().parse().unwrap_or(0.0);
        }
    }
    nanoseconds / 1e9
}

/// The median CPU time per call of each variant over `turns` turns, in nanoseconds.
pub fn in_turns<const N: usize>(turns: usize, calls: u32, mut variants: [&mut dyn FnMut(); N]) -> [f64; N] {
    let mut samples = [const { Vec::new() }; N];
    // The first turn is a warm-up.
    for turn in 0..=turns {
        for (variant, samples) in variants.iter_mut().zip(&mut samples) {
            let before = cpu_seconds(ClockId::ThreadCPUTime);
            for _ in 0..calls {
                variant();
            }
            let took = (cpu_seconds(ClockId::ThreadCPUTime) - before) * 1e9 / f64::from(calls);
            if turn > 0 {
                samples.push(took);
            }
        }
    }
    samples.map(|samples| median(&samples))
}

/// The simulated platform on a thread of its own, with one brand and its dealers.
pub struct Brand {
    pub wecom: Simulator,
    pub corp: AppSpec,
    pub callback: CallbackSpec,
    pub dealers: Vec<Dealer>,
    runtime: Option<Runtime>,
}

impl Brand {
    pub fn new(dealers: usize, options: &Options) -> Self {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).thread_name(PLATFORM_THREAD).enable_all().build().unwrap();
        let options = Options { base_per_minute: u64::MAX, base_per_hour: u64::MAX, ..options.clone() };
        let wecom = runtime.block_on(Simulator::start(options, Arc::new(SystemClock))).unwrap();
        let mut corp = wecom.invent_app();
        let callback = wecom.invent_callback("http://127.0.0.1/callback/brand");
        corp.callback = Some(callback.clone());
        wecom.add_app(corp.clone());
        let dealers = (0..dealers).map(|n| wecom.add_dealer(&corp.corp_id, &format!("Dealer {n}"))).collect();
        Self { wecom, corp, callback, dealers, runtime: Some(runtime) }
    }

    /// A dealer adds a person. Returns the `external_userid` and the event, which is not sent.
    pub fn befriend(&self, dealer: usize, person: &Person) -> (String, Event) {
        let dealer = &self.dealers[dealer % self.dealers.len()].corp_id;
        let friendship = self.wecom.befriend(dealer, person, "zhangsan", Some("spring"));
        (friendship.external_userid, friendship.event)
    }

    /// Makes new people customers of dealers in turn, without callbacks; every fourth has a pending id from
    /// before. Returns those.
    pub fn add_customers(&self, dealers: &[Dealer], count: usize) -> Vec<Person> {
        const CUSTOMERS_PER_MEMBER: usize = 200;
        let mut minted = Vec::new();
        for (n, person) in self.wecom.add_people(count).into_iter().enumerate() {
            let (member, dealer) = (n / dealers.len() / CUSTOMERS_PER_MEMBER, &dealers[n % dealers.len()]);
            let is_minted = (n / dealers.len()).is_multiple_of(4);
            if is_minted {
                let _ = self.wecom.mint_without_call(&self.corp.corp_id, &person);
            }
            let _ = self.wecom.befriend(&dealer.corp_id, &person, &format!("member{member:04}"), None);
            minted.extend(is_minted.then_some(person));
        }
        minted
    }

    /// Starts a comparison of one dealer's customers or of all dealers', once the service knows the dealers.
    pub async fn compare(&self, service: &Service, dealer: Option<&Dealer>) {
        let app = AppName::new("brand").unwrap();
        while service.store.dealers(&app).await.unwrap().len() < self.dealers.len() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = http.post(format!("{}/v1/reconcile", service.admin));
        let body = serde_json::json!({ "corp_id": dealer.map(|dealer| &dealer.corp_id) });
        assert_eq!(request.json(&body).send().await.unwrap().status(), 202);
    }

    /// The bytes of the HTTP request for an event.
    pub fn request(&self, event: &Event) -> Vec<u8> {
        let sealed = self.wecom.seal(event);
        let head = format!(
            "POST /callback/brand?{} HTTP/1.1\r\nHost: bench\r\nContent-Type: text/xml\r\nContent-Length: {}\r\n\r\n",
            sealed.query,
            sealed.body.len()
        );
        [head.into_bytes(), sealed.body.into_bytes()].concat()
    }

    /// The requests of `count` callbacks, each about another new customer, spread over the dealers. The
    /// platform does not know these customers: millions of them would take gigabytes.
    pub fn requests(&self, count: usize) -> Requests {
        Requests::prepare(count, |n| {
            let add = ContactChange::Add {
                state: Some("spring".to_owned()),
                welcome_code: Some(format!("{:043x}", rand::random::<u128>())),
            };
            let change = Change::Contact {
                user_id: "zhangsan".to_owned(),
                external_userid: format!("wmBENCHAAA{:022x}", rand::random::<u128>() >> 40),
                change: add,
            };
            let dealer = &self.dealers[n % self.dealers.len()].corp_id;
            self.request(&self.wecom.event(dealer, &change))
        })
    }

    /// Makes these people minted fans, at the platform and in the store, without calls.
    pub async fn mint(&self, people: &[Person], store: &dyn Store, now: Timestamp) {
        let app = AppName::new("brand").unwrap();
        for people in people.chunks(1_024) {
            let fans = people.iter().map(|person| NewFan {
                key: FanKey { app: app.clone(), unionid: Unionid::new(&person.unionid).unwrap() },
                openid: Openid::new(&person.openid).unwrap(),
                ask_existing: false,
                priority: Priority::Bulk,
                minted: Some(Minted::new(
                    PendingId::new(self.wecom.mint_without_call(&self.corp.corp_id, person)).unwrap(),
                    now,
                )),
                retry_rejected: false,
            });
            store.put_fans(fans.collect(), now).await.unwrap();
        }
    }

    /// Starts the service for this brand, with its data in `folder` and further configuration. It compares
    /// dealers' customers only when asked.
    pub async fn serve(&self, folder: &Path, more: &str) -> Service {
        self.serve_on(&in_folder(folder), more).await
    }

    /// The same with a store that this section of the configuration says.
    pub async fn serve_on(&self, store: &str, more: &str) -> Service {
        Service::start(store, &self.wecom.base_url(), &self.corp, &self.callback, more).await
    }
}

impl Drop for Brand {
    fn drop(&mut self) {
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

/// More than any benchmark sends: none is to measure refusals.
pub const INBOX_EVENTS_MAX: u64 = 100_000_000;

/// The configuration of a store in a folder.
pub fn in_folder(folder: &Path) -> String {
    format!("path = {:?}\nfree_mb_min = 1", folder.display().to_string())
}

/// A schema of its own in a database, and the configuration of a store there.
pub struct Schema {
    pub name: String,
    url: String,
}

impl Schema {
    /// The name of a new one in the database at this address.
    pub fn new(url: &str) -> Self {
        Self { name: format!("bench_{:016x}", rand::random::<u64>()), url: url.to_owned() }
    }

    pub fn configuration(&self) -> String {
        let Self { name, url } = self;
        format!("kind = \"postgres\"\nurl = {{ value = {url:?} }}\nschema = {name:?}")
    }

    pub fn settings(&self) -> postgres::Settings {
        postgres::Settings {
            inbox_events_max: INBOX_EVENTS_MAX,
            ..postgres::Settings::of(&self.url, &self.name)
        }
    }

    /// A connection to the database.
    pub async fn connect(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// Drops it with everything in it.
    pub async fn drop(self) {
        let drop = format!("DROP SCHEMA IF EXISTS {} CASCADE", self.name);
        self.connect().await.batch_execute(&drop).await.unwrap();
    }
}

/// A running service with one app, `brand`.
pub struct Service {
    pub public: std::net::SocketAddr,
    pub admin: String,
    pub store: Arc<dyn Store>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

impl Service {
    pub async fn start(store: &str, api: &str, corp: &AppSpec, callback: &CallbackSpec, more: &str) -> Self {
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\nopen = true\n\
             [store]\n{store}\ninbox_events_max = {INBOX_EVENTS_MAX}\n\
             [wecom]\napi_base = \"{api}\"\n\
             [[apps]]\nname = \"brand\"\ncorp_id = \"{}\"\nagent_id = {}\nsecret = \"{}\"\n\
             callback_token = \"{}\"\nencoding_aes_key = \"{}\"\nreconcile_hours = 0\n{more}",
            corp.corp_id, corp.agent_id, corp.secret, callback.token, callback.aes_key
        );
        let config = config::parse(&text, "bench".as_ref(), &Environment::default()).unwrap();
        let stop = CancellationToken::new();
        let app = App::start(&config, Arc::new(SystemClock), stop.clone()).await.unwrap();
        let (public, admin, store) =
            (app.public_address, format!("http://{}", app.admin_address), app.store.clone());
        let running = tokio::spawn(async move { app.run().await.unwrap() });
        Self { public, admin, store, stop, running }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }
}
