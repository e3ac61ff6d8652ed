//! The store on PostgreSQL, which several replicas of the service may share.
//!
//! It keeps the same rows as the embedded store, and the same transactions are decided on them (`rows` and `business`
//! beside this folder), so that both behave alike. What is particular to it:
//!
//! - Reads and transactions run on the rows at hand, and run again when more were fetched (`known`).
//! - One lock, which a transaction of the database takes first, puts the commits of all replicas into one order (`writer`).
//!   So no two of them can miss what the other writes, numbers have no gaps, and counters are exact. It costs little: each
//!   replica commits what came in meanwhile as one group.
//! - A table is a part of the rows (`tables`), which are private to the program.

mod backend;
mod checks;
mod connection;
mod database;
mod following;
mod known;
mod leases;
mod migrations;
mod opening;
mod shown;
mod state;
mod tables;
#[cfg(test)]
mod tests;
mod tls;
mod writer;

pub use backend::Postgres;
pub use checks::UnsafeServer;
pub use database::Unreachable;
pub use following::Notify;
pub use migrations::SchemaError;
pub use opening::{OpenError, Settings, check_schema, check_url, migrate, remove};
pub use tls::TlsError;

use super::row_store::RowStore;

/// The store on PostgreSQL.
pub type PostgresStore = RowStore<Postgres>;
