//! The relations between persons and corps: friendships, and the `pending_id`s that connect customers to the
//! brand.
//!
//! Deliberately absent: customer groups (`groups`), and what an API answers (`convert`, `lists`).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::error::SimulatorError;
use super::event::{Change, ContactChange, Event};
use super::ids;
use super::model::{CorpIdx, Customer, CustomerIdx, Follower, MintedId, PersonIdx, Sequenced};
use super::options::Remint;
use super::world::World;
use crate::domain::time::DAY_MS;

/// The life of a `pending_id` (document 97357).
const PENDING_ID_LIFE_MS: i64 = 90 * DAY_MS;

/// A new friendship.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Friendship {
    /// The customer as the corp knows them.
    pub external_userid: String,
    /// The event that reports the friendship, not sent yet.
    pub event: Event,
}

/// How a friendship begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beginning {
    Confirmed,
    /// The customer added a member that has not confirmed yet.
    Half,
}

/// The side that ends a friendship by deleting the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The member deletes the customer (`del_external_contact`).
    Member,
    /// The customer deletes the member (`del_follow_user`).
    Customer,
}

impl World {
    /// The record of `person` at `corp`, created if there is none. A new record is not a customer yet.
    pub(super) fn customer(&mut self, corp: CorpIdx, person: PersonIdx) -> CustomerIdx {
        if let Some(known) = self.customer_of.get(&(corp, person)) {
            return *known;
        }
        let external_userid = ids::external_userid(&mut self.rng, &self.corps[corp].id_stem);
        let index = self.customers.len();
        self.customer_by_id.insert(external_userid.clone(), index);
        self.customer_of.insert((corp, person), index);
        let followers = BTreeMap::new();
        self.customers.push(Customer { corp, person, external_userid, since: None, followers });
        index
    }

    /// A member of a corp and a person become friends. The member is created if there is none of that name.
    pub(super) fn befriend(
        &mut self,
        corp_id: &str,
        unionid: &str,
        user_id: &str,
        state: Option<&str>,
        beginning: Beginning,
    ) -> Result<Friendship, SimulatorError> {
        let (corp, person) = (self.corp(corp_id)?, self.person(unionid)?);
        let user_id = &self.user_id(corp, user_id);
        let began = self.sequenced();
        let index = self.customer(corp, person);
        let welcome_code = ids::welcome_code(&mut self.rng);
        let customer = &mut self.customers[index];
        let before = customer.followers.get(user_id);
        // A conversation that already exists gets no welcome message.
        let welcome_code = before.is_none().then_some(welcome_code);
        let is_confirmed =
            beginning == Beginning::Confirmed || before.is_some_and(|follower| follower.is_confirmed);
        let follower = Follower {
            since: began.at,
            first_since: before.map_or(began.at, |follower| follower.first_since),
            state: state.map(str::to_owned),
            is_confirmed,
            is_deleted_by_member: false,
            is_deleted_by_customer: false,
        };
        customer.followers.insert(user_id.to_owned(), follower);
        if is_confirmed {
            customer.since.get_or_insert(began);
        }
        let (user_id, external_userid) = (user_id.to_owned(), customer.external_userid.clone());
        self.corps[corp].members.entry(user_id.clone()).or_default().customers.insert(index);
        let state = state.map(str::to_owned);
        let change = match beginning {
            Beginning::Confirmed => ContactChange::Add { state, welcome_code },
            Beginning::Half => ContactChange::AddHalf { state, welcome_code },
        };
        let change = Change::Contact { user_id, external_userid: external_userid.clone(), change };
        Ok(Friendship { external_userid, event: self.event(corp, &change) })
    }

    /// One of the two deletes the other. Ids that converted still convert.
    pub(super) fn unfriend(
        &mut self,
        corp_id: &str,
        unionid: &str,
        user_id: &str,
        by: By,
    ) -> Result<Event, SimulatorError> {
        let (corp, person) = (self.corp(corp_id)?, self.person(unionid)?);
        let user_id = &self.user_id(corp, user_id);
        let not_friends = || SimulatorError::NotFriends {
            corp_id: corp_id.to_owned(),
            user_id: user_id.to_owned(),
            person: unionid.to_owned(),
        };
        let index = self.customer_of.get(&(corp, person)).copied().ok_or_else(not_friends)?;
        let customer = &mut self.customers[index];
        let follower = customer.followers.get_mut(user_id).ok_or_else(not_friends)?;
        let change = match by {
            By::Member => {
                follower.is_deleted_by_member = true;
                ContactChange::Del { source: None }
            }
            By::Customer => {
                follower.is_deleted_by_customer = true;
                ContactChange::DelFollowUser
            }
        };
        let (user_id, external_userid) = (user_id.to_owned(), customer.external_userid.clone());
        Ok(self.event(corp, &Change::Contact { user_id, external_userid, change }))
    }

    /// Mints `person` for the app of `upstream`.
    pub(super) fn mint(&mut self, upstream: CorpIdx, person: PersonIdx) -> String {
        let minted = self.sequenced();
        let value = ids::pending_id(&mut self.noise);
        let expires_at = minted.at.plus_ms(PENDING_ID_LIFE_MS);
        let known = self.pending_ids.entry((upstream, person)).or_default();
        known.retain(|pending| pending.expires_at > minted.at);
        match (self.options.remint, known.last_mut()) {
            (Remint::SameId, Some(live)) => {
                live.expires_at = expires_at;
                live.value.clone()
            }
            (Remint::SameIdNotRenewed, Some(live)) => live.value.clone(),
            (Remint::NewId, _) | (_, None) => {
                known.push(MintedId { value: value.clone(), minted, expires_at });
                value
            }
        }
    }

    /// The `pending_id` that a customer resolves to, if any: the newest that is valid and was minted in time.
    pub(super) fn resolve(&self, customer: &Customer) -> Option<&str> {
        let (since, now, options) = (customer.since?, self.now(), &self.options);
        let is_in_time = |minted: Sequenced| {
            options.late_mint_resolves
                || minted.sequence < since.sequence
                || (options.conversion_window_ms > 0
                    && minted.at.millis_since(since.at) <= options.conversion_window_ms)
        };
        self.pending_ids
            .get(&(self.corps[customer.corp].upstream, customer.person))?
            .iter()
            .rev()
            .find(|pending| pending.expires_at > now && is_in_time(pending.minted))
            .map(|pending| pending.value.as_str())
    }
}
