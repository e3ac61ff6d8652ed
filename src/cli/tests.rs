//! What the commands ask of a service, and what they make of its answers.

mod events;
mod exporting;
mod people;
pub(super) mod service;
