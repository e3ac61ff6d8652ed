//! Every knob of the simulated platform, with defaults that follow the documentation.
//!
//! Where the documentation is silent (which token converts, what an unknown id answers, whether a second
//! mint renews) the knob is an enum, so that a client can be tried against each reading.
//!
//! Deliberately absent: any file or environment parsing; the caller fills in the struct.

use std::net::{Ipv4Addr, SocketAddr};

/// How a [`Simulator`](super::Simulator) behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the API and the control routes listen. Port 0 picks a free one.
    pub listen: SocketAddr,
    /// Seed of every invented id, token and nonce.
    pub seed: u64,
    /// Life of an access token.
    pub token_ttl_secs: i64,
    /// Limits of the two unionid conversions, each with its own ledger, per upstream corp.
    pub quota: Quota,
    /// Calls a minute per corp and API; beyond it 45009.
    pub base_per_minute: u64,
    /// Calls an hour per corp and API; beyond it 45009.
    pub base_per_hour: u64,
    /// Whose token converts a dealer's `external_userid`.
    pub token_rule: TokenRule,
    /// What an `external_userid` answers that the token's corp does not know.
    pub unknown_id: UnknownId,
    /// What a customer answers who has no `pending_id` that resolves.
    pub unminted: Unminted,
    /// Whether a `pending_id` minted after the person became the customer resolves. The documentation says
    /// no.
    pub late_mint_resolves: bool,
    /// Still resolves when minted at most this long after the person became the customer.
    pub conversion_window_ms: i64,
    /// What minting a person again returns.
    pub remint: Remint,
    /// Delay of every API answer.
    pub latency_ms: u64,
    /// How many calls the call log keeps; 0 turns it off.
    pub call_log_calls_max: usize,
    /// The sending side.
    pub sender: SenderOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            seed: 0,
            token_ttl_secs: 7_200,
            quota: Quota::default(),
            base_per_minute: 10_000,
            base_per_hour: 150_000,
            token_rule: TokenRule::default(),
            unknown_id: UnknownId::default(),
            unminted: Unminted::default(),
            late_mint_resolves: false,
            conversion_window_ms: 0,
            remint: Remint::default(),
            latency_ms: 0,
            call_log_calls_max: 100_000,
            sender: SenderOptions::default(),
        }
    }
}

/// Limits over sliding windows: any hour, any 24 hours, any 30 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// In any 60 minutes.
    pub per_hour: u64,
    /// In any 24 hours.
    pub per_day: u64,
    /// In any 30 days.
    pub per_month: u64,
}

impl Default for Quota {
    fn default() -> Self {
        Self { per_hour: 100_000, per_day: 480_000, per_month: 7_500_000 }
    }
}

/// Whose token converts a dealer's `external_userid`. The upstream corp's own customers always take its own
/// token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TokenRule {
    /// The dealer's; the upstream token answers 301002.
    #[default]
    Downstream,
    /// The upstream corp's; a dealer's token answers 301002.
    Upstream,
    /// Both.
    Either,
}

/// What an `external_userid` answers that the token's corp does not know.
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

/// What a known customer answers for whom no `pending_id` resolves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unminted {
    /// No row.
    #[default]
    OmitRow,
    /// A row with an empty `pending_id`.
    EmptyPendingId,
}

/// What minting a person returns while an earlier `pending_id` is still valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Remint {
    /// The same id, valid for another 90 days.
    #[default]
    SameId,
    /// The same id with its original end.
    SameIdNotRenewed,
    /// Another id; the earlier one keeps resolving until its own end if it is the one minted in time.
    NewId,
}

/// How callbacks are sent.
#[derive(Debug, Clone, Copy)]
pub struct SenderOptions {
    /// How long one attempt may take, body included.
    pub timeout_ms: u64,
    /// Attempts after the first.
    pub retries: u32,
    /// Pause before each retry.
    pub retry_interval_ms: u64,
    /// Whether an answer other than 200 is retried (the documents disagree), or only a missing one.
    pub retry_non_200: bool,
    /// Whether a retry has a new nonce, timestamp, ciphertext and signature, or is the same bytes again.
    pub reencrypt_retries: bool,
    /// The id at the end of the plaintext of a dealer's event.
    pub receive_id: ReceiveId,
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
        }
    }
}

/// The id at the end of the plaintext of a dealer's event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReceiveId {
    /// The upstream corp's id, which is what the evidence points to.
    #[default]
    Upstream,
    /// The dealer's id.
    Dealer,
}
