//! A dealer: a downstream corp that shares the brand's app.

use serde::{Deserialize, Serialize};

use super::ids::CorpId;
use super::time::Timestamp;

/// What is kept of a dealer, from `corpgroup/corp/list_app_share_info` (document 95813).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dealer {
    /// The dealer's corp id as the brand's app sees it.
    pub corp_id: CorpId,
    /// The id of the shared app at the dealer; differs from the brand's.
    pub agent_id: i64,
    /// The dealer's name.
    pub name: String,
    /// When WeCom last listed this dealer.
    pub listed_at: Timestamp,
    /// Whose token is known to convert this dealer's customers.
    pub token: Option<TokenOwner>,
}

/// Whose access token a conversion is made with. WeCom's documents leave open which one converts a dealer's
/// customers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenOwner {
    /// The dealer's, obtained through the brand's app.
    Downstream,
    /// The brand's own.
    Upstream,
}

impl TokenOwner {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Downstream => Self::Upstream,
            Self::Upstream => Self::Downstream,
        }
    }
}
