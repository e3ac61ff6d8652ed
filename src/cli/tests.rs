//! Commands against a stand-in for the admin API: their requests and their output.

mod events;
mod exporting;
mod fans;
mod people;
pub(super) mod service;
