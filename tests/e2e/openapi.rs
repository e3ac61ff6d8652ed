//! The description of the admin API, and whether the service keeps to it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;
use unionlink::simulator::Person;

use crate::harness::{Setup, World};

const TOKEN: &str = "the-admin-token";

/// A program that `.ci/peers` put beside the build.
fn peer(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let found = test.ancestors().map(|folder| folder.join("peers").join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is missing; run .ci/peers"))
}

/// What Schemathesis is told.
fn settings(name: &str) -> String {
    format!("{}/tests/e2e/schemathesis/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Texts in quotes, on lines that declare nothing about serialisation.
fn quoted(source: &str) -> impl Iterator<Item = &str> {
    let lines = source.lines().filter(|line| !line.contains("serde("));
    lines.flat_map(|line| line.split('"').skip(1).step_by(2))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_code_of_a_problem_is_described() {
    let world = World::usual().await;
    let description = world.get("/openapi.json").await.to_string();
    let is_code = |text: &&str| !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let source = include_str!("../../src/http/problem.rs");
    let codes: BTreeSet<_> = quoted(source).filter(is_code).collect();
    assert!(codes.len() >= 16 && codes.contains("feed_gone") && codes.contains("too_busy"), "{codes:?}");
    for code in codes {
        assert!(description.contains(&format!("`{code}`")), "{code} is not described");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_described_and_every_described_one_is_served() {
    let world = World::usual().await;
    // A route that is made by hand is not described; so there must be none.
    let source = include_str!("../../src/http/api/mod.rs");
    for by_hand in [".route(\"", ".route_service(", ".nest("] {
        assert!(!source.contains(by_hand), "{by_hand} is used");
    }
    let description = world.get("/openapi.json").await;
    let paths = description["paths"].as_object().unwrap();
    let expected = ["/v1/fans", "/v1/links/export", "/v1/forget/{receipt}", "/metrics", "/livez", "/readyz"];
    assert!(expected.iter().all(|path| paths.contains_key(*path)), "{:?}", paths.keys());
    for (path, operations) in paths {
        for method in ["get", "post", "put", "delete", "patch"] {
            let url =
                format!("{}{}?wait=0", world.admin, path.replace(['{', '}'], "").replace("{id}", "evt_1"));
            let method_name = reqwest::Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let answer = world.http.request(method_name, url).send().await.unwrap();
            let described = operations.get(method).is_some();
            assert_eq!(answer.status() != 405, described, "{method} {path}: {}", answer.status());
            let Some(operation) = operations.get(method) else { continue };
            let status = answer.status().as_str().to_owned();
            assert!(operation["responses"].get(&status).is_some(), "{method} {path} answered {status}");
            assert!(operation["summary"].is_string(), "{method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_name_of_the_description_means_one_thing() {
    let world = World::usual().await;
    let description = world.get("/openapi.json").await;
    let text = description.to_string();
    for part in text.split("\"$ref\":\"#").skip(1) {
        let pointer = part.split('"').next().unwrap();
        assert!(description.pointer(pointer).is_some(), "{pointer} leads nowhere");
    }
    // Clients are generated with a function of that name for each operation.
    let operations = description["paths"].as_object().unwrap().values().flat_map(|path| {
        path.as_object().unwrap().values().map(|operation| operation["operationId"].as_str().unwrap())
    });
    let mut ids: Vec<_> = operations.collect();
    ids.sort_unstable();
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "{ids:?}");
    // Two types of one name would be described as one of them; each answer has the fields it is said to have.
    for (path, schema) in [
        ("/v1/sinks", "/paths/~1v1~1sinks/get"),
        ("/v1/events", "/paths/~1v1~1events/get"),
        ("/v1/links/feed", "/paths/~1v1~1links~1feed/get"),
    ] {
        let schema = &description.pointer(schema).unwrap()["responses"]["200"]["content"]["application/json"];
        let name = schema["schema"]["$ref"].as_str().unwrap().trim_start_matches('#');
        let required = description.pointer(name).unwrap()["required"].as_array().unwrap().clone();
        let answer = world.get(path).await;
        for field in required {
            assert!(answer.get(field.as_str().unwrap()).is_some(), "{path} has no {field}");
        }
    }
}

/// A world in which the examples of the description are true, and in which there is something of everything.
async fn as_in_the_examples(sink: &std::path::Path) -> World {
    let app = format!("[[sinks]]\nname = \"crm\"\nkind = \"file\"\npath = {:?}", sink.display().to_string());
    let mut world = World::with(Setup { app, ..Setup::default() }).await;
    let known = Person { unionid: "oINVENTED-unionid-0001".into(), openid: "oINVENTED-openid-0001".into() };
    world.wecom.insert_person(known.clone());
    world.register(std::slice::from_ref(&known)).await;
    let mut fans = world.mint(5).await;
    fans.push(known);
    world.add_all(&fans[1..], "zhangsan").await;
    let (customer, event) = world.befriend(0, &fans[0], "zhangsan");
    world.wecom.poison(&customer);
    world.deliver(&event).await;
    let stray = world.wecom.seal_with(&world.befriend(0, &world.wecom.add_person(), "lisi").1, "wwSTRAY");
    assert!(world.wecom.post(&stray).await.acknowledged);
    world.until("/v1/status", |s| s["links"] == 5 && s["inbox"]["dead"] == 1).await;
    assert_eq!(world.post("/v1/forget", &json!({"unionid": fans[1].unionid})).await.0, 200);
    world.stop().await.unwrap();
    world.setup.admin = format!("token = {{ value = \"{TOKEN}\" }}");
    world.start().await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_who_reads_the_description_is_answered_as_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let world = as_in_the_examples(&folder.path().join("links")).await;
    let url = format!("{}/openapi.json", world.admin);
    let description: Value =
        world.http.get(&url).bearer_auth(TOKEN).send().await.unwrap().json().await.unwrap();
    let paths = description["paths"].as_object().unwrap();
    let operations: usize = paths.values().map(|operations| operations.as_object().unwrap().len()).sum();
    let mut command = Command::new(peer("python/bin/schemathesis"));
    command
        // It leaves notes where it runs.
        .current_dir(folder.path())
        .env("SCHEMATHESIS_HOOKS", settings("ndjson.py"))
        .args(["--config-file", &settings("schemathesis.toml"), "run", &url])
        .args(["--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--no-color"])
        .args(["--request-timeout", "10", "--header", &format!("Authorization: Bearer {TOKEN}")])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    // It tries wrong tokens too, each to be refused as such; the minutes that bound them pass quickly here.
    let minutes = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            world.clock.skip(Duration::from_mins(1));
        }
    };
    let ran = tokio::select! {
        ran = tokio::time::timeout(Duration::from_mins(3), command.output()) => ran.expect("it ends").unwrap(),
        () = minutes => unreachable!("there is always another one"),
    };
    let told = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{told}{}", String::from_utf8_lossy(&ran.stderr));
    // All but the stream, which does not end, and the description, which was read to begin with.
    assert!(told.contains(&format!("Tested: {}\n", operations - 2)), "{operations}: {told}");
}
