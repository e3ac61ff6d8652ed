//! Recovery of a damaged database with the real commands: verify, backup of a running service, rebuild from
//! the journal.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::harness::{PATIENCE, Ran, World};
use crate::process::Process;

impl Process {
    /// Runs `unionlink store …` on this service's folder.
    pub async fn store(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_unionlink"));
        command.arg("store").args(arguments).arg("--config").arg(&self.file);
        command.env("RUST_BACKTRACE", "0").stdin(Stdio::null()).kill_on_drop(true);
        let output =
            tokio::time::timeout(PATIENCE, command.output()).await.expect("the command ends").unwrap();
        Ran {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn folder(&self) -> std::path::PathBuf {
        self.world.folder.path().join("data")
    }
}

/// The feed and a sample of fans, as the API returns them.
async fn feed_and_fans(world: &World) -> (Value, Vec<Value>) {
    let mut feed = world.get("/v1/links/feed?after=0&limit=1000").await;
    for entry in feed["entries"].as_array_mut().unwrap() {
        // Reported for twenty seconds only.
        entry["data"]["welcome_code"] = Value::Null;
    }
    let mut fans = Vec::new();
    for entry in feed["entries"].as_array().unwrap().iter().step_by(5) {
        fans.push(world.get(&format!("/v1/fans/{}", entry["data"]["unionid"].as_str().unwrap())).await);
    }
    (feed, fans)
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 16;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_flipped_bits_is_rebuilt_and_nothing_is_lost() {
    let mut process = Process::with(crate::harness::Setup::default()).await;
    process.start().await;
    let people = process.world.mint(60).await;
    process.world.add_all(&people[..40], "zhangsan").await;
    process.world.until("/v1/status", |status| status["feed_head"] == 40).await;
    let copy = process.world.folder.path().join("copy");
    let copied = process.store(&["backup", "--json", copy.to_str().unwrap()]).await;
    assert_eq!(copied.code, 0, "{copied:?}");
    assert!(copied.json()["batches"].as_u64() > Some(10), "{copied:?}");
    process.world.add_all(&people[40..], "lisi").await;
    process.world.until("/v1/status", |status| status["feed_head"] == 60).await;
    let in_use = process.store(&["verify"]).await;
    assert_eq!(in_use.code, 1);
    assert!(in_use.stderr.contains("in use by another process"), "{in_use:?}");
    // Enough for several segments of sled's log.
    let many = process.world.wecom.add_people(8_000);
    process.world.register(&many).await;
    let before = feed_and_fans(&process.world).await;
    process.kill().await;

    let whole = process.store(&["verify", "--json"]).await;
    assert_eq!((whole.code, whole.json()["differences"].as_object().unwrap().len()), (0, 0), "{whole:?}");
    let database = process.folder().join("sled").join("db");
    let sound = std::fs::read(&database).unwrap();
    // Depending on the bit sled refuses to open, or silently lacks the end of what was stored.
    let (mut refused, mut fell_back) = (0, 0);
    let written: Vec<usize> = (0..sound.len()).filter(|at| sound[*at] != 0).collect();
    for n in 0..24 {
        flip(&database, written[n * written.len() / 24]);
        let verified = process.store(&["verify", "--json"]).await;
        if verified.code == 0 {
            fell_back += u32::from(verified.json()["redone"].as_u64() > Some(0));
        } else {
            refused += 1;
            assert!(verified.stderr.contains("unionlink store rebuild"), "{verified:?}");
        }
        for left in
            std::fs::read_dir(process.folder().join("sled")).unwrap().map(|entry| entry.unwrap().path())
        {
            if left.file_name().unwrap().to_string_lossy().starts_with("snap.") {
                std::fs::remove_file(left).unwrap();
            }
        }
        std::fs::write(&database, &sound).unwrap();
    }
    assert!(refused > 0, "sled refused {refused} of 24, and lacked something in {fell_back}");

    for tenth in 1..10 {
        flip(&database, written[tenth * written.len() / 10]);
    }
    let rebuilt = process.store(&["rebuild", "--json"]).await;
    assert_eq!(rebuilt.code, 0, "{rebuilt:?}");
    let aside = rebuilt.json()["set_aside"].as_str().unwrap().to_owned();
    assert!(Path::new(&aside).exists());
    assert_eq!(process.store(&["verify"]).await.code, 0);
    process.start().await;
    let after = feed_and_fans(&process.world).await;
    assert_eq!(after.0, before.0);
    assert_eq!(after.1, before.1);
    // New links are still made, each once.
    let more = process.world.mint(5).await;
    process.world.add_all(&more, "wangwu").await;
    process.world.until("/v1/status", |status| status["feed_head"] == 65).await;
    process.stop().await;

    // The whole folder is lost: the backup gives the store as of the time it was taken.
    std::fs::remove_dir_all(process.folder()).unwrap();
    let rebuilt = process.store(&["rebuild", "--backup", copy.to_str().unwrap()]).await;
    assert_eq!(rebuilt.code, 0, "{rebuilt:?}");
    process.start().await;
    process.world.until("/v1/status", |status| status["feed_head"].as_u64() >= Some(40)).await;
    process.stop().await;
    assert_eq!(process.store(&["verify"]).await.code, 0);
}
