//! What a server has to be like, so that what it has committed stays.

use tokio_postgres::{Client, Error};

use super::server::{Server, Unreachable};

/// The oldest version that is supported.
const VERSION_MIN: i32 = 150_000;

/// Why a server is not to be used.
#[derive(Debug, thiserror::Error)]
pub enum UnsafeServer {
    /// It cannot be asked.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// It may lose what it has committed.
    #[error(
        "the server has {setting} = {value}, and may lose acknowledged callbacks: set it to {wanted}, or say \
         allow_unsafe = true in [store] if that is wanted"
    )]
    Setting {
        /// The setting.
        setting: &'static str,
        /// What it is.
        value: String,
        /// What it has to be.
        wanted: &'static str,
    },
    /// It is too old.
    #[error("the server is PostgreSQL {0}; 15 or later is needed")]
    Version(String),
}

impl From<Error> for UnsafeServer {
    fn from(error: Error) -> Self {
        Self::Unreachable(error.into())
    }
}

/// Checks the server. If what is unsafe is allowed, it is logged.
pub(super) async fn check(server: &Server, allow_unsafe: bool) -> Result<(), UnsafeServer> {
    let (client, _) = server.connect().await?;
    let version: i32 = setting(&client, "server_version_num").await?.parse().unwrap_or_default();
    if version < VERSION_MIN {
        return Err(UnsafeServer::Version(setting(&client, "server_version").await?));
    }
    for (name, wanted) in [("fsync", "on"), ("full_page_writes", "on")] {
        let value = setting(&client, name).await?;
        // An engine that has no such setting does not write to files like PostgreSQL.
        if value != wanted && !value.is_empty() {
            let found = UnsafeServer::Setting { setting: name, value, wanted };
            if !allow_unsafe {
                return Err(found);
            }
            tracing::warn!("{found}");
        }
    }
    if setting(&client, "synchronous_standby_names").await?.is_empty() {
        tracing::warn!(
            "the database has no synchronous standby (synchronous_standby_names is empty): a failover may lose \
             acknowledged callbacks"
        );
    }
    Ok(())
}

async fn setting(client: &Client, name: &str) -> Result<String, Error> {
    let text = "SELECT COALESCE(current_setting($1, true), '')";
    let row = client.query_typed_one(text, &[(&name, tokio_postgres::types::Type::TEXT)]).await?;
    Ok(row.get(0))
}
