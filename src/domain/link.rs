//! A link (a fan and a contact known to be one person), how it leaves the program, and the feed of changes.

use serde::{Deserialize, Serialize};
use strum::{EnumCount, IntoStaticStr, VariantArray};
use utoipa::ToSchema;

use super::ids::{AppName, ChatId, ContactKey, CorpId, ExternalUserid, PendingId, Unionid, UserId};
use super::time::Timestamp;

/// How a link was found.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
    IntoStaticStr,
    VariantArray,
    EnumCount,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Source {
    /// The customer was added at a dealer, and WeCom sent a callback.
    Callback,
    /// The customer joined a dealer's group chat.
    Chat,
    /// The person was a dealer's customer before the fan was registered.
    Existing,
    /// The brand imported the fan with its pending id.
    Import,
    /// A periodic comparison with WeCom's customer lists.
    Reconcile,
}

/// A link as it is kept, inside its contact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Stable id: that of the feed entry which reported the new link.
    pub link_id: String,
    /// The fan.
    pub unionid: Unionid,
    /// The pending id that both sides have; `None` for a link found as [`Source::Existing`].
    pub pending_id: Option<PendingId>,
    /// How it was found.
    pub source: Source,
    /// When it was found.
    pub linked_at: Timestamp,
    /// When WeCom gave the evidence; if two fans claim one contact, the freshest evidence wins.
    pub evidence_at: Timestamp,
    /// The customer group through which the customer became known.
    pub chat_id: Option<ChatId>,
}

/// The claim that a contact is a certain fan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The contact.
    pub contact: ContactKey,
    /// The fan.
    pub unionid: Unionid,
    /// The pending id that both have, if the claim rests on one.
    pub pending_id: Option<PendingId>,
    /// How the link was found; `None` if in the same way as the contact.
    pub source: Option<Source>,
    /// When WeCom gave the evidence.
    pub evidence_at: Timestamp,
}

/// The kind of change that a feed entry reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum ChangeType {
    /// A new link.
    #[serde(rename = "link.created")]
    Created,
    /// Another member now follows the linked customer.
    #[serde(rename = "link.follower_added")]
    FollowerAdded,
    /// A member no longer follows the linked customer.
    #[serde(rename = "link.follower_removed")]
    FollowerRemoved,
    /// Anything else about a link: a follower's state, another fan.
    #[serde(rename = "link.changed")]
    Changed,
    /// The person's data was erased.
    #[serde(rename = "link.erased")]
    Erased,
}

/// A member who follows the customer, as reported to the brand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FollowerData {
    /// The dealer's member.
    #[schema(value_type = String, example = "zhangsan")]
    pub user_id: UserId,
    /// The `state` of the contact-me code or link through which the customer was added.
    #[schema(example = "spring")]
    pub state: Option<String>,
    /// When the member was added, to the second.
    #[schema(value_type = String, format = DateTime)]
    pub added_at: Timestamp,
}

/// A link as reported to the brand: the `data` of a feed entry and a row of a lookup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LinkData {
    /// Stable id of the link.
    #[schema(example = "lnk_0123456789abcdef01234567")]
    pub link_id: String,
    /// The app.
    #[schema(value_type = String, example = "brand")]
    pub app: AppName,
    /// The fan.
    #[schema(value_type = String, example = "oINVENTED-unionid-0001")]
    pub unionid: Unionid,
    /// The dealer's customer.
    #[schema(value_type = String, example = "wmINVENTED-customer-0001")]
    pub external_userid: ExternalUserid,
    /// The dealer.
    #[schema(value_type = String, example = "wpINVENTED-dealer-01")]
    pub corp_id: CorpId,
    /// The dealer's name, as WeCom listed it last; `null` if it is not known, and for the brand's own
    /// customers.
    #[schema(example = "上海一店")]
    pub corp_name: Option<String>,
    /// The pending id that both have.
    #[schema(value_type = Option<String>)]
    pub pending_id: Option<PendingId>,
    /// How it was found.
    pub source: Source,
    /// The customer group through which the customer became known; absent if it was not through one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "wrINVENTED-group-0001")]
    pub chat_id: Option<ChatId>,
    /// The members who follow the customer now, earliest first.
    pub followers: Vec<FollowerData>,
    /// Usable once, and only while it is valid (20 s after the add).
    pub welcome_code: Option<String>,
    /// When it was found.
    #[schema(value_type = String, format = DateTime)]
    pub linked_at: Timestamp,
}

/// The `data` of a feed entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum EntryData {
    /// The link after the change.
    Link(LinkData),
    /// What is left after the person's data was erased.
    Erased(ErasedLink),
}

/// All that is left of a link after the person's data was erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ErasedLink {
    /// Stable id of the link.
    #[schema(example = "lnk_0123456789abcdef01234567")]
    pub link_id: String,
}

impl EntryData {
    /// The link, unless the person's data was erased.
    #[must_use]
    pub const fn link(&self) -> Option<&LinkData> {
        match self {
            Self::Link(link) => Some(link),
            Self::Erased(_) => None,
        }
    }

    /// Stable id of the link.
    #[must_use]
    pub fn link_id(&self) -> &str {
        match self {
            Self::Link(link) => &link.link_id,
            Self::Erased(erased) => &erased.link_id,
        }
    }
}

/// One entry of the feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FeedEntry {
    /// Sequence number: strictly increasing, without gaps.
    #[schema(example = 42)]
    pub seq: u64,
    /// Stable across redeliveries, never used twice.
    #[schema(example = "lnk_0123456789abcdef01234567")]
    pub id: String,
    /// The kind of change.
    #[serde(rename = "type")]
    pub change: ChangeType,
    /// When it was written.
    #[schema(value_type = String, format = DateTime)]
    pub occurred_at: Timestamp,
    /// The app.
    #[schema(value_type = String, example = "brand")]
    pub app: AppName,
    /// The link after the change.
    pub data: EntryData,
}
