//! The log lines of the audit trail.

use crate::domain::audit::AuditEntry;

/// Logs an entry of the audit trail, under the target `audit`.
pub fn log_audit(entry: &AuditEntry) {
    let AuditEntry { by, action, counts, about, .. } = entry;
    let shown = |pairs: Vec<String>| (!pairs.is_empty()).then(|| pairs.join(" "));
    let counts = shown(counts.iter().map(|(what, count)| format!("{what}={count}")).collect());
    let about = shown(about.iter().map(|(what, value)| format!("{what}={value}")).collect());
    let source = by.source.map(tracing::field::display);
    tracing::info!(target: "audit", token = by.token, source, counts, about, "audit: {}", <&str>::from(*action));
}
