//! x
pub mod callback;
pub mod clock;
pub mod domain;
pub mod store;
