//! What a store that several replicas share gives each of them: leases on work that one at a time may do, a clock they
//! have in common, and signals.
//!
//! A lease is a promise of the database, on its clock: nobody else holds it before it expires. Its holder trusts it for
//! a shorter time, which it counts from before it asked, and does nothing that needs the lease after that. So one that is
//! cut off or suspended falls silent before another begins.
//!
//! No data depends on leases: what two replicas do at once is a call made twice, or an entry delivered twice.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use super::StoreError;
use crate::clock::Clock;
use crate::domain::ids::{AppName, CorpId, SinkName};
use crate::domain::time::Timestamp;

/// What one replica at a time may do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Duty {
    /// All that the workers do, but deliveries.
    Work,
    /// Deliveries to this sink.
    Sink(SinkName),
}

impl fmt::Display for Duty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Work => f.write_str("work"),
            Self::Sink(name) => write!(f, "sink/{name}"),
        }
    }
}

/// A replica of the service, as the others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Its id, another one after each start.
    pub id: String,
    /// The name of its machine and the number of its process.
    pub name: String,
    /// The version of the program.
    pub version: String,
    /// When it was heard of last.
    pub seen_at: Timestamp,
    /// The duties it holds, as [`Duty`] displays them.
    pub holds: Vec<String>,
    /// What it has published about itself: JSON.
    pub status: Option<String>,
}

/// What a replica tells the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "signal", rename_all = "snake_case")]
pub enum Signal {
    /// WeCom reported a change of this app's dealers.
    DealersChanged {
        /// The app.
        app: AppName,
    },
    /// A message is about a corp that the app does not know.
    DealerUnknown {
        /// The app.
        app: AppName,
        /// The corp.
        corp_id: CorpId,
    },
    /// The app may see other customers at this dealer.
    VisibilityChanged {
        /// The app.
        app: AppName,
        /// The dealer.
        corp_id: CorpId,
    },
    /// An operator asks that the comparison of a dealer's customers goes on.
    ComparisonResumed {
        /// The app.
        app: AppName,
        /// The dealer.
        corp_id: CorpId,
    },
    /// An operator asks that what failures put off of a suite goes on.
    SuiteResumed {
        /// The suite.
        suite: AppName,
    },
    /// An operator asks that paused calls are tried.
    CallsResumed {
        /// Only those of this app or suite.
        app: Option<AppName>,
        /// Only those for this corp's customers.
        corp_id: Option<CorpId>,
    },
    /// An event of a suite was stored, or its authorisations have changed.
    SuitesChanged,
}

/// What a replica hears of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// One of them has stored work.
    Work,
    /// One of them tells something.
    Signal(Signal),
    /// Signals may have been missed.
    Missed,
    /// One of them has released a lease.
    Released,
}

/// The answer to a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Heartbeat {
    /// The leases that this replica holds, each with the number of its terms so far.
    pub held: BTreeMap<Duty, i64>,
    /// The number of replicas that live.
    pub replicas: usize,
}

/// What the replicas of a service have in common through their store.
#[async_trait]
pub trait Replicas: Send + Sync {
    /// The id of this one.
    fn id(&self) -> &str;

    /// The clock of the database, which all replicas share.
    fn clock(&self) -> Arc<dyn Clock>;

    /// Says that this replica lives, renews its leases, and takes those that are free: of these duties, each for so long.
    /// A `status` is published. To be repeated every two seconds or so.
    ///
    /// # Errors
    /// The database does not answer. It may have renewed the leases nevertheless.
    async fn beat(
        &self,
        duties: &BTreeMap<Duty, Duration>,
        status: Option<String>,
    ) -> Result<Heartbeat, StoreError>;

    /// Releases leases, for another replica to take at once.
    ///
    /// # Errors
    /// The database does not answer; they expire.
    async fn release(&self, duties: &[Duty]) -> Result<(), StoreError>;

    /// The replicas that live, this one included.
    ///
    /// # Errors
    /// The database does not answer.
    async fn replicas(&self) -> Result<Vec<Replica>, StoreError>;

    /// Tells the other replicas something, if there are any.
    ///
    /// # Errors
    /// The database does not answer. Whoever would have been told looks for itself within some minutes.
    async fn tell(&self, signal: Signal) -> Result<(), StoreError>;

    /// What the other replicas tell from now on.
    fn heard(&self) -> broadcast::Receiver<Heard>;
}
