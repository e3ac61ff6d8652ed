//! Collects the rows of a source into request bodies. A bounded channel keeps this a few batches ahead of the
//! requests, so memory does not depend on the size of the input.

use std::io;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;

use super::records::Position;
use super::source::{Source, unreadable};

/// Rows in one request. The admin API reports at most this many rejected rows.
const ROWS_MAX: usize = 1_000;
const BODY_BYTES_MAX: usize = 512 * 1024;
/// How much of a row is kept in case it is rejected.
const TEXT_BYTES_MAX: usize = 1024;

/// Consecutive rows, sent in one request.
#[derive(Debug)]
pub(super) struct Batch {
    /// The rows that are not rejected, as NDJSON.
    pub(super) body: Vec<u8>,
    pub(super) rows: Vec<SourceRow>,
    /// The position where the next batch begins.
    pub(super) end: Position,
    /// Bytes of the input read so far.
    pub(super) read_bytes: u64,
}

/// A row of the source.
#[derive(Debug)]
pub(super) struct SourceRow {
    pub(super) line: u64,
    pub(super) text: Box<str>,
    /// The reason if it is rejected; such a row is not sent.
    pub(super) rejected: Option<String>,
}

/// Reads `source` from `position` to its end, or until the receiver is dropped. Blocks.
///
/// # Errors
/// When the source cannot be read any further; the rows before that are sent.
pub(super) fn read(mut source: Source, position: Position, to: &mpsc::Sender<Batch>) -> anyhow::Result<()> {
    source.records.skip_to(position).map_err(|error| unreadable(&source.name, &error))?;
    loop {
        let mut batch = Batch { body: Vec::new(), rows: Vec::new(), end: position, read_bytes: 0 };
        let more = fill(&mut batch, &mut source);
        batch.end = source.records.position();
        batch.read_bytes = source.read_bytes.load(Ordering::Relaxed);
        let received = to.blocking_send(batch).is_ok();
        match more {
            Ok(true) if received => {}
            Err(error) if received => {
                let line = source.records.position().line - 1;
                return Err(unreadable(&format!("{} after line {line}", source.name), &error));
            }
            _ => return Ok(()),
        }
    }
}

/// Reads rows until the batch is full or the source ends. Returns whether there may be more rows.
fn fill(batch: &mut Batch, source: &mut Source) -> io::Result<bool> {
    while batch.rows.len() < ROWS_MAX && batch.body.len() < BODY_BYTES_MAX {
        let Some(record) = source.records.read(|record| source.rows.swallows_rows(record))? else {
            return Ok(false);
        };
        let row = match record.malformed {
            Some(malformed) => Err(malformed.to_string()),
            None => source.rows.row(record.bytes),
        };
        let rejected = match row {
            Ok(None) => continue,
            Ok(Some(row)) => {
                serde_json::to_writer(&mut batch.body, &row)?;
                batch.body.push(b'\n');
                None
            }
            Err(reason) => Some(reason),
        };
        let text = &record.bytes[..record.bytes.len().min(TEXT_BYTES_MAX)];
        let text = String::from_utf8_lossy(text).into();
        batch.rows.push(SourceRow { line: record.line, text, rejected });
    }
    Ok(true)
}
