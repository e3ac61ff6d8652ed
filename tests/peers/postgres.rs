//! A PostgreSQL server for tests: the one of `UNIONLINK_TEST_POSTGRES`, which is an address, or else one that is started
//! in a folder of its own and ends with this process.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use tokio_postgres::NoTls;

use crate::peers::peer;

static SERVER: OnceLock<Option<Server>> = OnceLock::new();

/// Where Debian keeps the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// Starts a server with options, and stops it and removes its folder when this process is gone: its standard input ends
/// then.
const RUN: &str = r#"
program=$1 folder=$2; shift 2
"$program" -D "$folder/data" -k "$folder" -c listen_addresses= -c max_connections=400 "$@" > "$folder/log" 2>&1 & server=$!
cat > /dev/null
kill -INT $server 2> /dev/null; wait $server; rm -rf "$folder"
"#;

struct Server {
    address: String,
    /// Runs as long as it is there.
    _cluster: Option<Cluster>,
}

/// The address of the server; `None` where PostgreSQL is not installed, and the test is to be skipped.
#[expect(clippy::disallowed_methods, reason = "a setting of the tests, not of the service")]
pub(crate) fn address() -> Option<&'static str> {
    let server = SERVER.get_or_init(|| {
        if let Ok(address) = std::env::var("UNIONLINK_TEST_POSTGRES") {
            return Some(Server { address, _cluster: None });
        }
        let cluster = Cluster::start(&["-c", "fsync=off"])?;
        Some(Server { address: cluster.address(), _cluster: Some(cluster) })
    });
    match server {
        Some(server) => Some(&server.address),
        // Says so for each test.
        None => peer("initdb").and(None),
    }
}

/// A schema for one test, dropped at the end.
pub(crate) struct Schema {
    /// The address of the server.
    pub(crate) url: &'static str,
    pub(crate) name: String,
}

impl Schema {
    /// `None` where there is no server.
    pub(crate) fn new() -> Option<Self> {
        Some(Self { url: address()?, name: format!("test_{:016x}", rand::random::<u64>()) })
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        execute(&format!("DROP SCHEMA IF EXISTS {} CASCADE", self.name));
    }
}

/// Executes a statement.
pub(crate) fn execute(statement: &str) {
    let (Some(address), statement) = (address(), statement.to_owned()) else { return };
    // On a thread of its own: a test inside a runtime cannot block on a second one.
    let executed = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(address, NoTls).await.unwrap();
            tokio::spawn(connection);
            client.batch_execute(&statement).await.unwrap();
        });
    });
    executed.join().unwrap();
}

/// A program of PostgreSQL: Debian's newest, or a peer.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let versions = Path::new(VERSIONS).read_dir().into_iter().flatten().filter_map(Result::ok);
    let programs = versions.map(|version| version.path().join("bin").join(name));
    programs.filter(|program| program.is_file()).max().or_else(|| peer(name))
}

/// A server of its own, stopped when it is dropped.
pub(crate) struct Cluster {
    pub(crate) folder: PathBuf,
    /// Runs until its standard input ends.
    process: Child,
}

impl Cluster {
    /// Makes and starts one with these options; `None` where PostgreSQL is not installed.
    pub(crate) fn start(options: &[&str]) -> Option<Self> {
        let folder = new_folder();
        let made = ["-A", "trust", "-U", "unionlink", "-E", "UTF8", "--locale=C", "-N", "-D"];
        succeed(command(&program("initdb")?, &folder).args(made).arg(folder.join("data")));
        Self::run(folder, options)
    }

    pub(crate) fn run(folder: PathBuf, options: &[&str]) -> Option<Self> {
        let postgres = program("postgres")?;
        let mut run = command(Path::new("sh"), &folder);
        run.args(["-c", RUN, "run"]).arg(&postgres).arg(&folder).args(options).stdin(Stdio::piped());
        let cluster = Self { process: run.spawn().unwrap(), folder };
        let mut tries = 0;
        while !cluster.status().iter().any(|line| matches!(line.trim(), "ready" | "standby")) {
            tries += 1;
            assert!(tries < 600, "PostgreSQL does not start in {}", cluster.folder.display());
            thread::park_timeout(Duration::from_millis(50));
        }
        Some(cluster)
    }

    /// The lines of its status file: the first is its process, the last how it is.
    pub(crate) fn status(&self) -> Vec<String> {
        let status = std::fs::read_to_string(self.folder.join("data/postmaster.pid")).unwrap_or_default();
        status.lines().map(str::to_owned).collect()
    }

    pub(crate) fn address(&self) -> String {
        format!("host={} user=unionlink dbname=postgres", self.folder.display())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // One that is suspended could not stop.
        let status = self.status();
        let postmaster = status.first().map(String::as_str).unwrap_or_default();
        let go_on = format!("kill -CONT {postmaster} $(ps -o pid= --ppid {postmaster})");
        let _ = Command::new("sh").args(["-c", &go_on]).output();
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// A new folder for a server.
pub(crate) fn new_folder() -> PathBuf {
    let folder = tempfile::Builder::new().prefix("unionlink-pg-").tempdir().unwrap().keep();
    // It does not run as root.
    if rustix::process::geteuid().is_root() {
        succeed(Command::new("chown").arg("postgres").arg(&folder));
    }
    folder
}

/// A command as the user that PostgreSQL runs as.
pub(crate) fn command(program: &Path, folder: &Path) -> Command {
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.current_dir(folder);
    command
}

/// Runs a command, which has to succeed.
pub(crate) fn succeed(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}
