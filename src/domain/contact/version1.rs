//! A customer's record as versions before 0.3.0 stored it.

use serde::Deserialize;

use super::{Contact, Follower, Relation, Welcome};
use crate::domain::ids::{PendingId, Unionid, UserId};
use crate::domain::link::{Link, Source};
use crate::domain::lookup::{Haste, Lookup};
use crate::domain::time::Timestamp;

/// The record. The order of the fields is the stored format.
#[derive(Debug, Deserialize)]
pub struct ContactVersion1 {
    followers: Vec<FollowerVersion1>,
    source: Source,
    first_seen_at: Timestamp,
    pending_id: Option<PendingId>,
    earlier_pending_ids: Vec<PendingId>,
    lookup_retry: Option<LookupRetry>,
    welcome: Option<Welcome>,
    link: Option<LinkVersion1>,
}

#[derive(Debug, Deserialize)]
struct FollowerVersion1 {
    user_id: UserId,
    relation: Relation,
}

#[derive(Debug, Deserialize)]
struct LookupRetry {
    asked: u32,
    due_at: Option<Timestamp>,
}

#[derive(Debug, Deserialize)]
struct LinkVersion1 {
    link_id: String,
    unionid: Unionid,
    pending_id: Option<PendingId>,
    source: Source,
    linked_at: Timestamp,
    evidence_at: Timestamp,
}

impl From<ContactVersion1> for Contact {
    fn from(old: ContactVersion1) -> Self {
        let follower = |FollowerVersion1 { user_id, relation }| Follower {
            user_id,
            relation: Some(relation),
            half_added_at: None,
            listed: None,
            missed_at: None,
        };
        let lookup = |LookupRetry { asked, due_at }| Lookup {
            asked,
            due_at,
            refused: None,
            haste: Haste::Background,
            is_of_run: false,
        };
        let link = |old: LinkVersion1| Link {
            link_id: old.link_id,
            unionid: old.unionid,
            pending_id: old.pending_id,
            source: old.source,
            linked_at: old.linked_at,
            evidence_at: old.evidence_at,
            chat_id: None,
        };
        Self {
            followers: old.followers.into_iter().map(follower).collect(),
            source: old.source,
            first_seen_at: old.first_seen_at,
            found_in: None,
            chats: Vec::new(),
            pending_id: old.pending_id,
            earlier_pending_ids: old.earlier_pending_ids,
            lookup: old.lookup_retry.map(lookup),
            welcome: old.welcome,
            link: old.link.map(link),
        }
    }
}
