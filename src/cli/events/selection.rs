//! Which events a command applies to: an id, or filters.

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
    // A doc comment would have to put the reasons in backticks, which a terminal shows.
    #[arg(
        long,
        value_name = "REASON",
        help = "Only events with this reason; quarantined messages have receive_id, not_understood, far_off \
                or unrouted"
    )]
    pub(super) reason: Option<String>,
}

/// Parses the id of an event.
pub(super) fn event_id(text: &str) -> Result<EventId, String> {
    text.parse().map_err(|_| "an event id looks like evt_42".to_owned())
}
