//! Worlds with templates (代开发应用模版): corps that authorise them, and what became of that. The tests are
//! in `agency_story`, `agency_changes`, `agency_kills`, `agency_brands`, `agency_hostile` and
//! `agency_canaries`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use unionlink::simulator::{Api, Call, CallbackSpec, Event, Options, Person, Scanned};

use crate::harness::{PATIENCE, Setup, World};

/// The callback token and key of an app that does not use its template's.
const OWN_TOKEN: &str = "TokenOfTheAppAlone";
const OWN_KEY: &str = "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C";

/// Lines of an app's section that give it a callback URL of its own.
pub fn own_keys() -> String {
    format!(
        "callback_token = {{ value = \"{OWN_TOKEN}\" }}\nencoding_aes_key = {{ value = \"{OWN_KEY}\" }}\n"
    )
}

/// A template with the app `brand`, which has no `corp_id`: it serves the only brand that authorises.
pub fn agency(change: impl FnOnce(&mut Options)) -> Setup {
    let mut setup = Setup { templates: 1, dealers: 0, ..Setup::default() };
    change(&mut setup.options);
    setup
}

impl World {
    /// The callback URL of the app `brand` with [`own_keys`] is that of a brand's app.
    pub fn use_own_keys(&self, brand: &str) {
        let (token, aes_key) = (OWN_TOKEN.to_owned(), OWN_KEY.to_owned());
        let url = format!("{}/callback/brand", self.public);
        self.wecom.set_own_callback(brand, Some(CallbackSpec { url, token, aes_key }));
    }

    /// The first template's.
    pub fn suite_id(&self) -> &str {
        &self.templates[0].suite_id
    }

    /// WeCom sends the first template a ticket.
    pub async fn ticket(&self) {
        self.deliver(&self.wecom.ticket(self.suite_id())).await;
    }

    /// A new brand scans the QR code of the first template. Returns its corp id, and `create_auth`, which is
    /// not sent.
    pub fn scan(&self, name: &str) -> (String, Event) {
        let Scanned { corp_id, event } = self.wecom.scan(self.suite_id(), name);
        (corp_id, event)
    }

    /// A brand authorises the first template; this many dealers of it are added to `dealers`.
    pub async fn brand(&mut self, dealers: usize) -> String {
        let (corp_id, event) = self.scan("Brand");
        self.add_dealers(&corp_id, dealers);
        self.ticket().await;
        self.deliver(&event).await;
        corp_id
    }

    pub fn add_dealers(&mut self, brand: &str, count: usize) {
        for _ in 0..count {
            let name = format!("Dealer {}", self.dealers.len());
            let dealer = self.wecom.add_dealer(brand, &name);
            self.dealers.push(dealer);
        }
    }

    /// A dealer installs the app.
    pub async fn install(&self, dealer: usize) {
        self.deliver(&self.wecom.install(&self.dealers[dealer].corp_id)).await;
    }

    /// A dealer installs the app, after those before it, and is on the list of dealers.
    pub async fn install_and_list(&self, dealer: usize) {
        // The list is read at most once a minute.
        self.clock.skip(Duration::from_mins(1));
        self.install(dealer).await;
        self.knows_dealers(dealer + 1).await;
    }

    /// Waits until the list of dealers has been read with this many dealers.
    pub async fn knows_dealers(&self, count: usize) {
        self.until("/v1/status", |status| status["dealers"]["brand"]["shared"] == count).await;
    }

    /// Registers people as fans of an app.
    pub async fn register_at(&self, app: &str, people: &[Person]) {
        let row = |p: &Person| json!({"app": app, "unionid": p.unionid, "openid": p.openid});
        let rows: Vec<_> = people.iter().map(row).collect();
        let (status, receipt) = self.post("/v1/fans", &json!(rows)).await;
        assert_eq!((status, &receipt["rejected"]), (202, &json!([])), "{receipt}");
    }

    /// Waits until these fans are minted.
    pub async fn minted(&self, people: &[Person]) {
        for person in people {
            self.until(&format!("/v1/fans/{}", person.unionid), |fan| fan["state"] == "minted").await;
        }
    }

    /// The calls of an API, in order.
    pub fn calls_of(&self, api: Api) -> Vec<Call> {
        self.wecom.calls().into_iter().filter(|call| call.api == api).collect()
    }

    /// The successful calls of an API.
    pub fn successes_of(&self, api: Api) -> usize {
        self.calls_of(api).iter().filter(|call| call.errcode == Some(0)).count()
    }

    /// Waits until an API was called `calls` times, whether it answers or not.
    pub async fn called(&self, api: Api, calls: usize) {
        self.until_true(&format!("{calls} calls of {api:?}"), || self.calls_of(api).len() >= calls).await;
    }

    /// Waits until an API has answered `calls` times without an error.
    pub async fn succeeded(&self, api: Api, calls: usize) {
        let what = format!("{calls} successful calls of {api:?}");
        self.until_true(&what, || self.successes_of(api) >= calls).await;
    }

    /// Waits until an API has answered with this error code.
    pub async fn refused(&self, api: Api, errcode: i64) {
        let is_refused = || self.calls_of(api).iter().any(|call| call.errcode == Some(errcode));
        self.until_true(&format!("{errcode} of {api:?}"), is_refused).await;
    }

    async fn until_true(&self, what: &str, is: impl Fn() -> bool) {
        let give_up = Instant::now() + PATIENCE;
        while !is() {
            assert!(Instant::now() < give_up, "gave up on {what}: {:#?}", self.wecom.counters());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The value of a metric, with its labels as they are printed; 0 if it is not there.
    pub async fn metric(&self, name: &str) -> u64 {
        let (status, text) = self.text("/metrics").await;
        assert_eq!(status, 200);
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// The callbacks so far with this outcome.
    pub async fn outcome(&self, outcome: &str) -> u64 {
        self.metric(&format!("unionlink_callbacks_total{{outcome=\"{outcome}\"}}")).await
    }

    /// Waits until calls of the app are held back because it has no authorisation that can be used.
    pub async fn parked(&self) -> Value {
        let is_held_back = |held: &Value| held["scope"] == "app" && held["app"] == "brand";
        let parked = |status: &Value| status["paused"].as_array().unwrap().iter().any(is_held_back);
        self.until("/v1/status", parked).await
    }
}
