//! A command's output: data to standard output, messages to standard error.

use std::io::{self, IsTerminal as _, Write};

use anyhow::Context as _;
use indicatif::HumanCount;

/// Standard output was closed by its reader (EPIPE), as `head` does. Not a failure of the command.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
pub(super) struct StdoutClosed;

/// Both streams; a value, so that tests bring their own.
pub(super) struct Output {
    data: Box<dyn Write>,
    messages: Box<dyn Write>,
    /// The width of the terminal that data goes to; none if it goes elsewhere.
    pub(super) columns: Option<usize>,
}

impl Output {
    /// The standard streams of the process.
    pub(super) fn of_process() -> Self {
        let stdout = io::stdout();
        let columns = stdout
            .is_terminal()
            .then(|| rustix::termios::tcgetwinsize(&stdout).ok())
            .flatten()
            .map(|size| usize::from(size.ws_col))
            .filter(|columns| *columns > 0);
        Self { data: Box::new(stdout), messages: Box::new(io::stderr()), columns }
    }

    #[cfg(test)]
    pub(super) fn to(data: impl Write + 'static, messages: impl Write + 'static) -> Self {
        Self { data: Box::new(data), messages: Box::new(messages), columns: None }
    }

    /// Prints a line of data.
    pub(super) fn print(&mut self, line: &str) -> anyhow::Result<()> {
        self.write(line.as_bytes())?;
        self.write(b"\n")
    }

    /// Prints an answer of the admin API as one line.
    pub(super) fn print_answer(&mut self, body: &[u8]) -> anyhow::Result<()> {
        self.write(body.trim_ascii_end())?;
        self.write(b"\n")
    }

    /// Writes data unchanged.
    pub(super) fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        written(self.data.write_all(bytes))
    }

    /// Flushes the data.
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        written(self.data.flush())
    }

    /// Prints a message.
    pub(super) fn say(&mut self, message: &str) {
        // There is nowhere left to report it if this fails.
        let _ = writeln!(self.messages, "{message}");
    }
}

/// Prints a line of data to the standard output of the process.
pub(super) fn print(line: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    written(writeln!(stdout, "{line}").and_then(|()| stdout.flush()))
}

/// Prints a message to the standard error of the process.
pub(super) fn say(message: &str) {
    let _ = writeln!(io::stderr().lock(), "{message}");
}

/// A number with its noun in the singular or plural: `1 row`, `1,200 rows`.
pub(super) fn counted(number: u64, [singular, plural]: [&str; 2]) -> String {
    format!("{} {}", HumanCount(number), if number == 1 { singular } else { plural })
}

/// The result of a write to standard output, which distinguishes a closed pipe from other errors.
fn written(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
        result => result.context("cannot write to standard output"),
    }
}
