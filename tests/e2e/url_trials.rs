//! `verify-url` and `healthcheck`: the real commands against a running service.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::harness::{Ran, World};

/// The configuration of this world's service as it runs.
pub fn configured(world: &World) -> String {
    let address = |url: &str| url.trim_start_matches("http://").to_owned();
    world.configuration(&address(&world.public), &address(&world.admin))
}

/// Runs the real binary with the configuration of this world, unless the arguments name one.
pub async fn run(world: &World, arguments: &[&str]) -> Ran {
    run_with(world, arguments, &[]).await
}

/// The same, with these variables in its environment.
pub async fn run_with(world: &World, arguments: &[&str], environment: &[(&str, &OsStr)]) -> Ran {
    let file = world.folder.path().join("unionlink.toml");
    std::fs::write(&file, configured(world)).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_unionlink"));
    command.args(arguments).envs(environment.iter().copied());
    if !arguments.contains(&"--config") {
        command.arg("--config").arg(&file);
    }
    let output = command.output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

async fn answer(world: &World, url: &str) -> (u16, String) {
    let answer = world.http.get(url).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn a_url_of_verify_url_shows_its_number_wherever_it_arrives_unchanged() {
    let world = World::usual().await;
    let sealed = run(&world, &["verify-url", "brand", "--json", "--url", &world.public]).await.json();
    let (url, number) = (sealed["url"].as_str().unwrap(), sealed["number"].as_str().unwrap());
    assert!(url.starts_with(&format!("{}/callback/brand?msg_signature=", world.public)), "{url}");
    assert_eq!(answer(&world, url).await, (200, number.to_owned()));
    // Changed on the way, as proxies do.
    assert!(url.contains("%2B") && url.contains("%2F"), "{url}");
    assert_eq!(answer(&world, &url.replace("%2B", "%20")).await, (403, String::new()));
    // It is no check by WeCom, and changes nothing.
    let status = world.get("/v1/status").await;
    assert_eq!((&status["callbacks"]["accepted"], &status["findings"]), (&0.into(), &Value::Array(vec![])));
    // For people: a QR code, the URL and the number, in both languages.
    let ran = run(&world, &["verify-url", "brand", "--url", "https://callback.invalid/wecom/brand"]).await;
    for text in [
        "█",
        "https://callback.invalid/wecom/brand?msg_signature=",
        "It must show this number",
        "应只显示这个数字",
    ] {
        assert!(ran.stdout.contains(text), "{text}: {ran:?}");
    }
    let ran = run(&world, &["verify-url", "brand", "--url", &world.public, "--lang", "zh"]).await;
    assert!(ran.code == 0 && !ran.stdout.contains("It must show"), "{ran:?}");
}

#[tokio::test]
async fn verify_url_says_what_is_missing() {
    let world = World::usual().await;
    let ran = run(&world, &["verify-url", "brand"]).await;
    assert!(ran.code == 1 && ran.stderr.contains("set server.public_url"), "{ran:?}");
    let ran = run(&world, &["verify-url", "other", "--url", "https://callback.invalid"]).await;
    assert!(
        ran.code == 1 && ran.stderr.contains("app or suite not found: other") && ran.stderr.contains("brand"),
        "{ran:?}"
    );
    let ran = run(&world, &["verify-url", "brand", "--url", "ftp://callback.invalid"]).await;
    assert!(ran.code == 2 && ran.stderr.contains("must begin with https://"), "{ran:?}");
}

#[tokio::test]
async fn healthcheck_exits_with_0_while_the_service_is_ready() {
    let mut world = World::usual().await;
    let ran = run(&world, &["healthcheck"]).await;
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "", ""));
    assert_eq!(world.unionlink(&["healthcheck"]).await.code, 0);
    world.stop().await.unwrap();
    let ran = run(&world, &["healthcheck"]).await;
    assert!(ran.code == 1 && ran.stderr.contains("no service at"), "{ran:?}");
}
