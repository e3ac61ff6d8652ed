//! The client of WeCom's API, limited to the calls that this program needs.
//!
//! [`Platform`] is what the workers see, [`Client`] implements it over HTTP: it takes a permit from the
//! [`Limiter`] before every call, caches one access token per app and corp, and turns every answer into a
//! value or a [`CallError`] whose [`Class`] decides what happens next.
//!
//! Deliberately absent: WeCom's other APIs, and any retry other than the one with a fresh access token. When
//! to try again is decided by the workers.

mod answer;
pub(crate) mod api;
mod calls;
mod client;
pub(crate) mod errcode;
pub(crate) mod error;
mod limiter;
mod platform;
mod tokens;
mod wire;

pub use api::Api;
pub use client::{AppCredentials, Client};
pub use errcode::{
    Class, Remedy, class, is_bad_cursor, is_call_forbidden, is_chat_gone, is_concurrency, is_dealer_gone,
    is_not_visible, may_be_wrong_token, remedy,
};
pub use error::{CallError, Transport};
pub use limiter::{Ledgers, Limiter};
pub use platform::{ChatMembers, CustomerPage, DealerList, Platform, TokenOf};
pub use wire::{ClientError, ClientSettings, Https, Reply, Wire};
