//! What the server, the sender and the handles have in common.
//!
//! Deliberately absent: behaviour; the lock guards plain data and is never held across an await.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::world::World;
use crate::clock::Clock;

pub(super) struct Shared {
    world: Mutex<World>,
    pub(super) clock: Arc<dyn Clock>,
    /// Sends callbacks; nothing does in a simulation without sockets.
    pub(super) http: Option<reqwest::Client>,
    /// Wakes calls that hang.
    pub(super) faults_cleared: Notify,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

impl Shared {
    pub(super) fn new(world: World, clock: Arc<dyn Clock>, http: Option<reqwest::Client>) -> Self {
        Self {
            world: Mutex::new(world),
            clock,
            http,
            faults_cleared: Notify::new(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    /// The state. A panic elsewhere does not make it useless: judges still want to read it.
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn clear_faults(&self) {
        self.world().faults.clear();
        self.faults_cleared.notify_waiters();
    }
}
