//! A connection to the database: its session, its prepared statements, and the two things that are done with it: rows
//! are fetched, and a group of transactions is committed.
//!
//! Statements that do not depend on each other's results are sent at once, so that they cost one round trip together.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::try_join_all;
use strum::IntoEnumIterator as _;
use tokio_postgres::error::Severity;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row, Statement};

use super::server::{Notices, SESSION, Server, Unreachable};
use super::shown;
use super::tables::{self, Table};
use crate::store::rows::keys;
use crate::store::rows::source::Batch;
use crate::store::shared::database::{
    AskedFirst, Begun, COMMITS_FOLLOWED, Fetched, Head, NewCommit, Session, Told, Trouble,
};
use crate::store::shared::known::{Known, Wanted};
use crate::telemetry::causes::with_causes;

/// The longest that opening a connection takes, with several hosts.
const OPEN_MAX: Duration = Duration::from_secs(30);
/// Rows of a range that are fetched at a time.
const RANGE_ROWS: usize = 256;
/// Commits whose number and id are kept, so that one whose answer was lost can be looked up: for half an hour under
/// full load.
const COMMITS_KEPT: i64 = 500_000;
/// Commits of which is kept what they wrote, for the other replicas.
const WRITTEN_KEPT: i64 = 20_000;

/// A statement, prepared or with its text.
struct Sql {
    text: String,
    types: Vec<Type>,
    prepared: Option<Statement>,
}

impl Sql {
    async fn new(client: &Client, prepared: bool, text: String, types: &[Type]) -> Result<Self, Error> {
        let prepared = if prepared { Some(client.prepare_typed(&text, types).await?) } else { None };
        Ok(Self { text, types: types.to_vec(), prepared })
    }

    async fn query(&self, client: &Client, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        match &self.prepared {
            Some(statement) => client.query(statement, values).await,
            None => client.query_typed(&self.text, &self.typed(values)).await,
        }
    }

    async fn execute(&self, client: &Client, values: &[&(dyn ToSql + Sync)]) -> Result<u64, Error> {
        match &self.prepared {
            Some(statement) => client.execute(statement, values).await,
            None => client.execute_typed(&self.text, &self.typed(values)).await,
        }
    }

    fn typed<'a>(&self, values: &[&'a (dyn ToSql + Sync)]) -> Vec<(&'a (dyn ToSql + Sync), Type)> {
        values.iter().copied().zip(self.types.iter().cloned()).collect()
    }
}

/// A connection.
pub(super) struct Connection {
    client: Client,
    notices: Arc<Notices>,
    /// Begins a transaction that reads, and one that writes.
    begins: [String; 2],
    tables: Vec<Statements>,
    lock: String,
    head: Sql,
    commit: Sql,
    forget_commit: Sql,
    find_commit: Sql,
    tell: Sql,
    forget_told: Sql,
    told: Sql,
    /// Of each table that is shown: how rows are written, and deleted.
    shown: Vec<(Sql, Sql)>,
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
    get: Sql,
    ranges: Sql,
    put: Sql,
    delete: Sql,
}

impl Connection {
    /// Connects, and prepares every statement.
    pub(super) async fn open(server: &Server) -> Result<Self, Unreachable> {
        let prepared = tokio::time::timeout(OPEN_MAX, Box::pin(Self::prepare(server))).await;
        prepared.unwrap_or(Err(Unreachable::Silent))
    }

    async fn prepare(server: &Server) -> Result<Self, Unreachable> {
        let (client, notices) = server.connect().await?;
        let schema = &server.schema;
        let sql = |text: String, types: &'static [Type]| Sql::new(&client, server.prepared, text, types);
        let tables = try_join_all(Table::iter().map(|table| async move {
            let (get, ranges, put, delete) = tokio::try_join!(
                sql(table.get(schema), &[Type::BYTEA_ARRAY]),
                sql(table.ranges(schema), &[Type::BYTEA_ARRAY, Type::BYTEA_ARRAY, Type::INT8]),
                sql(table.put(schema), &[Type::BYTEA_ARRAY, Type::BYTEA_ARRAY, Type::INT8]),
                sql(table.delete(schema), &[Type::BYTEA_ARRAY])
            )?;
            Ok::<_, Error>(Statements { get, ranges, put, delete })
        }));
        let (tables, head, commit, forget_commit, find_commit, tell, forget_told, told) = tokio::try_join!(
            tables,
            sql(tables::head(schema), &[]),
            sql(tables::commit(schema), &[Type::INT8, Type::BYTEA, Type::BYTEA]),
            sql(tables::forget_commit(schema), &[Type::INT8]),
            sql(tables::find_commit(schema), &[Type::INT8, Type::BYTEA]),
            sql(tables::tell(schema), &[Type::INT8, Type::BYTEA_ARRAY, Type::TEXT_ARRAY]),
            sql(tables::forget_told(schema), &[Type::INT8]),
            sql(tables::told(schema), &[Type::INT8, Type::INT8]),
        )?;
        let shown = shown::TABLES.iter().map(|table| async move {
            let (put, delete) = tokio::try_join!(
                sql(table.put(schema), &[Type::TEXT]),
                sql(table.delete(schema), &[Type::TEXT])
            )?;
            Ok::<_, Error>((put, delete))
        });
        let shown = try_join_all(shown).await?;
        // What a pooler does not keep is said each time.
        let settings = if server.prepared {
            String::new()
        } else {
            SESSION.map(|(name, value)| format!("; SET LOCAL {name} = '{value}'")).concat()
        };
        let begins = ["REPEATABLE READ READ ONLY", "READ COMMITTED"]
            .map(|level| format!("BEGIN ISOLATION LEVEL {level}{settings}"));
        let lock = tables::lock(schema);
        Ok(Self {
            client,
            notices,
            begins,
            tables,
            lock,
            head,
            commit,
            forget_commit,
            find_commit,
            tell,
            forget_told,
            told,
            shown,
        })
    }

    async fn has_committed(&self, which: Option<(i64, [u8; 16])>) -> Result<bool, Error> {
        let Some((seq, id)) = which else { return Ok(false) };
        Ok(!self.find_commit.query(&self.client, &[&seq, &id.as_slice()]).await?.is_empty())
    }

    /// The messages to other replicas of the commits after this one, at most [`COMMITS_FOLLOWED`].
    async fn read_told(&self, after: Option<i64>) -> Result<Vec<(i64, Told)>, Error> {
        let Some(after) = after else { return Ok(Vec::new()) };
        self.told_between(after, after + COMMITS_FOLLOWED).await
    }

    async fn told_between(&self, after: i64, to: i64) -> Result<Vec<(i64, Told)>, Error> {
        let rows = self.told.query(&self.client, &[&after, &to]).await?;
        let told = |row: &Row| (row.get(0), Told { keys: row.get(1), signals: row.get(2) });
        Ok(rows.iter().map(told).collect())
    }

    async fn read_head(&self) -> Result<Head, Error> {
        let head = self.head.query(&self.client, &[]).await?;
        Ok(head.first().map(|row| (row.get(0), row.get(1))))
    }

    async fn fetch(&self, mut wanted: Wanted) -> Result<Fetched, Error> {
        // The counters are with the commits.
        let meta = if wanted.keys.remove(&keys::meta()) { self.read_head().await? } else { None };
        let mut of_tables: [Wanted; Table::COUNT] = Default::default();
        for key in wanted.keys {
            of_tables[Table::of_key(&key) as usize].keys.insert(key);
        }
        for range in wanted.ranges {
            of_tables[Table::of_key(&range.0) as usize].ranges.insert(range);
        }
        let fetches = self.tables.iter().zip(of_tables);
        let fetches = fetches.map(|(statements, wanted)| self.fetch_of_table(statements, wanted));
        let mut all = Fetched::default();
        all.rows.extend(meta.map(|(_, meta)| (keys::meta(), Some(meta))));
        for Fetched { rows, ranges } in try_join_all(fetches).await? {
            all.rows.extend(rows);
            all.ranges.extend(ranges);
        }
        Ok(all)
    }

    async fn fetch_of_table(&self, statements: &Statements, wanted: Wanted) -> Result<Fetched, Error> {
        let Wanted { keys, ranges } = wanted;
        let keys: Vec<_> = keys.into_iter().collect();
        let (begins, ends): (Vec<_>, Vec<_>) = ranges.into_iter().unzip();
        let by_key = async {
            if keys.is_empty() { Ok(Vec::new()) } else { statements.get.query(&self.client, &[&keys]).await }
        };
        let limit = i64::try_from(RANGE_ROWS).unwrap_or(i64::MAX);
        let by_range = async {
            if begins.is_empty() {
                return Ok(Vec::new());
            }
            statements.ranges.query(&self.client, &[&begins, &ends, &limit]).await
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
        Ok(Fetched { rows, ranges: ranges.collect() })
    }
}

#[async_trait]
impl Session for Connection {
    fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    fn take_warning(&self) -> bool {
        self.notices.warned.swap(false, Relaxed)
    }

    async fn begin_read(&self, wanted: Wanted) -> Result<Fetched, Trouble> {
        let begin = self.client.batch_execute(&self.begins[0]);
        // In this order.
        let ((), fetched) = tokio::try_join!(biased; begin, self.fetch(wanted))?;
        Ok(fetched)
    }

    async fn read_on(&self, wanted: Wanted) -> Result<Fetched, Trouble> {
        Ok(self.fetch(wanted).await?)
    }

    async fn end_read(&self) -> Result<(), Trouble> {
        Ok(self.client.batch_execute("COMMIT").await?)
    }

    async fn begin_commit(&self, asked: AskedFirst, wanted: Wanted) -> Result<Begun, Trouble> {
        let begin = self.client.batch_execute(&self.begins[1]);
        let lock = self.client.batch_execute(&self.lock);
        // In this order: what is read before the lock is held would be out of date.
        let ((), (), head, is_committed, told, fetched) = tokio::try_join!(
            biased;
            begin,
            lock,
            self.read_head(),
            self.has_committed(asked.which),
            self.read_told(asked.told_after),
            self.fetch(wanted)
        )?;
        Ok(Begun { head, is_committed, told, fetched })
    }

    async fn commit(&self, commit: NewCommit<'_>, writes: &Batch, known: &Known) -> Result<(), Trouble> {
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
        let NewCommit { seq, id, meta, told } = commit;
        let (id, forgotten, forgotten_told) = (id.as_slice(), seq - COMMITS_KEPT, seq - WRITTEN_KEPT);
        let mut statements: Vec<(&Sql, Vec<&(dyn ToSql + Sync)>)> =
            vec![(&self.commit, vec![&seq, &id, &meta]), (&self.forget_commit, vec![&forgotten])];
        if let Some(Told { keys, signals }) = told {
            statements.push((&self.tell, vec![&seq, keys, signals]));
            statements.push((&self.forget_told, vec![&forgotten_told]));
        }
        for (table, Writes { keys, values, deleted }) in self.tables.iter().zip(&of_tables) {
            if !keys.is_empty() {
                statements.push((&table.put, vec![keys, values, &seq]));
            }
            if !deleted.is_empty() {
                statements.push((&table.delete, vec![deleted]));
            }
        }
        let shown = shown::changes(writes, known);
        for ((put, delete), change) in self.shown.iter().zip(&shown) {
            // First, so that a row whose key stays is not deleted.
            if let Some(deleted) = &change.deleted {
                statements.push((delete, vec![deleted]));
            }
            if let Some(rows) = &change.put {
                statements.push((put, vec![rows]));
            }
        }
        let execute = try_join_all(
            statements.iter().map(|(statement, values)| statement.execute(&self.client, values)),
        );
        // Last, and sent at once with the others: if one of them fails, it does nothing.
        let (_, ()) = tokio::try_join!(biased; execute, self.client.batch_execute("COMMIT"))?;
        Ok(())
    }

    async fn roll_back(&self) -> Result<(), Trouble> {
        Ok(self.client.batch_execute("ROLLBACK").await?)
    }

    async fn head(&self) -> Result<Head, Trouble> {
        Ok(self.read_head().await?)
    }

    async fn told(&self, after: i64, to: i64) -> Result<Vec<(i64, Told)>, Trouble> {
        Ok(self.told_between(after, to).await?)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        // Conflicts; a lock that is held; cancelled, or the server is stopping.
        let passes = ["40", "55P03", "57"];
        let is_refusal = error.as_db_error().is_some_and(|error| {
            error.parsed_severity() == Some(Severity::Error)
                && !passes.iter().any(|passing| error.code().code().starts_with(passing))
        });
        Self { reason: with_causes(&error), is_refusal }
    }
}

impl From<Unreachable> for Trouble {
    fn from(error: Unreachable) -> Self {
        Self { reason: with_causes(&error), is_refusal: false }
    }
}
