//! Which events a command applies to: an id, or filters.

use strum::VariantNames as _;

use crate::domain::event::QuarantineReason;
use crate::domain::ids::{AppName, CorpId};
use crate::store::EventId;

/// Conditions that an event must meet, all of them.
#[derive(Debug, clap::Args)]
pub(super) struct Filters {
    /// Only events of this app
    #[arg(long, value_name = "NAME", value_parser = |name: &str| AppName::new(name))]
    pub(super) app: Option<AppName>,
    /// Only events of this dealer; excludes quarantined messages
    #[arg(long, value_name = "ID", value_parser = |id: &str| CorpId::new(id))]
    pub(super) corp_id: Option<CorpId>,
    /// Only events with this error code from WeCom; excludes quarantined messages
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(super) errcode: Option<i64>,
    // Not a doc comment, because the reasons are those of the enum.
    #[arg(long, value_name = "REASON", help = reason_help())]
    pub(super) reason: Option<String>,
}

fn reason_help() -> String {
    let [others @ .., last] = QuarantineReason::VARIANTS else { return String::new() };
    format!("Only events with this reason; quarantined messages have {} or {last}", others.join(", "))
}

/// Parses the id of an event.
pub(super) fn event_id(text: &str) -> Result<EventId, String> {
    text.parse().map_err(|_| "an event id looks like evt_42".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Args as _;

    use super::*;

    #[test]
    fn the_help_names_every_reason_for_a_quarantine() {
        let help = Filters::augment_args(clap::Command::new("list")).render_long_help().to_string();
        let words: Vec<_> = help.split_whitespace().map(|word| word.trim_end_matches(',')).collect();
        assert!(QuarantineReason::VARIANTS.iter().all(|reason| words.contains(reason)), "{help}");
    }
}
