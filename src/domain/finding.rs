//! Findings: what is wrong with the service or around it, what that means, and what to do, in English and
//! Chinese. So far those about suites (代开发应用模版) and their apps, and about callback URLs. Pure functions of
//! [`SuiteFacts`] and [`UrlCheckFacts`].
//!
//! Deliberately absent: collecting the facts, which is the task of the admin API; the remedies of WeCom's
//! codes, which are part of the facts.

use super::time::Timestamp;

mod apps;
mod calls;
mod codes;
mod corps;
mod facts;
mod shape;
mod url_checks;

pub use facts::{AppFacts, AuthorizationFacts, Refusal, SuiteFacts, TicketFacts};
pub use shape::{Finding, FindingCode, FindingState, Subject, Todo};
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
