//! Dealers, the downstream corps with which the brand's app is shared, and which of them have left according
//! to a new reading of WeCom's list.
//!
//! Deliberately absent: the calls, and the events and errors of a dealer (see
//! [`dealer_activity`](super::dealer_activity)).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};
use utoipa::ToSchema;

use super::ids::CorpId;
use super::time::Timestamp;

/// The record of a dealer: the row of `corpgroup/corp/list_app_share_info` (document 95813), and facts from
/// other calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dealer {
    /// The dealer's corp id as the brand's app sees it (`wp…`).
    pub corp_id: CorpId,
    /// The id of the shared app at the dealer, which is not its id at the brand.
    pub agent_id: i64,
    /// The dealer's name.
    pub name: String,
    /// When WeCom last listed the dealer.
    pub listed_at: Timestamp,
    /// The corp whose token converts this dealer's customers; `None` until that has been detected.
    pub token: Option<TokenOwner>,
    /// Since when WeCom no longer lists the dealer; `None` if it does. No calls are made for a dealer that
    /// has left; its links stay.
    pub left_at: Option<Timestamp>,
    /// How far WeCom has verified the dealer; `None` if the app may not read that.
    pub qualification: Option<Qualification>,
}

/// How far WeCom has verified a corp: `qualification_status` (document 95820).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Qualification {
    /// 1, 未验证: the conversions do not work for its customers (document 97357).
    Unverified,
    /// 2, 已验证.
    Verified,
    /// 3, 已认证.
    Certified,
}

/// The state of a dealer, derived from its record.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema, IntoStaticStr, VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum DealerState {
    /// WeCom lists it: its customers can be converted.
    Shared,
    /// WeCom no longer lists it: no calls are made for it.
    Left,
    /// WeCom lists it but has not verified it: its customers cannot be converted.
    Unverified,
}

impl Dealer {
    /// The record of a dealer that is listed now, about which nothing else is known.
    #[must_use]
    pub const fn listed(corp_id: CorpId, agent_id: i64, name: String, listed_at: Timestamp) -> Self {
        Self { corp_id, agent_id, name, listed_at, token: None, left_at: None, qualification: None }
    }

    /// Its state. A dealer that has left is [`Left`](DealerState::Left), verified or not.
    #[must_use]
    pub const fn state(&self) -> DealerState {
        match (self.left_at, self.qualification) {
            (Some(_), _) => DealerState::Left,
            (None, Some(Qualification::Unverified)) => DealerState::Unverified,
            (None, _) => DealerState::Shared,
        }
    }
}

/// The known dealers that are missing from a new reading of WeCom's list; the result of [`diff`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diff {
    /// The dealers that have left.
    pub left: Vec<CorpId>,
    /// The dealers that may have left: the list is to be read a second time.
    pub doubtful: Vec<CorpId>,
}

/// Compares the known dealers of an app with a new reading of WeCom's list. Only a complete list says that a
/// dealer has left. A list that lacks half of the dealers or more is probably a fault: of its missing dealers
/// only those in `doubted`, which were [`doubtful`](Diff::doubtful) after the previous reading, have left.
#[must_use]
pub fn diff(known: &[Dealer], listed: &[Dealer], is_complete: bool, doubted: &[CorpId]) -> Diff {
    if !is_complete {
        return Diff::default();
    }
    let listed: BTreeSet<_> = listed.iter().map(|dealer| &dealer.corp_id).collect();
    let shared = known.iter().filter(|dealer| dealer.left_at.is_none()).map(|dealer| &dealer.corp_id);
    let shared: Vec<_> = shared.collect();
    let missing: Vec<_> = shared.iter().copied().filter(|id| !listed.contains(*id)).cloned().collect();
    if missing.len() * 2 < shared.len() {
        return Diff { left: missing, doubtful: Vec::new() };
    }
    let (left, doubtful) = missing.into_iter().partition(|corp_id| doubted.contains(corp_id));
    Diff { left, doubtful }
}

/// A corp as texts for people name it: `上海一店 (wp…)`, or the id alone without a name.
#[must_use]
pub fn named(name: Option<&str>, corp_id: &str) -> String {
    name.map_or_else(|| corp_id.to_owned(), |name| format!("{name} ({corp_id})"))
}

/// The owner of the access token that converts a dealer's customers. Document 97357 leaves open which one
/// does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenOwner {
    /// The dealer; its token is obtained with the brand's (document 95816).
    Downstream,
    /// The brand (document 91039).
    Upstream,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corps(ids: &[&str]) -> Vec<CorpId> {
        ids.iter().map(|id| CorpId::new(id).unwrap()).collect()
    }

    fn dealers(ids: &[&str]) -> Vec<Dealer> {
        let dealer = |corp_id| Dealer::listed(corp_id, 7, String::new(), Timestamp::EPOCH);
        corps(ids).into_iter().map(dealer).collect()
    }

    #[test]
    fn a_dealer_missing_from_a_complete_list_has_left() {
        let (known, listed) = (dealers(&["wpA", "wpB", "wpC"]), dealers(&["wpA", "wpC", "wpD"]));
        assert_eq!(diff(&known, &listed, true, &[]), Diff { left: corps(&["wpB"]), doubtful: corps(&[]) });
        assert_eq!(diff(&known, &listed, false, &[]), Diff::default());
        assert_eq!(diff(&[], &[], true, &[]), Diff::default());
    }

    #[test]
    fn a_list_that_lost_half_is_believed_for_the_dealers_that_are_missing_twice() {
        let (known, half) = (dealers(&["wpA", "wpB", "wpC", "wpD"]), dealers(&["wpA", "wpB"]));
        let first = diff(&known, &half, true, &[]);
        assert_eq!(first, Diff { left: corps(&[]), doubtful: corps(&["wpC", "wpD"]) });
        assert_eq!(diff(&known, &half, true, &first.doubtful).left, corps(&["wpC", "wpD"]));
        assert_eq!(diff(&known, &known, true, &first.doubtful), Diff::default(), "a fault of one reading");
        let second = diff(&known, &dealers(&["wpB", "wpC"]), true, &first.doubtful);
        assert_eq!(second, Diff { left: corps(&["wpD"]), doubtful: corps(&["wpA"]) });
        assert_eq!(diff(&known, &[], true, &[]).doubtful.len(), 4, "an empty list");
    }

    #[test]
    fn a_dealer_that_has_left_is_not_missed_again() {
        let mut known = dealers(&["wpA", "wpB"]);
        known[1].left_at = Some(Timestamp::EPOCH);
        assert_eq!(diff(&known, &dealers(&["wpA"]), true, &[]), Diff::default());
    }
}
