//! `explain` and `forget`; and how all commands handle a service that fails.

use axum::response::IntoResponse as _;

use super::service::{Heard, Service, json, parsed, run_at};

const LINKED: &str = r#"{"id":"wmAAA","code":"linked","text":{"en":"it is linked","zh":"已关联"},
    "hint":{"en":"nothing to do","zh":"无需处理"},"evidence":[
    {"at":"2026-11-22T01:02:03.456Z","code":"fan_registered","text":{"en":"the fan was registered","zh":"粉丝已登记"}},
    {"at":null,"code":"no_callback","text":{"en":"no callback is known","zh":"没有回调"}}]}"#;

const RECEIPT: &str = r#"{"receipt":"rcp_1","forgotten_at":"2026-11-22T01:02:03.456Z","request":"ticket 4711","subject":"9f2c",
    "erased":{"fans":1,"contacts":2,"links":1,"events":0,"dead_letters":0,"quarantined":0,"feed_entries":1200}}"#;

#[tokio::test]
async fn a_verdict_comes_with_what_to_do_and_a_timeline_in_both_languages() {
    let service = Service::start(|_| json(200, LINKED)).await;
    let ran = service.run(&["explain", " wmAAA "]).await;
    ran.ends_with(0);
    let wanted = "\
wmAAA: linked
  it is linked
  已关联

  → nothing to do
  → 无需处理

  2026-11-22 09:02:03 +08:00  the fan was registered
                              粉丝已登记
  -                           no callback is known
                              没有回调
";
    assert_eq!(ran.data, wanted);
    let chinese = service.run(&["explain", "wmAAA", "--lang", "zh"]).await.data;
    assert!(chinese.contains("已关联") && !chinese.contains("it is linked"), "{chinese}");
}

#[tokio::test]
async fn json_is_what_the_service_answered() {
    let service = Service::start(|_| json(200, &LINKED.replace('\n', ""))).await;
    let ran = service.run(&["explain", "wmAAA", "--json"]).await;
    assert_eq!(ran.data, LINKED.replace('\n', "") + "\n");
}

#[tokio::test]
async fn an_id_stays_one_part_of_the_path_whatever_is_in_it() {
    let service = Service::start(|_| json(200, LINKED)).await;
    service.run(&["explain", "wm/../a?b=c#d%e客"]).await.ends_with(0);
    assert_eq!(service.asked(), ["GET /v1/explain/wm%2F..%2Fa%3Fb=c%23d%25e%E5%AE%A2"]);
}

#[tokio::test]
async fn a_receipt_says_what_was_erased_and_asks_to_be_kept() {
    let service = Service::start(|_| json(200, RECEIPT)).await;
    let ran = service.run(&["forget", "--unionid", "oAAA", "--request", "ticket 4711"]).await;
    ran.ends_with(0);
    assert_eq!(service.asked(), [r#"POST /v1/forget {"request":"ticket 4711","unionid":"oAAA"}"#]);
    let wanted = "\
receipt       rcp_1
forgotten at  2026-11-22 09:02:03 +08:00
request       ticket 4711
subject       9f2c
erased        fans                1
              contacts            2
              links               1
              events              0
              dead letters        0
              quarantined         0
              feed entries    1,200
";
    assert_eq!(ran.data, wanted);
    assert!(ran.talk.contains("keep the receipt") && ran.talk.contains("unionlink store compact"));
    let other = service.run(&["forget", "--external-userid", "wmAAA", "--json"]).await;
    assert_eq!(service.asked()[1], r#"POST /v1/forget {"external_userid":"wmAAA"}"#);
    assert_eq!(other.data.trim_end(), RECEIPT);
}

#[test]
fn exactly_one_person_is_forgotten() {
    assert!(parsed(&["forget"]).unwrap_err().contains("--unionid"));
    assert!(parsed(&["forget", "--unionid", "a", "--external-userid", "b"]).is_err());
    assert!(parsed(&["forget", "--unionid", "two words"]).is_err());
    assert!(parsed(&["explain", " "]).is_err());
}

#[tokio::test]
async fn a_problem_is_shown_with_its_hint() {
    let problem = r#"{"status":503,"code":"no_space","detail":"the disk is full","hint":"free space"}"#;
    let service = Service::start(|_| json(503, problem)).await;
    let error = service.run(&["forget", "--unionid", "oAAA"]).await.error();
    assert!(error.contains("503 Service Unavailable: the disk is full\nhint: free space"), "{error}");
}

#[tokio::test]
async fn an_answer_of_another_server_is_recognised() {
    let service = Service::start(|_| "<html>It works!</html>".into_response()).await;
    for arguments in [&["explain", "wmAAA"][..], &["events", "list"], &["links", "export"]] {
        let error = service.run(arguments).await.error();
        assert!(
            error.contains(", but not as unionlink does\nhint: is it the admin listener's address?"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_wrong_token_is_reported_but_not_printed() {
    let service = Service::start(|_| json(200, LINKED)).await;
    for arguments in [&["explain", "wmAAA"][..], &["links", "export"]] {
        let ran = run_at(&service.base_url, "CANARY", arguments, Heard::default()).await;
        assert!(
            ran.error().contains("refuses the admin token\nhint: set UNIONLINK_TOKEN to"),
            "{}",
            ran.error()
        );
        assert!(!ran.error().contains("CANARY"));
    }
}

#[tokio::test]
async fn a_service_that_is_not_there_is_named_with_the_remedy() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    for arguments in [&["explain", "wmAAA"][..], &["links", "export"], &["events", "redrive", "evt_1"]] {
        let error = run_at(&url, "right", arguments, Heard::default()).await.error();
        assert!(error.starts_with(&format!("no service at {url}: ")), "{error}");
        assert!(error.contains("hint: start it with unionlink serve"), "{error}");
    }
}
