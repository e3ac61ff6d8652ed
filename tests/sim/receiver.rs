//! A receiver behind a sink: accepts entries or fails, and checks the order and content of what it receives.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use unionlink::domain::ids::SinkName;
use unionlink::domain::link::{ChangeType, EntryData, FeedEntry};
use unionlink::sink::{DeliveryError, Retry, Sink};

use crate::replicas::Pause;
use crate::time::{Dice, Trace};

/// How a receiver answers deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    Healthy,
    /// Accepts some entries, answers slowly, loses answers.
    Flaky,
    /// Accepts nothing.
    Down,
    /// Wants no more deliveries, as a webhook that answers 410.
    Gone,
}

pub const BEHAVIOURS: [Behaviour; 5] =
    [Behaviour::Healthy, Behaviour::Flaky, Behaviour::Flaky, Behaviour::Down, Behaviour::Gone];

/// The state of a receiver.
pub struct Memory {
    pub behaviour: Behaviour,
    dice: Dice,
    /// Every entry as it was first received.
    pub entries: BTreeMap<u64, FeedEntry>,
    /// The highest sequence number received; the next new one has to follow it without a gap.
    newest: u64,
    pub violations: Vec<String>,
}

impl Memory {
    fn take(&mut self, name: &SinkName, entries: &[FeedEntry]) {
        for entry in entries {
            if entry.seq > self.newest + 1 {
                self.violations.push(format!("{name}: entry {} came after {}", entry.seq, self.newest));
            }
            self.newest = self.newest.max(entry.seq);
            match self.entries.get(&entry.seq) {
                Some(first) if !same(first, entry) => {
                    self.violations
                        .push(format!("{name}: entry {} came again with other content", entry.seq));
                }
                Some(_) => {}
                None => drop(self.entries.insert(entry.seq, entry.clone())),
            }
        }
    }
}

/// Whether a repeated entry has the same content, or was erased meanwhile. The welcome code expires, and the
/// dealer's name is that of the moment.
fn same(first: &FeedEntry, again: &FeedEntry) -> bool {
    let lasting = |entry: &FeedEntry| {
        let mut entry = entry.clone();
        if let EntryData::Link(link) = &mut entry.data {
            (link.welcome_code, link.corp_name) = (None, None);
        }
        entry
    };
    let erased = again.change == ChangeType::Erased
        && first.data.link_id() == again.data.link_id()
        && (first.seq, &first.id, first.occurred_at) == (again.seq, &again.id, again.occurred_at);
    erased || lasting(first) == lasting(again)
}

/// A receiver. Clones share its state.
#[derive(Clone)]
pub struct Receiver {
    pub name: SinkName,
    memory: Arc<Mutex<Memory>>,
    trace: Trace,
}

impl Receiver {
    pub fn new(name: &str, dice: Dice, trace: Trace) -> Self {
        let memory = Memory {
            behaviour: Behaviour::Healthy,
            dice,
            entries: BTreeMap::new(),
            newest: 0,
            violations: Vec::new(),
        };
        Self { name: SinkName::new(name).unwrap(), memory: Arc::new(Mutex::new(memory)), trace }
    }

    pub fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap()
    }

    /// The sink of one process.
    pub fn sink(&self, dead: CancellationToken, pause: Pause) -> Box<dyn Sink> {
        let batch_max = self.memory().dice.between(1, 6).try_into().unwrap();
        Box::new(ReceiverSink { receiver: self.clone(), dead, pause, batch_max })
    }
}

struct ReceiverSink {
    receiver: Receiver,
    dead: CancellationToken,
    pause: Pause,
    batch_max: usize,
}

#[async_trait]
impl Sink for ReceiverSink {
    fn batch_max(&self) -> usize {
        self.batch_max
    }

    async fn deliver(&mut self, entries: &[FeedEntry]) -> Result<(), DeliveryError> {
        let Receiver { name, trace, .. } = &self.receiver;
        let failed = |delivered, retry| Err(DeliveryError { delivered, retry, reason: "flaky".to_owned() });
        let (takes, wait, answer) = {
            let mut memory = self.receiver.memory();
            let behaviour = memory.behaviour;
            let dice = &mut memory.dice;
            let takes = dice.index(entries.len() + 1);
            let acknowledged = dice.index(takes + 1);
            let retry = if dice.one_in(4) { Retry::After(dice.millis(0, 90_000)) } else { Retry::Backoff };
            let wait = if dice.one_in(3) { dice.millis(1, 4_000) } else { Duration::ZERO };
            match behaviour {
                Behaviour::Healthy => (entries.len(), Duration::ZERO, Ok(())),
                Behaviour::Flaky if dice.one_in(2) => (entries.len(), wait, Ok(())),
                Behaviour::Flaky => (takes, wait, failed(acknowledged, retry)),
                Behaviour::Down => (0, wait, failed(0, retry)),
                Behaviour::Gone => (0, Duration::ZERO, failed(0, Retry::Never)),
            }
        };
        tokio::select! {
            biased;
            () = self.dead.cancelled() => std::future::pending().await,
            () = self.pause.gate(tokio::time::sleep(wait)) => {}
        }
        self.receiver.memory().take(name, &entries[..takes]);
        let (first, last) = (entries[0].seq, entries[entries.len() - 1].seq);
        trace.note(format!(
            "{name} {first}..={last}: {takes} arrived, {}",
            if answer.is_ok() { "ok" } else { "failed" }
        ));
        answer
    }
}
