//! Detecting formats, recognising columns, parsing rows.

use serde_json::{Value, json};

use super::super::columns::{Column, Columns};
use super::super::detect::{Encoding, Kind, kind};
use super::super::rows::{RowReader, delimiter};
use super::{ID, with_ids};

fn csv(header: &str) -> RowReader {
    let mut rows = RowReader::new(Encoding::Utf8, None);
    rows.set_header(header.as_bytes(), b',').unwrap();
    rows
}

/// The row that is sent, or the reason why none is; `@` stands for [`ID`] in both.
fn sent(rows: &mut RowReader, record: &str) -> Value {
    match rows.row(&with_ids(record.as_bytes())) {
        Ok(Some(row)) => {
            serde_json::from_str(&serde_json::to_string(&row).unwrap().replace(ID, "@")).unwrap()
        }
        Ok(None) => Value::Null,
        Err(reason) => reason.into(),
    }
}

#[test]
fn formats_are_detected_by_their_first_bytes() {
    for (head, wanted) in [
        (&b"\x1F\x8B\x08"[..], Kind::Gzip),
        (b"\x28\xB5\x2F\xFD", Kind::Zstd),
        (b"\xEF\xBB\xBF \n{\"unionid\":1}", Kind::Ndjson),
        (b"unionid,openid\n", Kind::Csv),
        (b"BZhunionid,openid\n", Kind::Csv),
        (b"\xEF\xBB\xBF\r\n", Kind::Empty),
        (b"", Kind::Empty),
    ] {
        assert_eq!(kind(head), wanted, "{head:?}");
    }
    let mut tar = vec![b'a'; 512];
    tar[257..262].copy_from_slice(b"ustar");
    let wide: Vec<u8> = "unionid,openid".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (head, what) in [
        (&b"PK\x03\x04"[..], "xlsx"),
        (b"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1", ".xls"),
        (b"7z\xBC\xAF\x27\x1C", "7z"),
        (b"Rar!\x1A\x07\x01\x00", "RAR"),
        (b"\xFD7zXZ\x00", "xz"),
        (b"BZh91AY&SY", "bzip2"),
        (b"%PDF-1.7", "PDF"),
        (b"\xFF\xFEu\x00", "UTF-16"),
        (&wide, "UTF-16"),
        (b" [{}]", "JSON array"),
        (b"<html>", "HTML"),
        (&tar, "tar"),
    ] {
        let Kind::Unsupported { what: found, hint } = kind(head) else { panic!("{what} is not recognised") };
        assert!(found.contains(what) && !hint.is_empty(), "{found}: {hint}");
    }
}

#[test]
fn chinese_in_gb18030_is_told_from_a_damaged_byte_in_utf_8() {
    let gb = |text: &str| encoding_rs::GB18030.encode(text).0.into_owned();
    assert_eq!(Encoding::of(&gb("微信unionid,小程序openid\nu,o\n")), Encoding::Gb18030);
    assert_eq!(Encoding::of(&gb("unionid,openid,备注\nu,o,老客户\n")), Encoding::Gb18030);
    assert_eq!(Encoding::of("微信unionid,小程序openid\n".as_bytes()), Encoding::Utf8);
    assert_eq!(Encoding::of(b"unionid,openid\nu,caf\xE9\nu,\xFF\nu,a\x80b\n"), Encoding::Utf8);
    let mut damaged = "unionid,openid,备注\nu,o,老客户\nu,o,新客户\n".as_bytes().to_vec();
    damaged.extend_from_slice(&gb("u,o,老客户\n"));
    assert_eq!(Encoding::of(&damaged), Encoding::Utf8);
    let cut = &"微信".as_bytes()[..5];
    assert_eq!(Encoding::of(cut), Encoding::Utf8);
}

#[test]
fn columns_go_by_many_names() {
    for (name, column) in [
        ("UnionID", Column::Unionid),
        ("union_id", Column::Unionid),
        ("\u{FEFF}微信 UnionID ", Column::Unionid),
        ("用户unionid", Column::Unionid),
        ("Open_ID", Column::Openid),
        ("小程序openid", Column::Openid),
        ("公众号OpenID", Column::Openid),
        ("pendingid", Column::PendingId),
        ("临时外部联系人ID", Column::PendingId),
        ("pending_id获取时间", Column::MintedAt),
        ("Minted-At", Column::MintedAt),
        ("应用名称", Column::App),
    ] {
        assert_eq!(Column::of(name), Some(column), "{name}");
    }
    for name in ["", "id", "external_userid", "created_at", "创建时间", "unionid2"] {
        assert_eq!(Column::of(name), None, "{name}");
    }
}

#[test]
fn a_header_without_required_columns_lists_the_recognised_names() {
    let error = Columns::new(&["昵称", "openid"]).unwrap_err();
    assert!(error.contains("no column for unionid") && error.contains("\"昵称\""), "{error}");
    assert!(error.contains("hint: ") && error.contains("微信unionid"), "{error}");
    let error = Columns::new(&["unionid", "小程序openid", "公众号openid"]).unwrap_err();
    assert!(error.contains("2 (\"小程序openid\") and 3 (\"公众号openid\")"), "{error}");
    let many: Vec<_> = (0..10_000).map(|n| format!("\x1B[2J{n}{}", "x".repeat(100))).collect();
    let error = Columns::new(&many.iter().map(String::as_str).collect::<Vec<_>>()).unwrap_err();
    assert!(error.len() < 1_500 && error.contains("and 9988 more") && !error.contains('\x1B'), "{error}");
}

#[test]
fn the_delimiter_is_the_one_that_makes_sense_of_the_header() {
    for (head, wanted) in [
        ("unionid,openid\n", b','),
        ("\u{FEFF}\r\n  \r\n微信unionid;小程序openid;\"a,b\"\r\nu;o\r\n", b';'),
        ("昵称\tunionid\topenid\n", b'\t'),
        ("a;b\tc\n", b','),
        ("", b','),
    ] {
        assert_eq!(delimiter(head), wanted, "{head:?}");
    }
}

#[test]
fn rows_of_csv_say_what_their_columns_say() {
    let mut rows = csv("昵称,unionid,openid,pending_id,获取时间,应用");
    assert_eq!(
        sent(&mut rows, "x,@u1, @o1 ,p1,2026-11-01 12:00:00,brand"),
        json!({"unionid": "@u1", "openid": "@o1", "pending_id": "p1", "minted_at": "2026-11-01T04:00:00.000Z", "app": "brand"})
    );
    assert_eq!(sent(&mut rows, "\"a, \"\"b\"\"\",@u1,@o1"), json!({"unionid": "@u1", "openid": "@o1"}));
    // Without a pending id, the column of another time.
    assert_eq!(sent(&mut rows, "x,@u1,@o1,,2026年11月1日"), json!({"unionid": "@u1", "openid": "@o1"}));
    assert_eq!(sent(&mut rows, "x,@u1,@o1,,,,,"), json!({"unionid": "@u1", "openid": "@o1"}));
    assert_eq!(sent(&mut rows, ",,, ,,"), Value::Null);
    assert_eq!(sent(&mut rows, "   "), Value::Null);
    assert_eq!(sent(&mut rows, "x,u1"), json!("openid is missing"));
    assert_eq!(sent(&mut rows, "x,,o1"), json!("unionid is missing"));
    assert_eq!(sent(&mut rows, "a,b,u1,o1,,,x"), json!("has 7 fields, and the header has 6"));
    assert_eq!(sent(&mut rows, "x,u 1,o1"), json!("unionid contains white space or a control character"));
    assert_eq!(sent(&mut rows, "x,u\0,o1"), json!("contains a NUL byte"));
    for (record, wanted) in [
        ("x,@u1,@o1,p1,yesterday", "minted_at is not a time"),
        ("x,hello,@o1", "unionid is not an id that WeChat issues (expected o and 19 to 63 "),
        ("x,@u1,1.23457E+15", "openid is a number that Excel has made of the id"),
    ] {
        let reason = sent(&mut rows, record);
        assert!(reason.as_str().unwrap().starts_with(wanted), "{reason}");
    }
    let invalid = rows.row(b"x,u1,o\xC3\x28").unwrap_err();
    assert_eq!(invalid, "is not UTF-8 from its byte 7 on (see --encoding)");
}

#[test]
fn rows_of_ndjson_say_what_their_members_say() {
    let app = crate::domain::ids::AppName::new("brand").unwrap();
    let mut rows = RowReader::new(Encoding::Utf8, Some(app));
    assert_eq!(
        sent(
            &mut rows,
            r#"{"unionid":"@u1","openid":"@o1","pending_id":"p1","minted_at":1793505600,"tags":[1],"app":null}"#
        ),
        json!({"unionid": "@u1", "openid": "@o1", "pending_id": "p1", "app": "brand", "minted_at": "2026-11-01T04:00:00.000Z"})
    );
    assert_eq!(sent(&mut rows, r#"{"unionid":"@u1","openid":"@o1","app":"other"}"#)["app"], "other");
    for (record, reason) in [
        (r#"{"unionid":"u1"}"#, "openid is missing"),
        (r#"{"unionid":7,"openid":"o1"}"#, "unionid is not text"),
        (r#"{"unionid":"","openid":"o1"}"#, "unionid is empty"),
        (r#"{"unionid":"u1","UnionID":"u2","openid":"o1"}"#, "names unionid twice"),
        (r#"["u1","o1"]"#, "is not an object"),
        (r#"{"unionid":"u1",}"#, "is not JSON: trailing comma at column 17"),
    ] {
        assert_eq!(sent(&mut rows, record), json!(reason));
    }
}

#[test]
fn an_open_quote_is_told_from_a_remark_of_several_lines() {
    let mut rows = csv("unionid,openid,备注");
    for remark in ["@u1,@o1,\"two\nlines\"", "@u1,@o1,\"a\nb\nc,d\ne\"", "\"\n@u1\",@o1,x"] {
        assert!(!rows.swallows_rows(&with_ids(remark.as_bytes())), "{remark}");
    }
    for open in ["@u1,\"@o1,x\n@u2,@o2,\"", "@u1,@o1,\"x\n@u2,@o2,y\n@u3,@o3,\"", "@u1,@o1,\"x\n@u2,@o2,\",z"]
    {
        assert!(rows.swallows_rows(&with_ids(open.as_bytes())), "{open}");
    }
}
