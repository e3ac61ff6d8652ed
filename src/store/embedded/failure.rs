//! The error that ended a store. The first one is final: what the disk holds is known only after a restart
//! (Linux reports a failed sync once; repeating it would succeed, and lie).

use tokio::sync::watch;

/// Whether, and why, a store has failed. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Failure(watch::Sender<Option<String>>);

impl Default for Failure {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Failure {
    /// Records the reason, unless there is one already.
    pub(crate) fn fail(&self, reason: &str) {
        self.0.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                tracing::error!(reason, "the store has failed; nothing is acknowledged any more");
                *known = Some(reason.to_owned());
            }
            first
        });
    }

    /// Why nothing is written any more.
    pub(crate) fn reason(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    /// Whether it has failed.
    pub(crate) fn is_final(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// To wait for the reason.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<String>> {
        self.0.subscribe()
    }
}
