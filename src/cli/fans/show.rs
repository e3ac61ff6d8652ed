//! What a person sees of an import: a bar on a terminal, plain lines elsewhere, a summary at the end.

use std::fmt::Write as _;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::progress::Counts;

/// How often a plain line is printed.
const LINE_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Show {
    bar: Option<ProgressBar>,
    started: Instant,
    /// Bytes of the source; not known of a stream.
    total_bytes: Option<u64>,
    /// Rows that earlier runs dealt with.
    rows_before: u64,
    /// Where the bytes of this run begin: as many as were read when something was first done.
    bytes_before: OnceLock<u64>,
    last_line: Mutex<Instant>,
}

impl Show {
    pub(super) fn new(terminal: bool, total_bytes: Option<u64>, rows_before: u64) -> Self {
        let started = Instant::now();
        let bar = terminal.then(|| {
            let bar = ProgressBar::with_draw_target(total_bytes, ProgressDrawTarget::stderr());
            let template = if total_bytes.is_some() { "{wide_bar} {msg}" } else { "{spinner} {msg}" };
            // The templates above are right; without one the bar is plainer, that is all.
            bar.with_style(
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
            )
        });
        let last_line = Mutex::new(started);
        Self { bar, started, total_bytes, rows_before, bytes_before: OnceLock::new(), last_line }
    }

    /// Says something beside the progress.
    pub(super) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| crate::cli::say(line)),
            None => crate::cli::say(line),
        }
    }

    /// Shows how far it is.
    pub(super) fn advance(&self, counts: &Counts, read_bytes: u64) {
        self.bytes_before.get_or_init(|| if self.rows_before == 0 { 0 } else { read_bytes });
        if let Some(bar) = &self.bar {
            bar.set_message(self.line(counts, read_bytes, self.started.elapsed()));
            bar.set_position(read_bytes);
            return;
        }
        let mut last_line = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
        if last_line.elapsed() >= LINE_EVERY {
            *last_line = Instant::now();
            crate::cli::say(&self.line(counts, read_bytes, self.started.elapsed()));
        }
    }

    /// `120,000 rows · 23,400/s · 41 % · about 12 s left`
    pub(super) fn line(&self, counts: &Counts, read_bytes: u64, elapsed: Duration) -> String {
        let millis = elapsed.as_millis().max(1);
        let per_second = u128::from(counts.rows.saturating_sub(self.rows_before)) * 1_000 / millis;
        let mut line = format!("{} rows · {}/s", grouped(counts.rows.into()), grouped(per_second));
        // Writing to a String does not fail.
        if let Some(total) = self.total_bytes {
            let read = read_bytes.min(total);
            let _ = write!(line, " · {} %", u128::from(read) * 100 / u128::from(total.max(1)));
            let before = self.bytes_before.get().copied().unwrap_or_default();
            let done = u128::from(read.saturating_sub(before));
            if let Some(left_ms) = (u128::from(total - read) * millis).checked_div(done) {
                let _ = write!(line, " · about {} left", spoken(left_ms / 1_000));
            }
        }
        line
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

/// `1,234,567`
pub(super) fn grouped(number: u128) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn spoken(seconds: u128) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
    }
}
