//! What each replica knows alone, and publishes for the others: which calls are held back, and how deliveries go.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::state::AdminState;
use super::view::HeldBack;
use crate::domain::ids::{AppName, CorpId, SinkName};
use crate::domain::time::Timestamp;
use crate::store::{Duty, Replica};
use crate::worker::sink_status::SinkStatus;

/// What a replica publishes about itself.
#[derive(Serialize, Deserialize)]
struct Published {
    started_at: Timestamp,
    paused: Vec<HeldBack>,
    pacing: Vec<HeldBack>,
    sinks: BTreeMap<SinkName, SinkStatus>,
}

/// A replica of the service.
#[derive(Serialize, ToSchema)]
#[schema(as = Replica)]
pub(in super::super) struct ReplicaView {
    /// Its id, another one after each start.
    #[schema(example = "5f3a9c01d2e4")]
    id: String,
    /// Its machine and process.
    #[schema(example = "unionlink-1:4711")]
    name: String,
    #[schema(example = "0.2.0")]
    version: String,
    /// Whether it is the one that answers.
    this: bool,
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<Timestamp>,
    /// When it was heard of last, on the clock of the database.
    #[schema(value_type = String, format = DateTime)]
    seen_at: Timestamp,
    /// What it alone does at the moment: `work` (calls to WeCom, links, housekeeping) and `sink/NAME` (deliveries).
    holds: Vec<String>,
}

/// What other replicas know.
#[derive(Default)]
pub(in super::super) struct Replicas {
    /// All of them, this one included; none if the store is not shared.
    pub(in super::super) views: Vec<ReplicaView>,
    pub(in super::super) paused: Vec<HeldBack>,
    pub(in super::super) pacing: Vec<HeldBack>,
    /// Of the sinks that another one delivers to.
    pub(in super::super) sinks: BTreeMap<SinkName, SinkStatus>,
}

impl Replicas {
    /// How many of the calls that other replicas hold back are of this app or suite, and for this corp's customers.
    pub(in super::super) fn paused_of(&self, app: Option<&AppName>, corp_id: Option<&CorpId>) -> usize {
        let is_of = |held_back: &&HeldBack| {
            app.is_none_or(|app| held_back.app == *app)
                && corp_id.is_none_or(|corp_id| {
                    held_back.corp_id.as_ref().is_some_and(|of| of.same_corp(corp_id.as_str()))
                })
        };
        self.paused.iter().filter(is_of).count()
    }
}

/// What this replica publishes about itself: JSON.
#[must_use]
pub fn published(state: &AdminState) -> Option<String> {
    let (paused, pacing) = state.held_back();
    let sinks = state.sinks.names().into_iter();
    let published = Published {
        started_at: state.started_at,
        paused,
        pacing,
        sinks: sinks.filter_map(|name| Some((name.clone(), state.sinks.status(&name)?))).collect(),
    };
    serde_json::to_string(&published).ok()
}

impl AdminState {
    /// The replicas, and what the others know.
    pub(in super::super) async fn replicas(&self) -> Replicas {
        let mut all = Replicas::default();
        let Some(replicas) = self.store.replicas() else { return all };
        // Without an answer this one's own status is better than none.
        for replica in replicas.replicas().await.unwrap_or_default() {
            let Replica { id, name, version, seen_at, holds, status } = replica;
            let (this, mut started_at) = (id == replicas.id(), None);
            // A newer program may publish something else.
            let published = status.and_then(|status| serde_json::from_str::<Published>(&status).ok());
            if let Some(Published { started_at: at, paused, pacing, sinks }) = published {
                started_at = Some(at);
                if !this {
                    all.paused.extend(paused);
                    all.pacing.extend(pacing);
                    let is_here = |name: &SinkName| holds.contains(&Duty::Sink(name.clone()).to_string());
                    all.sinks.extend(sinks.into_iter().filter(|(name, _)| is_here(name)));
                }
            }
            all.views.push(ReplicaView { id, name, version, this, started_at, seen_at, holds });
        }
        all
    }
}
