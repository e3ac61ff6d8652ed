//! Receivers of link changes, each kind a type that implements [`Sink`]: [`webhook`] POSTs to a URL, [`nats`]
//! publishes to a stream, [`mod@file`] appends to files.
//!
//! A sink delivers entries of the feed in order and reports how many the receiver has acknowledged. It keeps
//! no state that matters: after a crash it is given the same entries again, under the same ids. The durable
//! cursor, retries, pausing and metrics are the delivery worker's. No sink reads the configuration or depends
//! on another.

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
    /// The maximum number of entries of one delivery.
    fn batch_max(&self) -> usize;

    /// Delivers these entries, in this order. `Ok` when the receiver has acknowledged every one of them.
    ///
    /// # Errors
    /// [`DeliveryError`], with the number of entries that were delivered before it.
    async fn deliver(&mut self, entries: &[FeedEntry]) -> Result<(), DeliveryError>;

    /// Looks whether deliveries can succeed, and changes nothing.
    ///
    /// # Errors
    /// Why they cannot succeed, for an operator.
    async fn look(&mut self) -> Result<Looked, String> {
        Ok(Looked::Nowhere)
    }

    /// Sends a message of the type `unionlink.test`, without data of anybody. Returns whether this kind of sink has one.
    ///
    /// # Errors
    /// Why it was not accepted.
    async fn test(&mut self) -> Result<bool, String> {
        Ok(false)
    }
}

/// What was found where deliveries go, for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Looked {
    /// Nothing: only a delivery would tell.
    Nowhere,
    /// That cannot be said, and why.
    Unknown(String),
    /// All is well.
    Well(String),
    /// Deliveries succeed, but something should be otherwise.
    Doubtful(String),
}

/// A delivery failed, as a whole or after some of its entries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct DeliveryError {
    /// How many of the entries, from the first, the receiver acknowledged before the failure.
    pub delivered: usize,
    /// When to deliver the others.
    pub retry: Retry,
    /// What happened and what to do about it, for an operator. Contains no secret and no personal id.
    pub reason: String,
}

/// When to try a delivery again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// After the usual backoff.
    Backoff,
    /// After the time the receiver asked for, from now.
    After(Duration),
    /// Not until an operator resumes the sink: the receiver wants no more deliveries.
    Never,
}
