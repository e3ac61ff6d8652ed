//! The whole service over real sockets, against the simulated platform.
//!
//! One test binary, because linking it takes long; one module for each capability.

#![expect(unreachable_pub, reason = "modules of a test binary")]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed")]

mod admin;
mod agency;
mod agency_brands;
mod agency_canaries;
mod agency_changes;
mod agency_hostile;
mod agency_kills;
mod agency_story;
mod alerts;
mod callback;
mod clock;
mod configuration;
mod connections;
mod doctor;
mod doctor_alone;
mod erasure;
mod events;
mod explain;
mod export;
mod failing_io;
mod fans;
mod feed;
mod floods;
mod forget;
mod groups;
mod guard;
mod harness;
mod history;
mod imports;
mod kills;
mod ledger;
mod linking;
mod logs;
mod metrics;
mod openapi;
#[path = "../peers/mod.rs"]
mod peers;
#[path = "../peers/postgres.rs"]
mod postgres_server;
mod process;
mod proxies;
mod receivers;
mod recipients;
mod reconcile;
mod recovery;
mod reload;
mod replay;
mod replicas;
mod resume;
mod sigkill;
mod sinks;
mod stream;
mod suites;
mod tokens;
mod trouble;
mod url_trials;
