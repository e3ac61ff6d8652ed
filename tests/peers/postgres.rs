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
/// Starts the server, and stops it and removes its folder when this process is gone: its standard input ends then.
const RUN: &str = r#"
"$1" -D "$2/data" -k "$2" -c listen_addresses= -c max_connections=400 -c fsync=off > "$2/log" 2>&1 & server=$!
cat > /dev/null
kill -INT $server; wait $server; rm -rf "$2"
"#;

struct Server {
    address: String,
    /// Runs until its standard input ends.
    _process: Option<Child>,
}

/// The address of the server; `None` where PostgreSQL is not installed, and the test is to be skipped.
#[expect(clippy::disallowed_methods, reason = "a setting of the tests, not of the service")]
pub(crate) fn address() -> Option<&'static str> {
    let server = SERVER.get_or_init(|| match std::env::var("UNIONLINK_TEST_POSTGRES") {
        Ok(address) => Some(Server { address, _process: None }),
        Err(_) => Some(start(&program("initdb")?, &program("postgres")?)),
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
fn program(name: &str) -> Option<PathBuf> {
    let versions = Path::new(VERSIONS).read_dir().into_iter().flatten().filter_map(Result::ok);
    let programs = versions.map(|version| version.path().join("bin").join(name));
    programs.filter(|program| program.is_file()).max().or_else(|| peer(name))
}

fn start(initdb: &Path, postgres: &Path) -> Server {
    let folder = tempfile::Builder::new().prefix("unionlink-pg-").tempdir().unwrap().keep();
    // It does not run as root.
    let user = rustix::process::geteuid().is_root().then_some("postgres");
    if let Some(user) = user {
        assert!(Command::new("chown").arg(user).arg(&folder).status().unwrap().success());
    }
    let command = |program: &Path| match user {
        Some(user) => {
            let mut command = Command::new("runuser");
            command.args(["-u", user, "--"]).arg(program);
            command
        }
        None => Command::new(program),
    };
    let options = ["-A", "trust", "-U", "unionlink", "-E", "UTF8", "--locale=C", "-N", "-D"];
    let made = command(initdb).args(options).arg(folder.join("data")).current_dir(&folder).output().unwrap();
    assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
    let mut run = command(Path::new("sh"));
    run.args(["-c", RUN, "run"]).arg(postgres).arg(&folder).current_dir(&folder).stdin(Stdio::piped());
    let process = run.spawn().unwrap();
    let address = format!("host={} user=unionlink dbname=postgres", folder.display());
    let mut tries = 0;
    let is_ready = || {
        let status = std::fs::read_to_string(folder.join("data/postmaster.pid"));
        status.is_ok_and(|status| status.lines().any(|line| line.trim() == "ready"))
    };
    while !is_ready() {
        tries += 1;
        assert!(tries < 600, "PostgreSQL does not start in {}", folder.display());
        thread::park_timeout(Duration::from_millis(50));
    }
    Server { address, _process: Some(process) }
}
