//! Where link changes go: each kind of receiver is a small type behind [`Sink`].
//!
//! A sink is handed entries of the feed in order and says how far they arrived. Everything else is the business of
//! the worker that owns it: the durable cursor, when to try again, pausing, metrics. So a sink keeps no state that
//! matters: killed at any instruction, it is handed the same entries once more, under the same ids.
//!
//! [`webhook`] POSTs to a URL, [`nats`] publishes to a stream, [`mod@file`] appends to files. None of them reads the
//! configuration or knows of the others.

pub mod file;
pub mod nats;
#[cfg(test)]
pub(crate) mod sample;
pub mod webhook;

use std::time::Duration;

use async_trait::async_trait;

use crate::domain::link::FeedEntry;

/// A receiver of link changes.
#[async_trait]
pub trait Sink: Send {
    /// The most entries that one delivery takes.
    fn batch_max(&self) -> usize;

    /// Delivers these entries, in this order. `Ok` when every one of them is in the receiver's hands, durably as far
    /// as the receiver can say.
    async fn deliver(&mut self, entries: &[FeedEntry]) -> Result<(), Undelivered>;
}

/// A delivery that did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Undelivered {
    /// How many of the entries, from the first, are known to have arrived all the same.
    pub arrived: usize,
    /// Whether to try again.
    pub again: Again,
    /// What happened and what to do, for an operator. Holds neither secret nor personal id.
    pub reason: String,
}

/// Whether to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// After the usual wait.
    Later,
    /// When the receiver said, counted from now.
    After(Duration),
    /// Not until an operator says so: the receiver wants nothing any more.
    Never,
}
