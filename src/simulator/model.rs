//! The records that the simulated platform keeps: corps, members, people, customers, groups, pending ids and
//! tokens.
//!
//! Deliberately absent: behaviour. `world` holds the records; `members`, `relations`, `groups` and the APIs
//! change them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::domain::time::Timestamp;

/// A position in `World::corps`.
pub(super) type CorpIdx = usize;
/// A position in `World::people`.
pub(super) type PersonIdx = usize;
/// A position in `World::customers`.
pub(super) type CustomerIdx = usize;
/// A position in `World::chats`.
pub(super) type ChatIdx = usize;

/// The `qualification_status` of a corp that is neither verified (验证) nor certified (认证).
pub(super) const UNVERIFIED: u8 = 1;
/// The `qualification_status` of a certified corp.
const CERTIFIED: u8 = 3;

/// The custom permission of an agency-developed app for customers and customer groups (document 99108).
pub(super) const CUSTOMERS: &str = "externalcontact:base:base";

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
    /// Whether it is a brand, which shares its app with dealers.
    pub(super) is_upstream: bool,
    /// A brand's self-built app.
    pub(super) app: Option<AppSpec>,
    /// The authorization of a brand with an agency-developed app, or of a dealer that installed one.
    pub(super) agency: Option<Agency>,
    /// Whether the app is in use at this corp; always true for an upstream corp.
    pub(super) is_shared: bool,
    /// The common part of all ids that the upstream corp sees.
    pub(super) id_stem: String,
    /// The `errcode` of every conversion that concerns this corp.
    pub(super) error: Option<i64>,
    /// The newest access token.
    pub(super) token: Option<String>,
    /// Its members by user id. One who left the corp is not here.
    pub(super) members: BTreeMap<String, Member>,
    /// Its customer groups, oldest first.
    pub(super) chats: Vec<ChatIdx>,
    /// 1 unverified, 2 verified (验证), 3 certified (认证).
    pub(super) qualification: u8,
}

impl Corp {
    /// A corp without members: with a self-built app an upstream corp, without one a dealer with which the
    /// upstream corp's app is shared.
    pub(super) fn new(
        id: String,
        agent_id: u64,
        name: String,
        upstream: CorpIdx,
        app: Option<AppSpec>,
        id_stem: String,
    ) -> Self {
        Self {
            id,
            agent_id,
            name,
            upstream,
            is_upstream: app.is_some(),
            app,
            agency: None,
            is_shared: true,
            id_stem,
            error: None,
            token: None,
            members: BTreeMap::new(),
            chats: Vec::new(),
            qualification: CERTIFIED,
        }
    }
}

/// A member of a corp.
#[derive(Debug)]
pub(super) struct Member {
    /// Inside the visible range of the app.
    pub(super) is_visible: bool,
    /// May have customers (客户联系).
    pub(super) has_customer_contact: bool,
    /// The customers that have this member among their followers, in whatever state.
    pub(super) customers: BTreeSet<CustomerIdx>,
}

impl Default for Member {
    fn default() -> Self {
        Self { is_visible: true, has_customer_contact: true, customers: BTreeSet::new() }
    }
}

impl Member {
    /// Whether the app sees this member's customers and groups.
    pub(super) const fn is_in_range(&self) -> bool {
        self.is_visible && self.has_customer_contact
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
    /// When the two became friends, the last time that they did.
    pub(super) since: Timestamp,
    /// When the two became friends for the first time.
    pub(super) first_since: Timestamp,
    /// The `state` of the contact-me way, if any.
    pub(super) state: Option<String>,
    pub(super) is_confirmed: bool,
    pub(super) is_deleted_by_member: bool,
    pub(super) is_deleted_by_customer: bool,
}

impl Follower {
    /// Whether the two are friends: confirmed, and neither has deleted the other.
    pub(super) const fn is_friend(&self) -> bool {
        self.is_confirmed && !self.is_deleted_by_member && !self.is_deleted_by_customer
    }
}

/// A customer group of a corp.
#[derive(Debug)]
pub(super) struct Chat {
    pub(super) id: String,
    pub(super) corp: CorpIdx,
    /// The user id of the owner (群主).
    pub(super) owner: String,
    pub(super) name: String,
    pub(super) notice: String,
    pub(super) created_at: Timestamp,
    pub(super) list: MemberList,
    /// Earlier member lists, oldest first, each with the instant at which it was replaced. Empty unless
    /// `groupchat/get` lags behind.
    pub(super) past: VecDeque<(Timestamp, MemberList)>,
    pub(super) is_dismissed: bool,
    /// The `errcode` of reading this group.
    pub(super) error: Option<i64>,
}

impl Chat {
    /// The member list as `groupchat/get` answers it: the one of `lag_ms` ago. After the clock was set back,
    /// the current one.
    pub(super) fn listed(&self, now: Timestamp, lag_ms: i64) -> &MemberList {
        let is_lagging = |replaced_at: Timestamp| (0..lag_ms).contains(&now.millis_since(replaced_at));
        let lagging = self.past.iter().find(|(replaced_at, _)| is_lagging(*replaced_at));
        lagging.map_or(&self.list, |(_, list)| list)
    }
}

/// The members of a group by id, with the version of that list.
#[derive(Debug, Clone)]
pub(super) struct MemberList {
    pub(super) members: Arc<BTreeMap<String, ChatMember>>,
    pub(super) version: String,
}

/// A member of the corp or a customer, in a group.
#[derive(Debug, Clone)]
pub(super) struct ChatMember {
    pub(super) kind: ChatMemberKind,
    pub(super) joined_at: Timestamp,
    /// The `join_scene` of `groupchat/get`.
    pub(super) join_scene: u8,
}

/// The side that a member of a group belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChatMemberKind {
    /// A member of the corp (type 1).
    Internal,
    /// A customer (type 2).
    Customer(CustomerIdx),
}

/// A `pending_id` minted for an app.
#[derive(Debug)]
pub(super) struct MintedId {
    pub(super) value: String,
    pub(super) minted: Sequenced,
    pub(super) expires_at: Timestamp,
}

/// A position in `World::templates`.
pub(super) type TemplateIdx = usize;

/// A template for agency-developed apps (代开发应用模版), and its provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateSpec {
    /// The provider's corp id.
    pub provider_corp_id: String,
    /// The template's id.
    pub suite_id: String,
    /// The template's secret.
    pub suite_secret: String,
    /// The template's callback configuration, which its apps have, too, unless they have one of their own.
    pub callback: CallbackSpec,
}

/// A template and what was issued for it.
#[derive(Debug)]
pub(super) struct Template {
    pub(super) spec: TemplateSpec,
    /// The common part of all ids that the provider sees.
    pub(super) id_stem: String,
    /// Every ticket, oldest first.
    pub(super) tickets: Vec<Ticket>,
    /// Every auth code, oldest first.
    pub(super) codes: Vec<AuthCode>,
    /// The newest suite token.
    pub(super) token: Option<String>,
}

#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) value: String,
    pub(super) expires_at: Timestamp,
}

#[derive(Debug)]
pub(super) struct AuthCode {
    pub(super) value: String,
    pub(super) corp: CorpIdx,
    pub(super) kind: CodeKind,
    pub(super) expires_at: Timestamp,
    /// Exchanged, or void because the authorization was cancelled.
    pub(super) is_spent: bool,
}

/// What an auth code was sent for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CodeKind {
    Create,
    Reset,
}

/// A suite access token.
#[derive(Debug)]
pub(super) struct SuiteToken {
    pub(super) template: TemplateIdx,
    pub(super) expires_at: Timestamp,
}

/// A corp's authorization of a template.
#[derive(Debug)]
pub(super) struct Agency {
    pub(super) template: TemplateIdx,
    pub(super) is_authorized: bool,
    /// The permanent code; `None` before the first exchange, and between a reset and its exchange.
    pub(super) code: Option<String>,
    /// Permanent codes that are no longer valid.
    pub(super) old_codes: Vec<String>,
    /// The corp's id as it knows it itself.
    pub(super) plain_corp_id: String,
    /// The callback configuration of the app, if it is not the template's.
    pub(super) own_callback: Option<CallbackSpec>,
    pub(super) permissions: Vec<String>,
}

impl Agency {
    pub(super) fn new(template: TemplateIdx, plain_corp_id: String) -> Self {
        Self {
            template,
            is_authorized: true,
            code: None,
            old_codes: Vec::new(),
            plain_corp_id,
            own_callback: None,
            permissions: vec![CUSTOMERS.to_owned()],
        }
    }

    /// Ends the permanent code, if there is one.
    pub(super) fn end_code(&mut self) {
        self.old_codes.extend(self.code.take());
    }
}
