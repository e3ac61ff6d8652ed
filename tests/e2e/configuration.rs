//! The configuration, with the real binary in an empty folder: the files that are part of the binary, what
//! `check` and `serve` make of a doubtful configuration, and the one that `simulate --write` writes.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use crate::harness::PATIENCE;
use crate::peers::peer;
use crate::process::free_port;

fn unionlink(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unionlink"));
    command.args(arguments).current_dir(folder).env_remove("UNIONLINK_CONFIG").kill_on_drop(true);
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end. Returns its exit code, standard output and standard error.
async fn run(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = unionlink(folder, arguments).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// What a command prints that is typed into a shell.
async fn typed(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).env("no_proxy", "*").output().await.unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn mode(file: &Path) -> u32 {
    std::fs::metadata(file).unwrap().permissions().mode() & 0o777
}

/// A command that runs until it is stopped.
struct Running {
    child: Child,
    stderr: Lines<BufReader<ChildStderr>>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, stderr }
    }

    /// What it prints to standard error, up to the first line that contains `last`.
    async fn until(&mut self, last: &str) -> String {
        let mut text = String::new();
        let reading = async {
            while let Some(line) = self.stderr.next_line().await.unwrap() {
                text = format!("{text}{line}\n");
                if line.contains(last) {
                    return;
                }
            }
            panic!("it has ended: {text}");
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("it prints the line");
        text
    }

    /// Sends SIGTERM and asserts that it exits with 0.
    async fn stop(mut self) {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").arg(pid).status().await.unwrap().success());
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it exits").unwrap();
        assert!(status.success(), "{status}");
    }
}

#[tokio::test]
async fn the_configurations_in_the_binary_are_printed_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let (example, default) =
        (include_str!("../../config/example.toml"), include_str!("../../config/default.toml"));
    for (name, text) in [("example", example), ("default", default)] {
        let (code, stdout, stderr) = run(folder.path(), &["config", name]).await;
        assert_eq!((code, stdout.as_str(), stderr.as_str()), (Some(0), text, ""), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doubtful_configuration_is_refused_by_check_and_reported_by_serve() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("unionlink.toml");
    let text = "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\nopen = true\n\
                [store]\nfree_mb_min = 1\n[wecom]\napi_base = \"http://127.0.0.1:9\"\n\
                [[apps]]\nname = \"brand\"\ncorp_id = \"brand-corp\"\nagent_id = 1\nsecret = \"s\"\n\
                callback_token = \"t\"\nencoding_aes_key = \"abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG\"\n";
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let check = ["check", "--config", "unionlink.toml"];
    let json = ["check", "--config", "unionlink.toml", "--json"];
    let (corp_id, token) = ("apps[0].corp_id is not a corp id", "apps[0].callback_token has fewer than 8");

    let (code, stdout, stderr) = run(folder.path(), &check).await;
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    for part in [corp_id, "企业ID", &format!("warning: {token}"), "hint: set a longer one"] {
        assert!(stderr.contains(part), "{part:?} is not in {stderr}");
    }
    let (code, stdout, _) = run(folder.path(), &json).await;
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &report["ok"]), (Some(1), &Value::from(false)));
    assert_eq!(report["problems"][0]["key"], "apps[0].corp_id");
    assert_eq!(report["warnings"][0]["key"], "apps[0].callback_token");
    assert!(!folder.path().join("data").exists(), "check has created the store's folder");

    let mut service = Running::start(unionlink(folder.path(), &["serve", "--config", "unionlink.toml"]));
    let log = service.until("serving").await;
    for problem in [corp_id, token] {
        assert!(log.contains(&format!("WARN configuration: {problem}")), "{problem:?} is not in {log}");
    }
    service.stop().await;

    std::fs::write(&file, text.replace("brand-corp", "ww0123456789abcdef")).unwrap();
    let (code, stdout, _) = run(folder.path(), &json).await;
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &report["ok"]), (Some(0), &Value::from(true)));
    assert_eq!(report["warnings"].as_array().unwrap().len(), 1);
}

/// Runs `simulate`, with `flags`, and the commands that it prints, in an empty folder. Returns the commands that
/// register a fan and let a dealer add this person.
async fn follow_simulation(flags: &[&str], name: &str) -> [String; 2] {
    let folder = tempfile::tempdir().unwrap();
    let (wecom, public, admin) = (free_port(), free_port(), free_port());
    let callback = format!("http://{public}/callback/{name}");
    let simulate =
        ["simulate", "--listen", &wecom, "--callback", &callback, "--write", "config/unionlink.toml"];
    let simulate = [&simulate, flags].concat();
    let file = folder.path().join("config/unionlink.toml");
    let mut platform = Running::start(unionlink(folder.path(), &simulate));
    let printed = platform.until("stop with Ctrl-C").await;
    let written = std::fs::read_to_string(&file).unwrap();
    assert_eq!(mode(&file), 0o600);
    assert!(written.contains(&format!("[server]\nlisten = \"{public}\"\n")), "{written}");
    let (code, _, stderr) = run(folder.path(), &["check"]).await;
    assert_eq!((code, stderr.as_str()), (Some(0), "config/unionlink.toml is valid\n"));

    // Its commands as they are printed, but for the port of the admin API, which other tests may use.
    let commands = printed.lines().filter_map(|line| line.strip_prefix("  "));
    let commands: Vec<_> = commands.map(|command| command.replace("127.0.0.1:8081", &admin)).collect();
    let [serve, register, befriend, links, index] = &commands[..] else { panic!("{printed}") };
    assert_eq!(serve, "unionlink serve");
    let mut command = unionlink(folder.path(), &["serve"]);
    command.env("UNIONLINK__ADMIN__LISTEN", &admin).env("UNIONLINK__STORE__FREE_MB_MIN", "1");
    let mut service = Running::start(command);
    service.until("serving").await;
    if printed.contains("the brand authorises") {
        platform.until("has authorised").await;
    }
    let registered: Value = serde_json::from_str(&typed(register).await).unwrap();
    assert_eq!(registered["accepted"], 1, "{registered}");
    let friends: Value = serde_json::from_str(&typed(befriend).await).unwrap();
    let give_up = Instant::now() + PATIENCE;
    loop {
        let found: Value = serde_json::from_str(&typed(links).await).unwrap();
        if found["links"][0]["external_userid"] == friends["external_userid"] {
            break;
        }
        assert!(Instant::now() < give_up, "{friends} is not in {found}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(typed(index).await.contains("POST   /sim/befriend"));
    service.stop().await;
    platform.stop().await;

    // Another start: the same ids, the same file, and its mode again.
    std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let mut platform = Running::start(unionlink(folder.path(), &simulate));
    assert_eq!(platform.until("stop with Ctrl-C").await, printed);
    assert_eq!((mode(&file), std::fs::read_to_string(&file).unwrap()), (0o600, written));
    platform.stop().await;
    [register.clone(), befriend.clone()]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_simulation_in_an_empty_folder_prints_commands_that_make_a_link() {
    if peer("curl").is_none() {
        return;
    }
    let [register, befriend] = follow_simulation(&[], "brand").await;
    // The ids of the default seed are always the same: the documents show them.
    assert!(
        register.contains("\"oqsZYKZsnL2zl2L6dbDqJNCAOcDk\",\"openid\":\"op_90-TxBkQq-4SAJMRgUbwIMxt-\"")
    );
    assert!(befriend.contains("\"corp_id\":\"wpUUnCxAAAUEcdUIoIL_z1wo91T9QSbi\""), "{befriend}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_simulation_of_an_agency_developed_app_prints_commands_that_make_a_link() {
    if peer("curl").is_none() {
        return;
    }
    follow_simulation(&["--agency"], "agency").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_simulation_overwrites_another_configuration_only_when_forced() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    std::fs::write(&file, "# mine\n").unwrap();
    let simulate = ["simulate", "--listen", "127.0.0.1:0", "--write", "mine.toml"];
    let (code, _, stderr) = run(folder.path(), &simulate).await;
    assert!(code == Some(1) && stderr.contains("--force"), "{stderr}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "# mine\n");

    let forced = [&simulate[..], &["--force"]].concat();
    let mut platform = Running::start(unionlink(folder.path(), &forced));
    let printed = platform.until("stop with Ctrl-C").await;
    assert!(printed.contains("  unionlink serve --config mine.toml\n"), "{printed}");
    assert!(std::fs::read_to_string(&file).unwrap().starts_with("# Written by unionlink simulate"));
    assert_eq!(mode(&file), 0o600);
    platform.stop().await;
    for wrong in [&["simulate", "--force"][..], &["simulate", "--callback", "brand"]] {
        assert_eq!(run(folder.path(), wrong).await.0, Some(2), "{wrong:?}");
    }
}
