//! Observability: [`metrics`] for Prometheus, [`logs`] on standard error with a [`throttle`], the [`version`]
//! of the program, the [`causes`] of an error in one line, and the [`address`] of a server, which prints without its
//! secrets.
//!
//! Deliberately absent from all: tokens, secrets, URLs with queries, and personal ids in full.

pub mod address;
pub mod audit;
#[cfg(test)]
pub(crate) mod captured_log;
pub mod causes;
pub mod logs;
pub mod metrics;
pub mod observed;
mod process;
pub mod throttle;
pub mod version;
