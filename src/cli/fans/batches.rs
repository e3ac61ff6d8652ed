//! Reads a source to its end and packs its rows into bodies for the admin API.
//!
//! Runs on a thread of its own, ahead of the sending by a few batches at most: memory does not depend on the input.

use std::sync::atomic::Ordering;

use axum::body::Bytes;
use tokio::sync::mpsc;

use super::records::Position;
use super::source::{Source, broken};
use super::split::Flaw;

/// Rows in one request; the admin API lists as many rejected rows.
const ROWS_MAX: usize = 1_000;
const BODY_BYTES_MAX: usize = 512 * 1024;
/// What is kept of a row to show it when it is rejected.
const RAW_BYTES_MAX: usize = 1024;

/// Rows that are sent together, and everything up to their end.
#[derive(Debug)]
pub(super) struct Batch {
    /// NDJSON.
    pub(super) body: Bytes,
    /// Where each line of the body came from.
    pub(super) sent: Vec<Origin>,
    /// Rows that are not sent.
    pub(super) bad: Vec<Bad>,
    /// Everything before it is in this batch or an earlier one.
    pub(super) end: Position,
    /// Bytes of the source read by then.
    pub(super) read_bytes: u64,
}

/// A row as it stands in the source.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) line: u64,
    pub(super) raw: Box<str>,
}

/// A row that was not taken.
#[derive(Debug)]
pub(super) struct Bad {
    pub(super) origin: Origin,
    pub(super) reason: String,
}

/// Reads `source`, from where an earlier run came to, into `to` until its end, or until nobody listens.
///
/// # Errors
/// When the source cannot be read on; what was read before is sent.
pub(super) fn read(
    mut source: Source,
    from: Option<Position>,
    to: &mpsc::Sender<Batch>,
) -> anyhow::Result<()> {
    if let Some(from) = from {
        source.resume(from).map_err(|error| broken(&source.name, &error))?;
    }
    let mut packing = Packing::default();
    let outcome = loop {
        match next(&mut source, &mut packing) {
            Ok(true) if packing.is_full() => {
                if to.blocking_send(packing.take(&source)).is_err() {
                    return Ok(());
                }
            }
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => {
                let line = source.records.position().line;
                break Err(broken(&format!("{} after line {}", source.name, line - 1), &error));
            }
        }
    };
    // Nobody listens: then nobody wants it either.
    let _ = to.blocking_send(packing.take(&source));
    outcome
}

/// Reads one record; whether there was one.
fn next(source: &mut Source, packing: &mut Packing) -> std::io::Result<bool> {
    let Some(record) = source.records.read()? else {
        return Ok(false);
    };
    let raw = || source.encoding.excerpt(record.bytes, RAW_BYTES_MAX).into_boxed_str();
    let line = record.line;
    if let Some(flaw) = record.flaw {
        packing.bad(Origin { line, raw: raw() }, flaw.reason().to_owned());
    } else if record.lines > 1 && source.rows.holds_an_open_quote(record.bytes) {
        let first_line = record.bytes.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
        let raw = source.encoding.excerpt(first_line, RAW_BYTES_MAX).into_boxed_str();
        packing.bad(Origin { line, raw }, Flaw::OpenQuote.reason().to_owned());
        source.records.put_back_all_but_first_line();
    } else {
        match source.rows.row(record.bytes) {
            Ok(Some(row)) => packing.good(Origin { line, raw: raw() }, &row)?,
            Ok(None) => {}
            Err(reason) => packing.bad(Origin { line, raw: raw() }, reason),
        }
    }
    Ok(true)
}

#[derive(Default)]
struct Packing {
    body: Vec<u8>,
    sent: Vec<Origin>,
    bad: Vec<Bad>,
}

impl Packing {
    fn good(&mut self, origin: Origin, row: &super::rows::Row) -> std::io::Result<()> {
        serde_json::to_writer(&mut self.body, row)?;
        self.body.push(b'\n');
        self.sent.push(origin);
        Ok(())
    }

    fn bad(&mut self, origin: Origin, reason: String) {
        self.bad.push(Bad { origin, reason });
    }

    /// A row is at most a few kilobytes, so a body is over its limit by no more.
    fn is_full(&self) -> bool {
        self.sent.len() + self.bad.len() >= ROWS_MAX || self.body.len() >= BODY_BYTES_MAX
    }

    fn take(&mut self, source: &Source) -> Batch {
        Batch {
            body: std::mem::take(&mut self.body).into(),
            sent: std::mem::take(&mut self.sent),
            bad: std::mem::take(&mut self.bad),
            end: source.records.position(),
            read_bytes: source.read_bytes.load(Ordering::Relaxed),
        }
    }
}
