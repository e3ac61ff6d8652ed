//! The way between a replica and a database in memory, which may take time and lose things.

use async_trait::async_trait;

/// What is asked of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Rows, or a connection.
    Read,
    /// What others have committed.
    Follow,
    /// That a transaction begins that writes, and rows for it.
    Begin,
    /// A commit.
    Commit,
    /// A heartbeat, or that leases are released.
    Beat,
}

/// What becomes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// It arrives.
    Arrives,
    /// It arrives with a warning: what was committed may not be where every commit has to be.
    Warned,
    /// The connection is lost.
    Lost,
}

/// The way between a replica and the database.
#[async_trait]
pub trait Way: Send + Sync + 'static {
    /// Waits until something asked is there; false if the connection is lost instead.
    async fn there(&self, asked: Asked) -> bool;

    /// Waits until its answer is back.
    async fn back(&self, asked: Asked) -> Passage;

    /// Whether a notification arrives.
    fn is_notified(&self) -> bool;
}

/// A way on which nothing is lost, and which takes no time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Direct;

#[async_trait]
impl Way for Direct {
    async fn there(&self, _: Asked) -> bool {
        true
    }

    async fn back(&self, _: Asked) -> Passage {
        Passage::Arrives
    }

    fn is_notified(&self) -> bool {
        true
    }
}
