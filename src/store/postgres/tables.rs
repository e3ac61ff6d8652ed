//! The tables and the statements on them.
//!
//! A row of the store is a row of one of these tables, with the same key and value as in any other store (see
//! [`keys`](crate::store::rows::keys) and [`records`](crate::store::rows::records)). They are apart by how they change, so
//! that one which changes all the time is small, and vacuumed soon:
//!
//! | table | rows |
//! | --- | --- |
//! | `hot` | counters, ledgers, cursors: a few rows, written all the time; each version is a row of its own |
//! | `record` | everything that is not in another one: customers and their indexes, dealers, groups, authorisations … |
//! | `queue` | work that waits: inserted once, deleted soon |
//! | `seen` | received messages, for deduplication: deleted in the order of their keys |
//! | `feed` | entries of the feed: likewise |
//! | `fan` | fans, and what they are found by |
//! | `commit` | one row for each of the last commits, with the counters after it |
//! | `told` | what each of them tells other replicas, if there are any |
//! | `replica`, `lease` | the replicas that live, and which of them has which duty |
//! | `cluster` | one row: the version of the schema, and the lock of those who write |

/// A table of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, strum::EnumIter, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(super) enum Table {
    Hot,
    Record,
    Queue,
    Seen,
    Feed,
    Fan,
}

impl Table {
    pub(super) const COUNT: usize = 6;

    /// The table of the rows whose keys begin with this byte.
    pub(super) const fn of(kind: u8) -> Self {
        match kind {
            b'i' | b'y' | b'w' | b'j' | b't' | b'r' => Self::Queue,
            b'd' => Self::Seen,
            b'f' => Self::Feed,
            b'n' | b'N' => Self::Fan,
            b'T' | b'a' | b'b' | b'g' | b'l' | b'm' | b's' => Self::Hot,
            _ => Self::Record,
        }
    }

    /// The table of a key.
    pub(super) fn of_key(key: &[u8]) -> Self {
        key.first().map_or(Self::Record, |kind| Self::of(*kind))
    }

    /// Rows by their keys: `bytea[]`.
    pub(super) fn get(self, schema: &str) -> String {
        let table: &str = self.into();
        match self {
            // The newest first: older ones that cannot be removed yet are not passed by.
            Self::Hot => format!(
                "SELECT k, value FROM unnest($1::bytea[]) AS k CROSS JOIN LATERAL \
                 (SELECT value FROM {schema}.hot WHERE key = k ORDER BY seq DESC LIMIT 1) AS newest"
            ),
            _ => format!("SELECT key, value FROM {schema}.{table} WHERE key = ANY($1)"),
        }
    }

    /// The first rows of some ranges, in order, with the number of the range: begins `bytea[]`, ends `bytea[]`, rows of
    /// each `bigint`.
    pub(super) fn ranges(self, schema: &str) -> String {
        let table: &str = self.into();
        format!(
            "SELECT n, key, value FROM unnest($1::bytea[], $2::bytea[]) WITH ORDINALITY AS range (f, t, n) \
             CROSS JOIN LATERAL (SELECT key, value FROM {schema}.{table} WHERE key >= f AND key < t ORDER BY key LIMIT $3) AS found \
             ORDER BY n, key"
        )
    }

    /// Writes rows: keys `bytea[]`, values `bytea[]`, the number of the commit `bigint`.
    pub(super) fn put(self, schema: &str) -> String {
        let table: &str = self.into();
        match self {
            Self::Hot => format!(
                "WITH gone AS ({}) INSERT INTO {schema}.hot (key, seq, value) \
                 SELECT k, $3, v FROM unnest($1::bytea[], $2::bytea[]) AS put (k, v)",
                self.delete(schema)
            ),
            _ => format!(
                "INSERT INTO {schema}.{table} (key, value) SELECT k, v FROM unnest($1::bytea[], $2::bytea[]) AS put (k, v) \
                 ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value"
            ),
        }
    }

    /// Deletes rows by their keys: `bytea[]`.
    pub(super) fn delete(self, schema: &str) -> String {
        let table: &str = self.into();
        match self {
            Self::Hot => format!(
                "DELETE FROM {schema}.hot USING (SELECT k, \
                 (SELECT seq FROM {schema}.hot WHERE key = k ORDER BY seq DESC LIMIT 1) AS s \
                 FROM unnest($1::bytea[]) AS k) AS newest WHERE hot.key = newest.k AND hot.seq = newest.s"
            ),
            _ => format!("DELETE FROM {schema}.{table} WHERE key = ANY($1)"),
        }
    }
}

/// Waits for the commits of others, and keeps them waiting until the transaction ends.
pub(super) fn lock(schema: &str) -> String {
    format!("SELECT 1 FROM {schema}.cluster FOR UPDATE")
}

/// The newest commit. In a statement of its own behind [`lock`], so that it sees what that has waited for.
pub(super) fn head(schema: &str) -> String {
    format!("SELECT seq, meta FROM {schema}.commit ORDER BY seq DESC LIMIT 1")
}

/// Records a commit: its number `bigint`, its id `bytea`, the counters `bytea`. No two can have one number.
pub(super) fn commit(schema: &str) -> String {
    format!("INSERT INTO {schema}.commit (seq, id, meta) VALUES ($1, $2, $3)")
}

/// Deletes the commit with this number, `bigint`. One, and not a range, which may have to pass by many that are deleted and
/// not vacuumed.
pub(super) fn forget_commit(schema: &str) -> String {
    format!("DELETE FROM {schema}.commit WHERE seq = $1")
}

/// Whether there is a commit with this number, `bigint`, and this id, `bytea`.
pub(super) fn find_commit(schema: &str) -> String {
    format!("SELECT 1 FROM {schema}.commit WHERE seq = $1 AND id = $2")
}

/// Records what a commit tells other replicas: its number `bigint`, keys `bytea[]`, signals `text[]`.
pub(super) fn tell(schema: &str) -> String {
    format!("INSERT INTO {schema}.told (seq, keys, signals) VALUES ($1, $2, $3)")
}

/// Deletes what the commit with this number, `bigint`, has told.
pub(super) fn forget_told(schema: &str) -> String {
    format!("DELETE FROM {schema}.told WHERE seq = $1")
}

/// What the commits after one number, `bigint`, and up to another have told.
pub(super) fn told(schema: &str) -> String {
    format!("SELECT seq, keys, signals FROM {schema}.told WHERE seq > $1 AND seq <= $2 ORDER BY seq")
}
