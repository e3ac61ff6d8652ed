//! A store in a database that several replicas of the service may share.
//!
//! It keeps the same rows as the embedded store, and the same transactions are decided on them (`rows` and `business`
//! beside this folder), so that both behave alike. What is particular to it:
//!
//! - Reads and transactions run on the rows at hand, and run again when more were fetched (`known`).
//! - One lock, which a transaction of the database takes first, puts the commits of all replicas into one order (`writer`).
//!   So no two of them can miss what the other writes, numbers have no gaps, and counters are exact. It costs little: each
//!   replica commits what came in meanwhile as one group.
//! - A replica follows what the others commit (`following`).
//!
//! Which database it is, is behind a trait (`database`): PostgreSQL (`postgres` beside this folder), or one in memory that
//! the simulation can disturb at any point.

mod backend;
pub(in crate::store) mod database;
mod following;
pub(in crate::store) mod known;
pub(in crate::store) mod leases;
pub mod memory;
pub(in crate::store) mod opening;
pub(in crate::store) mod state;
mod writer;

pub use backend::Shared;
pub use database::Trouble;

use super::row_store::RowStore;

/// The store in a database.
pub type SharedStore = RowStore<Shared>;
