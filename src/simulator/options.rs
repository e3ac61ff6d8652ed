//! The options of the simulated platform, with defaults that follow the documentation.
//!
//! Where the documentation is silent (which token converts, what an unknown id answers, whether a second
//! mint renews) the option is an enum, so that a client can be tested against each interpretation.
//!
//! Those of agency-developed apps have a file of their own below this one.
//!
//! Deliberately absent: any file or environment parsing; the caller fills in the struct.

mod agency;
mod permission;

use std::net::{Ipv4Addr, SocketAddr};

pub use agency::{AgencyOptions, AppUrlCheck, EventUrl, ResetEndsOld, ShareChange, SharedFrom, TicketRule};
pub use permission::Permission;

/// The behaviour of a simulator.
#[derive(Debug, Clone)]
pub struct Options {
    /// Address of the API and the control routes. Port 0 picks a free one.
    pub listen: SocketAddr,
    /// Seed of every generated id, token and nonce. Corps, people and customers that are added in the same
    /// order have the same ids in every run.
    pub seed: u64,
    /// Lifetime of an access token.
    pub token_ttl_secs: i64,
    /// Quota of each of the two unionid conversions, per upstream corp.
    pub quota: ConversionQuota,
    /// Base limit: calls a minute per corp and API; beyond it 45009.
    pub base_per_minute: u64,
    /// Base limit: calls an hour per corp and API; beyond it 45009.
    pub base_per_hour: u64,
    /// The token that converts a dealer's `external_userid`.
    pub token_rule: TokenRule,
    /// The answer for an `external_userid` that the token's corp does not know.
    pub unknown_id: UnknownId,
    /// The answer for a customer without a `pending_id` that resolves.
    pub unminted: Unminted,
    /// Whether a `pending_id` resolves that was minted after the person became the customer. The
    /// documentation says no.
    pub late_mint_resolves: bool,
    /// A `pending_id` resolves if it was minted at most this long after the person became the customer.
    pub conversion_window_ms: i64,
    /// The result of minting a person again.
    pub remint: Remint,
    /// The result of converting, without a chat id, a customer none of whose members is in the app's visible
    /// range, or, with one, a customer in a group whose owner is not.
    pub invisible: Invisible,
    /// The `errcode` of a conversion with a chat id that does not exist.
    pub unknown_chat: i64,
    /// The form of the events of customer groups.
    pub item_form: ItemForm,
    /// Maximum number of ids that the event of a customer group lists. Its count includes those left out.
    pub chat_items_max: Option<usize>,
    /// How far `groupchat/get` lags behind: it answers the member list of that long ago.
    pub chat_lag_ms: i64,
    /// More visible members than this make `groupchat/list` without an owner filter answer 81017.
    pub chat_range_members_max: usize,
    /// The result of `batch/get_by_user` for a user id that does not exist or is not in the visible range.
    pub unlisted_member: Invisible,
    /// How `batch/get_by_user` divides its rows into pages.
    pub page_fill: PageFill,
    /// Whether the lists of a member's customers contain customers that deleted the member. According to the
    /// documentation the relation still exists.
    pub lists_deleted_by_customer: bool,
    /// Whether `contact_list` may be called.
    pub contact_list: Permission,
    /// Number of rows at the start of `contact_list` about people that are not customers. Every second one is
    /// in a group that is not a customer group.
    pub contact_list_strangers: usize,
    /// Rows of a page of `contact_list` at most, and if the call names no limit. The documentation says
    /// 1,000.
    pub contact_list_rows_max: usize,
    /// Whether the `get_chain_*` calls may be made.
    pub chain_calls: Permission,
    /// The `errcode` of a call with a valid token of a dealer that the app is no longer shared with. The
    /// documentation is silent; 40014 and 48004 are likely, too.
    pub withdrawn_token: i64,
    /// The number of coming answers of `list_app_share_info` that are empty and complete by mistake. Each of
    /// them lowers it by one.
    pub empty_dealer_lists: u32,
    /// Calls of one corp to one API at the same time; beyond it 45033. Calls overlap only if they take time:
    /// see `latency_ms`.
    pub concurrency_max: Option<u32>,
    /// Delay of every API answer.
    pub latency_ms: u64,
    /// Calls that the call log keeps; 0 turns it off.
    pub call_log_calls_max: usize,
    /// What `getcallbackip` answers.
    pub callback_ips: Vec<String>,
    /// How callbacks are sent.
    pub sender: SenderOptions,
    /// Agency-developed apps.
    pub agency: AgencyOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            seed: 0,
            token_ttl_secs: 7_200,
            quota: ConversionQuota::default(),
            base_per_minute: 10_000,
            base_per_hour: 150_000,
            token_rule: TokenRule::default(),
            unknown_id: UnknownId::default(),
            unminted: Unminted::default(),
            late_mint_resolves: false,
            conversion_window_ms: 0,
            remint: Remint::default(),
            invisible: Invisible::default(),
            unknown_chat: 40_050,
            item_form: ItemForm::default(),
            chat_items_max: None,
            chat_lag_ms: 0,
            chat_range_members_max: 1_000,
            unlisted_member: Invisible::default(),
            page_fill: PageFill::default(),
            lists_deleted_by_customer: true,
            contact_list: Permission::default(),
            contact_list_strangers: 2,
            contact_list_rows_max: 1_000,
            chain_calls: Permission::default(),
            withdrawn_token: 670_001,
            empty_dealer_lists: 0,
            concurrency_max: None,
            latency_ms: 0,
            call_log_calls_max: 100_000,
            callback_ips: vec!["127.0.0.1".to_owned()],
            sender: SenderOptions::default(),
            agency: AgencyOptions::default(),
        }
    }
}

/// Call limits over sliding windows: any hour, any 24 hours, any 30 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConversionQuota {
    /// In any 60 minutes.
    pub per_hour: u64,
    /// In any 24 hours.
    pub per_day: u64,
    /// In any 30 days.
    pub per_month: u64,
}

impl Default for ConversionQuota {
    fn default() -> Self {
        Self { per_hour: 100_000, per_day: 480_000, per_month: 7_500_000 }
    }
}

impl ConversionQuota {
    /// The limits in the order of the windows of `CallWindows::conversion`.
    pub(crate) const fn limits(&self) -> [u64; 3] {
        [self.per_hour, self.per_day, self.per_month]
    }
}

/// The token that converts a dealer's `external_userid`. The upstream corp's own customers always need its
/// own token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TokenRule {
    /// The dealer's; with the upstream token the answer is 301002.
    #[default]
    Downstream,
    /// The upstream corp's; with a dealer's token the answer is 301002.
    Upstream,
    /// Either of the two.
    Either,
}

/// The answer for an `external_userid` that the token's corp does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownId {
    /// No row.
    #[default]
    OmitRow,
    /// A row with an empty `pending_id`.
    EmptyPendingId,
    /// The whole batch answers 40096.
    FailBatch40096,
}

/// The answer for a customer without a `pending_id` that resolves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unminted {
    /// No row.
    #[default]
    OmitRow,
    /// A row with an empty `pending_id`.
    EmptyPendingId,
}

/// The result of minting a person whose earlier `pending_id` is still valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Remint {
    /// The same id, valid for another 90 days.
    #[default]
    SameId,
    /// The same id, without extension.
    SameIdNotRenewed,
    /// A new id. The earlier one resolves until it expires if only that one was minted in time.
    NewId,
}

/// The result of asking about a member or customer outside of the visible range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Invisible {
    /// No row.
    #[default]
    OmitRow,
    /// The whole call answers this `errcode`.
    FailBatch(i64),
}

/// The form of the events of customer groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ItemForm {
    /// As documented: ids and versions without CDATA, both scenes always there.
    #[default]
    Plain,
    /// As seen in production: ids and versions in CDATA, and only the scene that belongs to the change.
    Cdata,
}

/// How `batch/get_by_user` divides its rows into pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PageFill {
    /// Every page but the last is full.
    #[default]
    Full,
    /// A page has the rows of one member only: it may be short, or empty, with others to follow.
    PerMember,
}

/// How callbacks are sent.
#[derive(Debug, Clone, Copy)]
pub struct SenderOptions {
    /// Time-out of one attempt, body included.
    pub timeout_ms: u64,
    /// Attempts after the first one.
    pub retries: u32,
    /// Wait before each retry.
    pub retry_interval_ms: u64,
    /// Whether an answer other than 200 is retried too, not only a missing one. The documents disagree.
    pub retry_non_200: bool,
    /// Whether a retry is sealed again, with a new nonce, timestamp, ciphertext and signature.
    pub reencrypt_retries: bool,
    /// The receive id of a dealer's event.
    pub receive_id: ReceiveId,
    /// Share of the events that get lost: they are not sent at all.
    pub lost_percent: u8,
}

impl Default for SenderOptions {
    fn default() -> Self {
        Self {
            timeout_ms: 5_000,
            retries: 3,
            retry_interval_ms: 1_000,
            retry_non_200: true,
            reencrypt_retries: true,
            receive_id: ReceiveId::default(),
            lost_percent: 0,
        }
    }
}

/// The receive id of a dealer's event: the id at the end of the plaintext.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReceiveId {
    /// The upstream corp's id, to which the evidence points.
    #[default]
    Upstream,
    /// The dealer's id.
    Dealer,
}
