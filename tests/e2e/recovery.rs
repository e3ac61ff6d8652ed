//! Recovery of a store with the real binary: a damaged index is built anew unattended, and the commands verify,
//! backup of a running service, restore and compact.

use std::path::{Path, PathBuf};
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

/// A service with a feed of so many entries and many fans, killed; and what its API returned before.
async fn killed_with(feed_entries: usize, fans: usize) -> (Process, (Value, Vec<Value>)) {
    let mut process = Process::with(crate::harness::Setup::default()).await;
    process.start().await;
    let people = process.world.mint(feed_entries).await;
    process.world.add_all(&people, "zhangsan").await;
    process.world.until("/v1/status", |status| status["feed_head"] == feed_entries).await;
    let many = process.world.wecom.add_people(fans);
    process.world.register(&many).await;
    let before = feed_and_fans(&process.world).await;
    // Stopped, so that the index has everything; killed, so that there are no checksums of its files.
    process.stop().await;
    process.start().await;
    process.kill().await;
    (process, before)
}

/// The index's main file, and the positions in it that are not zero.
fn index_file(process: &Process) -> (PathBuf, Vec<u8>, Vec<usize>) {
    let path = process.folder().join("index").join("db");
    let sound = std::fs::read(&path).unwrap();
    let written = (0..sound.len()).filter(|at| sound[*at] != 0).collect();
    (path, sound, written)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_with_flipped_bits_is_built_anew_by_itself_and_nothing_is_lost() {
    let (mut process, before) = killed_with(40, 8_000).await;
    let whole = process.store(&["verify", "--json"]).await;
    assert_eq!((whole.code, whole.json()["differences"].as_object().unwrap().len()), (0, 0), "{whole:?}");
    let (path, sound, written) = index_file(&process);
    // Depending on the bit sled refuses to open, lacks the end of what was stored, or has a wrong record.
    let (mut rebuilt, mut differing, mut replayed) = (0, 0, 0);
    for n in 0..6 {
        for m in 0..40 {
            flip(&path, written[(m * 6 + n) * written.len() / 240]);
        }
        let verified = process.store(&["verify", "--json"]).await;
        if verified.code == 0 {
            rebuilt += u32::from(verified.json()["rebuilt"] == true);
            replayed += u32::from(verified.json()["replayed"].as_u64() > Some(0));
        } else {
            differing += 1;
            assert!(verified.stderr.contains("built anew when the service starts"), "{verified:?}");
        }
        // Whatever it was, the next look finds a sound index.
        let again = process.store(&["verify", "--json"]).await;
        assert_eq!(again.code, 0, "{again:?}");
        std::fs::write(&path, &sound).unwrap();
        for left in std::fs::read_dir(process.folder().join("index")).unwrap() {
            let left = left.unwrap().path();
            if left.file_name().unwrap().to_string_lossy().starts_with("snap.") {
                std::fs::remove_file(left).unwrap();
            }
        }
    }
    assert!(rebuilt + differing > 0, "rebuilt {rebuilt}, differing {differing}, replayed {replayed} of 6");
    // After a clean stop any bit is noticed, wherever it is.
    process.start().await;
    process.stop().await;
    let length = std::fs::metadata(&path).unwrap().len();
    flip(&path, usize::try_from(length / 3).unwrap());
    process.start().await;
    let after = feed_and_fans(&process.world).await;
    assert_eq!(after, before);
    let status = process.world.get("/v1/status").await;
    assert_eq!(status["store_log"]["index_rebuilt"], true, "{status}");
    assert!(process.folder().join("index.set-aside").is_dir());
    // New links are still made, each once.
    let more = process.world.mint(5).await;
    process.world.add_all(&more, "wangwu").await;
    process.world.until("/v1/status", |status| status["feed_head"] == 45).await;
    process.stop().await;
    assert_eq!(process.store(&["verify"]).await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_restored_from_a_backup_of_the_running_service() {
    let mut process = Process::with(crate::harness::Setup::default()).await;
    process.start().await;
    let people = process.world.mint(60).await;
    process.world.add_all(&people[..40], "zhangsan").await;
    process.world.until("/v1/status", |status| status["feed_head"] == 40).await;
    let copy = process.world.folder.path().join("copy");
    let copied = process.store(&["backup", "--json", copy.to_str().unwrap()]).await;
    assert_eq!(copied.code, 0, "{copied:?}");
    assert!(copied.json()["commits"].as_u64() > Some(10), "{copied:?}");
    process.world.add_all(&people[40..], "lisi").await;
    process.world.until("/v1/status", |status| status["feed_head"] == 60).await;
    let in_use = process.store(&["verify"]).await;
    assert!(in_use.code == 1 && in_use.stderr.contains("in use by another process"), "{in_use:?}");
    let before = feed_and_fans(&process.world).await;
    process.stop().await;

    // With its own log, the store has everything; the copy only takes the place of what is lost.
    let restored = process.store(&["restore", "--json", copy.to_str().unwrap()]).await;
    assert_eq!(restored.code, 0, "{restored:?}");
    let aside = restored.json()["set_aside"].as_str().unwrap().to_owned();
    assert!(Path::new(&aside).join("index").is_dir());
    process.start().await;
    assert_eq!(feed_and_fans(&process.world).await, before);
    process.stop().await;
    let compacted = process.store(&["compact"]).await;
    assert_eq!(compacted.code, 0, "{compacted:?}");
    assert!(!Path::new(&aside).exists());
    assert_eq!(process.store(&["verify"]).await.code, 0);

    // The whole folder is lost: the backup gives the store as of the time it was taken.
    std::fs::remove_dir_all(process.folder()).unwrap();
    let restored = process.store(&["restore", copy.to_str().unwrap()]).await;
    assert_eq!(restored.code, 0, "{restored:?}");
    process.start().await;
    process.world.until("/v1/status", |status| status["feed_head"].as_u64() >= Some(40)).await;
    process.stop().await;
    assert_eq!(process.store(&["verify"]).await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_index_the_store_is_built_anew_and_without_its_log_it_goes_on() {
    let (mut process, before) = killed_with(20, 500).await;
    std::fs::remove_dir_all(process.folder().join("index")).unwrap();
    process.start().await;
    assert_eq!(feed_and_fans(&process.world).await, before);
    process.stop().await;
    for lost in ["wal", "checkpoint"] {
        std::fs::remove_dir_all(process.folder().join(lost)).unwrap();
    }
    process.start().await;
    assert_eq!(feed_and_fans(&process.world).await, before);
    process.stop().await;
    assert_eq!(process.store(&["verify"]).await.code, 0);
}
