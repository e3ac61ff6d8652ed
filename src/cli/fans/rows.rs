//! Parses a record of the file into a row for the admin API, or into the reason why it is rejected.
//!
//! Ids are checked with the domain's own types, as the admin API does.

use std::io::{Cursor, SeekFrom};

use csv::StringRecord;
use serde::Serialize;
use serde_json::Value;
use strum::{EnumCount as _, VariantArray as _};

use super::columns::{Column, Columns};
use super::detect::Encoding;
use crate::domain::ids::{AppName, IdError, Openid, PendingId, Unionid};
use crate::domain::instant::{INSTANT_FORMS, instant};
use crate::domain::time::Timestamp;

/// One fan in a request body.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    unionid: Unionid,
    openid: Openid,
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<AppName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pending_id: Option<PendingId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    minted_at: Option<Timestamp>,
}

impl Row {
    /// Whether it has an app: its own, or the one of rows that do not name one.
    pub(super) const fn has_app(&self) -> bool {
        self.app.is_some()
    }
}

/// Parses the rows of one file.
pub(super) struct RowReader {
    /// The encoding the file was decoded from.
    encoding: Encoding,
    /// The app of rows that do not name one.
    app: Option<AppName>,
    /// The splitter and the columns of CSV; none for NDJSON.
    csv: Option<(FieldSplitter, Columns)>,
}

impl RowReader {
    /// A reader for NDJSON.
    pub(super) const fn new(encoding: Encoding, app: Option<AppName>) -> Self {
        Self { encoding, app, csv: None }
    }

    /// Makes it a reader for CSV with this header.
    ///
    /// # Errors
    /// When the header lacks a required column.
    pub(super) fn set_header(&mut self, header: &[u8], delimiter: u8) -> Result<(), String> {
        let mut splitter = FieldSplitter::new(delimiter);
        let text = utf8(header).map_err(|reason| format!("its header {reason}"))?;
        let columns = Columns::new(&splitter.split(text).iter().collect::<Vec<_>>())?;
        self.csv = Some((splitter, columns));
        Ok(())
    }

    /// The row in a record; none if it is blank.
    ///
    /// # Errors
    /// The reason why the row is rejected.
    pub(super) fn row(&mut self, record: &[u8]) -> Result<Option<Row>, String> {
        let text = utf8(record)?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        let (encoding, app) = (self.encoding, self.app.as_ref());
        let Some((splitter, columns)) = &mut self.csv else {
            let values = json_values(text)?;
            return checked_row(|column| values[column as usize].as_deref(), encoding, app).map(Some);
        };
        let fields = splitter.split(text);
        let blank_at_end = fields.iter().rev().take_while(|field| field.trim().is_empty()).count();
        match fields.len() - blank_at_end {
            0 => Ok(None),
            n if n > columns.count => Err(format!("has {n} fields, and the header has {}", columns.count)),
            _ => checked_row(|column| csv_value(fields, columns, column), encoding, app).map(Some),
        }
    }

    /// Whether a record of several lines comes from a quote that was never closed: a recognised column has a
    /// line break in it, there are more fields than in the header, or one of its lines is a whole row. A
    /// proper text of several lines, in an ignored column, has none of these.
    pub(super) fn swallows_rows(&mut self, record: &[u8]) -> bool {
        let (Some((splitter, columns)), Ok(text)) = (&mut self.csv, utf8(record)) else {
            return false;
        };
        let fields = splitter.split(text);
        let has_line_break =
            |column| csv_value(fields, columns, column).is_some_and(|text| text.contains(['\r', '\n']));
        if fields.len() > columns.count || Column::VARIANTS.iter().copied().any(has_line_break) {
            return true;
        }
        let lines: Vec<_> = text.split(['\r', '\n']).collect();
        let inner = lines.get(1..lines.len() - 1).unwrap_or_default();
        inner.iter().any(|line| self.is_whole_row(line))
    }

    fn is_whole_row(&mut self, line: &str) -> bool {
        let is_row = matches!(self.row(line.as_bytes()), Ok(Some(_)));
        let Some((splitter, columns)) = &mut self.csv else { return false };
        is_row && splitter.split(line).len() == columns.count
    }
}

fn utf8(record: &[u8]) -> Result<&str, String> {
    if record.contains(&0) {
        return Err("contains a NUL byte".to_owned());
    }
    std::str::from_utf8(record).map_err(|error| {
        format!("is not UTF-8 from its byte {} on (see --encoding)", error.valid_up_to() + 1)
    })
}

fn csv_value<'a>(fields: &'a StringRecord, columns: &Columns, column: Column) -> Option<&'a str> {
    let value = fields.get(columns.index(column)?)?.trim();
    (!value.is_empty()).then_some(value)
}

/// The values in a JSON object, by [`Column`].
type JsonValues = [Option<String>; Column::COUNT];

fn json_values(text: &str) -> Result<JsonValues, String> {
    let Value::Object(members) = serde_json::from_str(text).map_err(|error| not_json(&error))? else {
        return Err("is not an object".to_owned());
    };
    let mut values = JsonValues::default();
    for (name, value) in members {
        let Some(column) = Column::of(&name) else { continue };
        let value = match value {
            Value::Null => continue,
            Value::String(text) => text,
            Value::Number(number) if column == Column::MintedAt => number.to_string(),
            _ => return Err(format!("{} is not text", column.name())),
        };
        if values[column as usize].replace(value).is_some() {
            return Err(format!("names {} twice", column.name()));
        }
    }
    Ok(values)
}

/// The error without its line number, which is always 1.
fn not_json(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or(&text);
    format!("is not JSON: {reason} at column {}", error.column())
}

/// The row with these values, once they are checked. `app` is for a row that does not name one.
fn checked_row<'a>(
    value: impl Fn(Column) -> Option<&'a str>,
    encoding: Encoding,
    app: Option<&AppName>,
) -> Result<Row, String> {
    let optional = |column: Column| match value(column) {
        // The decoder of the file has replaced invalid bytes with this character.
        Some(text) if encoding == Encoding::Gb18030 && text.contains('\u{FFFD}') => {
            Err(format!("{} is not valid GB18030 (see --encoding)", column.name()))
        }
        value => Ok(value),
    };
    let required = |column: Column| optional(column)?.ok_or_else(|| format!("{} is missing", column.name()));
    let invalid = |column: Column| move |error: IdError| format!("{} {error}", column.name());
    let (unionid, openid) = (required(Column::Unionid)?, required(Column::Openid)?);
    let (own_app, pending_id) = (optional(Column::App)?, optional(Column::PendingId)?);
    // Without a pending id the time is some other one: exports have columns of these names, too.
    let minted_at = optional(Column::MintedAt)?
        .filter(|_| pending_id.is_some())
        .map(|text| instant(text).ok_or_else(|| format!("minted_at is not a time: {INSTANT_FORMS}")));
    Ok(Row {
        unionid: Unionid::from_input(unionid).map_err(invalid(Column::Unionid))?,
        openid: Openid::from_input(openid).map_err(invalid(Column::Openid))?,
        app: own_app.map(AppName::new).transpose().map_err(invalid(Column::App))?.or_else(|| app.cloned()),
        pending_id: pending_id.map(PendingId::new).transpose().map_err(invalid(Column::PendingId))?,
        minted_at: minted_at.transpose()?,
    })
}

/// Splits CSV records into fields. One reader over one buffer is reused for all records, because building a
/// reader costs far more than reading a record.
pub(super) struct FieldSplitter {
    reader: csv::Reader<Cursor<Vec<u8>>>,
    fields: StringRecord,
}

impl FieldSplitter {
    pub(super) fn new(delimiter: u8) -> Self {
        let mut builder = csv::ReaderBuilder::new();
        builder.has_headers(false).flexible(true).delimiter(delimiter);
        Self { reader: builder.from_reader(Cursor::default()), fields: StringRecord::new() }
    }

    /// The fields of the first record in `text`, without their quotes.
    pub(super) fn split(&mut self, text: &str) -> &StringRecord {
        let buffer = self.reader.get_mut().get_mut();
        buffer.clear();
        buffer.extend_from_slice(text.as_bytes());
        let rewound = self.reader.seek_raw(SeekFrom::Start(0), csv::Position::new());
        // Reading from memory does not fail; false means that there is no record.
        if !matches!(rewound.and_then(|()| self.reader.read_record(&mut self.fields)), Ok(true)) {
            self.fields.clear();
        }
        &self.fields
    }
}

/// The delimiter of a CSV file: the one with which most column names are recognised, a comma if none are.
pub(super) fn delimiter(head: &str) -> u8 {
    let head = head.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{FEFF}');
    let recognised = |delimiter: &u8| {
        FieldSplitter::new(*delimiter).split(head).iter().filter(|name| Column::of(name).is_some()).count()
    };
    // If several recognise as many, `max_by_key` returns the last.
    [b';', b'\t', b','].into_iter().max_by_key(recognised).unwrap_or(b',')
}
