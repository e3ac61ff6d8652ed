//! The log that a test writes.

use std::io;
use std::sync::{Arc, LazyLock, Mutex};

use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;

use super::logs;

/// While there is a single subscriber, `tracing` asks that of the thread which reaches a line first whether the
/// line is of interest, and keeps the answer for all threads: a test without a subscriber would silence the line
/// in a test with one. So there always is another one.
static SECOND: LazyLock<tracing::Dispatch> =
    LazyLock::new(|| tracing::Dispatch::new(tracing_subscriber::registry()));

/// The log of this thread, from its beginning until it is dropped.
pub(crate) struct CapturedLog {
    text: Arc<Mutex<Vec<u8>>>,
    _guard: tracing::subscriber::DefaultGuard,
}

#[derive(Clone)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl CapturedLog {
    /// What the service would log at `trace`.
    pub(crate) fn begin() -> Self {
        Self::begin_with("trace")
    }

    /// What the service would log with this filter.
    pub(crate) fn begin_with(filter: &str) -> Self {
        LazyLock::force(&SECOND);
        let text = Arc::new(Mutex::new(Vec::new()));
        let lines = Lines(text.clone());
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(logs::parse(filter).unwrap())
            .with_writer(move || lines.clone())
            .finish()
            .with(filter_fn(logs::can_be_logged));
        Self { text, _guard: tracing::subscriber::set_default(subscriber) }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.text.lock().unwrap().clone()).unwrap()
    }
}
