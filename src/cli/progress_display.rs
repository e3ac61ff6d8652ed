//! The progress of a transfer on standard error: a bar on a terminal, elsewhere a line every few seconds.

use std::fmt::Write as _;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output;

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The progress of one transfer.
pub(super) struct ProgressDisplay {
    /// Hidden where there is no terminal. Its length is the total, in bytes or rows, if that is known.
    bar: ProgressBar,
    /// Rows that earlier runs of the transfer processed.
    rows_before: u64,
    /// What earlier runs did, in the unit of the length: the value at the first report of this run.
    done_before: OnceLock<u64>,
    last_line: Mutex<Instant>,
}

impl ProgressDisplay {
    pub(super) fn new(terminal: bool, total: Option<u64>, rows_before: u64) -> Self {
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let template = if total.is_some() { "{wide_bar} {msg}" } else { "{spinner} {msg}" };
        // The templates above are valid; with an invalid one the bar would only be plainer.
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(total, target).with_style(style);
        Self { bar, rows_before, done_before: OnceLock::new(), last_line: Mutex::new(Instant::now()) }
    }

    /// Prints a message above the progress.
    pub(super) fn say(&self, line: &str) {
        self.bar.suspend(|| output::say(line));
    }

    /// Reports the rows done so far, and `done` in the unit of the total.
    pub(super) fn advance(&self, rows: u64, done: u64) {
        self.done_before.get_or_init(|| if self.rows_before == 0 { 0 } else { done });
        self.show(done, || self.line(rows, done, self.elapsed()));
    }

    /// Reports that `done` of `total` is done, with the text `what`; the total may have changed.
    pub(super) fn advance_to(&self, done: u64, total: u64, what: &str) {
        self.done_before.get_or_init(|| done);
        self.bar.set_length(total);
        self.show(done, || self.with_time_left(what.to_owned(), done, self.elapsed()));
    }

    fn show(&self, done: u64, line: impl FnOnce() -> String) {
        if !self.bar.is_hidden() {
            self.bar.set_message(line());
            self.bar.set_position(done);
            return;
        }
        let mut last_line = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
        if last_line.elapsed() >= LINE_EVERY {
            *last_line = Instant::now();
            output::say(&line());
        }
    }

    /// `120,000 rows · 23,400/s · 41 % · about 12 seconds left`
    ///
    /// indicatif's own rate and estimate are in the unit of the total and include earlier runs.
    pub(super) fn line(&self, rows: u64, done: u64, elapsed: Duration) -> String {
        let millis = elapsed.as_millis().max(1);
        let count = |number: u128| HumanCount(u64::try_from(number).unwrap_or(u64::MAX));
        let per_second = u128::from(rows.saturating_sub(self.rows_before)) * 1_000 / millis;
        let mut line = format!("{} · {}/s", output::counted(rows, ["row", "rows"]), count(per_second));
        let Some(total) = self.bar.length() else { return line };
        // Writing to a String does not fail.
        let _ = write!(line, " · {} %", u128::from(done.min(total)) * 100 / u128::from(total.max(1)));
        self.with_time_left(line, done, elapsed)
    }

    /// `line` with the time left behind it, at the rate of this run, once there is one.
    pub(super) fn with_time_left(&self, mut line: String, done: u64, elapsed: Duration) -> String {
        let Some(total) = self.bar.length() else { return line };
        let (now, millis) = (done.min(total), elapsed.as_millis().max(1));
        let here = now.saturating_sub(self.done_before.get().copied().unwrap_or_default());
        if let Some(left_ms) = (u128::from(total - now) * millis).checked_div(here.into()) {
            let left = Duration::from_millis(u64::try_from(left_ms).unwrap_or(u64::MAX));
            // Writing to a String does not fail.
            let _ = write!(line, " · about {} left", HumanDuration(left));
        }
        line
    }

    /// Removes the bar.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.bar.elapsed()
    }
}
