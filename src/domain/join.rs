//! Where a fan and a contact become a link.
//!
//! Both sides arrive at a *meeting*, which is all that is known under one `(app, pending_id)`: at most one
//! fan, and the contacts of any number of dealers. Whoever comes second finds the other one there. A step is
//! pure; the store loads the meeting, calls [`fan_arrives`] or [`contact_arrives`], and writes the outcome in
//! the same transaction. Claims that come out are settled by [`Contact::accept`](super::contact::Contact::accept).
//!
//! A pending id that has expired still joins: expiry says when WeCom stops *exchanging* an id, not that
//! two equal ids ever meant two people.

use std::collections::BTreeSet;

use super::ids::{ContactKey, PendingId, Unionid};
use super::link::Claim;
use super::time::Timestamp;

/// The fan known under a pending id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FanAtMeeting {
    /// When the pending id was minted for this fan. First, so that the derived order is by freshness.
    pub minted_at: Timestamp,
    /// The fan.
    pub unionid: Unionid,
}

/// All that is known under one `(app, pending_id)`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meeting {
    /// The fan, once minted.
    pub fan: Option<FanAtMeeting>,
    /// The contacts WeCom gave this pending id for.
    pub contacts: BTreeSet<ContactKey>,
}

/// A fan was minted with this pending id. Returns the claims that follow, one for each contact waiting here.
pub fn fan_arrives(meeting: &mut Meeting, pending_id: &PendingId, fan: FanAtMeeting) -> Vec<Claim> {
    if meeting.fan.as_ref().is_some_and(|known| *known >= fan) {
        return Vec::new();
    }
    let claims = meeting.contacts.iter().map(|contact| claim(&fan, pending_id, contact)).collect();
    meeting.fan = Some(fan);
    claims
}

/// WeCom gave this pending id for a contact. Returns the claim that follows if the fan is known.
pub fn contact_arrives(meeting: &mut Meeting, pending_id: &PendingId, contact: &ContactKey) -> Option<Claim> {
    meeting.contacts.insert(contact.clone());
    meeting.fan.as_ref().map(|fan| claim(fan, pending_id, contact))
}

fn claim(fan: &FanAtMeeting, pending_id: &PendingId, contact: &ContactKey) -> Claim {
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
