//! A dealer: a downstream corp that shares the brand's app.

use serde::{Deserialize, Serialize};

use super::ids::CorpId;
use super::time::Timestamp;

/// A dealer as `corpgroup/corp/list_app_share_info` lists it (document 95813), and what was learnt about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dealer {
    /// The dealer's corp id as the brand's app sees it.
    pub corp_id: CorpId,
    /// The id of the shared app at the dealer, which is not its id at the brand.
    pub agent_id: i64,
    /// The dealer's name.
    pub name: String,
    /// When WeCom last listed the dealer.
    pub listed_at: Timestamp,
    /// The token that is known to convert this dealer's customers.
    pub token: Option<TokenOwner>,
}

/// A corp for people: its name with the id behind it, `上海一店 (wp…)`; without a name the id alone.
#[must_use]
pub fn named(name: Option<&str>, corp_id: &str) -> String {
    name.map_or_else(|| corp_id.to_owned(), |name| format!("{name} ({corp_id})"))
}

/// The corp whose access token converts a dealer's customers. Document 97357 leaves open which one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenOwner {
    /// The dealer, whose token is obtained with the brand's (document 95816).
    Downstream,
    /// The brand (document 91039).
    Upstream,
}
