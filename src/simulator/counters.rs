//! What the simulated platform saw, for assertions: counters, and the entries of the call log.

use std::collections::BTreeMap;

use serde::Serialize;

use super::api::Api;
use crate::domain::time::Timestamp;

/// Totals since the start or the last `Simulator::reset_counters`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Calls per API, whatever their result.
    pub calls: BTreeMap<Api, u64>,
    /// Ids per API: the length of a batch or of a list of members, one for a unionid conversion.
    pub ids: BTreeMap<Api, u64>,
    /// Answers per `errcode`, 0 included. Calls without a JSON answer are not here.
    pub errcodes: BTreeMap<i64, u64>,
    /// Calls that ended without a JSON answer: reset, left hanging, garbage, HTTP errors.
    pub unanswered: u64,
    /// Calls of a unionid conversion made while one of its quotas was used up.
    pub quota_violations: u64,
    /// Calls made while a base limit, per minute or per hour, was used up.
    pub base_violations: u64,
    /// Calls refused in the block that follows an overrun, when no limit was used up any more.
    pub blocked_calls: u64,
    /// New access tokens per corp.
    pub tokens_issued: BTreeMap<String, u64>,
    /// The longest list of ids in one conversion call.
    pub max_batch: usize,
    /// The most calls per API that one corp had in flight at the same time.
    pub max_in_flight: BTreeMap<Api, u32>,
    /// Callbacks sent.
    pub callbacks: CallbackCounters,
}

/// Callbacks sent, and their results.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CallbackCounters {
    /// HTTP requests made, retries included.
    pub attempts: u64,
    /// Callbacks answered with 200 in time.
    pub acknowledged: u64,
    /// Callbacks not answered with 200 after the last retry.
    pub gave_up: u64,
    /// Answers, or time-outs, after `AgencyOptions::acknowledge_within_ms`, retries included.
    pub late: u64,
    /// Template events answered in time with 200 and another text than `success`, retries included.
    pub not_success: u64,
    /// Events that got lost: not sent, because of `SenderOptions::lost_percent`.
    pub lost: u64,
}

impl Counters {
    /// Calls of one API.
    #[must_use]
    pub fn calls_of(&self, api: Api) -> u64 {
        self.calls.get(&api).copied().unwrap_or_default()
    }

    /// Ids in calls of one API.
    #[must_use]
    pub fn ids_of(&self, api: Api) -> u64 {
        self.ids.get(&api).copied().unwrap_or_default()
    }

    /// Answers with one `errcode`.
    #[must_use]
    pub fn errcodes_of(&self, errcode: i64) -> u64 {
        self.errcodes.get(&errcode).copied().unwrap_or_default()
    }

    /// Counts a call that is in the log.
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

/// An entry of the call log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Call {
    /// The API.
    pub api: Api,
    /// When it arrived.
    pub at: Timestamp,
    /// The corp whose token or corp id it carried; in a template's call, the corp that it asks about.
    pub corp_id: Option<String>,
    /// The template whose token or id it carried.
    pub suite_id: Option<String>,
    /// The number of ids in it: customers or people to convert, members to list.
    pub ids: usize,
    /// The group it names.
    pub chat_id: Option<String>,
    /// The answer's `errcode`; `None` without a JSON answer.
    pub errcode: Option<i64>,
}
