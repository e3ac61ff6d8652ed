//! The state of the simulated platform: its records, injected faults and counters, with look-ups by name.
//!
//! Deliberately absent: members (`members`), friendships (`relations`), groups (`groups`), the APIs
//! (`endpoints` and those it calls) and all I/O.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::api::Api;
use super::counters::{Call, Counters};
use super::error::SimulatorError;
use super::event::{Change, Event, Sending};
use super::fault::Faults;
use super::ids;
use super::model::{
    AppSpec, Chat, ChatIdx, Corp, CorpIdx, Customer, CustomerIdx, Dealer, IssuedToken, MintedId, Person,
    PersonIdx, PersonState, Sequenced, SuiteToken, Template, TemplateIdx,
};
use super::options::{Options, ShareChange};
use super::quota::CallWindows;
use super::xml::{SuiteChange, inner_xml};
use crate::clock::Clock;
use crate::domain::time::{SECOND_MS, Timestamp};

/// The caller of an API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Caller {
    Corp(CorpIdx),
    Template(TemplateIdx),
}

/// Everything that the platform remembers.
pub(super) struct World {
    pub(super) options: Options,
    clock: Arc<dyn Clock>,
    /// Generates the ids of corps, people, customers and groups.
    pub(super) rng: StdRng,
    /// Generates everything else: tokens, pending ids, nonces, request ids. Separate, so that the ids do not
    /// depend on the calls that were made in between.
    pub(super) noise: StdRng,
    sequence: u64,
    /// The templates of agency-developed apps.
    pub(super) templates: Vec<Template>,
    pub(super) suite_tokens: HashMap<String, SuiteToken>,
    pub(super) corps: Vec<Corp>,
    corp_by_id: HashMap<String, CorpIdx>,
    pub(super) people: Vec<PersonState>,
    person_by_unionid: HashMap<String, PersonIdx>,
    pub(super) customers: Vec<Customer>,
    pub(super) customer_by_id: HashMap<String, CustomerIdx>,
    pub(super) customer_of: HashMap<(CorpIdx, PersonIdx), CustomerIdx>,
    pub(super) chats: Vec<Chat>,
    pub(super) chat_by_id: HashMap<String, ChatIdx>,
    /// Of each upstream corp and person, oldest first.
    pub(super) pending_ids: HashMap<(CorpIdx, PersonIdx), Vec<MintedId>>,
    pub(super) tokens: HashMap<String, IssuedToken>,
    pub(super) base_calls: HashMap<(Caller, Api), CallWindows>,
    pub(super) conversion_calls: HashMap<(CorpIdx, Api), CallWindows>,
    /// Calls that have arrived and are not answered yet.
    pub(super) in_flight: HashMap<(Caller, Api), u32>,
    /// Wrong secrets in a row, and until when the address is banned.
    pub(super) wrong_secrets: HashMap<IpAddr, (u32, i64)>,
    pub(super) faults: Faults,
    /// The `external_userid`s that fail every batch, with the `errcode`.
    pub(super) poisoned: HashMap<String, i64>,
    /// The number of batches that leave an `external_userid` out.
    pub(super) hidden_rows: HashMap<String, u32>,
    pub(super) counters: Counters,
    /// The last calls, oldest first.
    pub(super) calls: VecDeque<Call>,
}

impl World {
    pub(super) fn new(options: Options, clock: Arc<dyn Clock>) -> Self {
        Self {
            rng: StdRng::seed_from_u64(options.seed),
            noise: StdRng::seed_from_u64(!options.seed),
            options,
            clock,
            sequence: 0,
            templates: Vec::new(),
            suite_tokens: HashMap::new(),
            corps: Vec::new(),
            corp_by_id: HashMap::new(),
            people: Vec::new(),
            person_by_unionid: HashMap::new(),
            customers: Vec::new(),
            customer_by_id: HashMap::new(),
            customer_of: HashMap::new(),
            chats: Vec::new(),
            chat_by_id: HashMap::new(),
            pending_ids: HashMap::new(),
            tokens: HashMap::new(),
            base_calls: HashMap::new(),
            conversion_calls: HashMap::new(),
            in_flight: HashMap::new(),
            wrong_secrets: HashMap::new(),
            faults: Faults::default(),
            poisoned: HashMap::new(),
            hidden_rows: HashMap::new(),
            counters: Counters::default(),
            calls: VecDeque::new(),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The current instant with the next sequence number.
    pub(super) fn sequenced(&mut self) -> Sequenced {
        self.sequence += 1;
        Sequenced { at: self.now(), sequence: self.sequence }
    }

    pub(super) fn add_app(&mut self, spec: AppSpec) {
        let id_stem = ids::stem(&mut self.rng);
        let (corp_id, agent_id, upstream) = (spec.corp_id.clone(), spec.agent_id, self.corps.len());
        self.push_corp(Corp::new(corp_id, agent_id, "brand".to_owned(), upstream, Some(spec), id_stem));
    }

    pub(super) fn add_dealer(&mut self, upstream: CorpIdx, name: &str) -> Dealer {
        let id_stem = self.corps[upstream].id_stem.clone();
        let corp_id = ids::dealer_corp_id(&mut self.rng, &id_stem);
        let agent_id = 1_000_002 + ids::number(&mut self.rng, 9_000);
        let mut dealer = Corp::new(corp_id.clone(), agent_id, name.to_owned(), upstream, None, id_stem);
        dealer.is_shared = !(self.is_agency(upstream) && self.options.agency.dealers_install);
        self.push_corp(dealer);
        Dealer { corp_id, agent_id }
    }

    pub(super) fn push_corp(&mut self, corp: Corp) {
        self.corp_by_id.insert(corp.id.clone(), self.corps.len());
        self.corps.push(corp);
    }

    pub(super) fn add_person(&mut self) -> Person {
        let person = Person { unionid: ids::person_id(&mut self.rng), openid: ids::person_id(&mut self.rng) };
        self.insert_person(person.clone());
        person
    }

    pub(super) fn insert_person(&mut self, person: Person) {
        self.person_by_unionid.insert(person.unionid.clone(), self.people.len());
        self.people.push(PersonState { person, reject_code: None });
    }

    /// The upstream corp or dealer with this id.
    pub(super) fn corp(&self, corp_id: &str) -> Result<CorpIdx, SimulatorError> {
        self.corp_by_id.get(corp_id).copied().ok_or_else(|| SimulatorError::UnknownCorp(corp_id.to_owned()))
    }

    pub(super) fn corp_mut(&mut self, corp_id: &str) -> Result<&mut Corp, SimulatorError> {
        let corp = self.corp(corp_id)?;
        Ok(&mut self.corps[corp])
    }

    /// The upstream corp with this id.
    pub(super) fn upstream(&self, corp_id: &str) -> Result<CorpIdx, SimulatorError> {
        let corp = self.corp(corp_id).ok().filter(|corp| self.corps[*corp].is_upstream);
        corp.ok_or_else(|| SimulatorError::UnknownUpstream(corp_id.to_owned()))
    }

    /// The named upstream corp, or the only one.
    pub(super) fn upstream_or_only(&self, corp_id: Option<&str>) -> Result<CorpIdx, SimulatorError> {
        if let Some(corp_id) = corp_id {
            return self.upstream(corp_id);
        }
        let mut upstreams = (0..self.corps.len()).filter(|corp| self.corps[*corp].is_upstream);
        match (upstreams.next(), upstreams.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(SimulatorError::AmbiguousUpstream),
        }
    }

    /// The corp with this id, which is `upstream` or one of its dealers.
    pub(super) fn member_corp(&self, upstream: CorpIdx, corp_id: &str) -> Result<CorpIdx, SimulatorError> {
        let corp = self.corp(corp_id).ok().filter(|corp| self.corps[*corp].upstream == upstream);
        corp.ok_or_else(|| SimulatorError::UnknownCorp(corp_id.to_owned()))
    }

    /// The dealers of an upstream corp, in the order in which they were added.
    pub(super) fn dealers(&self, upstream: CorpIdx) -> impl Iterator<Item = CorpIdx> {
        (0..self.corps.len()).filter(move |corp| *corp != upstream && self.corps[*corp].upstream == upstream)
    }

    pub(super) fn person(&self, unionid: &str) -> Result<PersonIdx, SimulatorError> {
        let person = self.person_by_unionid.get(unionid).copied();
        person.ok_or_else(|| SimulatorError::UnknownPerson(unionid.to_owned()))
    }

    /// The valid token of `corp` and the seconds it has left; a new one if there is none.
    pub(super) fn token_for(&mut self, corp: CorpIdx) -> (String, i64) {
        let now = self.now();
        if let Some(value) = &self.corps[corp].token
            && let Some(token) = self.tokens.get(value)
        {
            let secs_left = token.expires_at.millis_since(now) / SECOND_MS;
            if secs_left > 0 && !token.is_revoked {
                return (value.clone(), secs_left);
            }
        }
        let value = ids::access_token(&mut self.noise);
        let ttl_secs = self.options.token_ttl_secs;
        let expires_at = now.plus_ms(ttl_secs.saturating_mul(SECOND_MS));
        self.tokens.insert(value.clone(), IssuedToken { corp, expires_at, is_revoked: false });
        self.corps[corp].token = Some(value.clone());
        let corp_id = self.corps[corp].id.clone();
        *self.counters.tokens_issued.entry(corp_id).or_default() += 1;
        (value, ttl_secs)
    }

    /// Invalidates every token of a corp before it expires.
    pub(super) fn revoke_tokens(&mut self, corp_id: &str) -> Result<(), SimulatorError> {
        self.revoke_tokens_of(self.corp(corp_id)?);
        Ok(())
    }

    pub(super) fn revoke_tokens_of(&mut self, corp: CorpIdx) {
        for token in self.tokens.values_mut().filter(|token| token.corp == corp) {
            token.is_revoked = true;
        }
    }

    /// Counts a call and keeps it in the log.
    pub(super) fn record(&mut self, call: Call) {
        self.counters.count(&call);
        self.calls.push_back(call);
        while self.calls.len() > self.options.call_log_calls_max {
            self.calls.pop_front();
        }
    }

    /// The event of a change at `corp`.
    pub(super) fn event(&self, corp: CorpIdx, change: &Change) -> Event {
        let about = &self.corps[corp];
        let share_change = match (change, &self.corps[about.upstream].agency) {
            (Change::ShareChainChange { .. }, Some(agency)) => {
                Some((self.options.agency.share_change, agency))
            }
            _ => None,
        };
        if let Some((ShareChange::TemplateUrl, agency)) = share_change {
            let change =
                SuiteChange::ShareChainChange { corp_id: about.id.clone(), agent_id: about.agent_id };
            return self.suite_event(agency.template, &change);
        }
        let is_withheld = matches!(share_change, Some((ShareChange::Never, _)));
        Event {
            upstream_corp_id: self.corps[about.upstream].id.clone(),
            to_user_name: about.id.clone(),
            agent_id: about.agent_id,
            inner: inner_xml(&about.id, about.agent_id, self.now(), change, self.options.item_form),
            suite_id: None,
            sending: if is_withheld { Sending::Never } else { Sending::Usual },
        }
    }
}
