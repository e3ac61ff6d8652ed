//! What a person sees of rows on their way: a bar on a terminal, plain lines elsewhere.

use std::fmt::Write as _;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a plain line is printed.
const LINE_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Show {
    bar: Option<ProgressBar>,
    started: Instant,
    /// How much there is to do, in bytes or rows; not always known.
    total: Option<u64>,
    /// Rows that earlier runs dealt with.
    rows_before: u64,
    /// Where this run begins: as much as was done when it was first heard of.
    done_before: OnceLock<u64>,
    last_line: Mutex<Instant>,
}

impl Show {
    pub(super) fn new(terminal: bool, total: Option<u64>, rows_before: u64) -> Self {
        let started = Instant::now();
        let bar = terminal.then(|| {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
            let template = if total.is_some() { "{wide_bar} {msg}" } else { "{spinner} {msg}" };
            // The templates above are right; without one the bar is plainer, that is all.
            bar.with_style(
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
            )
        });
        let last_line = Mutex::new(started);
        Self { bar, started, total, rows_before, done_before: OnceLock::new(), last_line }
    }

    /// Says something beside the progress.
    pub(super) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| super::say(line)),
            None => super::say(line),
        }
    }

    /// Shows how far it is.
    pub(super) fn advance(&self, rows: u64, done: u64) {
        self.done_before.get_or_init(|| if self.rows_before == 0 { 0 } else { done });
        if let Some(bar) = &self.bar {
            bar.set_message(self.line(rows, done, self.started.elapsed()));
            bar.set_position(done);
            return;
        }
        let mut last_line = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
        if last_line.elapsed() >= LINE_EVERY {
            *last_line = Instant::now();
            super::say(&self.line(rows, done, self.started.elapsed()));
        }
    }

    /// `120,000 rows · 23,400/s · 41 % · about 12 s left`
    pub(super) fn line(&self, rows: u64, done: u64, elapsed: Duration) -> String {
        let millis = elapsed.as_millis().max(1);
        let per_second = u128::from(rows.saturating_sub(self.rows_before)) * 1_000 / millis;
        let mut line = format!("{} rows · {}/s", grouped(rows.into()), grouped(per_second));
        // Writing to a String does not fail.
        if let Some(total) = self.total {
            let now = done.min(total);
            let _ = write!(line, " · {} %", u128::from(now) * 100 / u128::from(total.max(1)));
            let before = self.done_before.get().copied().unwrap_or_default();
            let here = u128::from(now.saturating_sub(before));
            if let Some(left_ms) = (u128::from(total - now) * millis).checked_div(here) {
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
