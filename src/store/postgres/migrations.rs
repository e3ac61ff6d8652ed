//! The versions of the schema, and how one becomes the next.
//!
//! | number | what |
//! | --- | --- |
//! | `cluster.schema_version` | the newest migration that was applied |
//! | `cluster.oldest_binary` | the schema that a program has to know to run on this one |
//!
//! A migration is one transaction. It only adds to what there is, so that the program of the release before runs on while
//! replicas are replaced one by one; what that release no longer uses is removed by a later one, which raises
//! `oldest_binary`. Whoever migrates locks the cluster's row, so that nobody else does, and nobody writes meanwhile.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::server::{Server, Unreachable};

/// A version of the schema.
struct Migration {
    sql: &'static str,
    /// The oldest program that may run on it.
    oldest_binary: i32,
}

/// All of them, the first version first.
const MIGRATIONS: [Migration; 2] = [
    Migration { sql: include_str!("migrations/0001_rows.sql"), oldest_binary: 1 },
    // No release knows only the first.
    Migration { sql: include_str!("migrations/0002_hot.sql"), oldest_binary: 2 },
];

/// The version that this program makes and knows.
pub(super) const NEWEST: i32 = 2;
const _: () = assert!(MIGRATIONS.len() == NEWEST as usize);

/// Tries to get hold of the cluster's row while others write.
const TRIES_MAX: u32 = 30;

/// Why a schema cannot be used, or made.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The database cannot be reached.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// It has not been made, or is older than this program needs.
    #[error(
        "the schema {schema} is of version {found}, and this program needs {NEWEST}: run unionlink store migrate"
    )]
    ToMigrate {
        /// The schema.
        schema: String,
        /// 0: it has not been made.
        found: i32,
    },
    /// It is newer, and this program would not understand it.
    #[error(
        "the schema {schema} needs a newer unionlink: one that knows version {oldest}; this one knows {NEWEST}"
    )]
    TooNew {
        /// The schema.
        schema: String,
        /// The version that a program has to know.
        oldest: i32,
    },
    /// Others kept writing.
    #[error("the schema could not be migrated: replicas that run kept it busy; try again")]
    Busy,
}

impl From<tokio_postgres::Error> for SchemaError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Unreachable(error.into())
    }
}

/// Makes sure that this program can use the schema; brings it up to date if it `may_migrate`. Returns the version that it
/// had, and the version that it has.
pub(super) async fn prepare(server: &Server, may_migrate: bool) -> Result<(i32, i32), SchemaError> {
    let (client, _) = server.connect().await?;
    let schema = &server.schema;
    let (found, oldest) = version(&client, schema).await?;
    if oldest > NEWEST {
        return Err(SchemaError::TooNew { schema: schema.clone(), oldest });
    }
    if found >= NEWEST {
        return Ok((found, found));
    }
    if !may_migrate {
        return Err(SchemaError::ToMigrate { schema: schema.clone(), found });
    }
    // One of several replicas that start makes it; the others wait here.
    // A schema that somebody has made for us needs no right to make one.
    let named: &str = schema;
    let is_there = "SELECT to_regnamespace($1) IS NOT NULL";
    let is_there: bool = client.query_typed_one(is_there, &[(&named, Type::TEXT)]).await?.get(0);
    let make_schema =
        if is_there { String::new() } else { format!("CREATE SCHEMA IF NOT EXISTS {schema}; ") };
    let make = format!(
        "{make_schema}CREATE TABLE IF NOT EXISTS {schema}.cluster \
         (one bool PRIMARY KEY CHECK (one), schema_version int NOT NULL, oldest_binary int NOT NULL); \
         INSERT INTO {schema}.cluster VALUES (true, 0, 0) ON CONFLICT DO NOTHING"
    );
    for _ in 0..TRIES_MAX {
        if found == 0
            && let Err(error) = client.batch_execute(&make).await
            && !is_made_by_another(&error)
        {
            return Err(error.into());
        }
        match migrate(&client, schema).await {
            Ok(()) => return Ok((found, NEWEST)),
            Err(error) if is_made_by_another(&error) => {
                // Ends the transaction, if there is one.
                client.batch_execute("ROLLBACK").await?;
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(SchemaError::Busy)
}

/// Whether a statement failed because another replica did the same, or was at work: unique violations, duplicate objects,
/// locks.
fn is_made_by_another(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| {
        ["23505", "42P06", "42P07", "42710", "55P03", "40P01", "XX000"].contains(&code.code())
    })
}

/// Applies what is missing, in one transaction.
async fn migrate(client: &Client, schema: &str) -> Result<(), tokio_postgres::Error> {
    let begin = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '2s'; SET LOCAL statement_timeout = 0; \
         SET LOCAL search_path = {schema}; SELECT 1 FROM cluster FOR UPDATE"
    );
    client.batch_execute(&begin).await?;
    let (found, _) = version(client, schema).await?;
    for (version, Migration { sql, oldest_binary }) in
        (1..).zip(&MIGRATIONS).skip(found.try_into().unwrap_or(0))
    {
        tracing::info!(version, schema, "the schema is brought up to date");
        let record =
            format!("UPDATE cluster SET schema_version = {version}, oldest_binary = {oldest_binary}");
        client.batch_execute(&format!("{sql}; {record}")).await?;
    }
    client.batch_execute("COMMIT").await
}

/// The version of a schema, 0 if it has not been made, and that which a program has to know.
async fn version(client: &Client, schema: &str) -> Result<(i32, i32), tokio_postgres::Error> {
    let is_made = "SELECT to_regclass($1)::text IS NOT NULL";
    let name = format!("{schema}.cluster");
    let row = client.query_typed_one(is_made, &[(&name, Type::TEXT)]).await?;
    if !row.get::<_, bool>(0) {
        return Ok((0, 0));
    }
    let select = format!("SELECT schema_version, oldest_binary FROM {schema}.cluster");
    let row = client.query_typed_opt(&select, &[]).await?;
    Ok(row.map_or((0, 0), |row| (row.get(0), row.get(1))))
}
