//! The real binary as a process with its store on a test disk, and the simulated platform around it.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use unionlink::clock::SystemClock;
use unionlink::simulator::{AppSpec, CallbackSpec, Dealer, Event, Options, Person, SenderOptions, Simulator};

use crate::machine::run;

/// The time after which a test gives up waiting: generous, for a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(2);

const DEALERS: usize = 3;
/// How often a start is tried with other ports.
const STARTS_MAX: usize = 5;

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub log: String,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.log.lines().collect();
        let last = lines[lines.len().saturating_sub(5)..].join("\n");
        write!(f, "exit code {:?}, signal {:?}\n{last}", self.code, self.signal)
    }
}

struct Running {
    child: Mutex<Child>,
    pid: u32,
    log: Arc<Mutex<String>>,
    listening: JoinHandle<()>,
}

/// The service, running or not, with the simulated platform and a client of its API.
pub struct Service {
    pub wecom: Simulator,
    corp: AppSpec,
    callback: CallbackSpec,
    dealers: Vec<Dealer>,
    http: reqwest::Client,
    store: PathBuf,
    /// Lines of the `[store]` section.
    pub store_lines: &'static str,
    /// A library to preload.
    pub preload: Option<PathBuf>,
    public: String,
    admin: String,
    file: tempfile::NamedTempFile,
    running: Option<Running>,
}

impl Service {
    /// A service that does not run yet, with its store in this folder.
    pub async fn with_store_in(folder: &Path, seed: u64) -> Self {
        // No limit on calls per minute; the minting quotas are WeCom's real ones.
        let options = Options {
            seed,
            base_per_minute: 1_000_000,
            base_per_hour: 10_000_000,
            call_log_calls_max: 0,
            // Longer than WeCom waits: these tests check what is answered, not how fast this machine is.
            sender: SenderOptions { timeout_ms: 20_000, ..SenderOptions::default() },
            ..Options::default()
        };
        let wecom = Simulator::start(options, Arc::new(SystemClock)).await.unwrap();
        let mut corp = wecom.invent_app();
        let callback = wecom.invent_callback("http://127.0.0.1:9/not-yet");
        corp.callback = Some(callback.clone());
        wecom.add_app(corp.clone());
        let dealers = (0..DEALERS).map(|n| wecom.add_dealer(&corp.corp_id, &format!("Dealer {n}"))).collect();
        Self {
            wecom,
            corp,
            callback,
            dealers,
            http: reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap(),
            store: folder.join("data"),
            store_lines: "free_mb_min = 1",
            preload: None,
            public: String::new(),
            admin: String::new(),
            file: tempfile::NamedTempFile::new().unwrap(),
            running: None,
        }
    }

    /// Without querying existing customers, so that a link proves that the callback was kept.
    fn configuration(&self) -> String {
        format!(
            "[server]\nlisten = \"{}\"\ngrace_ms = 2000\n[admin]\nlisten = \"{}\"\nopen = true\n\
             [store]\npath = {:?}\ncache_mb = 16\n{}\n[wecom]\napi_base = \"{}\"\n\
             [[apps]]\nname = \"brand\"\ncorp_id = \"{}\"\nagent_id = {}\nsecret = {{ value = \"{}\" }}\n\
             callback_token = {{ value = \"{}\" }}\nencoding_aes_key = {{ value = \"{}\" }}\n\
             existing_customers = false\n",
            self.public,
            self.admin,
            self.store.display().to_string(),
            self.store_lines,
            self.wecom.base_url(),
            self.corp.corp_id,
            self.corp.agent_id,
            self.corp.secret,
            self.callback.token,
            self.callback.aes_key,
        )
    }

    /// Starts the process, without waiting until it is ready.
    pub fn spawn(&mut self) {
        assert!(self.running.is_none());
        [self.public, self.admin] = free_addresses();
        std::fs::write(self.file.path(), self.configuration()).unwrap();
        let url = format!("http://{}/callback/brand", self.public);
        self.wecom.set_callback(&self.corp.corp_id, CallbackSpec { url, ..self.callback.clone() });
        let mut command = Command::new(env!("CARGO_BIN_EXE_unionlink"));
        command.arg("serve").arg("--config").arg(self.file.path()).env_clear();
        if let Some(library) = &self.preload {
            command.env("LD_PRELOAD", library);
        }
        command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(String::new()));
        let listening = tokio::spawn({
            let log = log.clone();
            async move {
                while let Ok(Some(line)) = lines.next_line().await {
                    let mut log = log.lock().unwrap();
                    log.push_str(&line);
                    log.push('\n');
                }
            }
        });
        let pid = child.id().unwrap();
        self.running = Some(Running { child: Mutex::new(child), pid, log, listening });
    }

    /// Waits until the service is ready.
    ///
    /// # Errors
    /// How the process ended, if it did.
    pub async fn ready(&mut self) -> Result<(), Ended> {
        let give_up = Instant::now() + PATIENCE;
        while self.readiness().await.0 != 200 {
            if self.has_ended() {
                return Err(self.ended().await);
            }
            if Instant::now() > give_up {
                return Err(self.kill().await);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    pub async fn start(&mut self) -> Result<(), Ended> {
        for _ in 0..STARTS_MAX {
            self.spawn();
            match self.ready().await {
                // Another process has taken the port meanwhile.
                Err(ended) if ended.log.contains("cannot listen on") => {}
                started => return started,
            }
        }
        self.spawn();
        self.ready().await
    }

    /// Waits until the process has ended.
    pub async fn ended(&mut self) -> Ended {
        let Running { child, log, listening, .. } = self.running.take().expect("it was started");
        let mut child = child.into_inner().unwrap();
        let status = tokio::time::timeout(PATIENCE, child.wait()).await.expect("the process ends").unwrap();
        listening.await.unwrap();
        let log = std::mem::take(&mut *log.lock().unwrap());
        Ended { code: status.code(), signal: status.signal(), log }
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("it was started")
    }

    pub fn has_ended(&self) -> bool {
        self.running().child.lock().unwrap().try_wait().unwrap().is_some()
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.running().log.lock().unwrap().clone()
    }

    pub async fn kill(&mut self) -> Ended {
        let _ = self.running().child.lock().unwrap().start_kill();
        self.ended().await
    }

    /// Sends SIGTERM and waits until the process has ended.
    pub async fn terminate(&mut self) -> Ended {
        run("kill", &["-TERM", &self.running().pid.to_string()]).unwrap();
        self.ended().await
    }

    /// The status and text of `/readyz`; 0 if there is no answer.
    pub async fn readiness(&self) -> (u16, String) {
        let answered = async {
            let response = self.http.get(format!("http://{}/readyz", self.admin)).send().await?;
            Ok::<_, reqwest::Error>((response.status().as_u16(), response.text().await?))
        };
        answered.await.unwrap_or_default()
    }

    /// The JSON at a path of the admin API.
    pub async fn get(&self, path: &str) -> Result<(u16, Value), String> {
        let answered = async {
            let response = self.http.get(format!("http://{}{path}", self.admin)).send().await?;
            Ok::<_, reqwest::Error>((response.status().as_u16(), response.json().await?))
        };
        answered.await.map_err(|error| format!("{path}: {error}"))
    }

    /// Registers fans. Returns whether they were accepted.
    pub async fn register(&self, people: &[Person]) -> bool {
        let rows: Vec<_> = people.iter().map(|p| json!({"unionid": p.unionid, "openid": p.openid})).collect();
        let sent = self.http.post(format!("http://{}/v1/fans", self.admin)).json(&rows).send().await;
        sent.is_ok_and(|answer| answer.status() == 202)
    }

    /// Whether the platform has given this person a pending id.
    pub fn is_minted(&self, person: &Person) -> bool {
        !self.wecom.pending_ids(&self.corp.corp_id, person).is_empty()
    }

    /// A dealer adds this person. Returns the new `external_userid` and the event.
    pub fn befriend(&self, dealer: usize, person: &Person) -> (String, Event) {
        let dealer = &self.dealers[dealer % DEALERS].corp_id;
        let friendship = self.wecom.befriend(dealer, person, "zhangsan", None);
        (friendship.external_userid, friendship.event)
    }

    /// Sends an event once. Returns whether it was acknowledged, and the status.
    pub async fn send(&self, event: &Event) -> (bool, Option<u16>) {
        let delivery = self.wecom.deliver_once(event).await;
        let is_acknowledged = delivery.acknowledged && delivery.answer == "success";
        assert_eq!(delivery.acknowledged, is_acknowledged, "{}", delivery.answer);
        (is_acknowledged, delivery.status)
    }
}

/// Two addresses that nobody listens on.
fn free_addresses() -> [String; 2] {
    let listeners = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().to_string())
}
