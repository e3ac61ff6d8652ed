//! The export of all links at one instant: the same links as look-ups return, in each format, over HTTP and
//! by command.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use unionlink::domain::time::Timestamp;
use unionlink::simulator::Person;

use crate::harness::{Setup, World};

const COLUMNS: &str = "app,unionid,external_userid,corp_id,pending_id,source,linked_at,user_ids,states,\
                       first_added_at,followers,link_id,corp_name,chat_id";
/// The header of the CSV for Excel.
const EXCEL_COLUMNS: &str = "app,unionid,external_userid,corp_id,pending_id,source,linked_at (UTC+8),\
                             user_ids,states,first_added_at (UTC+8),followers,link_id,corp_name,chat_id";

/// The body of an export, and its headers: the feed position and the number of links.
async fn export(world: &World, query: &str) -> (String, u64, u64) {
    let response = world.http.get(format!("{}/v1/links/export{query}", world.admin)).send().await.unwrap();
    assert_eq!(response.status(), 200, "{query}");
    let number = |name: &str| response.headers()[name].to_str().unwrap().parse().unwrap();
    let (feed, links) = (number("x-unionlink-feed"), number("x-unionlink-links"));
    let kind = response.headers()["content-type"].to_str().unwrap();
    assert!(kind.starts_with(if query.contains("csv") { "text/csv" } else { "application/x-ndjson" }));
    (response.text().await.unwrap(), feed, links)
}

fn rows_of(ndjson: &str) -> Vec<Value> {
    assert!(ndjson.is_empty() || ndjson.ends_with('\n'));
    ndjson.lines().map(|line| without_welcome_code(serde_json::from_str(line).unwrap())).collect()
}

/// The link without its welcome code, which is reported only for the seconds it is valid.
fn without_welcome_code(mut link: Value) -> Value {
    link["welcome_code"] = Value::Null;
    link
}

fn by_id(links: impl IntoIterator<Item = Value>) -> BTreeMap<String, Value> {
    links.into_iter().map(|link| (link["link_id"].as_str().unwrap().to_owned(), link)).collect()
}

fn csv_rows(text: &str) -> Vec<BTreeMap<String, String>> {
    rows_under(COLUMNS, text)
}

/// The rows of a CSV for Excel.
fn excel_rows(text: &str) -> Vec<BTreeMap<String, String>> {
    rows_under(EXCEL_COLUMNS, text.strip_prefix('\u{feff}').expect("a byte order mark"))
}

fn rows_under(header: &str, text: &str) -> Vec<BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    assert_eq!(reader.headers().unwrap().iter().collect::<Vec<_>>().join(","), header);
    reader.deserialize().map(|row| row.unwrap()).collect()
}

/// Fans with one link, two links or none; the first has two followers at one dealer.
async fn with_links(setup: Setup) -> (World, Vec<Person>) {
    let world = World::with(setup).await;
    let fans = world.mint(12).await;
    world.add_all(&fans[..10], "zhangsan").await;
    world.add_all(&fans[1..5], "lisi").await;
    world.until("/v1/status", |status| status["links"] == 14).await;
    world.add(0, &fans[0], "wangwu").await;
    world.until("/v1/status", |status| status["feed_head"] == 15).await;
    (world, fans)
}

async fn all_links(world: &World, fans: &[Person]) -> BTreeMap<String, Value> {
    let mut links = Vec::new();
    for fan in fans {
        links.extend(world.links(fan).await.into_iter().map(without_welcome_code));
    }
    by_id(links)
}

#[tokio::test(flavor = "multi_thread")]
async fn ndjson_has_exactly_the_links_that_look_ups_return() {
    let (world, fans) = with_links(Setup::default()).await;
    let (text, feed, links) = export(&world, "").await;
    let rows = rows_of(&text);
    assert_eq!((rows.len(), feed, links), (14, 15, 14));
    assert_eq!(by_id(rows), all_links(&world, &fans).await);
    world.check_links(&fans).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_has_the_same_rows_and_that_for_excel_has_dates_in_china_time() {
    let (world, fans) = with_links(Setup::default()).await;
    let wanted = all_links(&world, &fans).await;
    let (plain, feed, links) = export(&world, "?format=csv").await;
    assert_eq!((feed, links), (15, 14));
    assert!(plain.starts_with(COLUMNS) && plain.ends_with("\r\n"), "{plain}");
    let (for_excel, ..) = export(&world, "?format=csv&bom=true").await;
    let rows = csv_rows(&plain);
    assert_eq!(rows.len(), 14);
    let of_excel: BTreeMap<_, _> =
        excel_rows(&for_excel).into_iter().map(|row| (row["link_id"].clone(), row)).collect();
    for mut row in rows {
        let link = &wanted[&row["link_id"]];
        for name in
            ["app", "unionid", "external_userid", "corp_id", "corp_name", "pending_id", "source", "linked_at"]
        {
            assert_eq!(json!(row[name]), link[name], "{name}");
        }
        let followers = link["followers"].as_array().unwrap();
        let joined = |name: &str| {
            followers.iter().map(|follower| follower[name].as_str().unwrap()).collect::<Vec<_>>().join(";")
        };
        assert_eq!((&row["user_ids"], &row["states"]), (&joined("user_id"), &joined("state")));
        assert_eq!(json!(row["first_added_at"]), followers[0]["added_at"]);
        assert_eq!(row["followers"], followers.len().to_string());
        for name in ["linked_at", "first_added_at"] {
            let at: Timestamp = row.remove(name).unwrap().parse().unwrap();
            row.insert(format!("{name} (UTC+8)"), at.in_china_for_sheets());
        }
        assert_eq!(of_excel[&row["link_id"]], row);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn formulas_quotes_and_line_breaks_are_escaped_in_csv() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    let dealer = &world.dealers[0].corp_id;
    let state = "=1+1,\"a\"\nb";
    let friendship = world.wecom.befriend(dealer, &fans[0], "zhangsan", Some(state));
    world.deliver(&friendship.event).await;
    world.linked(&fans[0], 1).await;
    world.feed(1).await;
    assert_eq!(csv_rows(&export(&world, "?format=csv").await.0)[0]["states"], state);
    let (for_excel, ..) = export(&world, "?format=csv&bom=true").await;
    assert_eq!(excel_rows(&for_excel)[0]["states"], format!("'{state}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_leave_out_rows_and_do_not_change_the_headers() {
    let world = World::usual().await;
    let fans = world.mint(6).await;
    world.add_all(&fans[..4], "zhangsan").await;
    world.feed(4).await;
    world.clock.skip(Duration::from_hours(2));
    world.add_all(&fans[4..], "zhangsan").await;
    world.feed(6).await;
    let at = async |n: usize| world.links(&fans[n]).await[0]["linked_at"].as_str().unwrap().to_owned();
    let later = at(4).await.min(at(5).await);
    let dealer = &world.dealers[0].corp_id;
    for (query, rows) in [
        (format!("since={later}"), 2),
        (format!("until={later}"), 4),
        (format!("since={later}&until={later}"), 0),
        (format!("corp_id={dealer}"), 3),
        (format!("corp_id={dealer}&until={later}"), 2),
        ("since=2020-01-01".to_owned(), 6),
        ("until=2020/01/01%2008:00".to_owned(), 0),
        ("until=1577836800".to_owned(), 0),
        ("app=brand".to_owned(), 6),
        ("app=other".to_owned(), 0),
        ("corp_id=wpNobody".to_owned(), 0),
    ] {
        let (text, feed, links) = export(&world, &format!("?{query}")).await;
        let found = rows_of(&text);
        assert_eq!((found.len(), feed, links), (rows, 6, 6), "{query}");
        assert!(!query.contains("corp_id") || found.iter().all(|row| row["corp_id"] == json!(dealer)));
        let (csv, ..) = export(&world, &format!("?{query}&format=csv")).await;
        assert_eq!(csv_rows(&csv).len(), rows, "{query}");
    }
    let text = world.text("/v1/links/export?since=yesterday").await.1;
    assert!(text.contains("since") && text.contains("write 2026-11-22 or"), "{text}");
    for query in ["since=yesterday", "format=xlsx", "bom=true", "corp_id=", "since=1&since=2"] {
        let (status, text) = world.text(&format!("/v1/links/export?{query}")).await;
        assert_eq!(status, 400, "{query}: {text}");
        assert!(text.contains("bad_request"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_while_links_are_made_has_every_link_up_to_its_feed_position() {
    const LINKS: usize = 400;
    let app = "existing_customers = false".to_owned();
    let world = World::with(Setup { app, ..Setup::default() }).await;
    let fans = world.mint(LINKS).await;
    let exporting = async {
        let mut exports = Vec::new();
        let mut seen = 0;
        while seen < LINKS as u64 {
            let (text, feed, links) = export(&world, "").await;
            seen = feed;
            exports.push((rows_of(&text), feed, links));
        }
        exports
    };
    let (exports, ()) = tokio::join!(exporting, world.add_all(&fans, "zhangsan"));
    let made = |feed: u64, entries: &[Value]| -> BTreeSet<String> {
        let until = entries.iter().filter(|entry| entry["seq"].as_u64().unwrap() <= feed);
        until.map(|entry| entry["data"]["link_id"].as_str().unwrap().to_owned()).collect()
    };
    let entries = world.feed(LINKS).await;
    assert!(entries.iter().all(|entry| entry["type"] == "link.created"));
    let in_between = exports.iter().filter(|(_, feed, _)| (1..LINKS as u64).contains(feed)).count();
    assert!(in_between > 2, "only {in_between} exports ran while links were being made");
    for (rows, feed, links) in exports {
        assert_eq!(links, feed, "each link is one entry");
        let exported: BTreeSet<_> = by_id(rows).into_keys().collect();
        assert!(exported.is_superset(&made(feed, &entries)), "at {feed}");
        assert!(exported.is_subset(&made(u64::MAX, &entries)), "at {feed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_writes_what_the_service_exports() {
    let (world, fans) = with_links(Setup::default()).await;
    let file = world.folder.path().join("links.ndjson");
    let path = file.to_str().unwrap();
    let ran = world.unionlink(&["links", "export", "--output", path]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{ran:?}");
    assert!(ran.stderr.contains("14 rows") && ran.stderr.contains("the feed continues after 15"), "{ran:?}");
    let written = std::fs::read_to_string(&file).unwrap();
    assert_eq!(by_id(rows_of(&written)), all_links(&world, &fans).await);

    let ran = world.unionlink(&["links", "export"]).await;
    assert_eq!((ran.code, by_id(rows_of(&ran.stdout))), (0, by_id(rows_of(&written))));

    let dealer = world.dealers[1].corp_id.as_str();
    let ran = world.unionlink(&["links", "export", "--excel", "--output", path, "--corp-id", dealer]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let written = std::fs::read_to_string(&file).unwrap();
    let rows = excel_rows(&written);
    assert!(!rows.is_empty() && rows.len() < 14 && rows.iter().all(|row| row["corp_id"] == dealer));
    assert!(ran.stderr.contains(&format!("{} rows", rows.len())), "{ran:?}");

    let left: Vec<_> =
        std::fs::read_dir(world.folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".unionlink-")), "{left:?}");
    for arguments in
        [&["--excel", "--format", "ndjson"][..], &["--since", "yesterday"], &["--format", "xlsx"]]
    {
        assert_eq!(
            world.unionlink(&[&["links", "export"], arguments].concat()).await.code,
            2,
            "{arguments:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_leaves_no_file_when_the_service_does_not_answer() {
    let mut world = World::usual().await;
    world.stop().await.unwrap();
    let file = world.folder.path().join("links.csv");
    let ran = world.unionlink(&["links", "export", "--output", file.to_str().unwrap()]).await;
    assert_eq!((ran.code, file.exists()), (1, false), "{ran:?}");
    assert!(ran.stderr.contains("hint:"), "{ran:?}");
}
