//! The input of the findings: what is known of a suite, its corps and apps.

use crate::domain::authorization::Authorization;
use crate::domain::bindings::Unserved;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::suite::{CodeId, Exchange};
use crate::domain::text::Text;
use crate::domain::time::Timestamp;

/// What is known of a suite and its apps.
#[derive(Debug, Clone)]
pub struct SuiteFacts<'a> {
    /// The suite.
    pub suite: &'a AppName,
    /// Since when it waits for its first ticket.
    pub waits_since: Timestamp,
    /// Its newest ticket that can be read.
    pub ticket: Option<TicketFacts>,
    /// Its auth codes that are to be exchanged, and those whose exchange has failed.
    pub exchanges: &'a [(CodeId, Exchange)],
    /// The corps that have authorised it.
    pub authorizations: Vec<AuthorizationFacts<'a>>,
    /// Its apps.
    pub apps: Vec<AppFacts<'a>>,
    /// What WeCom refuses at present.
    pub refusals: Vec<Refusal>,
}

/// A ticket.
#[derive(Debug, Clone, Copy)]
pub struct TicketFacts {
    /// When it was received.
    pub received_at: Timestamp,
    /// Until when it can be used.
    pub expires_at: Timestamp,
    /// Whether WeCom has refused it (40085).
    pub is_refused: bool,
}

/// A corp that has authorised a suite.
#[derive(Debug, Clone, Copy)]
pub struct AuthorizationFacts<'a> {
    /// The record.
    pub record: &'a Authorization,
    /// Whether the permanent code can be decrypted.
    pub is_readable: bool,
}

/// An app of a suite.
#[derive(Debug, Clone)]
pub struct AppFacts<'a> {
    /// The app.
    pub app: &'a AppName,
    /// The brand in the configuration.
    pub configured: Option<&'a CorpId>,
    /// The brand it serves, or why it serves none.
    pub brand: Result<CorpId, Unserved>,
}

/// Calls of a suite or one of its apps that WeCom refuses until somebody acts.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The app; `None` for the calls of the suite itself.
    pub app: Option<AppName>,
    /// The corp whose customers the calls are about, if they are about one corp, and its name.
    pub corp: Option<(CorpId, Option<String>)>,
    /// WeCom's code.
    pub errcode: i64,
    /// Since when.
    pub since: Timestamp,
    /// What to do about this code.
    pub remedy: Text,
}
