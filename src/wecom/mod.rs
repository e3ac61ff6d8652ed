//! The client of WeCom's API, limited to the calls that this program needs.
//!
//! [`Platform`] and [`SuitePlatform`] are what the workers see, [`Client`] implements them over HTTP: it
//! takes a permit from the [`Limiter`] before every call, caches one access token per app and corp and one
//! per suite, and turns every answer into a value or a [`CallError`] whose [`Class`] decides what happens
//! next. Its secrets are those of [`Credentials`], which may change at any time.
//!
//! Deliberately absent: WeCom's other APIs, and any retry other than the one with a fresh access token. When
//! to try again is decided by the workers.

mod answer;
pub(crate) mod api;
mod calls;
mod client;
mod credentials;
pub(crate) mod errcode;
pub(crate) mod error;
mod limiter;
mod obtain;
mod platform;
mod probe;
mod remedy;
#[cfg(test)]
mod scripted;
mod suites;
mod tokens;
mod wire;

pub use api::Api;
pub use client::Client;
pub use credentials::{
    AppCredentials, Credentials, DealerCredentials, Development, QuotaLimits, SuiteCredentials, Unavailable,
};
pub use errcode::{
    Class, class, is_bad_cursor, is_call_forbidden, is_chat_gone, is_concurrency, is_dealer_gone,
    is_not_visible, may_be_wrong_token, remedy, remedy_for,
};
pub(crate) use errcode::{INVALID_TICKET, NO_LICENCE};
pub use error::{CallError, Transport};
pub use limiter::{Ledgers, Limiter};
pub use platform::{ChatMembers, CustomerPage, DealerList, Platform, TokenOf};
pub(crate) use probe::Probe;
pub use remedy::Remedy;
pub use suites::{AuthInfo, PermanentCode, SuitePlatform};
pub use wire::{ClientError, ClientSettings, Https, Reply, Wire};
