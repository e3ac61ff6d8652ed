//! Observability: [`metrics`] for Prometheus, [`logs`] on standard error with a [`throttle`], and the
//! [`version`] of the program.
//!
//! Deliberately absent from all: tokens, secrets, URLs with queries, and personal ids in full.

#[cfg(test)]
pub(crate) mod captured_log;
pub mod logs;
pub mod metrics;
mod process;
pub mod throttle;
pub mod version;
