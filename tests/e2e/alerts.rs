//! `[[alerts]]`: robots of group chats are told what fails, and when it does not any more.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::Uri;
use axum::{Json, Router};
use serde_json::{Value, json};
use unionlink::simulator::{Fault, Target};

use crate::harness::{PATIENCE, Setup, World};

/// What robots were sent, each with the path of its address, and what they answer.
#[derive(Default)]
struct Robots {
    received: Mutex<Vec<(String, Value)>>,
    refuses: Mutex<bool>,
}

async fn receive(State(robots): State<Arc<Robots>>, uri: Uri, Json(body): Json<Value>) -> Json<Value> {
    robots.received.lock().unwrap().push((uri.path().to_owned(), body));
    let code = if *robots.refuses.lock().unwrap() { 93_000 } else { 0 };
    Json(if uri.path() == "/feishu" { json!({ "code": code }) } else { json!({ "errcode": code }) })
}

/// Waits for a message to a robot that says this, while the clock goes on; its text.
async fn told(world: &World, robots: &Robots, robot: &str, says: &str) -> String {
    let give_up = Instant::now() + PATIENCE.max(Duration::from_mins(1));
    loop {
        let text = |body: &Value| {
            let places = ["/markdown/content", "/markdown/text", "/content/text"];
            places.into_iter().find_map(|place| Some(body.pointer(place)?.as_str()?.to_owned())).unwrap()
        };
        let received = robots.received.lock().unwrap().clone();
        let mut texts = received.iter().filter(|(path, _)| path == robot).map(|(_, body)| text(body));
        if let Some(text) = texts.find(|text| text.contains(says)) {
            return text;
        }
        assert!(Instant::now() < give_up, "{robot} was not told {says}: {received:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.clock.skip(Duration::from_secs(2));
    }
}

#[tokio::test]
async fn robots_of_each_kind_are_told_what_fails_and_its_end_without_ids_of_people() {
    let robots = Arc::new(Robots::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(receive).with_state(robots.clone());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let robot = |kind: &str, lang: &str| {
        format!(
            "[[alerts]]\nkind = \"{kind}\"\nurl = {{ value = \"{base}/{kind}?key=canary-key\" }}\nlang = \"{lang}\"\n"
        )
    };
    let app = [robot("wecom", "zh"), robot("dingtalk", "en"), robot("feishu", "both")].concat();
    let world = World::with(Setup { app, ..Setup::default() }).await;
    let fan = world.mint(1).await.remove(0);
    let customer = world.add(0, &fan, "zhangsan").await;
    world.linked(&fan, 1).await;
    // One that is not accepted is sent again.
    *robots.refuses.lock().unwrap() = true;
    world.wecom.inject(Target::Every, Fault::Errcode(60_020), None);
    let other = world.wecom.add_people(1).remove(0);
    world.add(0, &other, "zhangsan").await;
    told(&world, &robots, "/wecom", "❌ 企业可信IP brand（wecom.trusted_ip）").await;
    robots.received.lock().unwrap().clear();
    *robots.refuses.lock().unwrap() = false;
    let zh = told(&world, &robots, "/wecom", "❌ 企业可信IP brand（wecom.trusted_ip）").await;
    assert!(zh.starts_with("unionlink 告警\n") && zh.contains("企业可信IP"), "{zh}");
    told(&world, &robots, "/dingtalk", "calls of the app brand are held back").await;
    told(&world, &robots, "/feishu", "the calls of the app wait").await;
    // It ends.
    world.wecom.clear_faults();
    world.http.post(format!("{}/v1/resume", world.admin)).json(&json!({})).send().await.unwrap();
    let ended = told(&world, &robots, "/wecom", "✅").await;
    assert!(ended.contains("（wecom.trusted_ip）") && !ended.contains('❌'), "{ended}");
    let all = format!("{:?}", robots.received.lock().unwrap());
    for id in [&fan.unionid, &fan.openid, &customer, &other.unionid] {
        assert!(!all.contains(id.as_str()), "{id}");
    }
}
