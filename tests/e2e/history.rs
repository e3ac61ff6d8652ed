//! `GET /v1/history`, what is remembered of URLs and sinks, and what was observed: right through restarts.

use serde_json::{Value, json};

use crate::harness::{Setup, World};

/// The sum of a member of all hours, or of the values of one that is a map.
fn sum(history: &Value, member: &str) -> u64 {
    let hours = history["hours"].as_array().unwrap();
    let of_map = |map: &Value| map.as_object().map(|map| map.values().filter_map(Value::as_u64).sum());
    hours.iter().map(|hour| hour[member].as_u64().or_else(|| of_map(&hour[member])).unwrap_or(0)).sum()
}

/// The sum of a name within a member of all hours.
fn sum_of(history: &Value, member: &str, name: &str) -> u64 {
    let hours = history["hours"].as_array().unwrap();
    hours.iter().filter_map(|hour| hour[member][name].as_u64()).sum()
}

#[tokio::test]
async fn hours_urls_sinks_and_what_was_observed_outlast_restarts_and_name_nobody() {
    // Nobody listens there.
    let sink = "[[sinks]]\nname = \"crm\"\nkind = \"webhook\"\nurl = \"http://127.0.0.1:1/\"\nprivate_addresses = true\n\
                secret = { value = \"whsec_dW5pb25saW5rLWhpc3RvcnktdGVzdC1rZXktMDE=\" }\n";
    let mut world = World::with(Setup { app: sink.to_owned(), ..Setup::default() }).await;
    let fans = world.mint(3).await;
    let mut customers = Vec::new();
    for fan in &fans {
        customers.push(world.add(0, fan, "zhangsan").await);
    }
    // One that is no fan, and one request that is refused.
    world.add(1, &world.wecom.add_people(1).remove(0), "lisi").await;
    let forged = format!(
        "{}/callback/brand?msg_signature={}&timestamp=1&nonce=n&echostr=x",
        world.public,
        "a".repeat(40)
    );
    assert_eq!(world.http.get(forged).send().await.unwrap().status(), 403);
    for fan in &fans {
        world.linked(fan, 1).await;
    }
    let failed =
        |sink: &Value| sink["recent_failures"].as_array().is_some_and(|failures| !failures.is_empty());
    world.until("/v1/sinks/crm", failed).await;
    let counts = |history: &Value| {
        (
            sum_of(history, "callbacks", "accepted"),
            sum_of(history, "refusals", "signature"),
            sum_of(history, "links", "callback"),
            sum(history, "mints"),
            sum_of(history, "calls", "unionid_to_pending_id"),
        )
    };
    // Counted before it is recorded, and the same after a restart, twice.
    for _ in 0..3 {
        let history = world.get("/v1/history?hours=2").await;
        assert_eq!(counts(&history), (4, 1, 3, 3, 3), "{history:#}");
        assert!(sum(&history, "deliveries_failed") >= 1 && sum(&history, "dead_letters") == 0);
        assert_eq!(history["hours"].as_array().unwrap().len(), 2);
        let syncs = &history["hours"][1]["syncs"];
        assert!(syncs["commits"].as_u64().unwrap() > 3 && syncs["p99_ms"].is_u64(), "{syncs}");
        let status = world.get("/v1/status").await;
        let url = &status["urls"][0];
        assert_eq!((&url["name"], &url["refused_because"]), (&json!("brand"), &json!("signature")), "{url}");
        assert!(url["callback_at"].is_string() && url["verified_at"].is_null(), "{url}");
        let observed = &status["observed"];
        assert!(
            observed["conversion"]["dealer token: 0"].as_u64().is_some_and(|calls| calls > 0),
            "{observed:#}"
        );
        assert_eq!(observed["sealed_for"]["the brand, suite or provider"], 4, "{observed:#}");
        assert!(
            observed["latency"].is_object() && observed["converted_at_once_after"].is_object(),
            "{observed:#}"
        );
        let sink = world.get("/v1/sinks/crm").await;
        assert!(failed(&sink), "{sink:#}");
        let all = format!("{history}{url}{observed}{sink}");
        for id in fans.iter().flat_map(|fan| [&fan.unionid, &fan.openid]).chain(&customers) {
            assert!(!all.contains(id.as_str()), "{id}");
        }
        world.restart().await;
    }
    for wrong in ["0", "745", "x"] {
        let answer =
            world.http.get(format!("{}/v1/history?hours={wrong}", world.admin)).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{wrong}");
    }
    assert_eq!(world.get("/v1/history").await["hours"].as_array().unwrap().len(), 48);
}
