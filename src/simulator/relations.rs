//! Who is whose customer: friendships, customer groups, and the pending ids that bridge them to the brand.
//!
//! Deliberately absent: what an API makes of it (`convert`).

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::error::SimulatorError;
use super::event::{Change, Event};
use super::ids;
use super::options::Remint;
use super::world::{CorpIdx, CustomerIdx, PersonIdx, World};
use crate::domain::time::{DAY_MS, Timestamp};

/// How long a pending id can be resolved (document 97357).
pub(super) const PENDING_ID_LIFE_MS: i64 = 90 * DAY_MS;

/// An instant, ordered within its millisecond too: a manual clock may stand still between two events.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) at: Timestamp,
    pub(super) sequence: u64,
}

/// A person as one corp's customer.
#[derive(Debug)]
pub(super) struct Customer {
    pub(super) corp: CorpIdx,
    pub(super) person: PersonIdx,
    pub(super) external_userid: String,
    /// When the person became a customer; `None` while no member has confirmed.
    pub(super) since: Option<Moment>,
    /// Members by user id.
    pub(super) followers: BTreeMap<String, Follower>,
}

impl Customer {
    /// Whether a member ever confirmed. Deleting each other does not undo it: the relation still converts.
    pub(super) fn has_follower(&self) -> bool {
        self.followers.values().any(|follower| follower.is_confirmed)
    }
}

/// A member's side of a friendship.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Follower {
    pub(super) since: Timestamp,
    pub(super) is_confirmed: bool,
    pub(super) is_deleted_by_member: bool,
    pub(super) is_deleted_by_customer: bool,
}

/// A customer group of a corp.
#[derive(Debug)]
pub(super) struct Chat {
    pub(super) corp: CorpIdx,
    pub(super) external_userids: BTreeSet<String>,
}

/// A minted pending id of an app.
#[derive(Debug)]
pub(super) struct PendingId {
    pub(super) value: String,
    pub(super) minted: Moment,
    pub(super) expires_at: Timestamp,
}

/// A new friendship: the id the corp knows the customer by, and the event that tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Friendship {
    /// The customer as the corp knows them.
    pub external_userid: String,
    /// The event, not sent yet.
    pub event: Event,
}

/// How a friendship begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beginning {
    Confirmed,
    /// The customer added a member who has not confirmed.
    Half,
}

impl World {
    fn moment(&mut self, at: Timestamp) -> Moment {
        Moment { at, sequence: self.next_sequence() }
    }

    /// The record of `person` at `corp`, made if there is none. Being recorded is not being a customer yet.
    fn customer(&mut self, corp: CorpIdx, person: PersonIdx) -> CustomerIdx {
        if let Some(known) = self.customer_of.get(&(corp, person)) {
            return *known;
        }
        let stem = self.id_stem(self.upstream_of(corp));
        let external_userid = ids::external_userid(&mut self.rng, &stem);
        let index = self.customers.len();
        self.customer_by_id.insert(external_userid.clone(), index);
        self.customer_of.insert((corp, person), index);
        self.customers.push(Customer {
            corp,
            person,
            external_userid,
            since: None,
            followers: BTreeMap::new(),
        });
        index
    }

    pub(super) fn befriend(
        &mut self,
        corp: CorpIdx,
        person: PersonIdx,
        user_id: &str,
        state: Option<&str>,
        beginning: Beginning,
        now: Timestamp,
    ) -> Friendship {
        let moment = self.moment(now);
        let index = self.customer(corp, person);
        let welcome_code = ids::welcome_code(&mut self.rng);
        let customer = &mut self.customers[index];
        let is_confirmed = beginning == Beginning::Confirmed;
        let before = customer.followers.get(user_id);
        // A chat that already runs has no welcome message.
        let welcome_code = before.is_none().then_some(welcome_code);
        let was_confirmed = before.is_some_and(|follower| follower.is_confirmed);
        customer.followers.insert(
            user_id.to_owned(),
            Follower {
                since: now,
                is_confirmed: is_confirmed || was_confirmed,
                is_deleted_by_member: false,
                is_deleted_by_customer: false,
            },
        );
        if is_confirmed {
            customer.since.get_or_insert(moment);
        }
        let external_userid = customer.external_userid.clone();
        let (user_id, state) = (user_id.to_owned(), state.map(str::to_owned));
        let change = match beginning {
            Beginning::Confirmed => Change::AddExternalContact {
                user_id,
                external_userid: external_userid.clone(),
                state,
                welcome_code,
            },
            Beginning::Half => Change::AddHalfExternalContact {
                user_id,
                external_userid: external_userid.clone(),
                state,
                welcome_code,
            },
        };
        Friendship { external_userid, event: self.event(corp, &change, now) }
    }

    pub(super) fn unfriend(
        &mut self,
        corp: CorpIdx,
        person: PersonIdx,
        user_id: &str,
        by_member: bool,
        now: Timestamp,
    ) -> Result<Event, SimulatorError> {
        let index = self.customer_of.get(&(corp, person)).copied();
        let follower = index.and_then(|index| self.customers[index].followers.get_mut(user_id));
        let (Some(index), Some(follower)) = (index, follower) else {
            return Err(SimulatorError::NotFriends {
                corp_id: self.corps[corp].id.clone(),
                user_id: user_id.to_owned(),
                person: self.people[person].person.unionid.clone(),
            });
        };
        let user_id = user_id.to_owned();
        let change = if by_member {
            follower.is_deleted_by_member = true;
            let external_userid = self.customers[index].external_userid.clone();
            Change::DelExternalContact { user_id, external_userid, source: None }
        } else {
            follower.is_deleted_by_customer = true;
            let external_userid = self.customers[index].external_userid.clone();
            Change::DelFollowUser { user_id, external_userid }
        };
        Ok(self.event(corp, &change, now))
    }

    pub(super) fn add_chat(&mut self, corp: CorpIdx) -> String {
        let chat_id = ids::chat_id(&mut self.rng);
        self.chats.insert(chat_id.clone(), Chat { corp, external_userids: BTreeSet::new() });
        chat_id
    }

    /// People join a group, which makes them customers of its corp.
    pub(super) fn join_chat(
        &mut self,
        chat_id: &str,
        people: &[PersonIdx],
        now: Timestamp,
    ) -> Result<Event, SimulatorError> {
        let Some(corp) = self.chats.get(chat_id).map(|chat| chat.corp) else {
            return Err(SimulatorError::UnknownChat(chat_id.to_owned()));
        };
        let mut member_ids = Vec::with_capacity(people.len());
        for person in people {
            let moment = self.moment(now);
            let index = self.customer(corp, *person);
            self.customers[index].since.get_or_insert(moment);
            member_ids.push(self.customers[index].external_userid.clone());
        }
        if let Some(chat) = self.chats.get_mut(chat_id) {
            chat.external_userids.extend(member_ids.iter().cloned());
        }
        let change = Change::ChatMembersAdded { chat_id: chat_id.to_owned(), member_ids };
        Ok(self.event(corp, &change, now))
    }

    /// Mints `person` for the app of `upstream`.
    pub(super) fn mint(&mut self, upstream: CorpIdx, person: PersonIdx, now: Timestamp) -> String {
        let minted = self.moment(now);
        let value = ids::pending_id(&mut self.rng);
        let expires_at = now.plus_ms(PENDING_ID_LIFE_MS);
        let known = self.pending_ids.entry((upstream, person)).or_default();
        known.retain(|pending| pending.expires_at > now);
        match (self.options.remint, known.last_mut()) {
            (Remint::SameId, Some(live)) => {
                live.expires_at = expires_at;
                live.value.clone()
            }
            (Remint::SameIdNotRenewed, Some(live)) => live.value.clone(),
            (Remint::NewId, _) | (_, None) => {
                known.push(PendingId { value: value.clone(), minted, expires_at });
                value
            }
        }
    }

    /// The pending id that a customer resolves to, if any: the newest that is alive and was minted in time.
    pub(super) fn resolve(&self, customer: &Customer, now: Timestamp) -> Option<&str> {
        let since = customer.since?;
        let options = &self.options;
        let is_in_time = |minted: Moment| {
            options.late_mint_resolves
                || minted.sequence < since.sequence
                || (options.conversion_window_ms > 0
                    && minted.at.millis_since(since.at) <= options.conversion_window_ms)
        };
        self.pending_ids
            .get(&(self.upstream_of(customer.corp), customer.person))?
            .iter()
            .rev()
            .find(|pending| pending.expires_at > now && is_in_time(pending.minted))
            .map(|pending| pending.value.as_str())
    }
}
