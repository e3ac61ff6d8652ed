//! Observability: [`metrics`] for Prometheus, and [`logs`] on standard error with a [`throttle`].
//!
//! Deliberately absent from both: tokens, secrets, URLs with queries, and personal ids in full.

pub mod logs;
pub mod metrics;
pub mod throttle;
