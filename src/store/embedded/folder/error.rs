//! Why a store cannot be opened, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::store::StoreError;

/// Why the store's folder could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// An operation on a file or folder failed.
    #[error("cannot {attempted} {}", path.display())]
    Folder {
        /// The operation, as a verb: "create", "open".
        attempted: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Another process has this folder open.
    #[error("{} is in use by another process\nhint: one folder serves one unionlink; stop the other one", .0.display())]
    InUse(PathBuf),
    /// The folder belongs to another user than that of this process.
    #[error(
        "{} belongs to the user {owner}, and this process runs as {user}\nhint: run it as that user (sudo -u '#{owner}' …), or give the folder to this one (chown -R {user})",
        path.display()
    )]
    Owner {
        /// The folder.
        path: PathBuf,
        /// The number of its owner.
        owner: u32,
        /// The number of the process's user.
        user: u32,
    },
    /// sled cannot open or write an index.
    #[error("the index in {} cannot be used: {reason}\nhint: is the disk full, or failing?", path.display())]
    Index {
        /// Where.
        path: PathBuf,
        /// The error of sled.
        reason: String,
    },
    /// The binary was linked without our `sync_file_range`, which makes sled's writes durable.
    #[error(
        "writes would not be durable: this binary was linked without its own sync_file_range\nhint: build it with the project's Cargo.toml"
    )]
    NotDurable,
    /// Log and checkpoint lack something that the index lacks too, or do not belong to it.
    #[error("the store in {} is incomplete: {reason}\nhint: {hint}", path.display())]
    Incomplete {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// What to do.
        hint: &'static str,
    },
    /// The process was told to stop while the index was built anew.
    #[error("stopped while the index was built anew; the next start begins again")]
    Interrupted,
    /// The index belongs to another program or version, or is damaged.
    #[error("the content of the store cannot be used: {0}")]
    Content(StoreError),
}

impl From<OpenError> for io::Error {
    /// The same, for what can fail of nothing but I/O.
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Folder { attempted, path, source } => {
                let text = format!("cannot {attempted} {}: {source}", path.display());
                Self::new(source.kind(), text)
            }
            other => Self::other(other),
        }
    }
}

/// Adds to errors of the operating system what was attempted.
pub(crate) fn folder_error<'a>(
    attempted: &'static str,
    path: &'a Path,
) -> impl Fn(io::Error) -> OpenError + Copy + 'a {
    move |source| OpenError::Folder { attempted, path: path.to_owned(), source }
}
