//! What happens to replicas that share a database: the way to it takes time and loses things, and each of them may be
//! suspended while time goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use unionlink::store::Store;
use unionlink::store::embedded::EmbeddedStore;
use unionlink::store::embedded::engine::Memory;
use unionlink::store::shared::SharedStore;
use unionlink::store::shared::memory::{Asked, Passage, SharedMemory, Way};

use crate::service::{Disk, Fate, Machine};
use crate::time::{Dice, Trace, TrueTime};

/// How long a replica that is cut off from the database waits until it notices.
const UNANSWERED: Duration = Duration::from_millis(700);

/// Where a store is.
pub enum Stored {
    /// On the disk of the one process.
    Alone(Memory),
    /// In a database.
    Shared(SharedMemory),
}

/// The store of a process.
pub enum Opened {
    Alone(Arc<EmbeddedStore>),
    Shared(Arc<SharedStore>),
}

impl Opened {
    pub fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Alone(store) => store.clone(),
            Self::Shared(store) => store.clone(),
        }
    }

    /// The disagreements in the store.
    pub async fn audit(&self) -> Vec<String> {
        match self {
            Self::Alone(store) => store.audit().unwrap(),
            Self::Shared(store) => store.audit().await.unwrap(),
        }
    }
}

/// Whether a process is suspended. Clones share it.
#[derive(Clone, Default)]
pub struct Pause(Arc<Suspended>);

#[derive(Default)]
struct Suspended {
    is: AtomicBool,
    /// Notified when it begins or ends: in the order in which tasks wait.
    changed: Notify,
}

impl Pause {
    pub fn begin(&self) {
        self.set(true);
    }

    pub fn end(&self) {
        self.set(false);
    }

    fn set(&self, is_paused: bool) {
        self.0.is.store(is_paused, Ordering::Relaxed);
        self.0.changed.notify_waiters();
    }

    pub fn is_paused(&self) -> bool {
        self.0.is.load(Ordering::Relaxed)
    }

    async fn until(&self, is_paused: bool) {
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            if self.is_paused() == is_paused {
                return;
            }
            changed.await;
        }
    }

    /// Waits while the process is suspended.
    pub async fn over(&self) {
        self.until(false).await;
    }

    /// Runs a task of the process, which stands still while it is suspended.
    pub async fn gate<T>(&self, task: impl Future<Output = T>) -> T {
        let mut task = std::pin::pin!(task);
        loop {
            self.over().await;
            tokio::select! {
                biased;
                () = self.until(true) => {}
                done = &mut task => return done,
            }
        }
    }
}

/// The way between a replica and the database.
pub struct DatabaseWay {
    seed: u64,
    time: TrueTime,
    fate: Fate,
    disk: Arc<Disk>,
    trace: Trace,
}

impl DatabaseWay {
    /// The way of the process with this number.
    pub fn new(machine: &Machine, start: u64, fate: Fate) -> Self {
        let (seed, time) = (machine.seed.wrapping_mul(1_000).wrapping_add(start), machine.clock.true_time());
        Self { seed, time, fate, disk: machine.disk.clone(), trace: machine.trace.clone() }
    }

    /// Draws lots: the same ones for the same purpose at the same time, in whatever order the tasks of the process come.
    fn lots<T>(&self, purpose: u64, draw: impl FnOnce(&mut Dice) -> T) -> T {
        let now = u64::try_from(self.time.elapsed_ms()).unwrap();
        draw(&mut Dice::new(self.seed, now * 100 + purpose))
    }

    /// Whether something that happens once in `n` times does, while anything may be lost.
    fn happens(&self, purpose: u64, n: u64) -> bool {
        !self.disk.is_reliable.load(Ordering::Relaxed) && self.lots(purpose, |dice| dice.one_in(n))
    }

    /// Half of a round trip. Never ends for a process that has died.
    async fn travel(&self, asked: Asked) {
        let is_slow = self.disk.slow.load(Ordering::Relaxed) && asked == Asked::Commit;
        let wait = self.lots(asked as u64, |dice| match dice.below(100) {
            _ if is_slow => dice.millis(250, 2_500),
            0..80 => Duration::ZERO,
            80..99 => dice.millis(1, 4),
            _ => dice.millis(4, 400),
        });
        let travelled = async {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            self.fate.pause.over().await;
        };
        tokio::select! {
            biased;
            () = self.fate.dead.cancelled() => std::future::pending().await,
            () = travelled => {}
        }
    }

    /// Dies here, if that is planned.
    async fn crash(&self, is_after: bool) {
        let is_planned = {
            let mut planned = self.disk.crash.lock().unwrap();
            match *planned {
                Some((0, after)) if after == is_after => planned.take().is_some(),
                Some((more, after)) if more > 0 && !is_after => {
                    *planned = Some((more - 1, after));
                    false
                }
                _ => false,
            }
        };
        if is_planned {
            self.trace.note(format!("crash {} a commit", if is_after { "after" } else { "before" }));
            self.fate.dead.cancel();
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Way for DatabaseWay {
    async fn there(&self, asked: Asked) -> bool {
        self.travel(asked).await;
        if self.fate.is_cut_off() {
            tokio::time::sleep(UNANSWERED).await;
            return false;
        }
        if asked == Asked::Commit {
            self.crash(false).await;
        }
        match asked {
            // The test reads, too.
            Asked::Read => true,
            Asked::Beat => !self.happens(10, 30),
            Asked::Follow | Asked::Begin | Asked::Commit => !self.happens(20 + asked as u64, 200),
        }
    }

    async fn back(&self, asked: Asked) -> Passage {
        if asked == Asked::Commit {
            self.crash(true).await;
        }
        self.travel(asked).await;
        match asked {
            _ if self.fate.is_cut_off() => Passage::Lost,
            Asked::Commit if self.happens(11, 50) => Passage::Lost,
            Asked::Commit if self.happens(12, 100) => Passage::Warned,
            Asked::Beat if self.happens(13, 30) => Passage::Lost,
            Asked::Follow | Asked::Begin if self.happens(30 + asked as u64, 200) => Passage::Lost,
            _ => Passage::Arrives,
        }
    }

    fn is_notified(&self) -> bool {
        !self.happens(14, 5)
    }
}
