//! The records that the simulated platform keeps: corps, people, customers, groups, pending ids and tokens.
//!
//! Deliberately absent: behaviour. `world` holds the records, `relations` and the APIs change them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::domain::time::Timestamp;

/// A position in `World::corps`.
pub(super) type CorpIdx = usize;
/// A position in `World::people`.
pub(super) type PersonIdx = usize;
/// A position in `World::customers`.
pub(super) type CustomerIdx = usize;

/// The callback configuration of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallbackSpec {
    /// The callback URL.
    pub url: String,
    /// The callback token.
    pub token: String,
    /// The `EncodingAESKey`, 43 letters and digits.
    pub aes_key: String,
}

/// A brand's app. Each upstream corp has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppSpec {
    /// The upstream corp.
    pub corp_id: String,
    /// The app in that corp.
    pub agent_id: u64,
    /// The app's secret.
    pub secret: String,
    /// The callback configuration.
    pub callback: Option<CallbackSpec>,
}

/// A downstream corp with the brand's app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dealer {
    /// The dealer's id as the upstream corp sees it.
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

/// An upstream corp or a dealer.
#[derive(Debug)]
pub(super) struct Corp {
    pub(super) id: String,
    pub(super) agent_id: u64,
    pub(super) name: String,
    /// A dealer's upstream corp; an upstream corp's own index.
    pub(super) upstream: CorpIdx,
    /// `None` for a dealer.
    pub(super) app: Option<AppSpec>,
    /// Whether the app is in use at this corp; always true for an upstream corp.
    pub(super) is_shared: bool,
    /// The common part of all ids that the upstream corp sees.
    pub(super) id_stem: String,
    /// The `errcode` of every conversion that concerns this corp.
    pub(super) error: Option<i64>,
    /// The newest access token.
    pub(super) token: Option<String>,
}

impl Corp {
    pub(super) const fn is_upstream(&self) -> bool {
        self.app.is_some()
    }
}

#[derive(Debug)]
pub(super) struct PersonState {
    pub(super) person: Person,
    /// The `errcode` of minting this person.
    pub(super) reject_code: Option<i64>,
}

/// An access token.
#[derive(Debug)]
pub(super) struct IssuedToken {
    pub(super) corp: CorpIdx,
    pub(super) expires_at: Timestamp,
    pub(super) is_revoked: bool,
}

/// An instant with a sequence number, which orders what happens within one millisecond: a manual clock may
/// stand still between two events.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sequenced {
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
    pub(super) since: Option<Sequenced>,
    /// The members who added the customer, by user id.
    pub(super) followers: BTreeMap<String, Follower>,
}

impl Customer {
    /// Whether a member ever confirmed. Deleting each other does not undo it: the customer still converts.
    pub(super) fn has_follower(&self) -> bool {
        self.followers.values().any(|follower| follower.is_confirmed)
    }
}

/// A member's relation to a customer.
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

/// A `pending_id` minted for an app.
#[derive(Debug)]
pub(super) struct MintedId {
    pub(super) value: String,
    pub(super) minted: Sequenced,
    pub(super) expires_at: Timestamp,
}
