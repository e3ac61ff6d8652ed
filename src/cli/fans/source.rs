//! Opens what is imported: a file or standard input, decompressed, recognised, its header read.

use std::fs::{File, TryLockError};
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, bail};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::format::{BOM, Encoding, HEAD_BYTES, Kind, kind};
use super::records::{Position, Records};
use super::rows::{self, Rows};
use super::split::Shape;
use crate::domain::ids::{AppName, hex};

/// The most memory a zstd frame may ask for, as a power of two: what `zstd -19` uses, and twice that.
const ZSTD_WINDOW_LOG_MAX: u32 = 24;

/// Where fans come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    Stdin,
    File(PathBuf),
}

impl Input {
    pub(super) fn new(argument: &Path) -> Self {
        if argument == Path::new("-") { Self::Stdin } else { Self::File(argument.to_owned()) }
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Stdin => "standard input".to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    Csv,
    Ndjson,
}

/// What the command line says about how to read.
#[derive(Debug, Clone, Default)]
pub(super) struct Reading {
    pub(super) format: Option<Format>,
    pub(super) encoding: Option<Encoding>,
    pub(super) app: Option<AppName>,
}

/// A file that can be read again from the middle.
pub(super) struct Regular {
    file: File,
    pub(super) bytes: u64,
    pub(super) modified_ms: i64,
    /// SHA-256 of its beginning, in hexadecimal.
    pub(super) head_sha256: String,
}

/// An input ready to be read.
pub(super) struct Source {
    pub(super) name: String,
    /// Not there for a stream.
    pub(super) regular: Option<Regular>,
    pub(super) encoding: Encoding,
    /// Bytes read so far, compressed.
    pub(super) read_bytes: Arc<AtomicU64>,
    pub(super) records: Records<Box<dyn Read + Send>>,
    pub(super) rows: Rows,
    compressed: bool,
}

impl Source {
    /// Opens `input` and reads its header. What is read afterwards fails once `stop` is cancelled.
    pub(super) fn open(input: &Input, reading: &Reading, stop: CancellationToken) -> anyhow::Result<Self> {
        let name = input.name();
        let unreadable = || format!("cannot read {name}");
        let (mut raw, file): (Box<dyn Read + Send>, _) = match input {
            Input::Stdin => (Box::new(io::stdin()), None),
            Input::File(path) => {
                let file = File::open(path).with_context(unreadable)?;
                let metadata = file.metadata().with_context(unreadable)?;
                if metadata.is_dir() {
                    bail!("{name} is a directory\nhint: import its files one by one");
                }
                let regular =
                    metadata.is_file().then(|| file.try_clone()).transpose().with_context(unreadable)?;
                (Box::new(file), regular)
            }
        };
        let head = read_head(&mut raw).with_context(unreadable)?;
        let regular = file.map(|file| Regular::new(file, &head)).transpose().with_context(unreadable)?;
        let read_bytes = Arc::new(AtomicU64::new(0));
        let whole: Box<dyn Read + Send> = match &regular {
            Some(regular) => {
                (&regular.file).rewind().with_context(unreadable)?;
                raw
            }
            None => Box::new(Cursor::new(head.clone()).chain(raw)),
        };
        let rest = Watched { inner: whole, read_bytes: read_bytes.clone(), stop };
        let (mut plain, compressed) = decompressed(rest, &head).with_context(unreadable)?;
        let head = if compressed {
            let inner = read_head(&mut plain).map_err(|error| broken(&name, &error))?;
            plain = Box::new(Cursor::new(inner.clone()).chain(plain));
            inner
        } else {
            head
        };
        let (format, encoding) = recognised(&name, &head, compressed, reading)?;
        let mut start = Position { offset: 0, line: 1 };
        if head.starts_with(BOM) {
            start.offset = BOM.len() as u64;
        }
        let mut records = Records::new(plain, Shape::Lines, Position { offset: 0, line: 1 });
        records.advance_to(start).map_err(|error| broken(&name, &error))?;
        let rows = match format {
            Format::Ndjson => Rows::of_ndjson(reading.app.clone()),
            Format::Csv => csv_rows(&mut records, &name, encoding, reading.app.clone())?,
        };
        Ok(Self { name, regular, encoding, read_bytes, records, rows, compressed })
    }

    /// Goes on at a place an earlier run came to.
    pub(super) fn resume(&mut self, position: Position) -> io::Result<()> {
        match &mut self.regular {
            Some(regular) if !self.compressed => {
                let len = regular.file.seek(SeekFrom::Start(position.offset))?;
                self.read_bytes.store(len, Ordering::Relaxed);
                self.records.restart(position);
                Ok(())
            }
            // A decompressor starts at the start only.
            _ => self.records.advance_to(position),
        }
    }
}

impl Regular {
    fn new(file: File, head: &[u8]) -> anyhow::Result<Self> {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                bail!("another import of it is under way\nhint: wait until it is done")
            }
            // Some file systems have no locks; two imports at once are wasteful, not harmful.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let metadata = file.metadata()?;
        let modified = metadata.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let head_sha256 = hex(&Sha256::digest(head));
        let modified_ms = i64::try_from(modified.as_millis()).unwrap_or(i64::MAX);
        Ok(Self { file, bytes: metadata.len(), modified_ms, head_sha256 })
    }
}

/// An input read as it is: counted, and cut off when told to.
struct Watched<R> {
    inner: R,
    read_bytes: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::other("told to stop"));
        }
        let read = self.inner.read(buffer)?;
        self.read_bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

fn read_head(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    from.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok(head)
}

fn decompressed<R: Read + Send + 'static>(from: R, head: &[u8]) -> io::Result<(Box<dyn Read + Send>, bool)> {
    Ok(match kind(head) {
        Kind::Gzip => (Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::new(from))), true),
        Kind::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(from)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            (Box::new(decoder), true)
        }
        Kind::Ndjson | Kind::Csv | Kind::Empty | Kind::Foreign(_) => (Box::new(from), false),
    })
}

/// Why an archive cannot be read on.
pub(super) fn broken(name: &str, error: &io::Error) -> anyhow::Error {
    anyhow::anyhow!(
        "cannot read {name}: {error}\nhint: {}",
        match error.kind() {
            io::ErrorKind::UnexpectedEof => "it ends too early: copy or export it again",
            _ if error.to_string().contains("memory") => "compress it again without --long or --ultra",
            _ => "it is damaged: copy or export it again",
        }
    )
}

fn recognised(
    name: &str,
    head: &[u8],
    compressed: bool,
    reading: &Reading,
) -> anyhow::Result<(Format, Encoding)> {
    let found = match kind(head) {
        Kind::Foreign(foreign) => {
            let inside = if compressed { ", inside its compression" } else { "" };
            bail!("{name} is {}{inside}\nhint: {}", foreign.is, foreign.hint);
        }
        Kind::Gzip | Kind::Zstd => {
            bail!("{name} is compressed twice\nhint: decompress it once, then import it");
        }
        Kind::Empty if reading.format != Some(Format::Ndjson) => {
            bail!(
                "{name} is empty\nhint: export it again; a CSV file has at least a line that names its columns"
            );
        }
        Kind::Ndjson | Kind::Empty => Format::Ndjson,
        Kind::Csv => Format::Csv,
    };
    let format = reading.format.unwrap_or(found);
    let encoding = reading.encoding.unwrap_or_else(|| Encoding::of(head));
    if format == Format::Ndjson && encoding != Encoding::Utf8 {
        bail!(
            "{name} is GB18030, and NDJSON must be UTF-8\nhint: iconv -f GB18030 -t UTF-8 FILE > fans.ndjson"
        );
    }
    Ok((format, encoding))
}

/// Reads the header with the delimiter that makes the most sense of it.
fn csv_rows<R: Read>(
    records: &mut Records<R>,
    name: &str,
    encoding: Encoding,
    app: Option<AppName>,
) -> anyhow::Result<Rows> {
    const DELIMITERS: [u8; 3] = *b",\t;";
    let (mut best, mut best_recognised) = (DELIMITERS[0], 0);
    skip_blank_lines(records, name)?;
    for delimiter in DELIMITERS {
        records.set_shape(Shape::Csv { delimiter });
        if let Some(record) = records.read().map_err(|error| broken(name, &error))? {
            if record.flaw.is_some_and(|flaw| flaw == super::split::Flaw::TooLong) {
                bail!("the first line of {name} is longer than 64 KiB\nhint: it must name the columns");
            }
            let recognised = rows::recognised(record.bytes, delimiter, encoding);
            if recognised > best_recognised {
                (best, best_recognised) = (delimiter, recognised);
            }
            records.put_back();
        }
    }
    records.set_shape(Shape::Csv { delimiter: best });
    let Some(record) = records.read().map_err(|error| broken(name, &error))? else {
        bail!("{name} is empty\nhint: a CSV file has at least a line that names its columns");
    };
    if let Some(flaw) = record.flaw {
        bail!("the header of {name} cannot be read: {}\nhint: it must name the columns", flaw.reason());
    }
    let header = rows::header(record.bytes, best, encoding)
        .map_err(|reason| anyhow::anyhow!("cannot import {name}: {reason}"))?;
    Ok(Rows::of_csv(header, best, encoding, app))
}

fn skip_blank_lines<R: Read>(records: &mut Records<R>, name: &str) -> anyhow::Result<()> {
    while let Some(record) = records.read().map_err(|error| broken(name, &error))? {
        if !record.bytes.trim_ascii().is_empty() {
            records.put_back();
            break;
        }
    }
    Ok(())
}
