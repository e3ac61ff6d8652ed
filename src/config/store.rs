//! `[store]`: where state is kept.

use std::path::PathBuf;

use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};

use super::folder;
use super::reader::{Section, Severity};
use super::secret::{self, Secret};
use crate::store::embedded;
use crate::store::postgres::{self, Settings};

/// `[store]`.
#[derive(Debug, Clone, Serialize)]
pub struct Store {
    pub(crate) kind: StoreKind,
    #[serde(flatten)]
    pub(crate) place: Place,
    pub(crate) inbox_events_max: u64,
    pub(crate) dedupe_days: u64,
    pub(crate) quarantine_days: u64,
    pub(crate) feed_days: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StoreKind {
    Sled,
    Postgres,
}

/// What only one kind of store has.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(crate) enum Place {
    Folder(Folder),
    Database(Database),
}

/// A folder of this machine.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    pub(crate) cache_mb: u64,
    pub(crate) free_mb_min: u64,
}

/// A database that several replicas may share.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Database {
    pub(crate) url: Secret,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listen_url: Option<Secret>,
    pub(crate) schema: String,
    pub(crate) pool_max: u64,
    pub(crate) migrate: Migrate,
    pub(crate) notify: Notify,
    pub(crate) prepared: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls_ca_file: Option<PathBuf>,
    pub(crate) allow_unsafe: bool,
}

/// When the schema is brought up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Migrate {
    Start,
    Manual,
}

/// How replicas learn of each other's commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Notify {
    Listen,
    Poll,
}

/// The keys of a database, and those of a folder.
pub(super) const OF_DATABASE: [&str; 9] = [
    "url",
    "listen_url",
    "schema",
    "pool_max",
    "migrate",
    "notify",
    "prepared",
    "tls_ca_file",
    "allow_unsafe",
];
const OF_FOLDER: [&str; 4] = ["path", "cache_mb", "free_mb_min", "journal"];

impl Store {
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let kind: StoreKind = section.text("kind")?;
        let (ignored, of): (&[&str], _) = match kind {
            StoreKind::Sled => (&OF_DATABASE, "postgres"),
            StoreKind::Postgres => (&OF_FOLDER, "sled"),
        };
        for name in ignored.iter().filter(|name| section.has(name)) {
            let reason = format!("has a meaning only with kind = \"{of}\"");
            section.report(Severity::Warning, name, reason, Some("delete the line"));
        }
        // All keys are known, whichever kind it is.
        let (folder, database) = (Folder::read(section, kind), Database::read(section, kind));
        let place = match kind {
            StoreKind::Sled => Place::Folder(folder?),
            StoreKind::Postgres => Place::Database(database?),
        };
        Some(Self {
            kind,
            place,
            inbox_events_max: section.number("inbox_events_max", 1..=1_000_000_000)?,
            dedupe_days: section.number("dedupe_days", 1..=365)?,
            quarantine_days: section.number("quarantine_days", 1..=3_650)?,
            feed_days: section.number("feed_days", 1..=3_650)?,
        })
    }

    /// The settings of the embedded store.
    pub(crate) fn settings(&self, folder: &Folder) -> embedded::Settings {
        embedded::Settings {
            cache_mb: folder.cache_mb,
            free_mb_min: folder.free_mb_min,
            inbox_events_max: self.inbox_events_max,
            dedupe_days: days(self.dedupe_days),
            quarantine_days: days(self.quarantine_days),
        }
    }

    /// The folder of the embedded store.
    pub(crate) const fn folder(&self) -> Option<&Folder> {
        match &self.place {
            Place::Folder(folder) => Some(folder),
            Place::Database(_) => None,
        }
    }
}

fn days(days: u64) -> u32 {
    u32::try_from(days).unwrap_or(u32::MAX)
}

impl Folder {
    fn read(section: &mut Section<'_>, kind: StoreKind) -> Option<Self> {
        let path: PathBuf = section.text("path")?;
        if kind == StoreKind::Sled
            && let Some(obstacle) = folder::obstacle(&path)
        {
            // `serve` finds out for certain, by opening the store.
            let hint =
                "run check as the user that runs unionlink; create the folder for that user, or name another";
            section.report(Severity::Suspect, "path", obstacle, Some(hint));
        }
        read_journal(section, kind);
        Some(Self {
            path,
            cache_mb: section.number("cache_mb", 8..=1 << 20)?,
            free_mb_min: section.number("free_mb_min", 1..=1 << 30)?,
        })
    }
}

/// Until 0.3 the log could be turned off.
fn read_journal(section: &mut Section<'_>, kind: StoreKind) {
    if !section.has("journal") {
        return;
    }
    let (is_on, hint) = (section.flag("journal"), Some("delete the line"));
    match is_on.filter(|_| kind == StoreKind::Sled) {
        Some(true) => {
            let reason = "no longer has a meaning: the write-ahead log is always written";
            section.report(Severity::Warning, "journal", reason, hint);
        }
        Some(false) => {
            let reason =
                "cannot be turned off any more: the write-ahead log is what makes a callback durable";
            section.problem("journal", reason, hint);
        }
        None => {}
    }
}

impl Database {
    fn read(section: &mut Section<'_>, kind: StoreKind) -> Option<Self> {
        const WRITE: &str = "write url = { env = \"UNIONLINK_DATABASE_URL\" }, and in that variable \
            postgres://user:password@host:5432/database";
        match kind {
            StoreKind::Postgres => section.require("url", WRITE),
            // They need not be there.
            StoreKind::Sled => ["url", "listen_url"].into_iter().for_each(|name| {
                section.take(name, |_| Ok(()));
            }),
        }
        let url = secret::read_checked(section, "url", postgres::check_url, WRITE);
        let listen_url = secret::read_checked(section, "listen_url", postgres::check_url, WRITE);
        let schema = section.parse("schema", |text: String| {
            let error = postgres::check_schema(&text).err();
            error.map_or(Ok(text), |error| Err((error.to_string(), None)))
        });
        let notify = section.text("notify");
        let prepared = section.flag("prepared");
        let database = Self {
            schema: schema?,
            pool_max: section.number("pool_max", 7..=1_000)?,
            migrate: section.text("migrate")?,
            notify: notify?,
            prepared: prepared?,
            tls_ca_file: section.text("tls_ca_file"),
            allow_unsafe: section.flag("allow_unsafe")?,
            url: url?,
            listen_url,
        };
        let is_pooled = !database.prepared && database.notify == Notify::Listen;
        if kind == StoreKind::Postgres && is_pooled && database.listen_url.is_none() {
            let reason = "passes no notifications on, if a pooler makes prepared = false necessary";
            let hint = "name the server itself as listen_url, or write notify = \"poll\"";
            section.report(Severity::Warning, "notify", reason, Some(hint));
        }
        Some(database)
    }

    /// The addresses, by key.
    pub(super) fn secrets(&self) -> [(&'static str, Option<&Secret>); 2] {
        [("url", Some(&self.url)), ("listen_url", self.listen_url.as_ref())]
    }

    /// The settings of the store.
    pub(crate) fn settings(&self, store: &Store) -> Settings {
        Settings {
            url: self.url.value.expose_secret().to_owned(),
            listen_url: self.listen_url.as_ref().map(|url| url.value.expose_secret().to_owned()),
            schema: self.schema.clone(),
            pool_max: usize::try_from(self.pool_max).unwrap_or(usize::MAX),
            migrate: self.migrate == Migrate::Start,
            notify: match self.notify {
                Notify::Listen => postgres::Notify::Listen,
                Notify::Poll => postgres::Notify::Poll,
            },
            prepared: self.prepared,
            tls_ca_file: self.tls_ca_file.clone(),
            allow_unsafe: self.allow_unsafe,
            inbox_events_max: store.inbox_events_max,
            dedupe_days: days(store.dedupe_days),
            quarantine_days: days(store.quarantine_days),
        }
    }
}
