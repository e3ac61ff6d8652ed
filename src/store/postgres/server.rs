//! A PostgreSQL server for tests: the one of `UNIONLINK_TEST_POSTGRES`, a URL, or else Debian's, started in a folder of
//! its own. Without either, tests say that they are skipped; with `UNIONLINK_REQUIRE_POSTGRES` they fail.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

/// Where Debian keeps the programs of the server.
const PROGRAMS: [&str; 4] = [
    "/usr/lib/postgresql/18/bin",
    "/usr/lib/postgresql/17/bin",
    "/usr/lib/postgresql/16/bin",
    "/usr/lib/postgresql/15/bin",
];

/// The address of the server; `None` if there is none.
pub(crate) fn address() -> Option<&'static str> {
    static ADDRESS: OnceLock<Option<String>> = OnceLock::new();
    ADDRESS.get_or_init(|| std::env::var("UNIONLINK_TEST_POSTGRES").ok().or_else(start)).as_deref()
}

/// The address of the server, or says that a test is skipped.
pub(crate) fn required(test: &str) -> Option<&'static str> {
    let address = address();
    if address.is_none() {
        let is_required = std::env::var_os("UNIONLINK_REQUIRE_POSTGRES").is_some();
        assert!(!is_required, "{test} needs PostgreSQL: install it, or set UNIONLINK_TEST_POSTGRES");
        eprintln!("SKIPPED: {test}: PostgreSQL is missing; install it, or set UNIONLINK_TEST_POSTGRES");
    }
    address
}

/// A server that stops with this process.
struct Server {
    folder: TempDir,
    process: std::process::Child,
}

fn start() -> Option<String> {
    let programs = PROGRAMS.into_iter().map(Path::new).find(|programs| programs.join("postgres").exists())?;
    // The server does not run as root.
    let user = rustix::process::geteuid().is_root().then_some("postgres");
    let command = |program: &str| match user {
        Some(user) => {
            let mut command = Command::new("runuser");
            command.args(["-u", user, "--"]).arg(programs.join(program));
            command
        }
        None => Command::new(programs.join(program)),
    };
    let folder = tempfile::Builder::new().prefix("unionlink-pg-").tempdir().ok()?;
    if let Some(user) = user {
        let chown = Command::new("chown").arg(user).arg(folder.path()).status().ok()?;
        chown.success().then_some(())?;
    }
    let data = folder.path().join("data");
    let made = command("initdb")
        .args(["-A", "trust", "-U", "unionlink", "-E", "UTF8", "--locale=C", "-N", "-D"])
        .arg(&data)
        .output()
        .ok()?;
    assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
    let socket = folder.path().to_str()?.to_owned();
    let process = command("postgres")
        .arg("-D")
        .arg(&data)
        .args(["-k", &socket, "-c", "listen_addresses=", "-c", "max_connections=400", "-c", "fsync=off"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .ok()?;
    static RUNNING: OnceLock<Server> = OnceLock::new();
    let server = RUNNING.get_or_init(|| Server { folder, process });
    let _ = (server.process.id(), server.folder.path());
    for _ in 0..600 {
        if std::os::unix::net::UnixStream::connect(format!("{socket}/.s.PGSQL.5432")).is_ok() {
            return Some(format!("host={socket} user=unionlink dbname=postgres"));
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("PostgreSQL does not start in {socket}");
}
