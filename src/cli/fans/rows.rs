//! From a record to a row the admin API takes, or the reason why there is none.
//!
//! Ids are checked by the domain's own types, so a row that passes here passes there.

use std::borrow::Cow;

use csv_core::ReadRecordResult;
use serde::Serialize;
use serde_json::Value;

use super::format::Encoding;
use super::header::{Column, Header, HeaderError};
use crate::cli::instant::instant;
use crate::domain::ids::{AppName, IdError, Openid, PendingId, Unionid};
use crate::domain::time::Timestamp;

/// One fan, as it is sent.
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

/// What a record says, by [`Column`].
type Said<'a> = [Option<Cow<'a, str>>; Column::ALL.len()];

/// How the records of one file are read.
pub(super) struct Rows {
    encoding: Encoding,
    /// The app of rows that name none.
    app: Option<AppName>,
    /// There is none in NDJSON.
    csv: Option<(Fields, Header)>,
}

impl Rows {
    pub(super) const fn of_ndjson(app: Option<AppName>) -> Self {
        Self { encoding: Encoding::Utf8, app, csv: None }
    }

    pub(super) fn of_csv(header: Header, delimiter: u8, encoding: Encoding, app: Option<AppName>) -> Self {
        Self { encoding, app, csv: Some((Fields::new(delimiter), header)) }
    }

    /// The row in a record; `None` if the record is blank.
    pub(super) fn row(&mut self, record: &[u8]) -> Result<Option<Row>, String> {
        let text = self.encoding.decode(record)?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        let said = match &mut self.csv {
            None => said_in_json(&text)?,
            Some((fields, header)) => {
                let fields = fields.of(&text);
                let filled = fields.iter().rposition(|field| !field.trim().is_empty());
                match filled.map(|last| last + 1) {
                    None => return Ok(None),
                    Some(n) if n > header.len() => {
                        return Err(format!("has {n} fields, and the header has {}", header.len()));
                    }
                    Some(_) => said_in_csv(&fields, header),
                }
            }
        };
        checked(&said, self.app.as_ref()).map(Some)
    }

    /// Whether a record of several lines came of a quote that somebody forgot to close: a line end where an id
    /// should be, fields that are not those of the header, or whole rows inside. A remark of several lines has none
    /// of these.
    pub(super) fn holds_an_open_quote(&mut self, record: &[u8]) -> bool {
        let (Some((fields, header)), Ok(text)) = (&mut self.csv, self.encoding.decode(record)) else {
            return false;
        };
        let found = fields.of(&text);
        let torn = |field: &&str| field.trim().contains(['\r', '\n']);
        let in_ours = found.iter().enumerate().any(|(n, field)| torn(field) && header.column(n).is_some());
        if in_ours || found.len() > header.len() {
            return true;
        }
        let columns = header.len();
        let ends: Vec<_> = (0..record.len()).filter(|at| matches!(record[*at], b'\r' | b'\n')).collect();
        ends.windows(2).any(|inner| self.is_whole_row(&record[inner[0] + 1..inner[1]], columns))
    }

    fn is_whole_row(&mut self, line: &[u8], columns: usize) -> bool {
        let (Some((fields, _)), Ok(text)) = (&mut self.csv, self.encoding.decode(line)) else {
            return false;
        };
        fields.of(&text).len() == columns && matches!(self.row(line), Ok(Some(_)))
    }
}

fn said_in_csv<'a>(fields: &[&'a str], header: &Header) -> Said<'a> {
    let mut said = Said::default();
    for (n, field) in fields.iter().enumerate() {
        let field = field.trim();
        if let (Some(column), false) = (header.column(n), field.is_empty()) {
            said[column as usize] = Some(Cow::Borrowed(field));
        }
    }
    said
}

fn said_in_json(text: &str) -> Result<Said<'static>, String> {
    let Value::Object(members) = serde_json::from_str(text).map_err(|error| not_json(&error))? else {
        return Err("is not an object".to_owned());
    };
    let mut said = Said::default();
    for (name, value) in members {
        let Some(column) = Column::of(&name) else { continue };
        let value = match value {
            Value::Null => continue,
            Value::String(text) => text,
            Value::Number(number) if column == Column::MintedAt => number.to_string(),
            _ => return Err(format!("{} is not text", column.name())),
        };
        if said[column as usize].replace(Cow::Owned(value)).is_some() {
            return Err(format!("names {} twice", column.name()));
        }
    }
    Ok(said)
}

/// What serde says, without the line number it counts within the one line.
fn not_json(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or(&text);
    format!("is not JSON: {reason} at column {}", error.column())
}

fn checked(said: &Said<'_>, app: Option<&AppName>) -> Result<Row, String> {
    let of = |column: Column| said[column as usize].as_deref();
    let required = |column: Column| of(column).ok_or_else(|| format!("{} is missing", column.name()));
    let named = |column: Column| move |error: IdError| format!("{} {error}", column.name());
    Ok(Row {
        unionid: Unionid::new(required(Column::Unionid)?).map_err(named(Column::Unionid))?,
        openid: Openid::new(required(Column::Openid)?).map_err(named(Column::Openid))?,
        app: of(Column::App).map(AppName::new).transpose().map_err(named(Column::App))?.or_else(|| app.cloned()),
        pending_id: of(Column::PendingId).map(PendingId::new).transpose().map_err(named(Column::PendingId))?,
        minted_at: match of(Column::MintedAt) {
            None => None,
            Some(text) => Some(instant(text).ok_or(
                "minted_at is not a time: write 2026-11-01T12:00:00+08:00, 2026-11-01 12:00:00 (China time) or Unix seconds",
            )?),
        },
    })
}

/// Takes a CSV record apart.
pub(super) struct Fields {
    parser: csv_core::Reader,
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl Fields {
    pub(super) fn new(delimiter: u8) -> Self {
        let parser = csv_core::ReaderBuilder::new().delimiter(delimiter).build();
        Self { parser, text: Vec::new(), ends: Vec::new() }
    }

    /// The fields of one record, without their quotes.
    pub(super) fn of(&mut self, record: &str) -> Vec<&str> {
        self.parser.reset();
        // Fields are never longer than what they were written as; the parser wants room left at the end.
        self.text.resize(record.len() + 1, 0);
        self.ends.resize(record.len() + 2, 0);
        let (mut read, mut written, mut fields) = (0, 0, 0);
        loop {
            let input = &record.as_bytes()[read..];
            let (result, r, w, f) =
                self.parser.read_record(input, &mut self.text[written..], &mut self.ends[fields..]);
            (read, written, fields) = (read + r, written + w, fields + f);
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::Record
                | ReadRecordResult::End
                | ReadRecordResult::OutputFull
                | ReadRecordResult::OutputEndsFull => break,
            }
        }
        let starts = std::iter::once(0).chain(self.ends[..fields].iter().copied());
        let ranges = starts.zip(&self.ends[..fields]);
        ranges.map(|(start, end)| std::str::from_utf8(&self.text[start..*end]).unwrap_or_default()).collect()
    }
}

/// The header in a CSV file's first record.
pub(super) fn header(record: &[u8], delimiter: u8, encoding: Encoding) -> Result<Header, String> {
    let text = encoding.decode(record).map_err(|reason| format!("its header {reason}"))?;
    Header::new(&Fields::new(delimiter).of(&text)).map_err(|error: HeaderError| error.to_string())
}

/// How many columns of a header are recognised if this is its delimiter.
pub(super) fn recognised(record: &[u8], delimiter: u8, encoding: Encoding) -> usize {
    let text = encoding.decode(record).unwrap_or_default();
    Header::recognised(&Fields::new(delimiter).of(&text))
}
