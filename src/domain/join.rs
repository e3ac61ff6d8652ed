//! The join: decides when a fan and a contact become a link.
//!
//! A symmetric hash join of two streams, keyed by `(app, pending_id)`. The [`JoinState`] of a key holds at
//! most one fan and the contacts of any number of dealers; the side that arrives second finds the other one
//! there. Each step is a pure function: the store loads the state, calls [`fan_arrives`] or
//! [`contact_arrives`], and writes the result in the same transaction. Which of several claims wins is
//! decided by [`Contact::accept`](super::contact::Contact::accept).
//!
//! An expired pending id still joins: after its expiry WeCom no longer exchanges it, but it still identifies
//! the same person.

use std::collections::BTreeSet;

use super::ids::{ContactKey, PendingId, Unionid};
use super::link::Claim;
use super::time::Timestamp;

/// The fan's side of the join: the fan that was minted with a pending id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FanSide {
    /// When the pending id was minted for this fan. The first field, so that the derived order is by age.
    pub minted_at: Timestamp,
    /// The fan.
    pub unionid: Unionid,
}

/// All that is known under one `(app, pending_id)`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JoinState {
    /// The fan, once minted.
    pub fan: Option<FanSide>,
    /// The contacts for which WeCom returned this pending id.
    pub contacts: BTreeSet<ContactKey>,
}

/// Adds a fan that was minted with this pending id. Returns a claim for each contact that has it.
pub fn fan_arrives(state: &mut JoinState, pending_id: &PendingId, fan: FanSide) -> Vec<Claim> {
    if state.fan.as_ref().is_some_and(|known| *known >= fan) {
        return Vec::new();
    }
    let claims = state.contacts.iter().map(|contact| claim(&fan, pending_id, contact)).collect();
    state.fan = Some(fan);
    claims
}

/// Adds a contact for which WeCom returned this pending id. Returns the claim, if the fan is known.
pub fn contact_arrives(state: &mut JoinState, pending_id: &PendingId, contact: &ContactKey) -> Option<Claim> {
    state.contacts.insert(contact.clone());
    state.fan.as_ref().map(|fan| claim(fan, pending_id, contact))
}

fn claim(fan: &FanSide, pending_id: &PendingId, contact: &ContactKey) -> Claim {
    Claim {
        contact: contact.clone(),
        unionid: fan.unionid.clone(),
        pending_id: Some(pending_id.clone()),
        source: None,
        evidence_at: fan.minted_at,
    }
}

#[cfg(test)]
mod tests;
