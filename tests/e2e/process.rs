//! The real binary as a process that tests start, terminate and kill, and whose log they read.

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use unionlink::simulator::{Fault, Target};

use crate::harness::{PATIENCE, Setup, World};

/// A number of `/proc/PID/status`, such as `VmRSS:` (resident memory) or `VmHWM:` (its peak), in bytes.
pub fn memory(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// The service as a process of its own, with the folder of a world whose in-process service is stopped.
pub struct Process {
    pub world: World,
    child: Option<Child>,
    pub file: PathBuf,
}

impl Process {
    pub async fn with(setup: Setup) -> Self {
        let mut world = World::with(setup).await;
        world.stop().await.unwrap();
        let (public, admin) = (free_port(), free_port());
        world.public = format!("http://{public}");
        world.admin = format!("http://{admin}");
        let file = world.folder.path().join("unionlink.toml");
        std::fs::write(&file, world.configuration(&public, &admin)).unwrap();
        world.point_callbacks();
        Self { world, child: None, file }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_unionlink"));
        command.arg("serve").arg("--config").arg(&self.file).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    pub async fn start(&mut self) {
        self.launch(&[]);
        self.ready().await;
    }

    fn log(&self) -> PathBuf {
        self.world.folder.path().join("log")
    }

    /// Its log so far, unless it was started with [`start_logging`](Self::start_logging).
    pub fn read_log(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap()
    }

    /// Waits until this text is in its log.
    pub async fn logged(&mut self, text: &str) {
        let give_up = Instant::now() + PATIENCE;
        while !self.read_log().contains(text) {
            assert!(!self.has_ended() && Instant::now() < give_up, "{text:?} is not in\n{}", self.read_log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Starts it with these environment variables, without waiting until it is ready.
    pub fn launch(&mut self, environment: &[(&str, &OsStr)]) {
        let mut command = self.command();
        let log = std::fs::File::create(self.log()).unwrap();
        command.envs(environment.iter().copied()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// Starts it. The task returned gives its log once it has ended.
    pub async fn start_logging(&mut self) -> JoinHandle<String> {
        let mut child = self.command().stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        self.child = Some(child);
        let log = tokio::spawn(async move {
            let mut log = String::new();
            stderr.read_to_string(&mut log).await.unwrap();
            log
        });
        self.ready().await;
        log
    }

    /// Sends SIGTERM and asserts that it exits with 0.
    pub async fn stop(&mut self) {
        self.terminate().await;
        let status = self.exit_status().await;
        assert!(status.success(), "{status}");
    }

    async fn ready(&mut self) {
        let ended = self.ready_or_ended().await;
        assert!(ended.is_none(), "{ended:?}: {}", std::fs::read_to_string(self.log()).unwrap_or_default());
    }

    /// Waits until it is ready or has ended. Returns the exit status in the latter case.
    pub async fn ready_or_ended(&mut self) -> Option<ExitStatus> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let ready = self.world.http.get(format!("{}/readyz", self.world.admin)).send().await;
            if ready.is_ok_and(|answer| answer.status() == 200) {
                return None;
            }
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            if ended.is_some() {
                return ended;
            }
            assert!(Instant::now() < give_up, "neither ready nor ended");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id().unwrap()
    }

    pub async fn kill(&mut self) {
        self.child.take().unwrap().kill().await.unwrap();
    }

    pub async fn terminate(&self) {
        self.signal("TERM").await;
    }

    /// Sends a signal, without waiting for its effect.
    pub async fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id().unwrap().to_string();
        assert!(Command::new("kill").arg(format!("-{name}")).arg(pid).status().await.unwrap().success());
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    pub async fn exit_code(&mut self) -> Option<i32> {
        self.exit_status().await.code()
    }

    async fn exit_status(&mut self) -> ExitStatus {
        let child = self.child.as_mut().unwrap();
        tokio::time::timeout(PATIENCE, child.wait()).await.expect("the process exits").unwrap()
    }
}

/// A free address. Its port is outside the ephemeral range, so that no other program takes it while the
/// process is down.
pub fn free_port() -> String {
    let ports = std::iter::repeat_with(|| rand::random_range(16_000..32_000_u16));
    let mut addresses = ports.map(|port| format!("127.0.0.1:{port}"));
    addresses.find(|address| std::net::TcpListener::bind(address).is_ok()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sigterm_it_answers_requests_in_progress_and_exits_with_0() {
    let mut process = Process::with(Setup::default()).await;
    process.start().await;
    let world = &process.world;
    let fans = world.mint(2).await;
    world.wecom.inject(Target::Every, Fault::Latency(500), None);
    world.add(0, &fans[0], "zhangsan").await;
    // A callback of which half the body has arrived.
    let callback = world.wecom.seal(&world.befriend(0, &fans[1], "zhangsan").1);
    let address = world.public.trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let head = format!(
        "POST /callback/brand?{} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        callback.query,
        callback.body.len()
    );
    let (first, second) = callback.body.split_at(40);
    stream.write_all(format!("{head}{first}").as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let terminated_at = Instant::now();
    process.terminate().await;
    // New connections are refused.
    let give_up = Instant::now() + PATIENCE;
    while TcpStream::connect(&address).await.is_ok() {
        assert!(Instant::now() < give_up, "it still listens");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stream.write_all(second.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("success"), "{answer}");
    assert_eq!(process.exit_code().await, Some(0));
    assert!(terminated_at.elapsed() < Duration::from_secs(5), "it took {:?}", terminated_at.elapsed());
    // The next process links what this one acknowledged.
    process.world.wecom.clear_faults();
    process.start().await;
    for fan in &fans {
        process.world.linked(fan, 1).await;
    }
    process.terminate().await;
    assert_eq!(process.exit_code().await, Some(0));
}

#[tokio::test]
async fn its_memory_is_in_no_core_dump_and_its_user_cannot_read_it() {
    let is_root = rustix::process::geteuid().is_root();
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_unionlink"));
    if is_root {
        // A user who can do less; the folder of the program may not be accessible to it.
        let program = folder.path().join("unionlink");
        std::fs::copy(env!("CARGO_BIN_EXE_unionlink"), &program).unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        command = Command::new(program);
        command.uid(65_534).gid(65_534);
    }
    command.args(["simulate", "--listen", "127.0.0.1:0"]).current_dir("/");
    command.stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
    assert!(!line.is_empty());
    let process = format!("/proc/{}", child.id().unwrap());
    let limits = std::fs::read_to_string(format!("{process}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");
    let environment = format!("{process}/environ");
    let owner = std::fs::metadata(&environment).unwrap().uid();
    assert!(if is_root { owner == 0 } else { std::fs::File::open(&environment).is_err() }, "{owner}");
}

#[tokio::test]
async fn on_sighup_the_simulator_works_on() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unionlink"));
    command.args(["simulate", "--listen", "127.0.0.1:0"]).env_clear().stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    // It is running once it has printed anything.
    for text in ["", "received SIGHUP"] {
        let found = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains(text) {
                    return true;
                }
            }
            false
        };
        assert!(tokio::time::timeout(PATIENCE, found).await.unwrap(), "it ended before {text:?}");
        let pid = child.id().unwrap().to_string();
        assert!(Command::new("kill").arg("-HUP").arg(pid).status().await.unwrap().success());
    }
    assert_eq!(child.try_wait().unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_at_the_default_level_holds_no_secret_and_no_personal_id() {
    let setup = Setup {
        admin: "token = { value = \"CANARY-ADMIN-TOKEN-OF-32-CHARACTERS\" }".into(),
        // Only the callbacks below make links.
        app: "existing_customers = false".into(),
        ..Setup::default()
    };
    let mut process = Process::with(setup).await;
    let log = process.start_logging().await;
    let world = &process.world;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let api = |method: reqwest::Method, path: &str| {
        http.request(method, format!("{}{path}", world.admin))
            .bearer_auth("CANARY-ADMIN-TOKEN-OF-32-CHARACTERS")
    };
    let status = async || -> Value {
        api(reqwest::Method::GET, "/v1/status").send().await.unwrap().json().await.unwrap()
    };
    let until = async |is: &dyn Fn(&Value) -> bool| {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let status = status().await;
            if is(&status) {
                return;
            }
            assert!(Instant::now() < give_up, "{status:#}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // Provoke everything that is logged: rejections, dead letters, circuit breakers, quarantine, refusals.
    let people = world.wecom.add_people(6);
    world.wecom.reject_person(&people[5], Some(610_014));
    let rows: Vec<_> = people.iter().map(|p| json!({"unionid": p.unionid, "openid": p.openid})).collect();
    assert_eq!(api(reqwest::Method::POST, "/v1/fans").json(&rows).send().await.unwrap().status(), 202);
    until(&|s| s["fans"]["minted"] == 5 && s["fans"]["rejected"] == 1).await;
    let mut ids = Vec::new();
    for (n, person) in people[..5].iter().enumerate() {
        let (id, event) = world.befriend(n % 2, person, "zhangsan");
        match n {
            1 => world.wecom.poison_with(&id, 40_058),
            2 => world.wecom.inject(Target::Every, Fault::Reset, Some(1)),
            3 => world.wecom.revoke_tokens(&world.corp.corp_id),
            _ => {}
        }
        world.deliver(&event).await;
        ids.push(id);
    }
    let stray = world.wecom.seal_with(&world.befriend(0, &people[0], "lisi").1, "wwSTRAY");
    assert!(world.wecom.post(&stray).await.acknowledged);
    until(&|s| s["links"] == 4 && s["inbox"]["dead"] == 1 && s["inbox"]["quarantined"] == 1).await;
    world.wecom.set_dealer_error(&world.dealers[0].corp_id, Some(48_002));
    world.deliver(&world.befriend(0, &world.wecom.add_person(), "zhangsan").1).await;
    until(&|s| s["paused"].as_array().is_some_and(|p| !p.is_empty())).await;
    process.terminate().await;
    assert_eq!(process.exit_code().await, Some(0));

    let log = log.await.unwrap();
    for expected in ["serving", "dead letter", "paused", "quarantined", "rejected", "stopped"] {
        assert!(log.contains(expected), "{expected:?} is not in the log:\n{log}");
    }
    let world = &process.world;
    let mut secrets = vec![
        world.corp.secret.clone(),
        world.callback.token.clone(),
        world.callback.aes_key.clone(),
        "CANARY-ADMIN-TOKEN-OF-32-CHARACTERS".to_owned(),
        "access_token".to_owned(),
        "corpsecret".to_owned(),
    ];
    secrets.extend(people.iter().flat_map(|p| [p.unionid.clone(), p.openid.clone()]));
    secrets.extend(people.iter().flat_map(|p| world.wecom.pending_ids(&world.corp.corp_id, p)));
    secrets.extend(ids);
    for secret in secrets {
        assert!(!log.contains(&secret), "{secret} is in the log:\n{log}");
    }
}

#[tokio::test]
async fn an_invalid_configuration_exits_with_1_and_an_invalid_command_line_with_2() {
    let unionlink = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_unionlink")).args(arguments).env_clear().output()
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("unionlink.toml");
    std::fs::write(&file, "[server]\nlistn = \"x\"\n[[apps]]\nname = \"brand\"\n").unwrap();
    let file = file.to_str().unwrap();
    for arguments in [&["check", "--config", file][..], &["serve", "--config", file]] {
        let output = unionlink(arguments).await.unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        let stderr = String::from_utf8(output.stderr).unwrap();
        for part in ["server.listn is not a known key", "did you mean listen?", "apps[0].corp_id is missing"]
        {
            assert!(stderr.contains(part), "{part:?} is not in {stderr}");
        }
    }
    let output = unionlink(&["check", "--config", file, "--json"]).await.unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &report["ok"]), (Some(1), &json!(false)));
    assert!(report["problems"].as_array().unwrap().len() >= 5);
    let missing = unionlink(&["check", "--config", "/nonexistent/unionlink.toml"]).await.unwrap();
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8(missing.stderr).unwrap().contains("hint:"));
    for arguments in [&["frobnicate"][..], &["serve", "--frobnicate"], &[]] {
        assert_eq!(unionlink(arguments).await.unwrap().status.code(), Some(2), "{arguments:?}");
    }
}
