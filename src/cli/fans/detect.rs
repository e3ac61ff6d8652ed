//! Detects compression, format and character encoding from the first bytes of a file.
//!
//! File names are ignored: exports are renamed, compressed, and saved with any extension.

use encoding_rs::{DecoderResult, GB18030};

/// How many bytes of a file are examined.
pub(super) const HEAD_BYTES: usize = 64 * 1024;
const BOM: &[u8] = b"\xEF\xBB\xBF";

/// The format of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Gzip,
    Zstd,
    Ndjson,
    Csv,
    Empty,
    /// A format that cannot be imported, and what to do instead.
    Unsupported {
        what: &'static str,
        hint: &'static str,
    },
}

const AS_CSV: &str = "open it and save the table as CSV (UTF-8)";
const UNPACK: &str = "unpack it and import the CSV or NDJSON file inside";
const RECODE: &str = "save it as UTF-8, for example: iconv -f UTF-16 -t UTF-8 FILE > fans.csv";
const AS_NDJSON: &str = "write one object per line (NDJSON), for example: jq -c '.[]' FILE > fans.ndjson";

/// Formats that cannot be imported: first bytes, name, hint.
const UNSUPPORTED: [(&[u8], &str, &str); 11] = [
    (
        b"PK\x03\x04",
        "an Excel workbook (.xlsx) or a ZIP archive",
        "save the sheet as CSV (UTF-8); unpack an archive",
    ),
    (b"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1", "an old Excel workbook (.xls)", AS_CSV),
    (b"7z\xBC\xAF\x27\x1C", "a 7z archive", UNPACK),
    (b"Rar!\x1A\x07", "a RAR archive", UNPACK),
    (b"\xFD7zXZ\x00", "compressed with xz", UNPACK),
    (b"BZh91AY&SY", "compressed with bzip2", UNPACK),
    (b"%PDF-", "a PDF document", AS_CSV),
    (b"\xFF\xFE", "UTF-16", RECODE),
    (b"\xFE\xFF", "UTF-16", RECODE),
    (b"<", "an HTML or XML document, as some systems export with the ending .xls", AS_CSV),
    (b"[", "a JSON array", AS_NDJSON),
];

/// The format of a file that begins with `head`.
pub(super) fn kind(head: &[u8]) -> Kind {
    let text = head.strip_prefix(BOM).unwrap_or(head).trim_ascii_start();
    if let Some(&(_, what, hint)) = UNSUPPORTED.iter().find(|(magic, ..)| text.starts_with(magic)) {
        return Kind::Unsupported { what, hint };
    }
    match text {
        [] => Kind::Empty,
        [0x1F, 0x8B, ..] => Kind::Gzip,
        [0x28, 0xB5, 0x2F, 0xFD, ..] => Kind::Zstd,
        _ if head.get(257..262) == Some(b"ustar") => {
            Kind::Unsupported { what: "a tar archive", hint: UNPACK }
        }
        _ if is_wide(head) => {
            Kind::Unsupported { what: "UTF-16 without a byte order mark", hint: "save it as UTF-8" }
        }
        [b'{', ..] => Kind::Ndjson,
        _ => Kind::Csv,
    }
}

/// Whether most bytes at even or at odd offsets are NUL, and none at the others: Latin text in UTF-16.
fn is_wide(head: &[u8]) -> bool {
    let nul_at = |odd: usize| head.iter().skip(odd).step_by(2).filter(|byte| **byte == 0).count();
    let (even, odd) = (nul_at(0), nul_at(1));
    even.min(odd) == 0 && even.max(odd) > head.len() / 3
}

/// A character encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Encoding {
    #[value(name = "utf-8", alias = "utf8")]
    Utf8,
    #[value(name = "gb18030", alias = "gbk")]
    Gb18030,
}

impl Encoding {
    /// The encoding of a file that begins with `head`: GB18030 only if most of the lines that are not ASCII
    /// are not UTF-8 either. One damaged row in a UTF-8 file must not garble the Chinese of all others.
    pub(super) fn of(head: &[u8]) -> Self {
        let (mut utf8, mut other) = (0, 0);
        for line in head.split(|byte| *byte == b'\n').filter(|line| !line.is_ascii()) {
            match std::str::from_utf8(line) {
                Ok(_) => utf8 += 1,
                // `head` ends in the middle of a character.
                Err(error) if error.error_len().is_none() => {}
                Err(_) => other += 1,
            }
        }
        if other > utf8 && is_gb18030(head) { Self::Gb18030 } else { Self::Utf8 }
    }
}

/// Whether `head` is valid GB18030 and mostly common Chinese: characters of two bytes, neither of them ASCII.
/// Latin-1 may be valid GB18030 by accident, but has a single such byte in most places.
fn is_gb18030(head: &[u8]) -> bool {
    let mut text = String::with_capacity(head.len() * 3 + 16);
    let mut decoder = GB18030.new_decoder_without_bom_handling();
    let (result, _) = decoder.decode_to_string_without_replacement(head, &mut text, false);
    let runs = head.chunk_by(|a, b| a.is_ascii() == b.is_ascii()).filter(|run| !run[0].is_ascii());
    let (even, odd): (Vec<&[u8]>, Vec<&[u8]>) = runs.partition(|run| run.len().is_multiple_of(2));
    result == DecoderResult::InputEmpty && even.len() > odd.len()
}
