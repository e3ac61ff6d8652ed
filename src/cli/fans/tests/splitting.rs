//! Splitting into records, whatever the chunk boundaries.

use std::io::{self, Read};

use proptest::prelude::*;

use super::super::records::{Malformed, RECORD_BYTES_MAX, Records};
use super::super::rows::FieldSplitter;

const CSV: Option<u8> = Some(b',');
const NDJSON: Option<u8> = None;

/// Gives its bytes out in chunks of these sizes, over and over.
struct Chunks<'a> {
    bytes: &'a [u8],
    sizes: Vec<usize>,
    next: usize,
}

impl<'a> Chunks<'a> {
    fn new(bytes: &'a [u8], sizes: Vec<usize>) -> Self {
        Self { bytes, sizes, next: 0 }
    }
}

impl Read for Chunks<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.sizes[self.next % self.sizes.len()].min(buffer.len()).min(self.bytes.len());
        self.next += 1;
        let (now, later) = self.bytes.split_at(size);
        buffer[..size].copy_from_slice(now);
        self.bytes = later;
        Ok(size)
    }
}

/// Line, number of lines and text of every record, or what is wrong with it.
fn records(from: impl Read, delimiter: Option<u8>) -> Vec<(u64, u64, Result<String, Malformed>)> {
    let (mut records, mut found) = (Records::new(from, delimiter), Vec::new());
    while let Some(record) = records.read(|_| false).unwrap() {
        let text = String::from_utf8_lossy(record.bytes).into_owned();
        let (line, outcome) = (record.line, record.malformed.map_or(Ok(text), Err));
        found.push((line, records.position().line - line, outcome));
    }
    found
}

fn texts(bytes: &[u8]) -> Vec<String> {
    records(bytes, CSV).into_iter().map(|(line, _, text)| format!("{line} {text:?}")).collect()
}

fn written(rows: &[Vec<String>], windows: bool) -> Vec<u8> {
    let terminator = if windows { csv::Terminator::CRLF } else { csv::Terminator::Any(b'\n') };
    let mut writer = csv::WriterBuilder::new().flexible(true).terminator(terminator).from_writer(Vec::new());
    for row in rows {
        writer.write_record(row).unwrap();
    }
    writer.into_inner().unwrap()
}

proptest! {
    #[test]
    fn records_are_those_of_the_csv_crate_wherever_chunks_are_cut(
        rows in prop::collection::vec(prop::collection::vec("[a-c,\";\n 微信é]{0,8}", 1..5), 1..20),
        sizes in prop::collection::vec(1_usize..40, 1..6),
        windows: bool,
    ) {
        let bytes = written(&rows, windows);
        let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(&bytes[..]);
        let wanted: Vec<Vec<String>> = reader
            .records()
            .map(|record| record.unwrap().iter().map(str::to_owned).collect())
            .collect();
        let (mut splitter, mut found) = (FieldSplitter::new(b','), Vec::new());
        let mut records = Records::new(Chunks::new(&bytes, sizes), CSV);
        loop {
            let before = usize::try_from(records.position().offset).unwrap();
            let Some(record) = records.read(|_| false).unwrap() else { break };
            prop_assert_eq!(record.malformed, None);
            let line = bytes[..before].split(|byte| *byte == b'\n').count() as u64;
            prop_assert_eq!(record.line, line);
            if !record.bytes.is_empty() {
                let text = std::str::from_utf8(record.bytes).unwrap();
                found.push(splitter.split(text).iter().map(str::to_owned).collect::<Vec<_>>());
            }
        }
        prop_assert_eq!(found, wanted);
        prop_assert_eq!(records.position().offset, bytes.len() as u64);
    }

    #[test]
    fn anything_at_all_is_read_to_its_end_in_the_same_records(
        bytes in prop::collection::vec(prop::sample::select(b"a,\"\r\n\0\xff".to_vec()), 0..200),
        sizes in prop::collection::vec(1_usize..20, 1..6),
    ) {
        for delimiter in [CSV, NDJSON] {
            let whole = records(&bytes[..], delimiter);
            prop_assert_eq!(&records(Chunks::new(&bytes, sizes.clone()), delimiter), &whole);
            // Every line is in one record, and none in two.
            let mut line = 1;
            for (at, lines, _) in whole {
                prop_assert_eq!(at, line);
                line += lines;
            }
        }
    }

    #[test]
    fn reading_goes_on_anywhere_as_if_it_had_not_stopped(
        rows in prop::collection::vec(prop::collection::vec("[a-c,\"\n]{0,6}", 1..4), 1..12),
        stop_after in 0_usize..12,
    ) {
        let bytes = written(&rows, false);
        let mut first = Records::new(&bytes[..], CSV);
        let mut count = 0;
        while count < stop_after && first.read(|_| false).unwrap().is_some() {
            count += 1;
        }
        let at = first.position();
        let mut second = Records::new(&bytes[..], CSV);
        second.skip_to(at).unwrap();
        loop {
            let (a, b) = (first.read(|_| false).unwrap(), second.read(|_| false).unwrap());
            prop_assert_eq!(&a, &b);
            if a.is_none() {
                break;
            }
        }
    }
}

#[test]
fn an_open_quote_costs_its_own_line_and_no_other() {
    let found = texts(b"a,b\n\"x,y\nc,d\n\"e\",\"f\"\ng,h\n");
    assert_eq!(
        found,
        [
            "1 Ok(\"a,b\")",
            "2 Err(OpenQuote)",
            "3 Ok(\"c,d\")",
            "4 Ok(\"\\\"e\\\",\\\"f\\\"\")",
            "5 Ok(\"g,h\")"
        ]
    );
    let at_the_end = texts(b"a,b\r\nc,\"d\r\ne,f\r\n");
    assert_eq!(at_the_end, ["1 Ok(\"a,b\")", "2 Err(OpenQuote)", "3 Ok(\"e,f\")"]);
    assert_eq!(texts(b"a,\"b"), ["1 Err(OpenQuote)"]);
}

#[test]
fn text_after_a_closing_quote_is_no_guess_at_what_was_meant() {
    assert_eq!(texts(b"\"a\"b,c\nd,e\n"), ["1 Err(TextAfterQuote)", "2 Ok(\"d,e\")"]);
}

#[test]
fn a_quote_that_stays_open_for_too_long_is_given_up() {
    let mut bytes = b"a,\"b\n".to_vec();
    for _ in 0..20_000 {
        bytes.extend_from_slice(b"c,d\n");
    }
    let found = records(&bytes[..], CSV);
    assert_eq!(found[0], (1, 1, Err(Malformed::OpenQuote)));
    assert_eq!(found.len(), 20_001);
    assert!(found[1..].iter().all(|(_, _, record)| record.as_deref() == Ok("c,d")));
}

#[test]
fn a_record_may_be_as_long_as_the_limit_and_no_longer() {
    for end in ["\n", "\r\n", ""] {
        for delimiter in [CSV, NDJSON] {
            let fits = "x".repeat(RECORD_BYTES_MAX);
            let found = records(format!("{fits}{end}").as_bytes(), delimiter);
            assert_eq!(found, [(1, 1, Ok(fits.clone()))]);
            let found = records(format!("{fits}y{end}").as_bytes(), delimiter);
            assert_eq!(found, [(1, 1, Err(Malformed::TooLong))]);
        }
    }
}

#[test]
fn old_line_ends_are_line_ends_too() {
    assert_eq!(
        texts(b"a,b\rc,d\r\n\ne,f"),
        ["1 Ok(\"a,b\")", "2 Ok(\"c,d\")", "3 Ok(\"\")", "4 Ok(\"e,f\")"]
    );
}

#[test]
fn what_a_broken_source_left_unfinished_is_no_record() {
    struct Breaks<'a>(&'a [u8]);
    impl Read for Breaks<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                read => Ok(read),
            }
        }
    }
    for delimiter in [CSV, NDJSON] {
        for unfinished in ["c,d", "c,\"d\n\"", &"long".repeat(RECORD_BYTES_MAX)] {
            if delimiter == NDJSON && unfinished.contains('\n') {
                continue;
            }
            let bytes = format!("a,b\n{unfinished}");
            let mut records = Records::new(Breaks(bytes.as_bytes()), delimiter);
            assert_eq!(records.read(|_| false).unwrap().unwrap().bytes, b"a,b");
            assert!(records.read(|_| false).is_err(), "{delimiter:?} {unfinished:.20}");
            assert_eq!(records.position().line, 2);
        }
    }
}
