//! The state of the simulated platform: corps, people, tokens, ledgers and what was injected.
//!
//! Deliberately absent: who is whose customer (`relations`), the APIs (`endpoints`, `convert`), time (a
//! parameter of every method that needs it) and all I/O.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::api::Api;
use super::counters::{CallLog, Counters};
use super::error::SimulatorError;
use super::event::{Change, Event, inner_xml};
use super::fault::Faults;
use super::ids;
use super::options::Options;
use super::quota::Ledger;
use super::relations::{Chat, Customer, PendingId};
use crate::domain::time::{SECOND_MS, Timestamp};

pub(super) type CorpIdx = usize;
pub(super) type PersonIdx = usize;
pub(super) type CustomerIdx = usize;

/// Where the callbacks of an app go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallbackSpec {
    /// The callback URL.
    pub url: String,
    /// The callback token.
    pub token: String,
    /// The `EncodingAESKey`, 43 letters and digits.
    pub aes_key: String,
}

/// A brand's app. One app per upstream corp is modelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppSpec {
    /// The upstream corp.
    pub corp_id: String,
    /// The app in that corp.
    pub agent_id: u64,
    /// The app's secret.
    pub secret: String,
    /// Where its callbacks go.
    pub callback: Option<CallbackSpec>,
}

/// A downstream corp with the brand's app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dealer {
    /// The dealer as the upstream corp sees it.
    pub corp_id: String,
    /// The shared app in the dealer.
    pub agent_id: u64,
}

/// A person as the brand's mini-program knows them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Person {
    /// Their unionid.
    pub unionid: String,
    /// Their openid.
    pub openid: String,
}

#[derive(Debug)]
pub(super) struct Corp {
    pub(super) id: String,
    pub(super) agent_id: u64,
    pub(super) name: String,
    pub(super) role: Role,
    /// Answered to conversions that concern this corp.
    pub(super) error: Option<i64>,
}

#[derive(Debug)]
pub(super) enum Role {
    Upstream(App),
    Dealer { upstream: CorpIdx, is_shared: bool },
}

#[derive(Debug)]
pub(super) struct App {
    pub(super) secret: String,
    pub(super) callback: Option<CallbackSpec>,
    pub(super) dealers: Vec<CorpIdx>,
    id_stem: String,
}

#[derive(Debug)]
pub(super) struct PersonState {
    pub(super) person: Person,
    /// Answered to minting this person.
    pub(super) reject_code: Option<i64>,
}

#[derive(Debug)]
pub(super) struct Token {
    pub(super) corp: CorpIdx,
    pub(super) expires_at: Timestamp,
    pub(super) is_revoked: bool,
}

/// Everything the platform remembers.
pub(super) struct World {
    pub(super) options: Options,
    pub(super) rng: StdRng,
    /// Orders what happens within one millisecond.
    sequence: u64,
    pub(super) corps: Vec<Corp>,
    pub(super) corp_by_id: HashMap<String, CorpIdx>,
    pub(super) people: Vec<PersonState>,
    pub(super) person_by_unionid: HashMap<String, PersonIdx>,
    pub(super) customers: Vec<Customer>,
    pub(super) customer_by_id: HashMap<String, CustomerIdx>,
    pub(super) customer_of: HashMap<(CorpIdx, PersonIdx), CustomerIdx>,
    pub(super) chats: HashMap<String, Chat>,
    pub(super) pending_ids: HashMap<(CorpIdx, PersonIdx), Vec<PendingId>>,
    pub(super) tokens: HashMap<String, Token>,
    current_token: HashMap<CorpIdx, String>,
    pub(super) base_ledgers: HashMap<(CorpIdx, Api), Ledger>,
    pub(super) conversion_ledgers: HashMap<(CorpIdx, Api), Ledger>,
    /// Wrong secrets in a row, and until when the address is banned.
    pub(super) wrong_secrets: HashMap<IpAddr, (u32, i64)>,
    pub(super) faults: Faults,
    pub(super) poisoned: HashSet<String>,
    pub(super) hidden_rows: HashMap<String, u32>,
    pub(super) counters: Counters,
    pub(super) calls: CallLog,
}

impl World {
    pub(super) fn new(options: Options) -> Self {
        Self {
            rng: StdRng::seed_from_u64(options.seed),
            options,
            sequence: 0,
            corps: Vec::new(),
            corp_by_id: HashMap::new(),
            people: Vec::new(),
            person_by_unionid: HashMap::new(),
            customers: Vec::new(),
            customer_by_id: HashMap::new(),
            customer_of: HashMap::new(),
            chats: HashMap::new(),
            pending_ids: HashMap::new(),
            tokens: HashMap::new(),
            current_token: HashMap::new(),
            base_ledgers: HashMap::new(),
            conversion_ledgers: HashMap::new(),
            wrong_secrets: HashMap::new(),
            faults: Faults::default(),
            poisoned: HashSet::new(),
            hidden_rows: HashMap::new(),
            counters: Counters::default(),
            calls: CallLog::default(),
        }
    }

    pub(super) fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    pub(super) fn add_app(&mut self, spec: AppSpec) {
        let id_stem = ids::stem(&mut self.rng);
        let app = App { secret: spec.secret, callback: spec.callback, dealers: Vec::new(), id_stem };
        self.push_corp(Corp {
            id: spec.corp_id,
            agent_id: spec.agent_id,
            name: "brand".to_owned(),
            role: Role::Upstream(app),
            error: None,
        });
    }

    pub(super) fn add_dealer(&mut self, upstream: CorpIdx, name: &str) -> Dealer {
        let id_stem = self.id_stem(upstream);
        let corp_id = ids::dealer_corp_id(&mut self.rng, &id_stem);
        let agent_id = 1_000_002 + ids::number(&mut self.rng, 9_000);
        let dealer = self.push_corp(Corp {
            id: corp_id.clone(),
            agent_id,
            name: name.to_owned(),
            role: Role::Dealer { upstream, is_shared: true },
            error: None,
        });
        if let Role::Upstream(app) = &mut self.corps[upstream].role {
            app.dealers.push(dealer);
        }
        Dealer { corp_id, agent_id }
    }

    fn push_corp(&mut self, corp: Corp) -> CorpIdx {
        let index = self.corps.len();
        self.corp_by_id.insert(corp.id.clone(), index);
        self.corps.push(corp);
        index
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

    /// The upstream corp with this id.
    pub(super) fn upstream(&self, corp_id: &str) -> Result<CorpIdx, SimulatorError> {
        self.corp_by_id
            .get(corp_id)
            .copied()
            .filter(|index| matches!(self.corps[*index].role, Role::Upstream(_)))
            .ok_or_else(|| SimulatorError::UnknownUpstream(corp_id.to_owned()))
    }

    /// The named upstream corp, or the only one.
    pub(super) fn upstream_or_only(&self, corp_id: Option<&str>) -> Result<CorpIdx, SimulatorError> {
        if let Some(corp_id) = corp_id {
            return self.upstream(corp_id);
        }
        let mut upstreams = (0..self.corps.len()).filter(|index| self.app(*index).is_some());
        match (upstreams.next(), upstreams.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(SimulatorError::AmbiguousUpstream),
        }
    }

    /// The upstream corp itself or one of its dealers.
    pub(super) fn member_corp(&self, upstream: CorpIdx, corp_id: &str) -> Result<CorpIdx, SimulatorError> {
        self.corp_by_id
            .get(corp_id)
            .copied()
            .filter(|index| self.upstream_of(*index) == upstream)
            .ok_or_else(|| SimulatorError::UnknownCorp(corp_id.to_owned()))
    }

    /// Any corp, upstream or dealer.
    pub(super) fn any_corp(&self, corp_id: &str) -> Result<CorpIdx, SimulatorError> {
        self.corp_by_id.get(corp_id).copied().ok_or_else(|| SimulatorError::UnknownCorp(corp_id.to_owned()))
    }

    pub(super) fn person(&self, unionid: &str) -> Result<PersonIdx, SimulatorError> {
        self.person_by_unionid
            .get(unionid)
            .copied()
            .ok_or_else(|| SimulatorError::UnknownPerson(unionid.to_owned()))
    }

    /// The app of an upstream corp; `None` for a dealer.
    pub(super) fn app(&self, corp: CorpIdx) -> Option<&App> {
        match &self.corps[corp].role {
            Role::Upstream(app) => Some(app),
            Role::Dealer { .. } => None,
        }
    }

    /// What the ids that an upstream corp sees have in common.
    pub(super) fn id_stem(&self, upstream: CorpIdx) -> String {
        self.app(upstream).map(|app| app.id_stem.clone()).unwrap_or_default()
    }

    /// The upstream corp of a dealer; an upstream corp is its own.
    pub(super) fn upstream_of(&self, corp: CorpIdx) -> CorpIdx {
        match self.corps[corp].role {
            Role::Upstream(_) => corp,
            Role::Dealer { upstream, .. } => upstream,
        }
    }

    /// Whether the app is in use at this corp.
    pub(super) fn is_shared(&self, corp: CorpIdx) -> bool {
        match self.corps[corp].role {
            Role::Upstream(_) => true,
            Role::Dealer { is_shared, .. } => is_shared,
        }
    }

    pub(super) fn set_callback(&mut self, upstream: CorpIdx, spec: CallbackSpec) {
        if let Role::Upstream(app) = &mut self.corps[upstream].role {
            app.callback = Some(spec);
        }
    }

    pub(super) fn share(&mut self, dealer: CorpIdx, shared: bool) {
        if let Role::Dealer { is_shared, .. } = &mut self.corps[dealer].role {
            *is_shared = shared;
        }
    }

    /// The token in force for `corp` and the seconds it has left; a new one if there is none.
    pub(super) fn token_for(&mut self, corp: CorpIdx, now: Timestamp) -> (String, i64) {
        if let Some(value) = self.current_token.get(&corp)
            && let Some(token) = self.tokens.get(value)
        {
            let secs_left = token.expires_at.millis_since(now) / SECOND_MS;
            if secs_left > 0 && !token.is_revoked {
                return (value.clone(), secs_left);
            }
        }
        let value = ids::access_token(&mut self.rng);
        let ttl_secs = self.options.token_ttl_secs;
        let expires_at = now.plus_ms(ttl_secs.saturating_mul(SECOND_MS));
        self.tokens.insert(value.clone(), Token { corp, expires_at, is_revoked: false });
        self.current_token.insert(corp, value.clone());
        let corp_id = self.corps[corp].id.clone();
        *self.counters.tokens_issued.entry(corp_id).or_default() += 1;
        (value, ttl_secs)
    }

    /// Invalidates every token of `corp` before its time.
    pub(super) fn revoke_tokens(&mut self, corp: CorpIdx) {
        for token in self.tokens.values_mut().filter(|token| token.corp == corp) {
            token.is_revoked = true;
        }
        self.current_token.remove(&corp);
    }

    /// Puts a change of `corp` into words.
    pub(super) fn event(&self, corp: CorpIdx, change: &Change, now: Timestamp) -> Event {
        let about = &self.corps[corp];
        Event {
            upstream_corp_id: self.corps[self.upstream_of(corp)].id.clone(),
            to_user_name: about.id.clone(),
            agent_id: about.agent_id,
            inner: inner_xml(&about.id, now, change),
        }
    }
}
