//! Where a command's words go: data to standard output, talk to standard error.

use std::io::{self, IsTerminal as _, Write};

use anyhow::Context as _;

/// Whoever reads standard output has read enough, as `head` does, which is no failure.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads standard output any more")]
pub(super) struct ReadEnough;

/// Both places; tests bring their own.
pub(super) struct Output {
    data: Box<dyn Write>,
    talk: Box<dyn Write>,
    /// How wide data may be, where a person looks at it.
    pub(super) columns: Option<usize>,
}

impl Output {
    pub(super) fn of_process() -> Self {
        let stdout = io::stdout();
        let columns = stdout
            .is_terminal()
            .then(|| rustix::termios::tcgetwinsize(&stdout).ok())
            .flatten()
            .map(|size| usize::from(size.ws_col))
            .filter(|columns| *columns > 0);
        Self { data: Box::new(stdout), talk: Box::new(io::stderr()), columns }
    }

    #[cfg(test)]
    pub(super) fn to(data: impl Write + 'static, talk: impl Write + 'static) -> Self {
        Self { data: Box::new(data), talk: Box::new(talk), columns: None }
    }

    /// Prints a line of data.
    pub(super) fn print(&mut self, line: &str) -> anyhow::Result<()> {
        self.write(line.as_bytes())?;
        self.write(b"\n")
    }

    /// Prints what the admin API answered, as one line.
    pub(super) fn print_answer(&mut self, body: &[u8]) -> anyhow::Result<()> {
        self.write(body.trim_ascii_end())?;
        self.write(b"\n")
    }

    /// Writes data as it is.
    pub(super) fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        written(self.data.write_all(bytes))
    }

    /// What was written is seen.
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        written(self.data.flush())
    }

    /// Says a line.
    pub(super) fn say(&mut self, line: &str) {
        // There is nowhere left to complain to if this fails.
        let _ = writeln!(self.talk, "{line}");
    }
}

/// What became of writing to standard output.
pub(super) fn written(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ReadEnough.into()),
        result => result.context("cannot write to standard output"),
    }
}
