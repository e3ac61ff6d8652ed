//! What the platform saw, for judges: counters and a bounded log of calls.
//!
//! Deliberately absent: opinions. A test decides what too many is.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use super::api::Api;
use crate::domain::time::Timestamp;

/// Totals since the start, or since [`Simulator::reset_counters`](super::Simulator::reset_counters).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Calls per API, whatever became of them.
    pub calls: BTreeMap<Api, u64>,
    /// Ids carried per API: the length of a batch, one for a unionid conversion.
    pub ids: BTreeMap<Api, u64>,
    /// Answers per `errcode`, 0 included. Calls without a JSON answer are not here.
    pub errcodes: BTreeMap<i64, u64>,
    /// Calls that ended without a JSON answer: reset, hung up on, garbage, HTTP errors.
    pub unanswered: u64,
    /// Calls of a unionid conversion made while one of its windows was full.
    pub quota_violations: u64,
    /// Calls made while the per-minute or per-hour limit of every API was full.
    pub base_violations: u64,
    /// Calls refused because of an earlier overrun although the windows had room again.
    pub blocked_calls: u64,
    /// New access tokens per corp.
    pub tokens_issued: BTreeMap<String, u64>,
    /// The longest list of ids in one conversion call.
    pub max_batch: usize,
    /// What became of callbacks.
    pub callbacks: CallbackCounters,
}

/// What became of callbacks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CallbackCounters {
    /// HTTP requests made, retries included.
    pub attempts: u64,
    /// Callbacks that were answered with 200 in time.
    pub acknowledged: u64,
    /// Callbacks that were not, after every retry.
    pub gave_up: u64,
}

impl Counters {
    /// Calls of one API.
    #[must_use]
    pub fn calls_of(&self, api: Api) -> u64 {
        self.calls.get(&api).copied().unwrap_or_default()
    }

    /// Ids carried by calls of one API.
    #[must_use]
    pub fn ids_of(&self, api: Api) -> u64 {
        self.ids.get(&api).copied().unwrap_or_default()
    }

    /// Answers with one `errcode`.
    #[must_use]
    pub fn errcodes_of(&self, errcode: i64) -> u64 {
        self.errcodes.get(&errcode).copied().unwrap_or_default()
    }

    pub(super) fn count(&mut self, call: &Call) {
        *self.calls.entry(call.api).or_default() += 1;
        *self.ids.entry(call.api).or_default() += call.ids as u64;
        if call.api == Api::ExternalUseridToPendingId {
            self.max_batch = self.max_batch.max(call.ids);
        }
        match call.errcode {
            Some(errcode) => *self.errcodes.entry(errcode).or_default() += 1,
            None => self.unanswered += 1,
        }
    }
}

/// One call, as logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Call {
    /// The API.
    pub api: Api,
    /// When it arrived.
    pub at: Timestamp,
    /// The corp whose token, or whose secret, it used.
    pub corp_id: Option<String>,
    /// Ids it carried.
    pub ids: usize,
    /// The answer; `None` if there was no JSON answer.
    pub errcode: Option<i64>,
}

/// The last calls, oldest first.
#[derive(Debug, Default)]
pub(super) struct CallLog(VecDeque<Call>);

impl CallLog {
    pub(super) fn push(&mut self, call: Call, calls_max: usize) {
        while self.0.len() >= calls_max.max(1) {
            self.0.pop_front();
        }
        if calls_max > 0 {
            self.0.push_back(call);
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn to_vec(&self) -> Vec<Call> {
        self.0.iter().cloned().collect()
    }
}
