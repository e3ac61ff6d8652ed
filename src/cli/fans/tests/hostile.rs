//! Files that are wrong, damaged, malicious or in another encoding.

use std::io::{self, Read, Write as _};
use std::path::Path;

use super::super::detect::Encoding;
use super::super::import::Report;
use super::super::records::{Malformed, Records};
use super::super::source::Format;
use super::service::{Answer, Service, run};
use super::{ID, with_ids};

/// Imports these bytes as a file. Returns the fans that the service then has, without [`ID`].
async fn import(content: &[u8]) -> (anyhow::Result<Report>, Vec<String>) {
    let service = Service::start(|_| Answer::Take).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fans");
    std::fs::write(&path, content).unwrap();
    let report = run(service.job(&path)).await;
    (report, service.fans().into_keys().map(|id| id.replace(ID, "")).collect())
}

async fn imported(content: &[u8]) -> (u64, Vec<String>) {
    let (report, fans) = import(content).await;
    (report.unwrap().counts.rejected, fans)
}

async fn refused(content: &[u8]) -> String {
    let (report, fans) = import(content).await;
    assert!(fans.is_empty());
    format!("{:#}", report.unwrap_err())
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// `head`, then the same byte `left` times, then `tail`.
struct Flood {
    head: &'static [u8],
    left: u64,
    tail: &'static [u8],
}

impl Read for Flood {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.head.is_empty() {
            return self.head.read(buffer);
        }
        if self.left == 0 {
            return self.tail.read(buffer);
        }
        let size = usize::try_from(self.left).unwrap().min(buffer.len());
        buffer[..size].fill(b'x');
        self.left -= size as u64;
        Ok(size)
    }
}

#[test]
fn a_line_of_a_gibibyte_is_one_bad_row() {
    for delimiter in [Some(b','), None] {
        let flood = Flood { head: b"a,b\nc,", left: 1 << 30, tail: b"\nd,e\n" };
        let mut records = Records::new(flood, delimiter);
        assert_eq!(records.read(|_| false).unwrap().unwrap().bytes, b"a,b");
        let long = records.read(|_| false).unwrap().unwrap();
        // Only the fixed buffer of it is held, and an excerpt returned.
        assert_eq!((long.line, long.malformed, long.bytes.len()), (2, Some(Malformed::TooLong), 1024));
        let next = records.read(|_| false).unwrap().unwrap();
        assert_eq!((next.line, next.bytes), (3, &b"d,e"[..]));
        assert_eq!(records.position().offset, 6 + (1 << 30) + 5);
    }
}

#[tokio::test]
async fn a_decompression_bomb_is_a_bad_row_too() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    io::copy(
        &mut Flood {
            head: b"unionid,openid\noINVENTED-id-of-fan-u1,oINVENTED-id-of-fan-o1\n",
            left: 64 << 20,
            tail: b"\noINVENTED-id-of-fan-u2,oINVENTED-id-of-fan-o2\n",
        },
        &mut encoder,
    )
    .unwrap();
    assert_eq!(imported(&encoder.finish().unwrap()).await, (1, vec!["u1".into(), "u2".into()]));
}

#[tokio::test]
async fn bad_rows_do_not_harm_their_neighbours() {
    let wide = vec!["x"; 10_000].join(",");
    let content = [
        b"\xEF\xBB\xBFunionid;openid\r\n\r\n".as_slice(),
        b"@u1;@o1\r\n",
        b"u\0;o\r\n",
        b"u\xC3\x28;o\r\n",
        wide.replace(',', ";").as_bytes(),
        b"\r\n\"u;o\r\n@u2;@o2\r\n",
        b"@u3;\"o\"3\r\n",
        b"\"@u4\";\"@o4\"",
    ]
    .concat();
    assert_eq!(imported(&with_ids(&content)).await, (5, vec!["u1".into(), "u2".into(), "u4".into()]));
    let nd = b"{\"unionid\":\"@u1\",\"openid\":\"@o1\"}\n{\"unionid\":\n\xFF\n\n\
        {\"unionid\":\"@u2\",\"openid\":\"@o2\"}";
    assert_eq!(imported(&with_ids(nd)).await, (2, vec!["u1".into(), "u2".into()]));
    let deep = format!("{{\"unionid\":{}}}\n{{\"unionid\":\"@u\",\"openid\":\"@o\"}}\n", "[".repeat(60_000));
    assert_eq!(imported(&with_ids(deep.as_bytes())).await, (1, vec!["u".into()]));
}

#[tokio::test]
async fn a_header_of_ten_thousand_columns_is_read_if_the_two_are_there() {
    let names: Vec<_> = (0..9_998).map(|n| format!("column{n}")).collect();
    let content = format!("{},unionid,openid\n{}@u1,@o1\n", names.join(","), ",".repeat(9_998));
    // Its header is longer than a record may be.
    assert!(refused(content.as_bytes()).await.contains("longer than 64 KiB"));
    let short = content.replace("column", "c");
    assert_eq!(imported(&with_ids(short.as_bytes())).await, (0, vec!["u1".into()]));
}

#[tokio::test]
async fn archives_are_read_through() {
    let rows = with_ids(b"unionid,openid\n@u1,@o1\n@u2,@o2\n");
    let (first, second) = rows.split_at(20);
    let members = [gzip(first), gzip(second)].concat();
    assert_eq!(imported(&members).await.1, ["u1", "u2"]);
    let frames = [zstd::encode_all(first, 3).unwrap(), zstd::encode_all(second, 3).unwrap()].concat();
    assert_eq!(imported(&frames).await.1, ["u1", "u2"]);
    assert!(refused(&gzip(&members)).await.contains("compressed twice"));
    let inside = refused(&gzip(b"PK\x03\x04rest")).await;
    assert!(inside.contains("ZIP") && inside.contains("inside its compression"), "{inside}");
}

#[tokio::test]
async fn the_intact_part_of_a_truncated_archive_is_imported_and_the_rest_reported() {
    use std::fmt::Write as _;
    let mut text = "unionid,openid\n".to_owned();
    for n in 0..50_000 {
        writeln!(text, "{ID}u{n},{ID}o{}", n * 7919 % 50_021).unwrap();
    }
    for whole in [gzip(text.as_bytes()), zstd::encode_all(text.as_bytes(), 3).unwrap()] {
        let (report, fans) = import(&whole[..whole.len() / 2]).await;
        let error = report.unwrap_err().to_string();
        assert!(error.contains("after line ") && error.contains("hint: the file is truncated"), "{error}");
        assert!((1_000..50_000).contains(&fans.len()), "{}", fans.len());
        assert!(error.contains(&format!("after line {}:", fans.len() + 1)), "{error} {}", fans.len());
    }
    let mut damaged = gzip(text.as_bytes());
    let middle = damaged.len() / 2;
    damaged[middle..middle + 64].fill(0xFF);
    let (report, _) = import(&damaged).await;
    assert!(report.unwrap_err().to_string().contains("hint: "));
}

#[tokio::test]
async fn a_zstd_window_that_would_need_much_memory_is_refused() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.long_distance_matching(true).unwrap();
    encoder.write_all(b"unionid,openid\nu1,o1\n").unwrap();
    let error = refused(&encoder.finish().unwrap()).await;
    assert!(error.contains("hint: compress it again without --long"), "{error}");
}

#[tokio::test]
async fn gb18030_is_read_as_what_it_is() {
    let text = "昵称,微信unionid,小程序openid,应用名称\n老王,@u1,@o1,品牌\n小李,@u2,@o2,\n";
    let text = text.replace('@', ID);
    let content = encoding_rs::GB18030.encode(&text).0;
    assert_eq!(imported(&content).await, (0, vec!["u1".into(), "u2".into()]));
}

#[tokio::test]
async fn what_is_not_gb18030_harms_only_the_id_it_is_in() {
    let mut content = encoding_rs::GB18030.encode("昵称;微信unionid;小程序openid\n").0.into_owned();
    content.extend(with_ids(b"\xD0;@u1;@o1\na;@u\xFF2;@o2\na;@u3;@o3\xD0\na;@u4;@o4\n"));
    let service = Service::start(|_| Answer::Take).await;
    let folder = tempfile::tempdir().unwrap();
    let [path, rejects] = ["fans", "rejects"].map(|name| folder.path().join(name));
    std::fs::write(&path, &content).unwrap();
    let mut job = service.job(&path);
    (job.options.encoding, job.rejects) = (Some(Encoding::Gb18030), Some(rejects.clone()));
    assert_eq!(run(job).await.unwrap().counts.rejected, 2);
    assert_eq!(service.fans().into_keys().collect::<Vec<_>>(), ["u1", "u4"].map(|id| format!("{ID}{id}")));
    let rejects = std::fs::read_to_string(&rejects).unwrap();
    for (line, column) in [(3, "unionid"), (4, "openid")] {
        let reason = format!("\"line\":{line},\"reason\":\"{column} is not valid GB18030 (see --encoding)\"");
        assert!(rejects.contains(&reason), "{rejects}");
    }
}

#[tokio::test]
async fn wrong_files_are_refused_with_a_remedy() {
    for (content, wanted) in [
        (&b""[..], "is empty"),
        (b"\n\n", "is empty"),
        (b"PK\x03\x04", "save the sheet as CSV"),
        (b"[{\"unionid\":\"u\"}]", "one object per line"),
        (b"u1,o1\nu2,o2\n", "no column for unionid"),
        (b"unionid,openid,OpenID\nu,o,o\n", "both recognised as openid"),
        (b"\"unionid,openid\nu,o\n", "the header of"),
    ] {
        let error = refused(content).await;
        assert!(error.contains(wanted) && error.contains("\nhint: "), "{error}");
    }
    let service = Service::start(|_| Answer::Take).await;
    let folder = tempfile::tempdir().unwrap();
    let error = run(service.job(folder.path())).await.unwrap_err().to_string();
    assert!(error.contains("is a directory"), "{error}");
    let error = format!("{:#}", run(service.job(Path::new("/no/such/file"))).await.unwrap_err());
    assert!(error.contains("cannot read /no/such/file"), "{error}");
}

#[tokio::test]
async fn a_wrong_format_fails_the_import_before_a_row_is_sent() {
    let csv = with_ids(b"unionid,openid\n@u1,@o1\n");
    let ndjson = with_ids(b"{\"unionid\":\"@u1\",\"openid\":\"@o1\"}\n");
    let pretty = with_ids(b"{\n  \"unionid\": \"@u1\",\n  \"openid\": \"@o1\"\n}\n");
    for (content, format, wanted) in [
        (&csv, Some(Format::Ndjson), "is not NDJSON: line 1: is not JSON"),
        (&csv, Some(Format::Ndjson), "\nhint: leave out --format: it looks like CSV"),
        (&ndjson, Some(Format::Csv), "is NDJSON, not CSV\nhint: leave out --format"),
        (&pretty, None, "is not NDJSON: line 1: is not JSON"),
        (&pretty, None, "\nhint: write one object per line"),
    ] {
        let service = Service::start(|_| Answer::Take).await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fans");
        std::fs::write(&path, content).unwrap();
        let mut job = service.job(&path);
        job.options.format = format;
        let error = run(job).await.unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
        assert_eq!(service.requests(), 0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
    // A brace at the beginning does not make a header NDJSON.
    let service = Service::start(|_| Answer::Take).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fans");
    std::fs::write(&path, with_ids(b"{tag},unionid,openid\nx,@u1,@o1\n")).unwrap();
    let mut job = service.job(&path);
    job.options.format = Some(Format::Csv);
    assert_eq!(run(job).await.unwrap().counts.accepted, 1);
}
