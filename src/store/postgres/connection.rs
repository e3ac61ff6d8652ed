//! A connection to the database: its session, its prepared statements, and the two things that are done with it: rows
//! are fetched, and a group of transactions is committed.
//!
//! Statements that do not depend on each other's results are sent at once, so that they cost one round trip together.

use std::time::Duration;

use futures_util::future::try_join_all;
use strum::IntoEnumIterator as _;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Error, NoTls, Statement};

use super::known::{Known, Wanted};
use super::tables::{self, Table};
use crate::store::rows::keys;
use crate::store::rows::source::Batch;

/// Rows of a range that are fetched at a time.
const RANGE_ROWS: usize = 256;
/// Commits whose number and id are kept, so that one whose answer was lost can be looked up: for half an hour under
/// full load.
const COMMITS_KEPT: i64 = 500_000;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// After this long without an answer of the other machine a connection is given up.
const SILENT_MAX: Duration = Duration::from_secs(8);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);

/// A newest commit: its number and the encoded counters after it.
pub(super) type Head = Option<(i64, Vec<u8>)>;

/// A connection.
pub(super) struct Connection {
    client: Client,
    tables: Vec<Statements>,
    head: Statement,
    commit: Statement,
    forget_commit: Statement,
    find_commit: Statement,
}

/// What is written to one table.
#[derive(Default)]
struct Writes<'a> {
    keys: Vec<&'a [u8]>,
    values: Vec<&'a [u8]>,
    deleted: Vec<&'a [u8]>,
}

/// The statements on one table.
struct Statements {
    get: Statement,
    ranges: Statement,
    put: Statement,
    delete: Statement,
}

impl Connection {
    /// Connects, and prepares every statement.
    pub(super) async fn open(config: &Config, schema: &str) -> Result<Self, Error> {
        let client = connect(config, schema).await?;
        let prepare = |text: String| {
            let client = &client;
            async move { client.prepare(&text).await }
        };
        let tables = try_join_all(Table::iter().map(|table| async move {
            let (get, ranges, put, delete) = tokio::try_join!(
                prepare(table.get()),
                prepare(table.ranges()),
                prepare(table.put()),
                prepare(table.delete())
            )?;
            Ok::<_, Error>(Statements { get, ranges, put, delete })
        }));
        let (tables, head, commit, forget_commit, find_commit) = tokio::try_join!(
            tables,
            client.prepare(tables::HEAD),
            client.prepare(tables::COMMIT),
            client.prepare(tables::FORGET_COMMIT),
            client.prepare(tables::FIND_COMMIT),
        )?;
        Ok(Self { client, tables, head, commit, forget_commit, find_commit })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Begins a transaction that sees the rows as of one instant, and adds what is wanted to what is known.
    pub(super) async fn begin_read(&self, wanted: Wanted, known: &mut Known) -> Result<(), Error> {
        let begin = self.client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
        // In this order.
        let ((), fetched) = tokio::try_join!(biased; begin, self.fetch(wanted))?;
        fetched.add_to(known);
        Ok(())
    }

    /// Ends it.
    pub(super) async fn end_read(&self) -> Result<(), Error> {
        self.client.batch_execute("COMMIT").await
    }

    /// Begins a transaction once those of all others are committed, and adds what is wanted to what is known. Returns the
    /// newest commit, and whether there is one with this id: whichever connection it came over, it has ended by now.
    pub(super) async fn begin_commit(
        &self,
        id: Option<[u8; 16]>,
        wanted: Wanted,
        known: &mut Known,
    ) -> Result<(Head, bool), Error> {
        let begin = self.client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED");
        let lock = self.client.batch_execute(tables::LOCK);
        // In this order: what is read before the lock is held would be out of date.
        let ((), (), head, is_committed, fetched) =
            tokio::try_join!(biased; begin, lock, self.head(), self.has_committed(id), self.fetch(wanted))?;
        fetched.add_to(known);
        Ok((head, is_committed))
    }

    /// Adds what is wanted to what is known.
    pub(super) async fn read_on(&self, wanted: Wanted, known: &mut Known) -> Result<(), Error> {
        self.fetch(wanted).await?.add_to(known);
        Ok(())
    }

    /// Writes these rows as the commit with this number and id, with the counters after it, and commits.
    pub(super) async fn commit(
        &self,
        (seq, id): (i64, [u8; 16]),
        meta: &[u8],
        writes: &Batch,
    ) -> Result<(), Error> {
        let mut of_tables: [Writes<'_>; Table::COUNT] = Default::default();
        for (key, value) in writes {
            let Writes { keys, values, deleted } = &mut of_tables[Table::of_key(key) as usize];
            match value {
                Some(value) => {
                    keys.push(key);
                    values.push(value);
                }
                None => deleted.push(key),
            }
        }
        let (id, forgotten) = (id.as_slice(), seq - COMMITS_KEPT);
        let mut statements: Vec<(&Statement, Vec<&(dyn ToSql + Sync)>)> =
            vec![(&self.commit, vec![&seq, &id, &meta]), (&self.forget_commit, vec![&forgotten])];
        for (table, Writes { keys, values, deleted }) in self.tables.iter().zip(&of_tables) {
            if !keys.is_empty() {
                statements.push((&table.put, vec![keys, values]));
            }
            if !deleted.is_empty() {
                statements.push((&table.delete, vec![deleted]));
            }
        }
        let execute = try_join_all(
            statements.iter().map(|(statement, values)| self.client.execute(*statement, values)),
        );
        // Last, and sent at once with the others: if one of them fails, it does nothing.
        let (_, ()) = tokio::try_join!(biased; execute, self.client.batch_execute("COMMIT"))?;
        Ok(())
    }

    /// Ends the transaction without a change.
    pub(super) async fn roll_back(&self) -> Result<(), Error> {
        self.client.batch_execute("ROLLBACK").await
    }

    async fn has_committed(&self, id: Option<[u8; 16]>) -> Result<bool, Error> {
        let Some(id) = id else { return Ok(false) };
        Ok(self.client.query_opt(&self.find_commit, &[&id.as_slice()]).await?.is_some())
    }

    /// The newest commit.
    pub(super) async fn head(&self) -> Result<Head, Error> {
        let head = self.client.query_opt(&self.head, &[]).await?;
        Ok(head.map(|row| (row.get(0), row.get(1))))
    }

    async fn fetch(&self, mut wanted: Wanted) -> Result<Fetched, Error> {
        // The counters are with the commits.
        let meta = if wanted.keys.remove(&keys::meta()) { self.head().await? } else { None };
        let mut of_tables: [Wanted; Table::COUNT] = Default::default();
        for key in wanted.keys {
            of_tables[Table::of_key(&key) as usize].keys.insert(key);
        }
        for range in wanted.ranges {
            of_tables[Table::of_key(&range.0) as usize].ranges.insert(range);
        }
        let fetches = self.tables.iter().zip(of_tables);
        let fetches = fetches.map(|(statements, wanted)| self.fetch_of_table(statements, wanted));
        let mut all =
            Fetched(meta.map(|(_, meta)| (keys::meta(), Some(meta))).into_iter().collect(), Vec::new());
        for Fetched(rows, ranges) in try_join_all(fetches).await? {
            all.0.extend(rows);
            all.1.extend(ranges);
        }
        Ok(all)
    }

    async fn fetch_of_table(&self, statements: &Statements, wanted: Wanted) -> Result<Fetched, Error> {
        let Wanted { keys, ranges } = wanted;
        let keys: Vec<_> = keys.into_iter().collect();
        let (begins, ends): (Vec<_>, Vec<_>) = ranges.into_iter().unzip();
        let by_key = async {
            if keys.is_empty() { Ok(Vec::new()) } else { self.client.query(&statements.get, &[&keys]).await }
        };
        let limit = i64::try_from(RANGE_ROWS).unwrap_or(i64::MAX);
        let by_range = async {
            if begins.is_empty() {
                return Ok(Vec::new());
            }
            self.client.query(&statements.ranges, &[&begins, &ends, &limit]).await
        };
        let (by_key, by_range) = tokio::try_join!(by_key, by_range)?;
        let mut rows: Vec<(Vec<u8>, Option<Vec<u8>>)> = keys.into_iter().map(|key| (key, None)).collect();
        rows.extend(by_key.iter().map(|row| (row.get(0), Some(row.get(1)))));
        // How many rows each range has, and the last.
        let mut found: Vec<(usize, Option<Vec<u8>>)> = vec![(0, None); begins.len()];
        for row in &by_range {
            let (number, key): (i64, Vec<u8>) = (row.get(0), row.get(1));
            if let Some((count, last)) = usize::try_from(number - 1).ok().and_then(|n| found.get_mut(n)) {
                *count += 1;
                *last = Some(key.clone());
            }
            rows.push((key, Some(row.get(2))));
        }
        let ranges = begins.into_iter().zip(ends).zip(found).map(|((from, to), (count, last))| {
            let known_to = last.filter(|_| count == RANGE_ROWS).map(|last| keys::next(&last));
            (from, known_to.unwrap_or(to))
        });
        Ok(Fetched(rows, ranges.collect()))
    }
}

/// What was fetched: rows, or that there are none with these keys; and the ranges of which that is all.
struct Fetched(Vec<(Vec<u8>, Option<Vec<u8>>)>, Vec<(Vec<u8>, Vec<u8>)>);

impl Fetched {
    fn add_to(self, known: &mut Known) {
        for (key, value) in self.0 {
            known.add(key, value);
        }
        for (from, to) in self.1 {
            known.add_range(from, to);
        }
    }
}

/// Connects, and sets up the session.
pub(super) async fn connect(config: &Config, schema: &str) -> Result<Client, Error> {
    let mut config = config.clone();
    let session = format!(
        "-c search_path={schema} -c synchronous_commit=on -c statement_timeout=10s -c lock_timeout=10s \
         -c idle_in_transaction_session_timeout=2s -c jit=off -c timezone=UTC"
    );
    // Shows a DBA which store it is.
    config.application_name(format!("unionlink/{schema}"));
    let session = format!("{} {session}", config.get_options().unwrap_or_default());
    config.options(session).connect_timeout(CONNECT_TIMEOUT).tcp_user_timeout(SILENT_MAX);
    config.keepalives_idle(KEEPALIVE_EVERY).keepalives_interval(KEEPALIVE_EVERY);
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the database ended");
        }
    });
    Ok(client)
}
