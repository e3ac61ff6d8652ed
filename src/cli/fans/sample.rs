//! Examines the first rows of an input, before anything is sent. A wrong format and a missing app concern
//! every row, so they are reported once instead of for each row.
//!
//! Deliberately absent: other errors in rows, which are reported with their line when the rows are imported.

use std::io::Read;

use serde_json::{Map, Value};

use super::records::Records;
use super::rows::RowReader;

/// How many rows are examined.
const ROWS_MAX: usize = 20;

/// Examines the first rows, which stay unread. Returns whether there are valid rows and none of them has an
/// app.
///
/// # Errors
/// When the input is read as NDJSON and none of the rows is a JSON object: what is wrong with the first one.
pub(super) fn needs_app(records: &mut Records<impl Read>, rows: &mut RowReader) -> Result<bool, String> {
    let delimiter = records.delimiter;
    let mut sample = Records::new(records.peek(), delimiter);
    let (mut seen, mut valid, mut with_app, mut objects) = (0, 0, 0, 0);
    let mut first_reason = None;
    while seen < ROWS_MAX {
        // Reading from memory does not fail.
        let Ok(Some(record)) = sample.read(|record| rows.swallows_rows(record)) else { break };
        let row = match record.malformed {
            Some(malformed) => Err(malformed.to_string()),
            None => rows.row(record.bytes),
        };
        match row {
            Ok(None) => continue,
            Ok(Some(row)) => {
                valid += 1;
                with_app += usize::from(row.has_app());
            }
            Err(reason) => {
                first_reason.get_or_insert_with(|| format!("line {}: {reason}", record.line));
            }
        }
        seen += 1;
        objects += usize::from(serde_json::from_slice::<Map<String, Value>>(record.bytes).is_ok());
    }
    match first_reason {
        Some(reason) if delimiter.is_none() && objects == 0 => Err(reason),
        _ => Ok(valid > 0 && with_app == 0),
    }
}
