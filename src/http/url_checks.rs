//! The callback URLs whose last check by WeCom was refused because of its receive id, for the findings: most
//! often `corp_id` is wrong. Kept in memory, so a restart forgets them.
//!
//! Deliberately absent: the check (see [`doors`](super::doors)), and what the finding says (see
//! [`crate::domain::finding`]).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::ids::AppName;
use crate::domain::time::Timestamp;

/// The refused checks, at most one for each URL, by the name in it.
#[derive(Debug, Default)]
pub struct UrlChecks(Mutex<BTreeMap<AppName, RefusedCheck>>);

/// A URL check that was refused. It was signed, so the receive id is not a stranger's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RefusedCheck {
    /// The receive id that the check was sealed for, cut to a bounded length.
    pub(super) receive_id: String,
    /// When a check for this receive id was first refused.
    pub(super) at: Timestamp,
}

impl UrlChecks {
    /// Notes that a check of the URL was refused.
    pub(super) fn refused(&self, name: &AppName, receive_id: &str, at: Timestamp) {
        let mut checks = self.lock();
        if checks.get(name).is_none_or(|check| check.receive_id != receive_id) {
            checks.insert(name.clone(), RefusedCheck { receive_id: receive_id.to_owned(), at });
        }
    }

    /// Notes that a check of the URL was answered.
    pub(super) fn answered(&self, name: &AppName) {
        self.lock().remove(name);
    }

    /// The refused checks, by the name in the URL.
    pub(super) fn all(&self) -> BTreeMap<AppName, RefusedCheck> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AppName, RefusedCheck>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
