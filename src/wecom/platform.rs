//! The calls of WeCom that the workers need, as a trait. `calls` implements it for the HTTP client.

use async_trait::async_trait;

use super::error::CallError;
use crate::domain::dealer::Dealer;
use crate::domain::ids::{AppName, ChatId, CorpId, ExternalUserid, Openid, PendingId, Unionid};
use crate::domain::quota::Share;

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

/// WeCom, as the workers see it.
///
/// A call fails with [`CallError`] if WeCom refuses it, there is no answer, or the quota is used up.
#[async_trait]
pub trait Platform: Send + Sync + 'static {
    /// The dealers that share the app, all of them or only `only` (document 95813), with at most 128
    /// characters of their names. Which token converts their customers is not known from the list.
    async fn dealers(&self, app: &AppName, only: Option<&CorpId>) -> Result<Vec<Dealer>, CallError>;

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

    /// Forgets recent failures of one app, or of all, so that the next calls are really made: an operator may
    /// have removed the cause.
    fn forget_failures(&self, app: Option<&AppName>);
}
