//! Erasure on disk: after a person is forgotten and the store compacted, no file holds any of their ids.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::Setup;
use crate::process::Process;

/// The number of times any of these ids occurs in the files of a folder, as text or base64url-decoded.
fn occurrences_in(folder: &Path, ids: &[String]) -> usize {
    let mut forms: Vec<Vec<u8>> = ids.iter().map(|id| id.clone().into_bytes()).collect();
    forms.extend(ids.iter().filter_map(|id| URL_SAFE_NO_PAD.decode(id).ok()).filter(|bytes| bytes.len() > 8));
    let (mut found, mut folders) = (0, vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            let holds = |form: &&Vec<u8>| memchr::memmem::find(&bytes, form).is_some();
            found += forms.iter().filter(holds).count();
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn after_forgetting_and_compacting_the_disk_holds_nothing_of_that_person() {
    let mut process = Process::with(Setup::default()).await;
    process.start().await;
    let people = process.world.mint(8).await;
    let world = &process.world;
    let mut ids: Vec<Vec<String>> = Vec::new();
    for person in &people {
        let mut of_person = vec![person.unionid.clone(), person.openid.clone()];
        for dealer in 0..2 {
            of_person.push(world.add(dealer, person, "zhangsan").await);
        }
        of_person.extend(world.wecom.pending_ids(&world.corp.corp_id, person));
        ids.push(of_person);
    }
    world.until("/v1/status", |s| s["links"] == 16 && s["inbox"]["waiting"] == 0).await;
    let data = world.folder.path().join("data");
    assert!(
        occurrences_in(&data, &ids[2]) > 0 && occurrences_in(&data, &ids[3]) > 0,
        "the search finds ids that are still there"
    );

    let body = json!({"unionid": people[2].unionid, "request": "ticket 4711"});
    let receipt: Value = world
        .http
        .post(format!("{}/v1/forget", world.admin))
        .json(&body)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(
        receipt["erased"],
        json!({"fans": 1, "contacts": 2, "links": 2, "events": 0, "dead_letters": 0, "quarantined": 0, "feed_entries": 2})
    );
    let responses = world.text("/v1/links/feed?limit=1000").await.1 + &world.text("/metrics").await.1;
    let responses = responses + &receipt.to_string() + &world.text("/v1/status").await.1;
    for id in &ids[2] {
        assert!(!responses.contains(id.as_str()), "{id} is still in a response");
    }
    process.terminate().await;
    assert_eq!(process.exit_code().await, Some(0));

    let compacted = Command::new(env!("CARGO_BIN_EXE_unionlink"))
        .args(["store", "compact", "--json", "--config"])
        .arg(&process.file)
        .env_clear()
        .output()
        .await
        .unwrap();
    let stderr = String::from_utf8_lossy(&compacted.stderr).into_owned();
    assert!(compacted.status.success(), "{stderr}");
    let compacted: Value = serde_json::from_slice(&compacted.stdout).unwrap();
    assert!(compacted["records"].as_u64() > Some(30), "{compacted}");
    assert_eq!(occurrences_in(&data, &ids[2]), 0, "an id is left on the disk");
    assert!(occurrences_in(&data, &ids[3]) > 0, "the other people's ids are still there");

    process.start().await;
    let world = &process.world;
    for (n, person) in people.iter().enumerate() {
        assert_eq!(world.links(person).await.len(), if n == 2 { 0 } else { 2 });
    }
}
