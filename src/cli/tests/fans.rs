//! `fans list`.

use serde_json::{Value, json};

use super::service::{Service, json as answer, parsed};

fn fan(n: u32) -> Value {
    json!({"app": "brand", "unionid": format!("oFAN{n}"), "openid": format!("oOPENID{n}"),
        "state": "rejected", "registered_at": "2026-11-22T01:02:03.456Z", "pending_id": null,
        "minted_at": null, "expires_at": null, "older_pending_ids": [], "waits_as": null,
        "errcode": 610_018, "remedy": "correct it, or retry", "existing_asked_at": null,
        "existing_found": null, "attempts": 0})
}

fn page(fans: &[Value], next: Option<&str>) -> axum::response::Response {
    answer(200, &json!({"fans": fans, "next": next}).to_string())
}

#[tokio::test]
async fn every_page_is_printed_also_those_behind_an_empty_one() {
    let service = Service::start(|asked| match asked {
        asked if asked.contains("after=20") => page(&[fan(3)], None),
        asked if asked.contains("after=10") => page(&[], Some("20")),
        _ => page(&[fan(1), fan(2)], Some("10")),
    })
    .await;
    let ran = service.run(&["fans", "list", "--state", "rejected", "--errcode", "-1", "--app", "b"]).await;
    ran.ends_with(0);
    let rows: Vec<Value> = ran.data.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows, [fan(1), fan(2), fan(3)]);
    assert_eq!(ran.talk, "3 fans\n");
    let query = "GET /v1/fans?state=rejected&errcode=-1&app=b";
    let asked = ["&limit=1000", "&after=10&limit=1000", "&after=20&limit=1000"];
    assert_eq!(service.asked(), asked.map(|rest| format!("{query}{rest}")));
}

#[tokio::test]
async fn csv_has_the_columns_of_an_import_and_a_limit_ends_the_list() {
    let service = Service::start(|_| page(&[fan(1)], Some("10"))).await;
    let ran = service.run(&["fans", "list", "--format", "csv", "--limit", "1"]).await;
    ran.ends_with(0);
    let wanted = "app,unionid,openid,state,errcode,remedy,registered_at,pending_id,minted_at,expires_at\r\n\
        brand,oFAN1,oOPENID1,rejected,610018,\"correct it, or retry\",2026-11-22T01:02:03.456Z,,,\r\n";
    assert_eq!(ran.data, wanted);
    assert_eq!(ran.talk, "1 fan; stopped at --limit\n");
    assert_eq!(service.asked(), ["GET /v1/fans?limit=1"]);
    assert!(parsed(&["fans", "list", "--limit", "0"]).is_err());
    assert!(parsed(&["fans", "list", "--state", "lost"]).is_err());
}

#[tokio::test]
async fn a_cursor_that_does_not_move_ends_the_list_with_an_error() {
    let service = Service::start(|_| page(&[], Some("10"))).await;
    assert!(service.run(&["fans", "list"]).await.error().contains("is it the admin listener's address?"));
}
