//! The secrets of a suite and its apps are nowhere in clear: not in the log at trace, no answer of the admin
//! API, no file of the store and no backup.

use std::path::Path;

use serde_json::Value;
use unionlink::simulator::{Api, Event, Fault};

use crate::agency::agency;
use crate::harness::{LOG_EVERYTHING, Setup, World};
use crate::process::Process;

/// Every ticket, code and token so far, and what the configuration has.
fn secrets(world: &World) -> Vec<String> {
    let template = &world.templates[0];
    let configured = [&template.suite_secret, &template.callback.token, &template.callback.aes_key];
    let mut secrets = world.wecom.secrets();
    assert!(secrets.len() > 10, "{}", secrets.len());
    secrets.extend(configured.map(Clone::clone));
    secrets
}

/// Every file below a folder, with what in it is text.
fn files(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            let bytes = std::fs::read(&path).unwrap();
            found.push((path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
}

/// The answers to all requests of the API that need no id.
async fn answers(world: &World) -> Vec<(String, String)> {
    let description: Value = world.get("/openapi.json").await;
    let mut answers = Vec::new();
    for (path, operations) in description["paths"].as_object().unwrap() {
        if operations.get("get").is_some() && !path.contains('{') && !path.ends_with("/stream") {
            answers.push((path.clone(), world.text(path).await.1));
        }
    }
    assert!(answers.len() > 8, "{}", answers.len());
    for state in ["waiting", "dead", "quarantined"] {
        let path = format!("/v1/events?state={state}");
        answers.push((path.clone(), world.text(&path).await.1));
    }
    answers
}

/// A life of the suite in which much fails.
async fn trouble(process: &mut Process) {
    let wecom = process.world.wecom.clone();
    let suite_id = process.world.suite_id().to_owned();
    let world = &mut process.world;
    assert!(!wecom.verify_template_url(&suite_id, "ww00000000stranger").await);
    world.ticket().await;
    for (api, fault) in [
        (Api::GetSuiteToken, Fault::HttpStatus(502)),
        (Api::GetSuiteToken, Fault::Errcode(40_080)),
        (Api::GetPermanentCode, Fault::Errcode(-1)),
        (Api::GetPermanentCode, Fault::Garbage),
        (Api::GetAuthInfo, Fault::Reset),
        (Api::GetPermissions, Fault::Garbage),
    ] {
        wecom.inject(api, fault, Some(1));
    }
    let (brand, create_auth) = world.scan("CANARY-BRAND");
    world.add_dealers(&brand, 1);
    let broken = Event { inner: create_auth.inner.replace("</xml>", ""), ..create_auth.clone() };
    assert!(wecom.deliver_once(&broken).await.acknowledged);
    world.deliver(&create_auth).await;
    world.deliver(&create_auth).await;
    let fans = wecom.add_people(2);
    world.register(&fans).await;
    world.minted(&fans).await;
    world.install(0).await;
    world.add(0, &fans[0], "zhangsan").await;
    world.linked(&fans[0], 1).await;
    wecom.inject(Api::GetPermanentCode, Fault::ApplyThenDrop, Some(1));
    world.deliver(&wecom.reset_code(&brand)).await;
    world.refused(Api::GetPermanentCode, 40_078).await;
    world.deliver(&wecom.cancel(&brand)).await;
    world.add(0, &fans[1], "zhangsan").await;
    world.parked().await;
    world.deliver(&wecom.authorize_again(&brand)).await;
    world.linked(&fans[1], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_of_a_suite_is_in_a_log_an_answer_a_file_or_a_backup() {
    let app = format!("[log]\nfilter = \"{LOG_EVERYTHING}\"");
    let mut process = Process::with(Setup { app, ..agency(|_| {}) }).await;
    let log = process.start_logging().await;
    trouble(&mut process).await;
    let secrets = secrets(&process.world);
    let check = |what: &str, text: &str| {
        for secret in &secrets {
            assert!(!text.contains(secret), "{secret} is in {what}");
        }
    };
    for (path, answer) in answers(&process.world).await {
        check(&path, &answer);
    }
    let copy = process.world.folder.path().join("copy");
    let copied = process.store(&["backup", copy.to_str().unwrap()]).await;
    assert_eq!(copied.code, 0, "{copied:?}");
    process.stop().await;
    let log = log.await.unwrap();
    for expected in ["DEBUG", "how=\"lost\"", "has cancelled the authorisation"] {
        assert!(log.contains(expected), "{expected:?} is not in the log");
    }
    check("the log at trace", &log);
    for folder in [process.world.folder.path().join("data"), copy] {
        let mut found = Vec::new();
        files(&folder, &mut found);
        // The records of authorisations are there, and can be searched.
        assert!(found.iter().any(|(_, text)| text.contains("CANARY-BRAND")), "{}", folder.display());
        for (path, text) in found {
            check(&path, &text);
        }
    }
}
