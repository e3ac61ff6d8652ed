//! The findings about the service itself: its store, its calls to WeCom, its callbacks and its sinks.

mod callbacks;
mod calls;
mod host;
mod sinks;
mod store;

pub use self::callbacks::certificate_finding;
use self::callbacks::{certificate, receive_ids, seen};
use self::calls::{of_app, reachable};
use self::host::of_host;
pub use self::host::{BackupFacts, ConfigDifference, DiskFacts, Filesystem, HostFacts};
use self::sinks::of_sink;
use self::store::{damaged, log, ready};
use super::shape::Finding;
use crate::domain::history::UrlMarks;
use crate::domain::ids::{AppName, CorpId, SinkName};
use crate::domain::text::Text;
use crate::domain::time::Timestamp;

/// What the service knows of itself.
#[derive(Debug, Clone, Default)]
pub struct ServiceFacts<'a> {
    /// Why a callback could not be made durable now.
    pub not_ready: Option<String>,
    /// Records that cannot be read.
    pub damaged_records: u64,
    /// Whether the store has a log of its own, and if so why its last checkpoint failed.
    pub checkpoints: Option<Option<String>>,
    /// What a reload would change; `None` if there is no file to compare with.
    pub config: Option<Option<ConfigDifference>>,
    /// What the machine gives.
    pub host: Option<HostFacts>,
    /// The disk of an embedded store.
    pub disk: Option<DiskFacts>,
    /// The host of the callback URLs, and for how many days its certificate is valid; `None` while that is not known.
    pub certificate: Option<(String, i64)>,
    /// By how many milliseconds our clock is ahead of WeCom's; `None` if that is not known.
    pub skew_ms: Option<i64>,
    /// Calls to WeCom since the start.
    pub calls: u64,
    /// Why the last of them had no answer, and how many in a row had none.
    pub unanswered: Option<(String, u64)>,
    /// The apps that are served.
    pub apps: Vec<ServedApp<'a>>,
    /// Callbacks and URL checks since the start that were genuine, and that were refused.
    pub accepted: u64,
    /// See above.
    pub refused: u64,
    /// What was seen last at each callback URL.
    pub urls: Vec<(AppName, UrlMarks)>,
    /// Quarantined messages whose receive id is not accepted: how many there are at least for each URL and id.
    /// `None` if they were not looked at.
    pub unaccepted: Option<Vec<(AppName, String, usize)>>,
    /// The sinks.
    pub sinks: Vec<SinkFacts>,
    /// How long entries of the feed are kept, in seconds.
    pub feed_kept_secs: i64,
}

/// An app that is served.
#[derive(Debug, Clone)]
pub struct ServedApp<'a> {
    /// The app.
    pub app: &'a AppName,
    /// Whether it is an agency-developed app. What WeCom refuses of those is a finding about their suite.
    pub is_agency: bool,
    /// Whether the brand is known; that of an agency-developed app has to authorise it.
    pub has_brand: bool,
    /// The calls that are held back after failures.
    pub held_back: Vec<HeldBackCalls>,
    /// Its dealers that WeCom lists.
    pub dealers: Vec<ServedDealer<'a>>,
    /// Whether WeCom's list of them was read since the start.
    pub list_read: bool,
    /// How many dealers WeCom has ceased to list within the last day.
    pub left_lately: usize,
    /// The APIs whose quota is used up, each with when WeCom is asked again.
    pub used_up: Vec<(&'static str, Timestamp)>,
}

/// Calls that are held back after failures.
#[derive(Debug, Clone)]
pub struct HeldBackCalls {
    /// The corp whose customers they are about, if they are about one corp, and its name.
    pub corp: Option<(CorpId, Option<String>)>,
    /// WeCom's code; `None` if it gave none.
    pub errcode: Option<i64>,
    /// Whether the code means that somebody has to correct a setting.
    pub is_setting: bool,
    /// The last failure.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// What to do about the code.
    pub remedy: Option<Text>,
}

/// A dealer that WeCom lists.
#[derive(Debug, Clone, Copy)]
pub struct ServedDealer<'a> {
    /// Its id.
    pub corp_id: &'a CorpId,
    /// Its name.
    pub name: &'a str,
    /// Since when it is silent.
    pub silent_since: Option<Timestamp>,
}

/// A sink.
#[derive(Debug, Clone)]
pub struct SinkFacts {
    /// Its name.
    pub name: SinkName,
    /// Why its last delivery failed, and since when all of them have.
    pub failing: Option<(String, Option<Timestamp>)>,
    /// Whether it takes no more deliveries until an operator acts.
    pub is_disabled: bool,
    /// Entries that are to be delivered, and the age of the oldest in seconds.
    pub lag: (u64, i64),
}

/// How the service is, as of `now`.
#[must_use]
pub fn service_findings(facts: &ServiceFacts<'_>, now: Timestamp) -> Vec<Finding> {
    let mut findings = vec![ready(facts), damaged(facts)];
    findings.extend(log(facts));
    findings.extend(of_host(facts, now));
    let reachable = reachable(facts);
    let is_reachable = !reachable.is_trouble();
    findings.push(reachable);
    for app in &facts.apps {
        findings.extend(of_app(app, facts, is_reachable));
    }
    for (name, marks) in &facts.urls {
        findings.push(seen(name, marks, facts));
    }
    findings.extend(certificate(facts));
    findings.push(receive_ids(facts));
    for sink in &facts.sinks {
        findings.extend(of_sink(sink, facts.feed_kept_secs));
    }
    findings
}

#[cfg(test)]
mod tests;
