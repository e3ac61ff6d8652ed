//! The commands in the documents: each runs as it is written, in order, against `simulate` and `serve`, and prints
//! what is shown beneath it.
//!
//! In what is shown, `…` stands for anything, and white space does not count. A block that is not run has a
//! comment before it: `<!-- not run: reason -->`.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::environment;
use crate::markdown::Document;
use crate::peers::peer;

/// How long a command may take, and a server to answer.
const PATIENCE: Duration = Duration::from_mins(1);
/// The ports in the documents: simulator, callbacks, admin API.
const PORTS: [&str; 3] = ["127.0.0.1:9090", "127.0.0.1:8080", "127.0.0.1:8081"];
/// Ends the output of a command.
const END: &str = "--- end of command";

/// A folder with nothing in it, a shell in it, and the servers that were started there.
struct Shell {
    folder: tempfile::TempDir,
    /// The addresses used in place of [`PORTS`].
    addresses: [String; 3],
    process: Child,
    input: ChildStdin,
    answers: mpsc::Receiver<String>,
    servers: Vec<Pid>,
}

/// A command and what it prints.
struct Step {
    line: usize,
    command: String,
    shown: String,
}

fn steps(document: &Document) -> (Vec<Step>, usize) {
    let mut steps: Vec<Step> = Vec::new();
    let mut not_run = 0;
    for block in document.blocks().into_iter().filter(|block| block.language == "console") {
        if block.marker.is_some_and(|marker| marker.starts_with("not run: ")) {
            not_run += 1;
            continue;
        }
        let first = steps.len();
        for (line, text) in (block.line + 1..).zip(block.text.lines()) {
            match (text.strip_prefix("$ "), steps[first..].last_mut()) {
                (Some(command), _) => {
                    steps.push(Step { line, command: command.to_owned(), shown: String::new() });
                }
                (None, Some(step)) if step.command.ends_with('\\') && step.shown.is_empty() => {
                    step.command += "\n";
                    step.command += text;
                }
                (None, Some(step)) => {
                    step.shown += text;
                    step.shown.push('\n');
                }
                (None, None) => panic!("{}:{line}: output before a command", document.path.display()),
            }
        }
    }
    (steps, not_run)
}

impl Shell {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let programs = folder.path().join(".bin");
        std::fs::create_dir(&programs).unwrap();
        symlink(env!("CARGO_BIN_EXE_unionlink"), programs.join("unionlink")).unwrap();
        let addresses = PORTS.map(|_| free_address());
        let mut process = command(folder.path(), &addresses, "bash");
        process.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = process.spawn().unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        // Lines come through a channel, because a pipe cannot be read with a deadline.
        let (to, answers) = mpsc::channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| to.send(line)));
        Self { folder, addresses, process, input, answers, servers: Vec::new() }
    }

    fn with_ports(&self, text: &str) -> String {
        PORTS
            .iter()
            .zip(&self.addresses)
            .fold(text.to_owned(), |text, (port, address)| text.replace(port, address))
    }

    /// Starts a server in the background of the shell, and waits until it says that it is ready.
    #[expect(clippy::disallowed_methods, reason = "another process is polled, with a deadline")]
    fn start(&mut self, server: &str) {
        let [wecom, public, _] = &self.addresses;
        let (arguments, ready) = match server.strip_prefix("unionlink simulate") {
            Some(_) => (format!(" --listen {wecom} --callback http://{public}/callback/brand"), "Ctrl-C"),
            None => (String::new(), " serving "),
        };
        let log = self.folder.path().join(format!(".log{}", self.servers.len()));
        writeln!(self.input, "{server}{arguments} >{} 2>&1 </dev/null & echo $!", log.display()).unwrap();
        let pid = self.answer().parse().ok().and_then(Pid::from_raw).unwrap();
        self.servers.push(pid);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            if said.contains(ready) {
                return;
            }
            let waits = test_kill_process(pid).is_ok() && Instant::now() < deadline;
            assert!(waits, "{server}: {said}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The next line that the shell prints.
    fn answer(&mut self) -> String {
        self.answers.recv_timeout(PATIENCE).expect("the command ends")
    }

    /// Runs a command and returns what it prints, standard output first, and whether it succeeded.
    fn run(&mut self, command: &str) -> (String, bool) {
        let files = ["out", "error"].map(|name| self.folder.path().join(format!(".{name}")));
        let [out, error] = files.each_ref().map(|file| file.display().to_string());
        let command = self.with_ports(command);
        writeln!(self.input, "{{ {command}\n}} >{out} 2>{error} </dev/null; echo \"{END} $?\"").unwrap();
        let end = self.answer();
        let printed = files.map(|file| std::fs::read_to_string(file).unwrap()).concat();
        let restored = self
            .addresses
            .iter()
            .zip(PORTS)
            .fold(printed, |text, (address, port)| text.replace(address, port));
        (restored, end == format!("{END} 0"))
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        for server in &self.servers {
            let _ = kill_process(*server, Signal::KILL);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A free address. Its port is outside the ephemeral range, so that no other program takes it before a server of
/// ours does.
fn free_address() -> String {
    let ports = std::iter::repeat_with(|| rand::random_range(16_000..32_000_u16));
    let mut addresses = ports.map(|port| format!("127.0.0.1:{port}"));
    addresses.find(|address| TcpListener::bind(address).is_ok()).unwrap()
}

/// A process in the folder, with our binary first in the path and the ports of this run.
fn command(folder: &Path, [_, public, admin]: &[String; 3], program: &str) -> Command {
    let mut command = Command::new(program);
    let path = environment("PATH").unwrap();
    command
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", folder.join(".bin").display()))
        .env("UNIONLINK__SERVER__LISTEN", public)
        .env("UNIONLINK__ADMIN__LISTEN", admin)
        .env("UNIONLINK__STORE__FREE_MB_MIN", "1")
        .env("COLUMNS", "100")
        .env_remove("UNIONLINK_CONFIG");
    command
}

/// Whether `printed` is what is `shown`: `…` stands for anything, and white space does not count.
fn is_as_shown(shown: &str, printed: &str) -> bool {
    let dense = |text: &str| text.split_whitespace().collect::<String>();
    let (shown, printed) = (dense(shown), dense(printed));
    let mut parts = shown.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = printed.strip_prefix(first) else { return false };
    let parts: Vec<_> = parts.collect();
    let Some((last, between)) = parts.split_last() else { return rest.is_empty() };
    for part in between {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

fn follow(path: &str) {
    let document = Document::read(Path::new(path));
    let (steps, not_run) = steps(&document);
    assert!(!steps.is_empty(), "{path} shows no command");
    let mut shell = Shell::new();
    let is_server = |command: &str| command.starts_with("unionlink simulate") || command == "unionlink serve";
    if !steps.iter().any(|step| is_server(&step.command)) {
        shell.start("unionlink simulate --write config/unionlink.toml");
        shell.start("unionlink serve");
    }
    let mut wrong = Vec::new();
    for Step { line, command, shown } in &steps {
        if is_server(command) {
            shell.start(command);
            continue;
        }
        let (printed, succeeded) = shell.run(command);
        let as_shown =
            if shown.is_empty() { succeeded && printed.is_empty() } else { is_as_shown(shown, &printed) };
        if !as_shown {
            wrong.push(format!("{path}:{line}: $ {command}\n--- shown\n{shown}--- printed\n{printed}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    println!("{path}: {} commands run, {not_run} blocks not run", steps.len());
}

#[test]
fn the_commands_of_the_documents_run_as_written() {
    let programs = ["bash", "curl"].map(peer);
    if programs.contains(&None) {
        return;
    }
    let followed: Vec<_> = ["README.md", "README.zh-CN.md"]
        .map(PathBuf::from)
        .into_iter()
        .chain(
            ["quickstart.md", "api.md"]
                .iter()
                .flat_map(|name| ["docs", "docs/zh"].map(|folder| Path::new(folder).join(name))),
        )
        .map(|path| std::thread::spawn(move || follow(path.to_str().unwrap())))
        .collect();
    let failed: Vec<_> = followed.into_iter().filter_map(|thread| thread.join().err()).collect();
    let texts = failed.iter().map(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_default());
    assert!(failed.is_empty(), "{}", texts.collect::<Vec<_>>().join("\n\n"));
}

#[test]
fn dots_stand_for_anything_and_white_space_does_not_count() {
    assert!(is_as_shown("{\"a\": 1,\n \"b\":\"x…\"}", "{\"a\":1,\"b\":\"xyz\"}\n"));
    assert!(is_as_shown("a…b…", "abbc") && is_as_shown("", "\n"));
    for (shown, printed) in [("a", "ab"), ("a…b", "a"), ("…b", "abc"), ("a…b…c", "acb")] {
        assert!(!is_as_shown(shown, printed), "{shown} is not {printed}");
    }
}
