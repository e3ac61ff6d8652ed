//! What the service tells about itself: [`metrics`] for machines, [`logs`] for people.
//!
//! Deliberately absent from both: tokens, secrets, URLs with queries, and personal ids in full.

pub mod logs;
pub mod metrics;
