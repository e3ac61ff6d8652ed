//! The running platform: its state behind a lock, and what its tasks need to send, wait and stop.
//!
//! Deliberately absent: behaviour. The lock guards plain data and is never held across an await.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::world::World;

pub(super) struct Platform {
    world: Mutex<World>,
    /// Sends callbacks; `None` on a platform without sockets.
    pub(super) http: Option<reqwest::Client>,
    /// Wakes calls that hang.
    pub(super) faults_cleared: Notify,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

impl Platform {
    pub(super) fn new(world: World, http: Option<reqwest::Client>) -> Self {
        Self {
            world: Mutex::new(world),
            http,
            faults_cleared: Notify::new(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    /// The state. It stays readable after a panic elsewhere, so that a test can still report what it found.
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn clear_faults(&self) {
        self.world().faults.clear();
        self.faults_cleared.notify_waiters();
    }
}
