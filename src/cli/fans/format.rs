//! What a file is: compression, format and character encoding, told from its first bytes.
//!
//! Names are not looked at: exports are renamed, compressed twice and saved by spreadsheets under any ending.

use std::borrow::Cow;

use encoding_rs::GB18030;

/// How much of a file is looked at.
pub(super) const HEAD_BYTES: usize = 64 * 1024;
/// The byte order mark UTF-8 files of spreadsheets begin with.
pub(super) const BOM: &[u8] = b"\xEF\xBB\xBF";

/// What the first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Gzip,
    Zstd,
    Ndjson,
    Csv,
    Empty,
    Foreign(Foreign),
}

/// Something that cannot be read, with a way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Foreign {
    pub(super) is: &'static str,
    pub(super) hint: &'static str,
}

const AS_CSV: &str = "open it and save it as CSV (UTF-8)";
const UNPACK: &str = "unpack it first, and import the CSV or NDJSON file that is in it";
const COMPRESS: &str = "decompress it first, or compress it with gzip or zstd";
const RECODE: &str = "save it as UTF-8, for example: iconv -f UTF-16 -t UTF-8 FILE > fans.csv";

const FOREIGN: [(&[u8], &str, &str); 17] = [
    (
        b"PK\x03\x04",
        "an Excel workbook (.xlsx) or a ZIP archive",
        "save the sheet as CSV (UTF-8); unpack an archive",
    ),
    (b"PK\x05\x06", "an empty ZIP archive", UNPACK),
    (b"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1", "an old Excel workbook (.xls)", AS_CSV),
    (b"7z\xBC\xAF\x27\x1C", "a 7z archive", UNPACK),
    (b"Rar!\x1A\x07", "a RAR archive", UNPACK),
    (b"\xFD7zXZ\x00", "compressed with xz", COMPRESS),
    (b"BZh", "compressed with bzip2", COMPRESS),
    (b"\x04\x22\x4D\x18", "compressed with lz4", COMPRESS),
    (b"%PDF-", "a PDF document", "export the table as CSV (UTF-8)"),
    (b"SQLite format 3\x00", "an SQLite database", "export the table as CSV"),
    (b"PAR1", "a Parquet file", "export the table as CSV or NDJSON"),
    (b"\xFF\xFE", "UTF-16", RECODE),
    (b"\xFE\xFF", "UTF-16", RECODE),
    (b"\x00\x00\xFE\xFF", "UTF-32", "save it as UTF-8"),
    (b"<", "an HTML or XML document, as some systems export with the ending .xls", AS_CSV),
    (b"[", "a JSON array", "write one object a line (NDJSON), for example: jq -c '.[]' FILE > fans.ndjson"),
    (b"\x7FELF", "a program", "name the export"),
];

/// What a file that begins with `head` is.
pub(super) fn kind(head: &[u8]) -> Kind {
    let text = head.strip_prefix(BOM).unwrap_or(head);
    let visible = text.trim_ascii_start();
    if head.starts_with(b"\x1F\x8B") {
        Kind::Gzip
    } else if head.starts_with(b"\x28\xB5\x2F\xFD") {
        Kind::Zstd
    } else if let Some((_, is, hint)) = FOREIGN.iter().find(|(magic, ..)| foreign(head, visible, magic)) {
        Kind::Foreign(Foreign { is, hint })
    } else if head.get(257..262) == Some(b"ustar") {
        Kind::Foreign(Foreign { is: "a tar archive", hint: UNPACK })
    } else if mostly_wide(head) {
        Kind::Foreign(Foreign { is: "UTF-16 without a byte order mark", hint: "save it as UTF-8" })
    } else if visible.is_empty() {
        Kind::Empty
    } else if visible.starts_with(b"{") {
        Kind::Ndjson
    } else {
        Kind::Csv
    }
}

fn foreign(head: &[u8], visible: &[u8], magic: &[u8]) -> bool {
    match magic {
        b"<" | b"[" => visible.starts_with(magic),
        // Three letters may begin a header.
        b"BZh" => head.starts_with(magic) && head.get(4..10) == Some(b"1AY&SY"),
        magic => head.starts_with(magic),
    }
}

/// Whether most bytes of one parity are NUL and none of the other, as in Latin text of two bytes a character.
fn mostly_wide(head: &[u8]) -> bool {
    let nul_at = |odd: usize| head.iter().skip(odd).step_by(2).filter(|byte| **byte == 0).count();
    let (even, odd) = (nul_at(0), nul_at(1));
    even.min(odd) == 0 && even.max(odd) > head.len() / 3
}

/// How characters are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Encoding {
    #[value(name = "utf-8", alias = "utf8")]
    Utf8,
    #[value(name = "gb18030", alias = "gbk")]
    Gb18030,
}

impl Encoding {
    /// The encoding of a file that begins with `head`. GB18030 only if it says clearly so: a damaged row in a UTF-8
    /// file must not turn all its Chinese into other Chinese.
    pub(super) fn of(head: &[u8]) -> Self {
        let (mut as_utf8, mut otherwise) = (0_usize, 0_usize);
        for line in head.split(|byte| *byte == b'\n').filter(|line| !line.is_ascii()) {
            match std::str::from_utf8(line) {
                Ok(_) => as_utf8 += 1,
                // The head ends in the middle of a character.
                Err(error) if error.error_len().is_none() => {}
                Err(_) => otherwise += 1,
            }
        }
        if otherwise > as_utf8 && is_gb18030(head) { Self::Gb18030 } else { Self::Utf8 }
    }

    /// The text of a record, or why there is none. No byte of a longer GB18030 character looks like a quote, a
    /// delimiter or a line end, so records can be told apart before this.
    pub(super) fn decode(self, bytes: &[u8]) -> Result<Cow<'_, str>, String> {
        if bytes.contains(&0) {
            return Err("contains a NUL byte".to_owned());
        }
        match self {
            Self::Utf8 => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|error| {
                format!("is not UTF-8 from its byte {} on (see --encoding)", error.valid_up_to() + 1)
            }),
            Self::Gb18030 => GB18030
                .decode_without_bom_handling_and_without_replacement(bytes)
                .ok_or_else(|| "is not GB18030".to_owned()),
        }
    }

    /// The beginning of a record, readable whatever it is.
    pub(super) fn excerpt(self, bytes: &[u8], bytes_max: usize) -> String {
        let bytes = bytes.get(..bytes_max).unwrap_or(bytes);
        let mut text = match self {
            Self::Utf8 => String::from_utf8_lossy(bytes).into_owned(),
            Self::Gb18030 => GB18030.decode_without_bom_handling(bytes).0.into_owned(),
        };
        text.truncate(text.floor_char_boundary(bytes_max));
        text
    }
}

/// Whether `head` decodes as GB18030 and is mostly what Chinese text is made of: characters of GB 2312.
fn is_gb18030(head: &[u8]) -> bool {
    let mut decoder = GB18030.new_decoder_without_bom_handling();
    let mut text = String::with_capacity(head.len() * 3 + 16);
    let (result, _) = decoder.decode_to_string_without_replacement(head, &mut text, false);
    if !matches!(result, encoding_rs::DecoderResult::InputEmpty) {
        return false;
    }
    let (mut common, mut rare) = (0_usize, 0_usize);
    let mut rest = head;
    loop {
        rest = match rest {
            [] => return common > rare,
            [0x00..=0x7F, rest @ ..] => rest,
            [0xA1..=0xF7, 0xA1..=0xFE, rest @ ..] => {
                common += 1;
                rest
            }
            [_, 0x30..=0x39, _, _, rest @ ..] | [_, _, rest @ ..] => {
                rare += 1;
                rest
            }
            [_] => &[],
        };
    }
}
