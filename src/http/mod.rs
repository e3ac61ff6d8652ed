//! The two listeners: [`public`] for WeCom's callbacks, [`api`] for the brand's own systems and its operators.
//!
//! Both run on an accept loop of our own (`serve`) over hyper's HTTP/1 connection builder: `axum::serve` installs no
//! timer, so slow headers would hold a connection for ever. WeCom needs no HTTP/2.

mod admission;
pub mod api;
mod body;
mod problem;
pub mod public;
mod redrive;
mod serve;

pub use redrive::{RedriveError, redrive};
pub use serve::{Limits, serve};
