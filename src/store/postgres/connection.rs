//! A connection to the database: its session, its prepared statements, and the two things that are done with it: rows
//! are fetched, and a group of transactions is committed.
//!
//! Statements that do not depend on each other's results are sent at once, so that they cost one round trip together.

use futures_util::future::try_join_all;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Error, NoTls, Statement};

use super::known::{Known, Wanted};
use super::tables::{self, Table};
use crate::store::rows::keys;
use crate::store::rows::source::Batch;

/// Rows of a range that are fetched at a time.
const RANGE_ROWS: usize = 256;
/// Commits whose number and id are kept, so that one whose answer was lost can be looked up.
const COMMITS_KEPT: i64 = 1_000;

/// A newest commit: its number and the encoded counters after it.
pub(super) type Head = Option<(i64, Vec<u8>)>;

/// A connection.
pub(super) struct Connection {
    client: Client,
    tables: Vec<Statements>,
    head: Statement,
    commit: Statement,
    forget_commits: Statement,
    find_commit: Statement,
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
        use strum::IntoEnumIterator as _;
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
        let (tables, head, commit, forget_commits, find_commit) = tokio::try_join!(
            tables,
            client.prepare(tables::HEAD),
            client.prepare(tables::COMMIT),
            client.prepare(tables::FORGET_COMMITS),
            client.prepare(tables::FIND_COMMIT),
        )?;
        Ok(Self { tables, head, commit, forget_commits, find_commit, client })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Begins a transaction that sees the rows as of one instant, and adds what is wanted to what is known.
    pub(super) async fn begin_read(&self, wanted: Wanted, known: &mut Known) -> Result<(), Error> {
        let begin = self.client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
        let ((), fetched) = tokio::try_join!(begin, self.fetch(wanted))?;
        fetched.add_to(known);
        Ok(())
    }

    /// Ends it.
    pub(super) async fn end_read(&self) -> Result<(), Error> {
        self.client.batch_execute("COMMIT").await
    }

    /// Begins a transaction once those of all others are committed, and adds what is wanted to what is known. Returns the
    /// newest commit.
    pub(super) async fn begin_commit(&self, wanted: Wanted, known: &mut Known) -> Result<Head, Error> {
        let lock = async {
            self.client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
            Ok(())
        };
        let locked = self.client.batch_execute(tables::LOCK);
        let (_, (), head, fetched) =
            tokio::try_join!(lock, locked, self.client.query_opt(&self.head, &[]), self.fetch(wanted))?;
        fetched.add_to(known);
        Ok(head.map(|row| (row.get(0), row.get(1))))
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
        let mut puts: [(Vec<&[u8]>, Vec<&[u8]>); Table::COUNT] = Default::default();
        let mut deletes: [Vec<&[u8]>; Table::COUNT] = Default::default();
        for (key, value) in writes {
            let table = Table::of_key(key) as usize;
            match value {
                Some(value) => {
                    puts[table].0.push(key);
                    puts[table].1.push(value);
                }
                None => deletes[table].push(key),
            }
        }
        let (id, forgotten) = (id.as_slice(), seq - COMMITS_KEPT);
        let seq: &(dyn ToSql + Sync) = &seq;
        let mut statements: Vec<(&Statement, Vec<&(dyn ToSql + Sync)>)> =
            vec![(&self.commit, vec![seq, &id, &meta]), (&self.forget_commits, vec![&forgotten])];
        for (table, (keys, values)) in self.tables.iter().zip(&puts).filter(|(_, (keys, _))| !keys.is_empty())
        {
            statements.push((&table.put, vec![keys, values]));
        }
        for (table, keys) in self.tables.iter().zip(&deletes).filter(|(_, keys)| !keys.is_empty()) {
            statements.push((&table.delete, vec![keys]));
        }
        let execute = try_join_all(
            statements.iter().map(|(statement, values)| self.client.execute(*statement, values)),
        );
        // Last, and sent at once with the others: if one of them fails, it does nothing.
        let (_, ()) = tokio::try_join!(execute, self.client.batch_execute("COMMIT"))?;
        Ok(())
    }

    /// Ends the transaction without a change.
    pub(super) async fn roll_back(&self) -> Result<(), Error> {
        self.client.batch_execute("ROLLBACK").await
    }

    /// Whether the commit with this id took place.
    pub(super) async fn has_committed(&self, id: [u8; 16]) -> Result<bool, Error> {
        Ok(self.client.query_opt(&self.find_commit, &[&id.as_slice()]).await?.is_some())
    }

    /// The newest commit.
    pub(super) async fn head(&self) -> Result<Head, Error> {
        let head = self.client.query_opt(&self.head, &[]).await?;
        Ok(head.map(|row| (row.get(0), row.get(1))))
    }

    async fn fetch(&self, wanted: Wanted) -> Result<Fetched, Error> {
        let mut of_tables: [(Vec<Vec<u8>>, Vec<Vec<u8>>, Vec<Vec<u8>>); Table::COUNT] = Default::default();
        for key in wanted.keys {
            of_tables[Table::of_key(&key) as usize].0.push(key);
        }
        for (from, to) in wanted.ranges {
            let (_, begins, ends) = &mut of_tables[Table::of_key(&from) as usize];
            begins.push(from);
            ends.push(to);
        }
        let limit = i64::try_from(RANGE_ROWS).unwrap_or(i64::MAX);
        let fetches =
            self.tables.iter().zip(of_tables).map(|(statements, (keys, begins, ends))| async move {
                let get = async {
                    if keys.is_empty() {
                        return Ok(Vec::new());
                    }
                    self.client.query(&statements.get, &[&keys]).await
                };
                let ranges = async {
                    if begins.is_empty() {
                        return Ok(Vec::new());
                    }
                    self.client.query(&statements.ranges, &[&begins, &ends, &limit]).await
                };
                let (got, ranged) = tokio::try_join!(get, ranges)?;
                let got = got.iter().map(|row| (row.get(0), row.get(1))).collect();
                let mut ranges: Vec<_> =
                    begins.into_iter().zip(ends).map(|range| (range, Vec::new())).collect();
                for row in &ranged {
                    let number: i64 = row.get(0);
                    if let Some((_, rows)) = usize::try_from(number - 1).ok().and_then(|n| ranges.get_mut(n))
                    {
                        rows.push((row.get(1), row.get(2)));
                    }
                }
                Ok::<_, Error>(Fetched { keys, got, ranges })
            });
        let mut all = Fetched::default();
        for Fetched { keys, got, ranges } in try_join_all(fetches).await? {
            all.keys.extend(keys);
            all.got.extend(got);
            all.ranges.extend(ranges);
        }
        Ok(all)
    }
}

/// What was fetched.
#[derive(Default)]
struct Fetched {
    /// The keys that were asked for.
    keys: Vec<Vec<u8>>,
    /// The rows with these keys.
    got: Vec<(Vec<u8>, Vec<u8>)>,
    /// The first rows of the ranges that were asked for.
    ranges: Vec<((Vec<u8>, Vec<u8>), Vec<(Vec<u8>, Vec<u8>)>)>,
}

impl Fetched {
    fn add_to(self, known: &mut Known) {
        for key in self.keys {
            known.add(key, None);
        }
        for (key, value) in self.got {
            known.add(key, Some(value));
        }
        for ((from, to), rows) in self.ranges {
            let to = match rows.last() {
                Some((last, _)) if rows.len() == RANGE_ROWS => keys::next(last),
                _ => to,
            };
            for (key, value) in rows {
                known.add(key, Some(value));
            }
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
    config.application_name("unionlink").options(session);
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the database ended");
        }
    });
    Ok(client)
}
