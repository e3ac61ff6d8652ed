//! The calls of WeCom that the workers need, as a trait. `calls` implements it for the HTTP client.

use async_trait::async_trait;

use super::error::CallError;
use crate::domain::chat::MemberVersion;
use crate::domain::dealer::{Dealer, Qualification};
use crate::domain::ids::{AppName, ChatId, CorpId, ExternalUserid, Openid, PendingId, Unionid, UserId};
use crate::domain::quota::Share;
use crate::domain::sighting::Sighting;

/// The access token that a call is made with.
///
/// It names one token, with the dealer's ids if it is a dealer's; which kind of token converts a dealer's
/// customers is a [`TokenOwner`](crate::domain::dealer::TokenOwner), persisted with the dealer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TokenOf {
    /// The token of the brand's app (document 91039).
    Upstream,
    /// The token of the shared app at a dealer (document 95816).
    Dealer {
        /// The dealer.
        corp_id: CorpId,
        /// The id of the shared app at the dealer.
        agent_id: i64,
    },
}

/// The dealers that WeCom listed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DealerList {
    /// The dealers.
    pub dealers: Vec<Dealer>,
    /// Whether WeCom reported that the list is complete: only then a missing dealer has left.
    pub is_complete: bool,
}

/// A page of a list of customers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CustomerPage {
    /// Its rows. A customer of several members, or in several groups, has several.
    pub rows: Vec<Sighting>,
    /// The next page; empty after the last one.
    pub next_cursor: String,
    /// Members whose customers WeCom does not list because they have no licence.
    pub unlicensed: Vec<UserId>,
}

/// The customers in a group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChatMembers {
    /// The customers, with the time when they joined.
    pub customers: Vec<Sighting>,
    /// The version of the member list.
    pub version: Option<MemberVersion>,
}

/// WeCom, as the workers see it.
///
/// A call fails with [`CallError`] if WeCom refuses it, there is no answer, or the quota is used up.
#[async_trait]
pub trait Platform: Send + Sync + 'static {
    /// The dealers that share the app, all of them or only `only` (document 95813), with at most 128
    /// characters of their names. Which token converts their customers is not known from the list.
    async fn dealers(&self, app: &AppName, only: Option<&CorpId>) -> Result<DealerList, CallError>;

    /// The addresses that WeCom sends callbacks from (document 92521), some of them with wildcards.
    async fn callback_ips(&self, app: &AppName) -> Result<Vec<String>, CallError>;

    /// The chains (上下游) that the app may read (document 95820).
    async fn chains(&self, app: &AppName) -> Result<Vec<String>, CallError>;

    /// How far a corp of a chain is verified (document 95820); `None` if the answer does not say, as for a
    /// corp that has not joined.
    async fn qualification(
        &self,
        app: &AppName,
        chain_id: &str,
        corp_id: &CorpId,
    ) -> Result<Option<Qualification>, CallError>;

    /// A pending id for a fan, valid for 90 days (document 97357). Costs one call of this API's quota, drawn
    /// from `share`.
    async fn unionid_to_pending_id(
        &self,
        app: &AppName,
        unionid: &Unionid,
        openid: &Openid,
        share: Share,
    ) -> Result<PendingId, CallError>;

    /// This fan as a customer: the id at each dealer that has added them (document 95818). Costs one call of
    /// this API's quota, drawn from `share`.
    async fn unionid_to_external_userid(
        &self,
        app: &AppName,
        unionid: &Unionid,
        openid: &Openid,
        share: Share,
    ) -> Result<Vec<(CorpId, ExternalUserid)>, CallError>;

    /// The pending ids of at most 100 customers of one corp (document 97357), in no particular order;
    /// customers without one are missing. `chat_id` is given for the members of that customer group.
    async fn external_userid_to_pending_id(
        &self,
        app: &AppName,
        token: &TokenOf,
        chat_id: Option<&ChatId>,
        ids: &[ExternalUserid],
    ) -> Result<Vec<(ExternalUserid, PendingId)>, CallError>;

    /// The members of a corp that may have customers and are in the app's visible range (document 92571), in
    /// the order of their ids.
    async fn members(&self, app: &AppName, token: &TokenOf) -> Result<Vec<UserId>, CallError>;

    /// One page of the customers of at most 100 members (document 92994); `cursor` is empty for the first.
    async fn customers_of(
        &self,
        app: &AppName,
        token: &TokenOf,
        members: &[UserId],
        cursor: &str,
    ) -> Result<CustomerPage, CallError>;

    /// One page of all customers of a corp, those in groups included (document 99434); `cursor` is empty for
    /// the first.
    async fn contacts(&self, app: &AppName, token: &TokenOf, cursor: &str)
    -> Result<CustomerPage, CallError>;

    /// One page of a corp's customer groups (document 92120), and the cursor of the next one, empty after the
    /// last; `cursor` is empty for the first.
    async fn chats(
        &self,
        app: &AppName,
        token: &TokenOf,
        cursor: &str,
    ) -> Result<(Vec<ChatId>, String), CallError>;

    /// The customers in a group (document 92122), without the corp's own members.
    async fn chat(&self, app: &AppName, token: &TokenOf, chat_id: &ChatId) -> Result<ChatMembers, CallError>;

    /// Forgets recent failures of one app, or of all, so that the next calls are really made: an operator may
    /// have removed the cause.
    fn forget_failures(&self, app: Option<&AppName>);

    /// Forgets that WeCom refused the permanent codes of one app, or of all. To be called only when an
    /// operator asks for it: after a few wrong secrets WeCom bans our address.
    fn forget_refused_codes(&self, app: Option<&AppName>);
}
