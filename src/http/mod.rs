//! The two listeners: [`public`] for WeCom's callbacks, [`api`] for the brand's own systems and its
//! operators.
//!
//! Both use our own accept loop (`serve`) over hyper's HTTP/1 connection builder, because `axum::serve`
//! sets no timer and a client that sends its headers slowly would hold a connection forever. WeCom does not
//! need HTTP/2.

mod admission;
pub mod api;
mod body;
mod callback_log;
mod callbacks;
mod door_set;
pub mod doors;
mod payload;
mod problem;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
pub mod public;
mod redrive;
mod reload;
#[cfg(test)]
mod scene;
mod serve;
mod socket;
mod source;
mod starting;
mod strangers;
mod tracked;
pub mod unrouted;
mod unserved;
mod url_checks;

pub use callback_log::CallbackLog;
pub use callbacks::CallbackState;
pub use door_set::DoorSet;
pub use problem::ConfigurationProblem;
pub use redrive::{Redrive, RedriveError};
pub use reload::{Reload, Reloaded};
pub use serve::{Limits, serve};
pub use socket::{BoundPath, Listener};
pub use source::TrustedProxies;
pub use starting::{StartProgress, starting, starting_in_public};
pub use strangers::SourceCheck;
pub use unserved::UnservedCorps;
pub use url_checks::UrlChecks;
