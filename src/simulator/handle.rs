//! The methods of [`Simulator`] that shape the world, break it, and ask it what it saw.
//!
//! Deliberately absent: starting, stopping and sending, which are next to the type.

use serde::Serialize;

use super::Simulator;
use super::api::Api;
use super::counters::{Call, Counters};
use super::error::SimulatorError;
use super::event::{Change, Event};
use super::fault::{Fault, Target};
use super::ids;
use super::options::Options;
use super::relations::{Beginning, Friendship};
use super::seal::Sealer;
use super::world::{AppSpec, CallbackSpec, CorpIdx, Dealer, Person, PersonIdx, World};

/// Who is who, as only the platform knows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Truth {
    /// The person.
    pub unionid: String,
    /// The corp whose customer they are or were.
    pub corp_id: String,
    /// What that corp calls them.
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

/// What the simulator was asked for by name exists: callers got the name from it.
#[track_caller]
pub(super) fn known<T>(found: Result<T, SimulatorError>) -> T {
    found.unwrap_or_else(|error| panic!("{error}"))
}

/// A corp and a person, by index.
fn pair(
    world: &World,
    upstream: &str,
    corp_id: &str,
    person: &Person,
) -> Result<(CorpIdx, PersonIdx), SimulatorError> {
    let corp = world.member_corp(world.upstream(upstream)?, corp_id)?;
    Ok((corp, world.person(&person.unionid)?))
}

/// Corps, people and what happens between them.
impl Simulator {
    /// An app with invented ids and no callback yet; [`Self::add_app`] makes it exist.
    #[must_use]
    pub fn invent_app(&self) -> AppSpec {
        let rng = &mut self.shared.world().rng;
        AppSpec {
            corp_id: ids::upstream_corp_id(rng),
            agent_id: 1_000_002,
            secret: ids::secret(rng),
            callback: None,
        }
    }

    /// A callback configuration with an invented token and key.
    #[must_use]
    pub fn invent_callback(&self, url: &str) -> CallbackSpec {
        let rng = &mut self.shared.world().rng;
        CallbackSpec {
            url: url.to_owned(),
            token: ids::callback_token(rng),
            aes_key: ids::encoding_aes_key(rng),
        }
    }

    /// Makes an upstream corp with its app.
    ///
    /// # Panics
    /// If the callback's `aes_key` is not 43 letters and digits.
    pub fn add_app(&self, app: AppSpec) {
        if let Some(callback) = &app.callback {
            known(Sealer::new(&callback.token, &callback.aes_key));
        }
        self.shared.world().add_app(app);
    }

    /// Configures where callbacks of an upstream corp's app go.
    ///
    /// # Panics
    /// If the `aes_key` is not 43 letters and digits.
    pub fn set_callback(&self, upstream_corp_id: &str, callback: CallbackSpec) {
        known(Sealer::new(&callback.token, &callback.aes_key));
        let mut world = self.shared.world();
        let upstream = known(world.upstream(upstream_corp_id));
        world.set_callback(upstream, callback);
    }

    /// The agent id of an upstream corp or a dealer.
    #[must_use]
    pub fn agent_id(&self, corp_id: &str) -> u64 {
        let world = self.shared.world();
        world.corps[known(world.any_corp(corp_id))].agent_id
    }

    /// Makes a dealer that the app is shared with.
    #[must_use]
    pub fn add_dealer(&self, upstream_corp_id: &str, name: &str) -> Dealer {
        let mut world = self.shared.world();
        let upstream = known(world.upstream(upstream_corp_id));
        world.add_dealer(upstream, name)
    }

    /// Shares the app with a dealer, or stops sharing it.
    pub fn share(&self, dealer_corp_id: &str, is_shared: bool) {
        let mut world = self.shared.world();
        let dealer = known(world.any_corp(dealer_corp_id));
        world.share(dealer, is_shared);
    }

    /// Makes a person.
    #[must_use]
    pub fn add_person(&self) -> Person {
        self.shared.world().add_person()
    }

    /// Makes people.
    #[must_use]
    pub fn add_people(&self, count: usize) -> Vec<Person> {
        let mut world = self.shared.world();
        (0..count).map(|_| world.add_person()).collect()
    }

    /// Makes a person with given ids, for tests that start from a file.
    pub fn insert_person(&self, person: Person) {
        self.shared.world().insert_person(person);
    }

    /// Another system mints a person for the app: the pending id, of which no call of anybody's is charged.
    #[must_use]
    pub fn mint_elsewhere(&self, upstream_corp_id: &str, person: &Person) -> String {
        let now = self.shared.clock.now();
        let mut world = self.shared.world();
        let (upstream, person) = known(pair(&world, upstream_corp_id, upstream_corp_id, person));
        world.mint(upstream, person, now)
    }

    /// A member of a dealer (or of the upstream corp itself) and a person become friends. The event is not
    /// sent.
    #[must_use]
    pub fn befriend(
        &self,
        upstream_corp_id: &str,
        corp_id: &str,
        person: &Person,
        user_id: &str,
        state: Option<&str>,
    ) -> Friendship {
        self.begin(upstream_corp_id, corp_id, person, user_id, state, Beginning::Confirmed)
    }

    /// A person adds a member who does not confirm yet: no customer, and not convertible, until
    /// [`Self::befriend`]. The event is not sent.
    #[must_use]
    pub fn befriend_half(
        &self,
        upstream_corp_id: &str,
        corp_id: &str,
        person: &Person,
        user_id: &str,
        state: Option<&str>,
    ) -> Friendship {
        self.begin(upstream_corp_id, corp_id, person, user_id, state, Beginning::Half)
    }

    fn begin(
        &self,
        upstream_corp_id: &str,
        corp_id: &str,
        person: &Person,
        user_id: &str,
        state: Option<&str>,
        beginning: Beginning,
    ) -> Friendship {
        let now = self.shared.clock.now();
        let mut world = self.shared.world();
        let (corp, person) = known(pair(&world, upstream_corp_id, corp_id, person));
        world.befriend(corp, person, user_id, state, beginning, now)
    }

    /// The member deletes the customer (`del_external_contact`). The event is not sent.
    #[must_use]
    pub fn unfriend_by_member(&self, upstream: &str, corp_id: &str, person: &Person, user_id: &str) -> Event {
        self.unfriend(upstream, corp_id, person, user_id, true)
    }

    /// The customer deletes the member (`del_follow_user`). The event is not sent.
    #[must_use]
    pub fn unfriend_by_customer(
        &self,
        upstream: &str,
        corp_id: &str,
        person: &Person,
        user_id: &str,
    ) -> Event {
        self.unfriend(upstream, corp_id, person, user_id, false)
    }

    fn unfriend(
        &self,
        upstream: &str,
        corp_id: &str,
        person: &Person,
        user_id: &str,
        by_member: bool,
    ) -> Event {
        let now = self.shared.clock.now();
        let mut world = self.shared.world();
        let (corp, person) = known(pair(&world, upstream, corp_id, person));
        known(world.unfriend(corp, person, user_id, by_member, now))
    }

    /// Makes a customer group of a dealer and returns its chat id.
    #[must_use]
    pub fn add_chat(&self, upstream_corp_id: &str, corp_id: &str) -> String {
        let mut world = self.shared.world();
        let upstream = known(world.upstream(upstream_corp_id));
        let corp = known(world.member_corp(upstream, corp_id));
        world.add_chat(corp)
    }

    /// A pending id of a person, as if the brand had asked for it: no call, no quota.
    #[must_use]
    pub fn mint(&self, upstream_corp_id: &str, person: &Person) -> String {
        let now = self.shared.clock.now();
        let mut world = self.shared.world();
        let (corp, person) = known(pair(&world, upstream_corp_id, upstream_corp_id, person));
        world.mint(corp, person, now)
    }

    /// People join a group, which makes them customers of its corp, convertible with the chat id. The event
    /// is not sent.
    #[must_use]
    pub fn join_chat(&self, chat_id: &str, people: &[Person]) -> Event {
        let now = self.shared.clock.now();
        let mut world = self.shared.world();
        let people: Result<Vec<_>, _> = people.iter().map(|person| world.person(&person.unionid)).collect();
        let people = known(people);
        known(world.join_chat(chat_id, &people, now))
    }

    /// Any event of an upstream corp or dealer, without changing the world.
    #[must_use]
    pub fn event(&self, corp_id: &str, change: &Change) -> Event {
        let world = self.shared.world();
        world.event(known(world.any_corp(corp_id)), change, self.shared.clock.now())
    }
}

/// Misbehaviour on demand.
impl Simulator {
    /// Changes the options while running. `listen` and `seed` have no effect any more.
    pub fn configure(&self, change: impl FnOnce(&mut Options)) {
        change(&mut self.shared.world().options);
    }

    /// Makes calls fail: of one [`Api`] or of [`Target::Every`], for the next `times` calls or until cleared.
    pub fn inject(&self, target: impl Into<Target>, fault: Fault, times: Option<u32>) {
        self.shared.world().faults.inject(target.into(), fault, times);
    }

    /// Ends every injected fault. Calls that hang are reset.
    pub fn clear_faults(&self) {
        self.shared.clear_faults();
    }

    /// Invalidates the tokens of an upstream corp or dealer before their time.
    pub fn revoke_tokens(&self, corp_id: &str) {
        let mut world = self.shared.world();
        let corp = known(world.any_corp(corp_id));
        world.revoke_tokens(corp);
    }

    /// Makes every batch fail with 40096 that contains this id.
    pub fn poison(&self, external_userid: &str) {
        self.shared.world().poisoned.insert(external_userid.to_owned());
    }

    /// Takes a poison back.
    pub fn cure(&self, external_userid: &str) {
        self.shared.world().poisoned.remove(external_userid);
    }

    /// Leaves the row of this id out of the next `calls` batches that ask for it.
    pub fn hide_rows(&self, external_userid: &str, calls: u32) {
        self.shared.world().hidden_rows.insert(external_userid.to_owned(), calls);
    }

    /// Makes conversions of a dealer's ids answer `errcode`.
    pub fn set_dealer_error(&self, dealer_corp_id: &str, errcode: Option<i64>) {
        let mut world = self.shared.world();
        let corp = known(world.any_corp(dealer_corp_id));
        world.corps[corp].error = errcode;
    }

    /// Makes all three conversions of an app, its dealers' included, answer `errcode`.
    pub fn set_app_error(&self, upstream_corp_id: &str, errcode: Option<i64>) {
        let mut world = self.shared.world();
        let corp = known(world.upstream(upstream_corp_id));
        world.corps[corp].error = errcode;
    }

    /// Makes minting a person answer `errcode`.
    pub fn reject_person(&self, person: &Person, errcode: Option<i64>) {
        let mut world = self.shared.world();
        let person = known(world.person(&person.unionid));
        world.people[person].reject_code = errcode;
    }
}

/// What a judge asks.
impl Simulator {
    /// Totals so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.world().counters.clone()
    }

    /// Starts counting and logging anew. Quota ledgers stay.
    pub fn reset_counters(&self) {
        let mut world = self.shared.world();
        world.counters = Counters::default();
        world.calls.clear();
    }

    /// The last calls, oldest first.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.shared.world().calls.to_vec()
    }

    /// How much of a conversion quota an upstream corp has used.
    #[must_use]
    pub fn quota_use(&self, upstream_corp_id: &str, api: Api) -> QuotaUse {
        let now_ms = self.shared.clock.now().as_millis();
        let mut world = self.shared.world();
        let corp = known(world.upstream(upstream_corp_id));
        match world.conversion_ledgers.get_mut(&(corp, api)).map(|ledger| ledger.used(now_ms)).as_deref() {
            Some(&[hour, day, month]) => QuotaUse { hour, day, month },
            _ => QuotaUse::default(),
        }
    }

    /// What a corp calls a person, if they ever met.
    #[must_use]
    pub fn external_userid(&self, upstream_corp_id: &str, corp_id: &str, person: &Person) -> Option<String> {
        let world = self.shared.world();
        let key = known(pair(&world, upstream_corp_id, corp_id, person));
        world.customer_of.get(&key).map(|index| world.customers[*index].external_userid.clone())
    }

    /// The pending ids of a person in an app that are still exchanged, oldest first.
    #[must_use]
    pub fn pending_ids(&self, upstream_corp_id: &str, person: &Person) -> Vec<String> {
        let (world, now) = (self.shared.world(), self.shared.clock.now());
        let key = known(pair(&world, upstream_corp_id, upstream_corp_id, person));
        let minted = world.pending_ids.get(&key).into_iter().flatten();
        minted.filter(|pending| now < pending.expires_at).map(|pending| pending.value.clone()).collect()
    }

    /// Who is who: every person at every corp that ever met them, sorted.
    #[must_use]
    pub fn truth(&self) -> Vec<Truth> {
        let world = self.shared.world();
        let mut truth: Vec<Truth> = world
            .customers
            .iter()
            .map(|customer| Truth {
                unionid: world.people[customer.person].person.unionid.clone(),
                corp_id: world.corps[customer.corp].id.clone(),
                external_userid: customer.external_userid.clone(),
            })
            .collect();
        truth.sort_unstable();
        truth
    }
}
