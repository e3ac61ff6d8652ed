//! A suite (代开发应用模版): its events, its ticket, and the exchange of an auth code for a permanent code.
//! Facts: WeCom documents 97173 and 100965 (events), 97163 (exchange).
//!
//! Two clocks meet here and are not compared where it matters: `sent_at` is WeCom's, everything else ours.
//!
//! Deliberately absent: the calls, encryption (see [`crate::at_rest`]), and what an exchange results in (see
//! [`authorization`](super::authorization)).

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use strum::IntoStaticStr;

use super::backoff::Backoff;
use super::ids::{AppName, CorpId, hex};
use super::sealed::Sealed;
use super::time::{HOUR_MS, MINUTE_MS, Timestamp};

/// How often WeCom sends a ticket.
pub const TICKET_EVERY_MS: i64 = 10 * MINUTE_MS;
/// How long a ticket can be used.
pub const TICKET_LIFE_MS: i64 = 30 * MINUTE_MS;
/// How long an auth code can be used, and only once.
pub const AUTH_CODE_LIFE_MS: i64 = 10 * MINUTE_MS;

/// The error code for an auth code that is unknown, expired or used.
const INVALID_AUTH_CODE: i64 = 40078;

/// An event of a suite as it is stored, its secrets sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuiteEvent {
    /// The message's `TimeStamp`, whole seconds, by WeCom's clock.
    pub sent_at: Timestamp,
    /// What happened.
    pub change: SuiteChange,
}

/// What an event of a suite reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SuiteChange {
    /// `suite_ticket`: another ticket.
    Ticket(Sealed),
    /// `create_auth` or `reset_permanent_code`: an auth code to be exchanged. It does not name the corp.
    Code {
        /// Which of the two.
        kind: CodeKind,
        /// Identifies the code.
        id: CodeId,
        /// The code.
        code: Sealed,
    },
    /// `change_auth`: the visible range, the permissions or the state of the app changed at this corp.
    Changed(CorpId),
    /// `cancel_auth`: this corp has removed the app.
    Cancelled(CorpId),
}

/// Why WeCom issued an auth code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum CodeKind {
    /// A corp authorised the suite.
    Create,
    /// The provider chose 重新获取 secret for a corp.
    Reset,
}

/// Identifies an auth code without revealing it: SHA-256 over the suite's name, NUL and the code, truncated
/// to 16 bytes. One code is one exchange. Displays in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CodeId(pub [u8; 16]);

impl CodeId {
    /// The id of `auth_code`.
    #[must_use]
    pub fn of(suite: &AppName, auth_code: &str) -> Self {
        let digest =
            Sha256::new().chain_update(suite.as_str()).chain_update([0]).chain_update(auth_code).finalize();
        let mut short = [0; 16];
        short.copy_from_slice(&digest[..16]);
        Self(short)
    }
}

impl fmt::Display for CodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// When WeCom should send the next ticket: it sends one every ten minutes, and `last_at` was the last time or
/// the start.
#[must_use]
pub fn next_ticket_at(last_at: Timestamp, now: Timestamp) -> Timestamp {
    let passed = now.millis_since(last_at).max(0) / TICKET_EVERY_MS;
    last_at.plus_ms((passed + 1) * TICKET_EVERY_MS)
}

/// The record of a suite's ticket. The order of the fields is the stored format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The ticket.
    pub sealed: Sealed,
    /// When WeCom sent it, by WeCom's clock.
    pub sent_at: Timestamp,
    /// When we received it, by our clock.
    pub received_at: Timestamp,
}

impl Ticket {
    /// The ticket to be used: the one that WeCom sent last, in whatever order they arrive.
    #[must_use]
    pub fn newest(known: Option<Self>, other: Self) -> Self {
        match known {
            Some(known) if (known.sent_at, known.received_at) > (other.sent_at, other.received_at) => known,
            _ => other,
        }
    }

    /// Whether its times by our clock are to be moved by `by_ms`, as the waits that end after `after` are. Where
    /// the clock was set back, a ticket received since then has its times from the new clock already.
    #[must_use]
    pub const fn is_to_be_moved(&self, by_ms: i64, after: Timestamp) -> bool {
        let since = if by_ms > 0 { self.expires_at() } else { self.received_at };
        since.millis_since(after) > 0
    }

    /// Until when it can be used, by our clock.
    #[must_use]
    pub const fn expires_at(&self) -> Timestamp {
        self.received_at.plus_ms(TICKET_LIFE_MS)
    }

    /// Whether an auth code that WeCom sent at `sent_at` is too old to be exchanged: WeCom sent this ticket
    /// more than an hour after the code had expired, so the message with the code is a replay. Compares
    /// WeCom's clock with itself: a wrong clock of ours refuses no code.
    #[must_use]
    pub const fn outdates_code(&self, sent_at: Timestamp) -> bool {
        self.sent_at.millis_since(sent_at) > AUTH_CODE_LIFE_MS + HOUR_MS
    }
}

/// The record of an auth code that is to be exchanged. The order of the fields is the stored format.
///
/// The code is tried until its deadline. A code can be used once, so a try without an answer may have used it
/// up; the next try then finds out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// Why WeCom issued the code.
    pub kind: CodeKind,
    /// The code.
    pub code: Sealed,
    /// When WeCom sent the code, by WeCom's clock.
    pub sent_at: Timestamp,
    /// When we received it.
    pub received_at: Timestamp,
    /// When it is given up.
    pub deadline: Timestamp,
    /// When it is to be tried next.
    pub due_at: Timestamp,
    /// The tries so far. Counted, durably, before the call.
    pub asked: u32,
    /// The tries of which it is known that they did not use up the code.
    pub answered: u32,
    /// How it ended; `None` while it can succeed. A successful exchange has no record any more.
    pub end: Option<ExchangeEnd>,
}

/// How an exchange ended without an authorisation. After each of these, the corp has to authorise again, or
/// the provider has to choose 重新获取 secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum ExchangeEnd {
    /// A try without an answer used up the code, or may have.
    Lost {
        /// When that was found.
        at: Timestamp,
    },
    /// The code was not exchanged in time.
    Expired {
        /// When that was found.
        at: Timestamp,
    },
    /// WeCom refused the code.
    Refused {
        /// WeCom's error code.
        errcode: i64,
        /// When.
        at: Timestamp,
    },
    /// The sealed code cannot be opened: the suite's secret has been changed since.
    Unreadable {
        /// When that was found.
        at: Timestamp,
    },
}

impl ExchangeEnd {
    /// When it ended.
    #[must_use]
    pub const fn at(self) -> Timestamp {
        match self {
            Self::Lost { at } | Self::Expired { at } | Self::Refused { at, .. } | Self::Unreadable { at } => {
                at
            }
        }
    }
}

/// Why a try failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeFailure {
    /// The code was not sent: no suite token, no permit, no connection.
    NotSent,
    /// The code was sent and no answer received.
    NoAnswer,
    /// WeCom answered with an error.
    Refused {
        /// WeCom's error code.
        errcode: i64,
        /// Whether it is about this code, so that no other try can succeed. Not so for an error that an
        /// operator can correct in time, such as a wrong suite secret or an untrusted IP address.
        is_permanent: bool,
    },
}

/// What to do about an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeNext {
    /// Call WeCom now.
    Ask,
    /// Do nothing until then.
    Wait(Timestamp),
    /// It has ended.
    End(ExchangeEnd),
}

impl Exchange {
    /// The record of a code that was just received.
    #[must_use]
    pub const fn new(kind: CodeKind, code: Sealed, sent_at: Timestamp, received_at: Timestamp) -> Self {
        let deadline = received_at.plus_ms(AUTH_CODE_LIFE_MS);
        let due_at = received_at;
        Self { kind, code, sent_at, received_at, deadline, due_at, asked: 0, answered: 0, end: None }
    }

    /// What to do at `now`. [`End`](ExchangeNext::End) is to be stored as [`end`](Self::end).
    ///
    /// A code that was never tried is tried after its deadline too: where our clock was set in the moment of
    /// its arrival, only WeCom knows whether it has expired.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> ExchangeNext {
        if let Some(end) = self.end {
            ExchangeNext::End(end)
        } else if self.asked == 0 {
            ExchangeNext::Ask
        } else if now >= self.deadline {
            ExchangeNext::End(if self.may_be_used_up() {
                ExchangeEnd::Lost { at: now }
            } else {
                ExchangeEnd::Expired { at: now }
            })
        } else if now < self.due_at {
            ExchangeNext::Wait(self.due_at.min(self.deadline))
        } else {
            ExchangeNext::Ask
        }
    }

    /// Decides what to do at `now` and records it: a try that is about to begin is counted, and an end kept.
    /// Without a ticket of the suite (`can_ask`) there is no try, and a code is given up at its deadline.
    pub fn begin(&mut self, can_ask: bool, now: Timestamp) -> ExchangeNext {
        let next = match self.next(now) {
            ExchangeNext::Ask if can_ask => ExchangeNext::Ask,
            ExchangeNext::Ask if now >= self.deadline => ExchangeNext::End(ExchangeEnd::Expired { at: now }),
            ExchangeNext::Ask => ExchangeNext::Wait(self.deadline),
            other @ (ExchangeNext::Wait(_) | ExchangeNext::End(_)) => other,
        };
        match next {
            ExchangeNext::Ask => self.ask(),
            ExchangeNext::Wait(_) => {}
            ExchangeNext::End(end) => self.end = Some(end),
        }
        next
    }

    /// Counts a try that is about to begin.
    const fn ask(&mut self) {
        self.asked = self.asked.saturating_add(1);
    }

    /// Records that the present try failed, and the end if there is to be no other; returns what follows. An
    /// end that is recorded already remains.
    pub fn failed(&mut self, failure: ExchangeFailure, jitter: f64, now: Timestamp) -> ExchangeNext {
        if let Some(end) = self.end {
            return ExchangeNext::End(end);
        }
        match failure {
            ExchangeFailure::NoAnswer => {}
            ExchangeFailure::NotSent | ExchangeFailure::Refused { .. } => {
                self.answered = self.answered.saturating_add(1).min(self.asked);
            }
        }
        match failure {
            ExchangeFailure::Refused { errcode: INVALID_AUTH_CODE, .. } => {
                self.end = Some(if self.may_be_used_up() {
                    ExchangeEnd::Lost { at: now }
                } else if now.millis_since(self.sent_at) >= AUTH_CODE_LIFE_MS {
                    ExchangeEnd::Expired { at: now }
                } else {
                    ExchangeEnd::Refused { errcode: INVALID_AUTH_CODE, at: now }
                });
            }
            ExchangeFailure::Refused { errcode, is_permanent: true } => {
                self.end = Some(ExchangeEnd::Refused { errcode, at: now });
            }
            ExchangeFailure::Refused { is_permanent: false, .. }
            | ExchangeFailure::NotSent
            | ExchangeFailure::NoAnswer => {
                self.due_at = now.plus_ms(Backoff::AUTH_CODE.wait_ms(self.asked, jitter));
            }
        }
        let next = self.next(now);
        if let ExchangeNext::End(end) = next {
            self.end = Some(end);
        }
        next
    }

    /// Whether a try without an answer may have used up the code. Also so after a crash during a try.
    const fn may_be_used_up(&self) -> bool {
        self.asked > self.answered
    }

    /// Whether its waits are to be moved by `by_ms`, as those that are due after `after` are. Where the clock
    /// was set back, a code received since then has its deadline from the new clock already.
    #[must_use]
    pub fn is_to_be_moved(&self, by_ms: i64, after: Timestamp) -> bool {
        self.end.is_none() && self.deadline > after && (by_ms > 0 || self.received_at > after)
    }

    /// Moves its waits when the wall clock was set.
    pub const fn shift(&mut self, by_ms: i64) {
        self.received_at = self.received_at.plus_ms(by_ms);
        self.deadline = self.deadline.plus_ms(by_ms);
        self.due_at = self.due_at.plus_ms(by_ms);
    }
}

#[cfg(test)]
mod tests;
