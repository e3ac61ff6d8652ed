//! Why a journal cannot be used, and what to do about it.

use std::io;

use super::super::engine::EngineError;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the database cannot be read: {0}")]
    Database(String),
    #[error("a file is missing: after batch {have} it goes on with batch {next}")]
    Gap {
        /// The last batch that is there.
        have: u64,
        /// Where it goes on.
        next: u64,
    },
    #[error("the journal holds {batches} batches, and the database is empty")]
    DatabaseGone {
        /// The number of its last one.
        batches: u64,
    },
    #[error("it ends with batch {journal}, and the database has everything up to {database}")]
    Behind {
        /// The number of the journal's last batch.
        journal: u64,
        /// Of the database's.
        database: u64,
    },
    #[error(
        "the copy in that folder ends with batch {copy}, and the journal with {journal}: it is of a later state"
    )]
    LaterCopy {
        /// The number of the copy's last batch.
        copy: u64,
        /// Of the journal's.
        journal: u64,
    },
    #[error("the copy in that folder is of another journal")]
    OtherCopy,
    #[error("it is the journal of another database")]
    Foreign,
    #[error("there is no journal")]
    None,
    #[error("there is something else in that folder")]
    Occupied,
    #[error("that folder is the store's own")]
    Inside,
}

impl JournalError {
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Io(_) => {
                "is the disk full, or failing? files that are damaged: unionlink store rebuild --backup FOLDER, with \
                 --partial where even the copy lacks something"
            }
            Self::Database(_) => "keep a copy of the folder, then run unionlink store rebuild",
            Self::Gap { .. } => {
                "with a copy made by unionlink store backup: unionlink store rebuild --backup FOLDER"
            }
            Self::DatabaseGone { .. } => {
                "run unionlink store rebuild; to begin with nothing, move the journal away"
            }
            Self::Behind { .. } => {
                "start the service: it begins the journal anew with what the database holds"
            }
            Self::Foreign => {
                "put the folder together again as it was; or, if the database is the right one, move the journal away \
                 to begin it anew; if the journal is, run unionlink store rebuild"
            }
            Self::None => "it is written while the service runs with [store] journal = true",
            Self::Occupied | Self::LaterCopy { .. } => {
                "name a folder that is empty or new, or one that this store was copied to before"
            }
            Self::OtherCopy => {
                "name a new folder: a journal that was begun anew, or another store's, needs one"
            }
            Self::Inside => "name a folder outside, on another disk if there is one",
        }
    }
}

impl From<EngineError> for JournalError {
    fn from(error: EngineError) -> Self {
        Self::Database(error.0)
    }
}
