//! Findings: how the service is and what is around it, what that means, and what to do, in English and Chinese. Those about
//! the service itself say of each thing that is looked at how it is; those about suites (代开发应用模版) and callback URLs
//! are there only while something is wrong. Pure functions of [`ServiceFacts`], [`SuiteFacts`] and [`UrlCheckFacts`].
//!
//! Deliberately absent: collecting the facts, which is the task of the admin API; the remedies of WeCom's
//! codes, which are part of the facts.

use super::time::Timestamp;

mod apps;
mod calls;
mod code;
mod codes;
mod corps;
mod facts;
mod service;
mod shape;
mod url_checks;

pub use code::FindingCode;
pub use facts::{AppFacts, AuthorizationFacts, Refusal, SuiteFacts, TicketFacts};
pub use service::{
    BackupFacts, ConfigDifference, DiskFacts, Filesystem, HeldBackCalls, HostFacts, ServedApp, ServedDealer,
    ServiceFacts, SinkFacts, certificate_finding, service_findings,
};
pub use shape::{Finding, FindingState, FindingView, Raw, Subject, Todo, Verdict};
pub use url_checks::{CheckedUrl, UrlCheckFacts, url_check_findings};

/// What is wrong with a suite and its apps as of `now`.
#[must_use]
pub fn suite_findings(facts: &SuiteFacts<'_>, now: Timestamp) -> Vec<Finding> {
    let mut findings: Vec<_> = calls::ticket(facts, now).into_iter().collect();
    findings.extend(calls::refusals(facts));
    findings.extend(codes::ended_exchanges(facts));
    findings.extend(apps::unserved(facts));
    findings.extend(corps::corps(facts, now));
    findings
}

#[cfg(test)]
mod tests;
