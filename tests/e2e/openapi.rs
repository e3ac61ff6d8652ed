//! `/openapi.json` describes the admin API completely and consistently, and the service behaves accordingly.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;
use unionlink::simulator::Person;

use crate::harness::{Setup, World};
use crate::peers::peer;

const TOKEN: &str = "the-admin-token-of-32-characters";
const READER: &str = "the-readers-token-of-32-characters";

/// The path of a file with which a peer is run.
fn settings(name: &str) -> String {
    format!("{}/tests/e2e/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Runs a program to its end, which has to be a success, in a folder to which it may write.
async fn run(command: &mut Command, folder: &Path) -> Output {
    command.current_dir(folder).env("NO_PROXY", "127.0.0.1").stdin(Stdio::null()).kill_on_drop(true);
    let ran = tokio::time::timeout(Duration::from_mins(3), command.output()).await;
    let ran = ran.expect("the program ends").unwrap();
    let said = [&ran.stdout[..], &ran.stderr[..]].concat();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&said));
    ran
}

/// Writes the description of the API to a file. Returns the file's path.
async fn description_in(folder: &Path, world: &World) -> String {
    let url = format!("{}/openapi.json", world.admin);
    let description = world.http.get(url).bearer_auth(TOKEN).send().await.unwrap().text().await.unwrap();
    let path = folder.join("openapi.json");
    std::fs::write(&path, description).unwrap();
    path.display().to_string()
}

/// The string literals of a source file, except those in `serde` attributes.
fn quoted(source: &str) -> impl Iterator<Item = &str> {
    let lines = source.lines().filter(|line| !line.contains("serde("));
    lines.flat_map(|line| line.split('"').skip(1).step_by(2))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_problem_code_is_described() {
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
    // A route added without utoipa is not described, so there must be none.
    let source = include_str!("../../src/http/api/mod.rs");
    for undescribed in [".route(\"", ".route_service(", ".nest("] {
        assert!(!source.contains(undescribed), "{undescribed} is used");
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
async fn every_name_in_the_description_is_unique() {
    let world = World::usual().await;
    let description = world.get("/openapi.json").await;
    let text = description.to_string();
    for part in text.split("\"$ref\":\"#").skip(1) {
        let pointer = part.split('"').next().unwrap();
        assert!(description.pointer(pointer).is_some(), "{pointer} is not defined");
    }
    // Client generators name a function after each operation id.
    let operations = description["paths"].as_object().unwrap().values().flat_map(|path| {
        path.as_object().unwrap().values().map(|operation| operation["operationId"].as_str().unwrap())
    });
    let mut ids: Vec<_> = operations.collect();
    ids.sort_unstable();
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "{ids:?}");
    // Two types of one name would share one schema, so check that responses have the required fields of
    // theirs.
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

/// A world that matches the examples of the description, with at least one item behind every operation.
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
    world.wecom.poison_with(&customer, 40_058);
    world.deliver(&event).await;
    let stray = world.wecom.seal_with(&world.befriend(0, &world.wecom.add_person(), "lisi").1, "wwSTRAY");
    assert!(world.wecom.post(&stray).await.acknowledged);
    world.until("/v1/status", |s| s["links"] == 5 && s["inbox"]["dead"] == 1).await;
    assert_eq!(world.post("/v1/forget", &json!({"unionid": fans[1].unionid})).await.0, 200);
    world.stop().await.unwrap();
    world.setup.admin = format!(
        "token = {{ value = \"{TOKEN}\" }}\n[[admin.tokens]]\nname = \"reader\"\n\
         token = {{ value = \"{READER}\" }}\nallow = [\"links\", \"people\", \"metrics\"]"
    );
    world.start().await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_no_response_that_contradicts_the_description() {
    let Some(schemathesis) = peer("python/bin/schemathesis") else { return };
    let folder = tempfile::tempdir().unwrap();
    let world = as_in_the_examples(&folder.path().join("links")).await;
    let read = async |path: &str| -> Value {
        let url = format!("{}{path}", world.admin);
        world.http.get(url).bearer_auth(TOKEN).send().await.unwrap().json().await.unwrap()
    };
    let description = read("/openapi.json").await;
    let paths = description["paths"].as_object().unwrap();
    let operations: usize = paths.values().map(|operations| operations.as_object().unwrap().len()).sum();
    let test = async |token: &str, phases: &str| {
        let mut command = Command::new(&schemathesis);
        command
            .env("SCHEMATHESIS_HOOKS", settings("schemathesis/ndjson.py"))
            .args(["--config-file", &settings("schemathesis/schemathesis.toml"), "run"])
            .args([&format!("{}/openapi.json", world.admin), "--phases", phases])
            .args(["--continue-on-failure", "--no-color", "--request-timeout", "10"])
            .args(["--header", &format!("Authorization: Bearer {token}")]);
        let ran = run(&mut command, folder.path()).await;
        let stdout = String::from_utf8_lossy(&ran.stdout);
        // All but the stream, which does not end, and the description itself, which is the input.
        assert!(stdout.contains(&format!("Tested: {}\n", operations - 2)), "{operations}: {stdout}");
    };
    // A token that only reads changes nothing, whatever is sent with it.
    let state = async || {
        let trail = read("/v1/audit?limit=1000").await["entries"].as_array().unwrap().clone();
        let changes =
            trail.into_iter().filter(|entry| entry["action"] != "explain" && entry["action"] != "export");
        let (status, sinks) = (read("/v1/status").await, read("/v1/sinks").await);
        let counted =
            ["fans", "links", "contacts", "inbox", "feed", "paused"].map(|name| status[name].clone());
        (
            counted,
            sinks["sinks"][0]["state"].clone(),
            sinks["sinks"][0]["after"].clone(),
            changes.collect::<Vec<_>>(),
        )
    };
    let before = state().await;
    test(READER, "examples,coverage").await;
    assert_eq!(state().await, before);
    test(TOKEN, "examples,coverage,fuzzing").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_and_a_generator_of_clients_accept_the_description() {
    let (Some(validator), Some(generator)) =
        (peer("python/bin/openapi-spec-validator"), peer("python/bin/openapi-generator-cli"))
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let description = description_in(folder.path(), &World::usual().await).await;
    run(Command::new(validator).arg(&description), folder.path()).await;
    run(
        Command::new(generator).args(["generate", "-g", "python", "-i", &description, "-o", "client"]),
        folder.path(),
    )
    .await;
    assert!(folder.path().join("client/openapi_client/models/event_view.py").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_client_registers_a_fan_and_reads_the_link() {
    let (Some(generator), Some(python)) =
        (peer("python/bin/openapi-python-client"), peer("python/bin/python"))
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let world = as_in_the_examples(&folder.path().join("links")).await;
    let description = description_in(folder.path(), &world).await;
    let mut generate = Command::new(generator);
    generate.args(["generate", "--path", &description, "--output-path", "client"]);
    generate.args(["--config", &settings("clients/openapi-python-client.yaml")]);
    let ran = run(&mut generate, folder.path()).await;
    let warnings = String::from_utf8_lossy(&ran.stderr);
    // It supports neither NDJSON nor OpenMetrics, and omits what it cannot process.
    let unsupported = warnings.matches("Unsupported content").count();
    assert_eq!(warnings.matches("WARNING").count(), unsupported, "{warnings}");
    assert!(!warnings.contains("Unable to process"), "{warnings}");

    let person = world.wecom.add_person();
    let customer = world.add(0, &person, "zhangsan").await;
    let mut client = Command::new(python);
    client.arg(settings("clients/register_and_read.py"));
    client.args(["client", &world.admin, TOKEN, &person.unionid, &person.openid]);
    let ran = run(&mut client, folder.path()).await;
    assert_eq!(String::from_utf8_lossy(&ran.stdout).trim(), customer);
}
