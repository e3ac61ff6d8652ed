//! The store on PostgreSQL, which several replicas of the service may share.
//!
//! What it does with rows and replicas is that of any database (`shared` beside this folder). What is particular to this
//! one:
//!
//! - A table is a part of the rows (`tables`), which are private to the program; what others may read with SQL is kept beside
//!   them, in the same transactions (`shown`).
//! - Statements that do not depend on each other's results are sent at once (`connection`).
//! - The schema belongs to the program, which brings it up to date (`migrations`).

mod checks;
mod connection;
mod database;
mod leases;
mod migrations;
mod opening;
mod server;
mod shown;
mod tables;
#[cfg(test)]
mod tests;
mod tls;

pub use checks::UnsafeServer;
pub use database::Notify;
pub use migrations::SchemaError;
pub use opening::{OpenError, Settings, check_schema, check_url, migrate, remove};
pub use server::Unreachable;
pub use tls::TlsError;

use super::shared::SharedStore;

/// The store on PostgreSQL.
pub type PostgresStore = SharedStore;
