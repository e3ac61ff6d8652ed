//! [`Simulator`], the handle of a simulated platform: starts and stops it, changes its records, injects
//! faults and reads what it saw. Members, customer groups and agency-developed apps have files of their
//! own below this one.
//!
//! Deliberately absent: sending callbacks (`sender`).

mod agency;
mod groups;
mod members;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard};

use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::DropGuard;

use super::api::Api;
use super::counters::{Call, Counters};
use super::error::SimulatorError;
use super::event::{Change, Event};
use super::fault::{Fault, Target};
use super::ids;
use super::model::{AppSpec, CallbackSpec, Corp, Customer, Dealer, Person};
use super::options::Options;
use super::platform::Platform;
use super::relations::{Beginning, By, Friendship};
use super::seal::Sealer;
use super::server::{self, InProcess};
use super::world::World;
use crate::clock::Clock;

/// A handle of a running platform. Its clones share the platform, which stops when the last one is dropped.
#[derive(Clone)]
pub struct Simulator {
    pub(super) platform: Arc<Platform>,
    address: SocketAddr,
    // Held by handles only, while the platform's tasks hold `platform`, too.
    _stop_on_drop: Arc<DropGuard>,
}

impl std::fmt::Debug for Simulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulator").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A person as a corp's customer: the pair of ids that a client has to find out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Truth {
    /// The person.
    pub unionid: String,
    /// The corp whose customer they are or were.
    pub corp_id: String,
    /// The customer's id at that corp.
    pub external_userid: String,
}

/// Admitted calls within each window of a quota.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct QuotaUse {
    /// In the last 60 minutes.
    pub hour: u64,
    /// In the last 24 hours.
    pub day: u64,
    /// In the last 30 days.
    pub month: u64,
}

/// Panics on an error: an argument of the caller is wrong, such as an id that does not exist.
#[track_caller]
pub(super) fn known<T>(found: Result<T, SimulatorError>) -> T {
    found.unwrap_or_else(|error| panic!("{error}"))
}

/// Starting and stopping.
impl Simulator {
    /// Starts listening and serving.
    ///
    /// # Errors
    /// When the address cannot be listened on, or the HTTP client that sends callbacks cannot be set up.
    pub async fn start(options: Options, clock: Arc<dyn Clock>) -> io::Result<Self> {
        // For reqwest, which has no TLS provider of its own. Fails only if one is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            // What WeCom sends, according to its users.
            .user_agent("Mozilla/4.0")
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(io::Error::other)?;
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let simulator = Self::new(options, clock, Some(http), address);
        let platform = Arc::clone(&simulator.platform);
        simulator.platform.tasks.spawn(server::serve(listener, platform));
        let platform = Arc::clone(&simulator.platform);
        simulator.platform.tasks.spawn(async move { platform.send_tickets().await });
        Ok(simulator)
    }

    /// A platform without sockets: its API is called through [`in_process`](Self::in_process), and its
    /// callbacks are sealed with [`seal`](Self::seal) and delivered by the caller.
    #[must_use]
    pub fn unplugged(options: Options, clock: Arc<dyn Clock>) -> Self {
        let address = options.listen;
        Self::new(options, clock, None, address)
    }

    fn new(
        options: Options,
        clock: Arc<dyn Clock>,
        http: Option<reqwest::Client>,
        address: SocketAddr,
    ) -> Self {
        let platform = Arc::new(Platform::new(World::new(options, clock), http));
        let stop_on_drop = platform.stop.clone().drop_guard();
        Self { platform, address, _stop_on_drop: Arc::new(stop_on_drop) }
    }

    /// The API, to be called without a socket.
    #[must_use]
    pub fn in_process(&self) -> InProcess {
        InProcess::new(Arc::clone(&self.platform))
    }

    /// Closes every connection and waits until all tasks have ended. Counters and records stay readable.
    pub async fn stop(&self) {
        self.platform.stop.cancel();
        self.platform.tasks.close();
        self.platform.tasks.wait().await;
    }

    /// `http://127.0.0.1:PORT`, to be used in place of `https://qyapi.weixin.qq.com`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.platform.world()
    }
}

/// Corps, people and what happens between them.
impl Simulator {
    /// An app with random ids and no callback yet; [`Self::add_app`] adds it to the platform.
    #[must_use]
    pub fn invent_app(&self) -> AppSpec {
        let rng = &mut self.world().rng;
        AppSpec {
            corp_id: ids::upstream_corp_id(rng),
            agent_id: 1_000_002,
            secret: ids::secret(rng),
            callback: None,
        }
    }

    /// A callback configuration with a random token and key.
    #[must_use]
    pub fn invent_callback(&self, url: &str) -> CallbackSpec {
        let rng = &mut self.world().rng;
        CallbackSpec {
            url: url.to_owned(),
            token: ids::callback_token(rng),
            aes_key: ids::encoding_aes_key(rng),
        }
    }

    /// Adds an upstream corp with its app.
    ///
    /// # Panics
    /// If the callback's `aes_key` is not 43 letters and digits.
    pub fn add_app(&self, app: AppSpec) {
        if let Some(callback) = &app.callback {
            known(Sealer::new(callback));
        }
        self.world().add_app(app);
    }

    /// Changes the callback configuration of an upstream corp's app.
    ///
    /// # Panics
    /// If the `aes_key` is not 43 letters and digits.
    pub fn set_callback(&self, upstream_corp_id: &str, callback: CallbackSpec) {
        known(Sealer::new(&callback));
        let mut world = self.world();
        let upstream = known(world.upstream(upstream_corp_id));
        match &mut world.corps[upstream] {
            Corp { app: Some(app), .. } => app.callback = Some(callback),
            Corp { agency: Some(agency), .. } => agency.own_callback = Some(callback),
            Corp { .. } => {}
        }
    }

    /// The agent id of an upstream corp or a dealer.
    #[must_use]
    pub fn agent_id(&self, corp_id: &str) -> u64 {
        known(self.world().corp_mut(corp_id)).agent_id
    }

    /// Adds a dealer that the app is shared with.
    #[must_use]
    pub fn add_dealer(&self, upstream_corp_id: &str, name: &str) -> Dealer {
        let mut world = self.world();
        let upstream = known(world.upstream(upstream_corp_id));
        world.add_dealer(upstream, name)
    }

    /// Shares the app with a dealer, or stops sharing it. The dealer stays in the chain.
    pub fn share(&self, dealer_corp_id: &str, is_shared: bool) {
        known(self.world().corp_mut(dealer_corp_id)).is_shared = is_shared;
    }

    /// Adds a person.
    #[must_use]
    pub fn add_person(&self) -> Person {
        self.world().add_person()
    }

    /// Adds people.
    #[must_use]
    pub fn add_people(&self, count: usize) -> Vec<Person> {
        let mut world = self.world();
        (0..count).map(|_| world.add_person()).collect()
    }

    /// Adds a person with given ids.
    pub fn insert_person(&self, person: Person) {
        self.world().insert_person(person);
    }

    /// Mints a person for the app as another system of the brand would: without a call, without using quota.
    /// Returns the pending id.
    #[must_use]
    pub fn mint_without_call(&self, upstream_corp_id: &str, person: &Person) -> String {
        let mut world = self.world();
        let (upstream, person) =
            (known(world.upstream(upstream_corp_id)), known(world.person(&person.unionid)));
        world.mint(upstream, person)
    }

    /// A member of a dealer (or of the upstream corp) and a person become friends. The event is not sent.
    #[must_use]
    pub fn befriend(&self, corp_id: &str, person: &Person, user_id: &str, state: Option<&str>) -> Friendship {
        let beginning = Beginning::Confirmed;
        known(self.world().befriend(corp_id, &person.unionid, user_id, state, beginning))
    }

    /// A person adds a member who has not confirmed yet: the person is no customer, and cannot be converted,
    /// until [`Self::befriend`]. The event is not sent.
    #[must_use]
    pub fn befriend_half(
        &self,
        corp_id: &str,
        person: &Person,
        user_id: &str,
        state: Option<&str>,
    ) -> Friendship {
        known(self.world().befriend(corp_id, &person.unionid, user_id, state, Beginning::Half))
    }

    /// A member and a customer are no longer friends. The event is not sent.
    #[must_use]
    pub fn unfriend(&self, corp_id: &str, person: &Person, user_id: &str, by: By) -> Event {
        known(self.world().unfriend(corp_id, &person.unionid, user_id, by))
    }

    /// An event of an upstream corp or dealer as the platform would send it. No record changes, and it is not
    /// sent.
    #[must_use]
    pub fn event(&self, corp_id: &str, change: &Change) -> Event {
        let world = self.world();
        world.event(known(world.corp(corp_id)), change)
    }
}

/// Options and faults.
impl Simulator {
    /// Changes the options while running. `listen` and `seed` have no effect any more.
    pub fn configure(&self, change: impl FnOnce(&mut Options)) {
        change(&mut self.world().options);
    }

    /// Makes calls of one [`Api`] or of [`Target::Every`] fail: the next `times`, or with `None` all until
    /// [`Self::clear_faults`].
    pub fn inject(&self, target: impl Into<Target>, fault: Fault, times: Option<u32>) {
        self.world().faults.inject(target.into(), fault, times);
    }

    /// Ends every injected fault. Calls that hang are reset.
    pub fn clear_faults(&self) {
        self.platform.clear_faults();
    }

    /// Invalidates the tokens of an upstream corp or dealer before they expire.
    pub fn revoke_tokens(&self, corp_id: &str) {
        known(self.world().revoke_tokens(corp_id));
    }

    /// Makes every conversion of a batch that contains this id fail with 40096.
    pub fn poison(&self, external_userid: &str) {
        self.poison_with(external_userid, 40_096);
    }

    /// Makes every conversion of a batch that contains this id fail with `errcode`.
    pub fn poison_with(&self, external_userid: &str, errcode: i64) {
        self.world().poisoned.insert(external_userid.to_owned(), errcode);
    }

    /// Ends [`Self::poison`].
    pub fn cure(&self, external_userid: &str) {
        self.world().poisoned.remove(external_userid);
    }

    /// Leaves this id out of the answers to the next `calls` batches that contain it; of none with 0.
    pub fn hide_rows(&self, external_userid: &str, calls: u32) {
        let hidden_rows = &mut self.world().hidden_rows;
        if calls == 0 {
            hidden_rows.remove(external_userid);
        } else {
            hidden_rows.insert(external_userid.to_owned(), calls);
        }
    }

    /// Makes minting a person answer `errcode`, until it is set to `None`.
    pub fn reject_person(&self, person: &Person, errcode: Option<i64>) {
        let mut world = self.world();
        let person = known(world.person(&person.unionid));
        world.people[person].reject_code = errcode;
    }
}

/// What the platform saw and knows.
impl Simulator {
    /// The counters of all calls and callbacks.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.world().counters.clone()
    }

    /// Sets the counters to zero and clears the call log. The use of quotas stays.
    pub fn reset_counters(&self) {
        let mut world = self.world();
        world.counters = Counters::default();
        world.calls.clear();
    }

    /// The call log, oldest first.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.world().calls.iter().cloned().collect()
    }

    /// How much of an upstream corp's quota for a conversion is used.
    #[must_use]
    pub fn quota_use(&self, upstream_corp_id: &str, api: Api) -> QuotaUse {
        let mut world = self.world();
        let (corp, now_ms) = (known(world.upstream(upstream_corp_id)), world.now().as_millis());
        match world.conversion_calls.get_mut(&(corp, api)).map(|calls| calls.used(now_ms)).as_deref() {
            Some(&[hour, day, month]) => QuotaUse { hour, day, month },
            _ => QuotaUse::default(),
        }
    }

    /// The `external_userid` of a person at a corp, if they ever met.
    #[must_use]
    pub fn external_userid(&self, corp_id: &str, person: &Person) -> Option<String> {
        let world = self.world();
        let key = (known(world.corp(corp_id)), known(world.person(&person.unionid)));
        world.customer_of.get(&key).map(|index| world.customers[*index].external_userid.clone())
    }

    /// The valid `pending_id`s of a person in an app, oldest first.
    #[must_use]
    pub fn pending_ids(&self, upstream_corp_id: &str, person: &Person) -> Vec<String> {
        let world = self.world();
        let key = (known(world.upstream(upstream_corp_id)), known(world.person(&person.unionid)));
        let (minted, now) = (world.pending_ids.get(&key).into_iter().flatten(), world.now());
        minted.filter(|pending| now < pending.expires_at).map(|pending| pending.value.clone()).collect()
    }

    /// Every person at every corp that ever met them, sorted.
    #[must_use]
    pub fn truth(&self) -> Vec<Truth> {
        let world = self.world();
        let of = |customer: &Customer| Truth {
            unionid: world.people[customer.person].person.unionid.clone(),
            corp_id: world.corps[customer.corp].id.clone(),
            external_userid: customer.external_userid.clone(),
        };
        let mut truth: Vec<Truth> = world.customers.iter().map(of).collect();
        truth.sort_unstable();
        truth
    }
}
