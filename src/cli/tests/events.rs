//! `events list`, `show`, `redrive` and `discard`.

use serde_json::{Value, json};

use super::service::{Service, json as answer, page, parsed};

fn dead(n: u32) -> Value {
    json!({"id": format!("evt_{n}"), "state": "dead", "app": "brand", "received_at": "2026-11-22T01:02:03.456Z",
        "age_seconds": 7_300, "type": "add_external_contact", "corp_id": "wpAAA", "corp_name": "上海一店",
        "external_userid": "wmAAA", "user_id": "zhangsan", "created_at": "2026-11-22T01:02:03.000Z",
        "due_at": "2026-11-22T01:02:03.456Z",
        "died_at": "2026-11-22T03:02:03.456Z", "attempts": 9, "errcode": 84061, "reason": "不存在外部联系人的关系: ask the dealer",
        "remedy": "ask the dealer", "remedy_zh": "请联系经销商"})
}

fn quarantined() -> Value {
    json!({"id": "evt_7", "state": "quarantined", "app": "brand", "received_at": "2026-11-22T01:02:03.456Z",
        "age_seconds": 12, "reason": "receive_id", "detail": null, "receive_id": "ww1111", "message_bytes": 414,
        "remedy": "add it to accept_receive_ids", "remedy_zh": "请加入 accept_receive_ids"})
}

#[tokio::test]
async fn dead_letters_and_quarantined_messages_share_one_table_above_the_remedies() {
    let service = Service::start(|asked| {
        let found = if asked.contains("=dead") { vec![dead(5), dead(6)] } else { vec![quarantined()] };
        page(&found, None)
    })
    .await;
    let ran = service.run(&["events", "list"]).await;
    ran.ends_with(0);
    let wanted = "\
ID     STATE        AGE  APP    CORP              ERRCODE  REASON
evt_5  dead         2h   brand  上海一店 (wpAAA)  84061    不存在外部联系人的关系
evt_6  dead         2h   brand  上海一店 (wpAAA)  84061    不存在外部联系人的关系
evt_7  quarantined  12s  brand  -                 -        receive_id: ww1111

evt_5 and 1 more
  → ask the dealer
  → 请联系经销商

evt_7
  → add it to accept_receive_ids
  → 请加入 accept_receive_ids
";
    assert_eq!(ran.data, wanted);
    assert_eq!(ran.talk, "2 dead; 1 quarantined\n");
    let asked = ["GET /v1/events?state=dead&limit=100", "GET /v1/events?state=quarantined&limit=100"];
    assert_eq!(service.asked(), asked);
}

#[tokio::test]
async fn the_list_is_printed_in_the_requested_language() {
    let service = Service::start(|_| page(&[dead(5), dead(6)], None)).await;
    let list = ["events", "list", "--state", "dead", "--lang"];
    let chinese = service.run(&[&list[..], &["zh"]].concat()).await.data;
    let wanted = "\
ID     状态  时长  应用   企业              错误码  原因
evt_5  dead  2h    brand  上海一店 (wpAAA)  84061   不存在外部联系人的关系
evt_6  dead  2h    brand  上海一店 (wpAAA)  84061   不存在外部联系人的关系

evt_5 等 2 条
  → 请联系经销商
";
    assert_eq!(chinese, wanted);
    let english = service.run(&[&list[..], &["en"]].concat()).await.data;
    assert!(
        english.starts_with("ID     STATE") && english.ends_with("more\n  → ask the dealer\n"),
        "{english}"
    );
    assert!(parsed(&[&list[..], &["fr"]].concat()).is_err());
}

#[tokio::test]
async fn filters_are_passed_on_and_those_of_events_exclude_quarantined_messages() {
    let service = Service::start(|_| page(&[], None)).await;
    let filters = ["--app", "brand", "--corp-id", "wp&AAA", "--errcode", "-1", "--reason", "two words"];
    let ran = service.run(&[&["events", "list", "--limit", "7"][..], &filters].concat()).await;
    ran.ends_with(0);
    assert_eq!((ran.data.as_str(), ran.talk.as_str()), ("", "0 dead\n"));
    let wanted =
        "GET /v1/events?state=dead&app=brand&corp_id=wp%26AAA&errcode=-1&reason=two+words&limit=7".to_owned();
    assert_eq!(service.asked(), [wanted]);
    service.run(&["events", "list", "--state", "waiting"]).await.ends_with(0);
    assert_eq!(service.asked()[1], "GET /v1/events?state=waiting&limit=100");
}

#[tokio::test]
async fn all_reads_every_page() {
    let service = Service::start(|asked| {
        if asked.contains("after=evt_1000") {
            page(&[dead(1_001)], None)
        } else {
            page(&[dead(1), dead(1_000)], Some("evt_1000"))
        }
    })
    .await;
    let ran = service.run(&["events", "list", "--state", "dead", "--all", "--json"]).await;
    ran.ends_with(0);
    let rows: Vec<Value> = ran.data.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows, [dead(1), dead(1_000), dead(1_001)]);
    let few = service.run(&["events", "list", "--state", "dead", "--limit", "2"]).await;
    assert_eq!(few.talk, "2 dead, and more (--all lists them)\n");
    assert!(parsed(&["events", "list", "--all", "--limit", "3"]).is_err());
}

#[tokio::test]
async fn a_service_that_repeats_its_page_causes_no_endless_loop() {
    let service = Service::start(|_| page(&[dead(1)], Some("evt_1"))).await;
    let ran = service.run(&["events", "list", "--all"]).await;
    assert!(ran.error().contains(", but not as unionlink does"), "{}", ran.error());
}

#[tokio::test]
async fn one_event_is_shown_with_its_message_and_without_control_characters() {
    let service = Service::start(|_| {
        let mut row = quarantined();
        row["message"] = json!("<xml>\n\u{1b}[2J</xml>");
        row["novelty"] = json!(true);
        answer(200, &row.to_string())
    })
    .await;
    let ran = service.run(&["events", "show", "evt_7"]).await;
    ran.ends_with(0);
    assert_eq!(service.asked(), ["GET /v1/events/evt_7"]);
    let wanted = "\
evt_7: quarantined, 12 seconds old
  app              brand
  received_at      2026-11-22 09:02:03 +08:00
  reason           receive_id
  receive_id       ww1111
  message_bytes    414
  novelty          true
  → add it to accept_receive_ids
  → 请加入 accept_receive_ids

<xml>
 [2J</xml>
";
    assert_eq!(ran.data, wanted);
    assert!(parsed(&["events", "show", "../fans"]).is_err());
}

#[tokio::test]
async fn a_dead_letter_is_shown_with_its_dealers_name_and_in_one_language() {
    let service = Service::start(|_| answer(200, &dead(5).to_string())).await;
    let shown = service.run(&["events", "show", "evt_5", "--lang", "zh"]).await.data;
    for line in [
        "\n  corp_id          上海一店 (wpAAA)\n",
        "\n  died_at          2026-11-22 11:02:03 +08:00\n",
        "\n  → 请联系经销商\n",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
    assert!(!shown.contains("corp_name") && !shown.contains("ask the dealer"), "{shown}");
    let json = service.run(&["events", "show", "evt_5", "--json"]).await.data;
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), dead(5));
}

#[tokio::test]
async fn named_events_are_redriven_one_by_one_and_a_refusal_fails_with_its_hint() {
    let service = Service::start(|asked| match asked {
        "POST /v1/events/evt_1/redrive" => answer(200, r#"{"id":"evt_1","redriven":true}"#),
        "POST /v1/events/evt_2/redrive" => {
            answer(409, r#"{"code":"conflict","detail":"still not accepted","hint":"add it"}"#)
        }
        "POST /v1/events/evt_3/redrive" => answer(200, r#"{"id":"evt_3","redriven":false}"#),
        other => panic!("{other}"),
    })
    .await;
    let ran = service.run(&["events", "redrive", "evt_1", "evt_2", "evt_3"]).await;
    ran.ends_with(1);
    assert_eq!(ran.data, "evt_1 redriven\nevt_3 needs no redrive any more\n");
    assert_eq!(ran.talk, "evt_2 refused: still not accepted\nhint: add it\n");
    let json = service.run(&["events", "redrive", "evt_1", "evt_2", "--json"]).await;
    json.ends_with(1);
    assert_eq!(
        json.data,
        "{\"id\":\"evt_1\",\"redriven\":true}\n\
         {\"code\":\"conflict\",\"detail\":\"still not accepted\",\"hint\":\"add it\",\"id\":\"evt_2\"}\n"
    );
    service.run(&["events", "redrive", "evt_1", "evt_3"]).await.ends_with(0);
}

#[tokio::test]
async fn events_are_redriven_by_filter() {
    let service = Service::start(|asked| match asked {
        "POST /v1/events/redrive {}" => answer(200, r#"{"redriven":1200,"refused":[],"refused_total":0}"#),
        _ => answer(
            200,
            r#"{"redriven":1,"refused":[{"id":"evt_2","code":"conflict","detail":"still not accepted",
                "hint":"add it"},{"id":"evt_3","code":"conflict","detail":"still not accepted","hint":"add it"}],
                "refused_total":5}"#,
        ),
    })
    .await;
    let all = service.run(&["events", "redrive", "--all"]).await;
    all.ends_with(0);
    assert_eq!(all.data, "1,200 redriven\n");
    let some = [
        "events",
        "redrive",
        "--state",
        "dead",
        "--app",
        "brand",
        "--corp-id",
        "wpAAA",
        "--errcode",
        "84061",
    ];
    let ran = service.run(&some).await;
    ran.ends_with(1);
    assert_eq!(ran.data, "1 redriven, 5 refused\n");
    let talk =
        "evt_2 refused: still not accepted\nevt_3 refused: still not accepted\nand 3 more\nhint: add it\n";
    assert_eq!(ran.talk, talk);
    let wanted =
        r#"POST /v1/events/redrive {"app":"brand","corp_id":"wpAAA","errcode":84061,"state":"dead"}"#;
    assert_eq!(service.asked()[1], wanted);
}

#[tokio::test]
async fn events_are_discarded_by_id_and_by_filter() {
    let service = Service::start(|asked| match asked {
        "POST /v1/events/evt_1/discard" => answer(200, r#"{"id":"evt_1","discarded":true}"#),
        "POST /v1/events/evt_2/discard" => answer(200, r#"{"id":"evt_2","discarded":false}"#),
        "POST /v1/events/evt_3/discard" => answer(404, r#"{"code":"not_found","detail":"not found"}"#),
        r#"POST /v1/events/discard {"all":true}"# => answer(200, r#"{"discarded":1200}"#),
        r#"POST /v1/events/discard {"reason":"receive_id","state":"quarantined"}"# => {
            answer(200, r#"{"discarded":2}"#)
        }
        other => panic!("{other}"),
    })
    .await;
    let ran = service.run(&["events", "discard", "evt_1", "evt_2"]).await;
    ran.ends_with(0);
    assert_eq!(ran.data, "evt_1 discarded\nevt_2 is no dead letter or quarantined message any more\n");
    let ran = service.run(&["events", "discard", "evt_3"]).await;
    ran.ends_with(1);
    assert_eq!((ran.data.as_str(), ran.talk.as_str()), ("", "evt_3 refused: not found\n"));
    let all = service.run(&["events", "discard", "--all"]).await;
    all.ends_with(0);
    assert_eq!(all.data, "1,200 discarded\n");
    let some = ["events", "discard", "--state", "quarantined", "--reason", "receive_id", "--json"];
    assert_eq!(service.run(&some).await.data, "{\"discarded\":2}\n");
}

#[test]
fn a_redrive_or_discard_needs_ids_or_filters() {
    for command in ["redrive", "discard"] {
        let chosen = |arguments: &[&str]| parsed(&[&["events", command], arguments].concat());
        assert!(chosen(&[]).unwrap_err().contains("Usage:"));
        assert!(chosen(&["evt_1", "--all"]).is_err());
        assert!(chosen(&["evt_1", "--app", "brand"]).is_err());
        assert!(chosen(&["--state", "waiting"]).is_err());
        assert!(chosen(&["--all", "--app", "brand"]).is_ok());
        assert!(chosen(&["--errcode", "-1"]).is_ok());
    }
}
