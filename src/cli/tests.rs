//! Commands against a stand-in for the admin API: their requests and their output.

mod events;
mod exporting;
mod fans;
mod people;
mod reconcile;
pub(super) mod service;
