//! A customer's record as versions before 0.3.0 stored it.

use serde::Deserialize;

use super::follower::Relation;
use crate::domain::ids::{PendingId, Unionid, UserId};
use crate::domain::link::Source;
use crate::domain::time::Timestamp;

/// The record. The order of the fields is the stored format.
#[derive(Debug, Deserialize)]
pub struct ContactVersion1 {
    pub(super) followers: Vec<FollowerVersion1>,
    pub(super) source: Source,
    pub(super) first_seen_at: Timestamp,
    pub(super) pending_id: Option<PendingId>,
    pub(super) earlier_pending_ids: Vec<PendingId>,
    pub(super) lookup_retry: Option<LookupRetry>,
    pub(super) welcome: Option<WelcomeVersion1>,
    pub(super) link: Option<LinkVersion1>,
}

#[derive(Debug, Deserialize)]
pub(super) struct FollowerVersion1 {
    pub(super) user_id: UserId,
    pub(super) relation: Relation,
}

#[derive(Debug, Deserialize)]
pub(super) struct WelcomeVersion1 {
    pub(super) at: Timestamp,
    pub(super) code: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct LookupRetry {
    pub(super) asked: u32,
    pub(super) due_at: Option<Timestamp>,
}

#[derive(Debug, Deserialize)]
pub(super) struct LinkVersion1 {
    pub(super) link_id: String,
    pub(super) unionid: Unionid,
    pub(super) pending_id: Option<PendingId>,
    pub(super) source: Source,
    pub(super) linked_at: Timestamp,
    pub(super) evidence_at: Timestamp,
}
