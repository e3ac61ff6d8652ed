//! x
pub mod callback;
pub mod clock;
pub mod domain;
pub mod simulator;
pub mod store;
pub mod telemetry;
pub mod wecom;
pub mod worker;
pub mod config;
