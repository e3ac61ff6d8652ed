//! Why a service cannot start.

use std::io;

use super::sinks::BuildError;
use crate::callback::AesKeyError;
use crate::domain::ids::AppName;
use crate::store::StoreError;
use crate::store::embedded::OpenError;
use crate::store::postgres;
use crate::wecom::ClientError;

/// Why a service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened.
    #[error("the store cannot be opened")]
    Store(#[source] OpenError),
    /// The store on PostgreSQL cannot be opened.
    #[error("the store on PostgreSQL cannot be opened ([store] url)")]
    Database(#[source] postgres::OpenError),
    /// The store is open, but the last reading of the clocks cannot be read.
    #[error("the store cannot tell when it was last in use")]
    Clocks(#[source] StoreError),
    /// The store is open, but the authorisations of suites cannot be read or bound.
    #[error("the store cannot tell which corps have authorised the suites")]
    Suites(#[source] StoreError),
    /// A listener cannot be bound.
    #[error("cannot listen on {address} ({key})\nhint: is another process listening there?")]
    Listen {
        /// The address.
        address: String,
        /// The configuration's key.
        key: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The HTTP client for WeCom cannot be built.
    #[error("the HTTP client for WeCom cannot be set up")]
    Client(#[source] ClientError),
    /// An AES key is malformed.
    #[error("the encoding_aes_key of app {app} {source}")]
    Key {
        /// The app.
        app: AppName,
        /// What is wrong with it.
        source: AesKeyError,
    },
    /// A sink cannot be built.
    #[error("a sink cannot be set up")]
    Sink(#[source] BuildError),
}
