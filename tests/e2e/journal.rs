//! The way out of a damaged database: verified, backed up while it is served, rebuilt by the real commands.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::harness::{PATIENCE, Ran, World};
use crate::process::Process;

impl Process {
    /// Runs `unionlink store …` on this service's folder.
    async fn store(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_unionlink"));
        command.arg("store").args(arguments).arg("--config").arg(&self.file);
        command.env("RUST_BACKTRACE", "0").stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").unwrap();
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

/// What a reader of the API would miss.
async fn told(world: &World) -> (Value, Vec<Value>, Value) {
    let feed = world.get("/v1/links/feed?after=0&limit=1000").await;
    let mut fans = Vec::new();
    for entry in feed["entries"].as_array().unwrap().iter().step_by(5) {
        fans.push(world.get(&format!("/v1/fans/{}", entry["data"]["unionid"].as_str().unwrap())).await);
    }
    (feed, fans, world.get("/v1/status").await["events"].clone())
}

fn flip(path: &Path, at: u64) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[usize::try_from(at).unwrap()] ^= 16;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_flipped_bits_is_rebuilt_and_nothing_is_lost() {
    let mut process = Process::with(crate::harness::Setup::default()).await;
    process.start().await;
    let people = process.world.mint(60).await;
    process.world.add_all(&people[..40], "zhangsan").await;
    process.world.until("/v1/status", |status| status["feed"]["head"] == 40).await;
    let copy = process.world.folder.path().join("copy");
    let copied = process.store(&["backup", "--json", copy.to_str().unwrap()]).await;
    assert_eq!(copied.code, 0, "{copied:?}");
    assert!(copied.json()["batches"].as_u64() > Some(10), "{copied:?}");
    process.world.add_all(&people[40..], "lisi").await;
    process.world.until("/v1/status", |status| status["feed"]["head"] == 60).await;
    let in_use = process.store(&["verify"]).await;
    assert_eq!(in_use.code, 1);
    assert!(in_use.stderr.contains("in use by another process"), "{in_use:?}");
    let before = told(&process.world).await;
    process.kill().await;

    let whole = process.store(&["verify", "--json"]).await;
    assert_eq!((whole.code, whole.json()["differences"].as_object().unwrap().len()), (0, 0), "{whole:?}");
    let database = process.folder().join("sled").join("db");
    let sound = std::fs::read(&database).unwrap();
    // Wherever it is: sled panics, or says nothing. Whichever it is, what comes of it is told, and mended.
    let (mut refused, mut found) = (0, 0);
    for n in 0..24_u64 {
        flip(&database, (n * 7_919 + 40) % 100_000.min(sound.len() as u64));
        let verified = process.store(&["verify"]).await;
        assert!(!verified.stderr.contains("stack backtrace"), "{verified:?}");
        if verified.code == 1 {
            assert!(verified.stderr.contains("unionlink store rebuild"), "{verified:?}");
            if verified.stderr.contains("cannot be opened") { refused += 1 } else { found += 1 }
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
    eprintln!("of 24 flipped bits sled refused {refused}, {found} were found by comparing");
    assert!(refused > 0, "sled opened everything");

    flip(&database, 50);
    flip(&database, sound.len() as u64 / 2);
    let rebuilt = process.store(&["rebuild", "--json"]).await;
    assert_eq!(rebuilt.code, 0, "{rebuilt:?}");
    let aside = rebuilt.json()["set_aside"].as_str().unwrap().to_owned();
    assert!(Path::new(&aside).exists());
    assert_eq!(process.store(&["verify"]).await.code, 0);
    process.start().await;
    assert_eq!(told(&process.world).await, before);
    // The links still come, and come once.
    let more = process.world.mint(5).await;
    process.world.add_all(&more, "wangwu").await;
    process.world.until("/v1/status", |status| status["feed"]["head"] == 65).await;
    process.stop().await;

    // The whole folder gone, but for the copy: a store as of then.
    std::fs::remove_dir_all(process.folder()).unwrap();
    let rebuilt = process.store(&["rebuild", "--backup", copy.to_str().unwrap()]).await;
    assert_eq!(rebuilt.code, 0, "{rebuilt:?}");
    process.start().await;
    process.world.until("/v1/status", |status| status["feed"]["head"].as_u64() >= Some(40)).await;
    process.stop().await;
    assert_eq!(process.store(&["verify"]).await.code, 0);
}
