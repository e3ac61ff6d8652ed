//! The replicas that share a database in memory, and their leases, on its clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::broadcast;

use super::kept::{Connected, Lease, Seen, SharedMemory};
use super::way::Asked;
use crate::clock::Clock;
use crate::domain::time::Timestamp;
use crate::store::shared::leases::{Leases, Telling};
use crate::store::shared::state::State;
use crate::store::{Duty, Heard, Heartbeat, Replica, Replicas, Signal, StoreError};

/// A replica that was not heard of for so long does not count.
const LIVES_MS: i64 = 10_000;

/// The replicas and their leases, as one of them sees them.
pub(super) struct MemoryLeases {
    pub(super) state: Arc<State>,
    pub(super) telling: Telling,
    pub(super) connected: Connected,
    pub(super) id: String,
}

impl MemoryLeases {
    async fn ask<T: Send>(&self, what: impl FnOnce(&SharedMemory) -> T + Send) -> Result<T, StoreError> {
        self.connected.ask(Asked::Beat, what).await.map_err(|error| StoreError::Unavailable(error.reason))
    }

    async fn release_those(&self, are: impl Fn(&str) -> bool + Send + Sync) -> Result<(), StoreError> {
        self.ask(|memory| {
            let mut kept = memory.kept();
            for (name, lease) in &mut kept.leases {
                if lease.holder == self.id && are(name) {
                    lease.expires_at = Timestamp::EPOCH;
                }
            }
            memory.notify(&mut kept, true);
        })
        .await
    }
}

#[async_trait]
impl Leases for MemoryLeases {
    async fn read_clock(&self) -> Result<(), StoreError> {
        let asked_ms = self.state.clock.local_ms();
        let now = self.ask(|memory| memory.clock.now()).await?;
        self.state.clock.read(now, asked_ms, self.state.clock.local_ms());
        Ok(())
    }

    async fn leave(&self) -> Result<(), StoreError> {
        self.ask(|memory| memory.kept().replicas.remove(&self.id)).await?;
        self.release_those(|_| true).await
    }
}

#[async_trait]
impl Replicas for MemoryLeases {
    fn id(&self) -> &str {
        &self.id
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.state.clock.clone()
    }

    async fn beat(
        &self,
        duties: &BTreeMap<Duty, Duration>,
        status: Option<String>,
    ) -> Result<Heartbeat, StoreError> {
        let asked_ms = self.state.clock.local_ms();
        let beaten = self.ask(|memory| {
            let (mut kept, now) = (memory.kept(), memory.clock.now());
            kept.replicas.insert(self.id.clone(), Seen { at: now, status });
            let mut held = BTreeMap::new();
            for (duty, held_for) in duties {
                let expires_at = now.plus_ms(i64::try_from(held_for.as_millis()).unwrap_or(i64::MAX));
                let (name, holder) = (duty.to_string(), self.id.clone());
                let term = match kept.leases.get(&name) {
                    Some(lease) if lease.expires_at >= now && lease.holder != self.id => continue,
                    Some(lease) => lease.term + i64::from(lease.expires_at < now || lease.holder != self.id),
                    None => 1,
                };
                kept.leases.insert(name, Lease { holder, term, expires_at });
                held.insert(duty.clone(), term);
            }
            let live = kept.replicas.values().filter(|seen| now.millis_since(seen.at) < LIVES_MS).count();
            (Heartbeat { held, replicas: live }, now)
        });
        let (heartbeat, now) = beaten.await?;
        self.state.clock.read(now, asked_ms, self.state.clock.local_ms());
        self.state.beaten(heartbeat.replicas);
        Ok(heartbeat)
    }

    async fn release(&self, duties: &[Duty]) -> Result<(), StoreError> {
        let names: BTreeSet<_> = duties.iter().map(ToString::to_string).collect();
        self.release_those(|name| names.contains(name)).await
    }

    async fn replicas(&self) -> Result<Vec<Replica>, StoreError> {
        self.ask(|memory| {
            let (kept, now) = (memory.kept(), memory.clock.now());
            let live = kept.replicas.iter().filter(|(_, seen)| now.millis_since(seen.at) < LIVES_MS);
            let holds = |id: &str| {
                let held =
                    kept.leases.iter().filter(|(_, lease)| lease.holder == id && lease.expires_at > now);
                held.map(|(name, _)| name.clone()).collect()
            };
            let replica = |(id, seen): (&String, &Seen)| Replica {
                id: id.clone(),
                name: id.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                seen_at: seen.at,
                holds: holds(id),
                status: seen.status.clone(),
            };
            live.map(replica).collect()
        })
        .await
    }

    async fn tell(&self, signal: Signal) -> Result<(), StoreError> {
        self.telling.tell(signal).await
    }

    fn heard(&self) -> broadcast::Receiver<Heard> {
        self.state.heard.subscribe()
    }
}
