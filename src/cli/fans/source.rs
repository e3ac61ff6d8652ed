//! Opens the input of an import, a file or standard input: decompresses it, detects its format, decodes it to
//! UTF-8, reads its header and examines its first rows.

use std::fs::{File, Metadata, TryLockError};
use std::io::{self, BufReader, Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use anyhow::{Context as _, bail};
use encoding_rs_io::DecodeReaderBytesBuilder;
use sha2::{Digest, Sha256};

use super::detect::{self, Encoding, HEAD_BYTES, Kind};
use super::records::Records;
use super::rows::{self, RowReader};
use super::sample;
use crate::domain::ids::{AppName, hex};

/// The largest window of a zstd frame, as a power of two: twice what `zstd -19` uses.
const ZSTD_WINDOW_LOG_MAX: u32 = 24;

const ONE_A_LINE: &str = "write one object per line, for example: jq -c . FILE > fans.ndjson";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    Csv,
    Ndjson,
}

/// How to read the input.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct ReadOptions {
    /// The app for rows that do not name one
    #[arg(long, value_name = "NAME", value_parser = |name: &str| AppName::new(name))]
    pub(super) app: Option<AppName>,
    /// The format [default: detected from the content]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(super) format: Option<Format>,
    /// The encoding [default: detected from the content]
    #[arg(long, value_enum, value_name = "ENCODING")]
    pub(super) encoding: Option<Encoding>,
}

/// An open input.
pub(super) struct Source {
    pub(super) name: String,
    /// The size of a regular file; none for a stream, which cannot be read twice.
    pub(super) bytes: Option<u64>,
    /// Identifies the content: size, modification time and a hash of the beginning.
    pub(super) fingerprint: String,
    pub(super) encoding: Encoding,
    /// Bytes of the input read so far, before decompression.
    pub(super) read_bytes: Arc<AtomicU64>,
    pub(super) records: Records<Box<dyn Read + Send>>,
    pub(super) rows: RowReader,
    /// Whether the first valid rows have no app, so that the service must have only one.
    pub(super) needs_app: bool,
}

impl Source {
    /// Opens `path`, or standard input for `-`, reads the header and examines the first rows.
    pub(super) fn open(path: &Path, options: &ReadOptions) -> anyhow::Result<Self> {
        let is_stdin = path == Path::new("-");
        let name = if is_stdin { "standard input".to_owned() } else { path.display().to_string() };
        let cannot_read = || format!("cannot read {name}");
        let (mut raw, metadata): (Box<dyn Read + Send>, _) = if is_stdin {
            (Box::new(io::stdin()), None)
        } else {
            let (file, metadata) = open_file(path)?;
            (Box::new(file), Some(metadata).filter(Metadata::is_file))
        };
        let head = head_of(&mut raw).with_context(cannot_read)?;
        let bytes = metadata.as_ref().map(Metadata::len);
        let modified =
            metadata.and_then(|metadata| metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok());
        let fingerprint = format!("{bytes:?} {modified:?} {}", hex(&Sha256::digest(&head)));
        let read_bytes = Arc::<AtomicU64>::default();
        let compression = detect::kind(&head);
        let whole = Counted { inner: Cursor::new(head).chain(raw), read_bytes: read_bytes.clone() };
        let mut plain = decompressed(whole, compression).with_context(cannot_read)?;
        let head = head_of(&mut plain).map_err(|error| unreadable(&name, &error))?;
        let found = match detect::kind(&head) {
            Kind::Unsupported { what, hint } => {
                let compressed = matches!(compression, Kind::Gzip | Kind::Zstd);
                let inside = if compressed { ", inside its compression" } else { "" };
                bail!("{name} is {what}{inside}\nhint: {hint}");
            }
            Kind::Gzip | Kind::Zstd => {
                bail!("{name} is compressed twice\nhint: decompress it once, then import it");
            }
            Kind::Ndjson => Format::Ndjson,
            Kind::Csv | Kind::Empty => Format::Csv,
        };
        let encoding = options.encoding.unwrap_or_else(|| Encoding::of(&head));
        // UTF-8 is decoded too, which removes a byte order mark.
        let text = DecodeReaderBytesBuilder::new()
            .encoding((encoding == Encoding::Gb18030).then_some(encoding_rs::GB18030))
            .bom_sniffing(false)
            .strip_bom(true)
            .build(Cursor::new(head).chain(plain));
        let mut records = Records::new(Box::new(text) as Box<dyn Read + Send>, None);
        let mut rows = RowReader::new(encoding, options.app.clone());
        match options.format.unwrap_or(found) {
            // A header of CSV may begin with a brace as well, but is no JSON object.
            Format::Csv if found == Format::Ndjson && sample::needs_app(&mut records, &mut rows).is_ok() => {
                bail!("{name} is NDJSON, not CSV\nhint: leave out --format");
            }
            Format::Csv => read_header(&mut records, &mut rows, &name)?,
            Format::Ndjson => {}
        }
        let needs_app = sample::needs_app(&mut records, &mut rows).map_err(|reason| {
            let hint =
                if found == Format::Csv { "leave out --format: it looks like CSV" } else { ONE_A_LINE };
            anyhow::anyhow!("{name} is not NDJSON: {reason}\nhint: {hint}")
        })?;
        Ok(Self { name, bytes, fingerprint, encoding, read_bytes, records, rows, needs_app })
    }
}

/// Reads the header of CSV, the first record that is not blank, which determines how the rows are parsed.
fn read_header(records: &mut Records<impl Read>, rows: &mut RowReader, name: &str) -> anyhow::Result<()> {
    let delimiter = rows::delimiter(&String::from_utf8_lossy(records.peek()));
    records.delimiter = Some(delimiter);
    loop {
        let Some(header) = records.read(|_| false).map_err(|error| unreadable(name, &error))? else {
            bail!("{name} is empty\nhint: export it again; the first line of a CSV file names the columns");
        };
        if let Some(malformed) = header.malformed {
            bail!(
                "the header of {name} is malformed: {malformed}\nhint: the first line must name the columns"
            );
        }
        if !header.bytes.trim_ascii().is_empty() {
            let outcome = rows.set_header(header.bytes, delimiter);
            return outcome.map_err(|reason| anyhow::anyhow!("cannot import {name}: {reason}"));
        }
    }
}

/// Opens a file, and locks it against other imports if it is a regular one.
fn open_file(path: &Path) -> anyhow::Result<(File, Metadata)> {
    let name = path.display();
    let cannot_read = || format!("cannot read {name}");
    let file = File::open(path).with_context(cannot_read)?;
    let metadata = file.metadata().with_context(cannot_read)?;
    if metadata.is_dir() {
        bail!("{name} is a directory\nhint: import its files one by one");
    }
    match file.try_lock() {
        Err(TryLockError::WouldBlock) if metadata.is_file() => {
            bail!("cannot read {name}: another import of it is running\nhint: wait until it has finished")
        }
        // Some file systems have no locks. Concurrent imports of a file are wasteful, but not harmful.
        _ => Ok((file, metadata)),
    }
}

/// A reader that counts the bytes read.
struct Counted<R> {
    inner: R,
    read_bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read_bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

fn head_of(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    from.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok(head)
}

fn decompressed(from: impl Read + Send + 'static, kind: Kind) -> io::Result<Box<dyn Read + Send>> {
    Ok(match kind {
        Kind::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::new(from))),
        Kind::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(from)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
        _ => Box::new(from),
    })
}

/// The error for an input that cannot be read any further, with a hint.
pub(super) fn unreadable(name: &str, error: &io::Error) -> anyhow::Error {
    let hint = match error.kind() {
        io::ErrorKind::UnexpectedEof => "the file is truncated: copy or export it again",
        _ if error.to_string().contains("memory") => "compress it again without --long or --ultra",
        _ => "the file is damaged: copy or export it again",
    };
    anyhow::anyhow!("cannot read {name}: {error}\nhint: {hint}")
}
