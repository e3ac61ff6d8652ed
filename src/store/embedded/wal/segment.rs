//! One segment, being appended to.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::files::segment_name;
use super::record::{Header, Kind, Lineage};
use crate::store::embedded::folder::files::{at, sync};
use crate::store::embedded::folder::private::create_file;

/// Why a record was not appended.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// The disk is full; the segment is as it was before.
    Full,
    /// What the disk holds is known only after a restart.
    Failed(io::Error),
}

impl AppendError {
    /// An error that is not the disk's.
    pub(crate) fn failed(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Failed(io::Error::other(reason))
    }
}

pub(super) struct Segment {
    file: File,
    path: PathBuf,
    pub(super) bytes: u64,
}

impl Segment {
    /// Begins the segment for the record `from`; durable when it returns.
    pub(super) fn create(folder: &Path, lineage: Lineage, from: u64) -> io::Result<Self> {
        let path = folder.join(segment_name(from));
        let mut file = create_file(&path).map_err(at(&path))?;
        let header = Header { kind: Kind::Segment, lineage, from, to: 0 }.encode();
        let begun = file.write_all(&header).and_then(|()| file.sync_all()).map_err(at(&path));
        let begun = begun.and_then(|()| Ok(sync(folder)?));
        begun.inspect_err(|_| {
            // The segment before it may grow past this one's number.
            let _ = std::fs::remove_file(&path);
        })?;
        Ok(Self { file, path, bytes: header.len() as u64 })
    }

    /// Whether it has no record.
    pub(super) const fn is_empty(&self) -> bool {
        self.bytes <= Header::BYTES as u64
    }

    /// Appends a record; durable when it returns.
    pub(super) fn append(&mut self, record: &[u8]) -> Result<(), AppendError> {
        match self.file.write_all(record).map_err(at(&self.path)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::StorageFull => return self.take_back(error),
            Err(error) => return Err(AppendError::Failed(error)),
        }
        self.file.sync_data().map_err(at(&self.path)).map_err(AppendError::Failed)?;
        self.bytes += record.len() as u64;
        Ok(())
    }

    /// Removes what was written of a record for which there was too little space.
    fn take_back(&mut self, full: io::Error) -> Result<(), AppendError> {
        let cut = self.file.set_len(self.bytes).and_then(|()| {
            io::Seek::seek(&mut self.file, io::SeekFrom::Start(self.bytes))?;
            self.file.sync_data()
        });
        Err(if cut.is_ok() { AppendError::Full } else { AppendError::Failed(full) })
    }
}
