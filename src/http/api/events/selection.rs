//! Which dead letters and quarantined messages a request is for: those that match a filter.

use std::sync::Arc;

use serde::Deserialize;
use utoipa::ToSchema;

use super::super::state::{AdminState, scan};
use super::row::{Row, RowContent, row};
use crate::domain::audit::AuditEntry;
use crate::http::problem::Problem;
use crate::store::{EventId, EventState};

/// Events on a page.
pub(super) const EVENTS_MAX: usize = 1_000;
/// Events of one batch; they are handled concurrently, so that the store can commit them together.
const BATCH_EVENTS: usize = 64;

/// The conditions on a row; all have to hold.
#[derive(Clone, Default)]
pub(super) struct Filter {
    pub(super) app: Option<String>,
    pub(super) corp_id: Option<String>,
    pub(super) errcode: Option<i64>,
    pub(super) reason: Option<String>,
}

impl Filter {
    pub(super) const fn is_empty(&self) -> bool {
        let Self { app, corp_id, errcode, reason } = self;
        app.is_none() && corp_id.is_none() && errcode.is_none() && reason.is_none()
    }

    /// Adds the filter to an entry of the audit trail; of what may be any text, only what is certain to be no
    /// personal id.
    pub(super) fn shown(&self, only: Option<SetAside>, entry: AuditEntry, state: &AdminState) -> AuditEntry {
        let is_corp = |id: &&String| ["ww", "wx", "wp"].iter().any(|prefix| id.starts_with(prefix));
        let is_app = |name: &&String| state.app(Some(name)).is_ok();
        let only = only.map(|only| if only == SetAside::Dead { "dead" } else { "quarantined" });
        entry
            .about_some("state", only)
            .about_some("app", self.app.as_ref().filter(is_app))
            .about_some("corp_id", self.corp_id.as_ref().filter(is_corp))
            .about_some("errcode", self.errcode)
            .about_some("reason", self.reason.as_ref().map(|_| "given"))
    }

    pub(super) fn matches(&self, row: &Row) -> bool {
        let (corp, code, reasons) = match &row.content {
            RowContent::Event { corp_id, errcode, reason, .. } => {
                (Some(corp_id), *errcode, [reason.as_deref(), None])
            }
            RowContent::Message { reason, detail, .. } => (None, None, [Some(*reason), detail.as_deref()]),
        };
        let has_reason =
            |text: &String| reasons.iter().flatten().any(|reason| reason.contains(text.as_str()));
        self.app.as_ref().is_none_or(|app| *app == row.app)
            && self.corp_id.as_ref().is_none_or(|corp_id| Some(corp_id) == corp)
            && self.errcode.is_none_or(|errcode| Some(errcode) == code)
            && self.reason.as_ref().is_none_or(has_reason)
    }
}

/// Dead letters or quarantined messages, and the `after` of the next page.
type SetAsidePage = (Vec<(EventId, Row)>, Option<EventId>);

/// The next dead letters or quarantined messages that match. With a filter it may take reading all of them to
/// find one, so it is a scan.
pub(super) async fn find_set_aside(
    state: &Arc<AdminState>,
    event_state: EventState,
    filter: &Filter,
    after: EventId,
    limit: usize,
) -> Result<SetAsidePage, Problem> {
    if filter.is_empty() {
        return state.set_aside(event_state, filter, after, limit).await;
    }
    let (owner, filter) = (state.clone(), filter.clone());
    scan(&state.permits.scans, async move { owner.set_aside(event_state, &filter, after, limit).await })
        .await?
}

impl AdminState {
    /// The next dead letters or quarantined messages that match.
    async fn set_aside(
        &self,
        state: EventState,
        filter: &Filter,
        mut after: EventId,
        limit: usize,
    ) -> Result<SetAsidePage, Problem> {
        let now = self.clock.now();
        let mut found = Vec::new();
        loop {
            let rows = self.store.events(state, after, EVENTS_MAX).await?;
            let is_last = rows.len() < EVENTS_MAX;
            for event in rows {
                after = event.id();
                let row = row(self, event, state, now);
                if filter.matches(&row) {
                    found.push((after, row));
                }
                if found.len() == limit {
                    return Ok((found, Some(after)));
                }
            }
            if is_last {
                return Ok((found, None));
            }
            tokio::task::yield_now().await;
        }
    }
}

/// The state of a dead letter or quarantined message.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum SetAside {
    Dead,
    Quarantined,
}

/// The dead letters and quarantined messages that match a filter.
pub(super) struct Batches {
    filter: Filter,
    /// The states that are left to read; the last one is being read,
    left: Vec<EventState>,
    /// from this event on.
    after: EventId,
}

impl Batches {
    /// Those in the state `only`; without it, in either.
    pub(super) fn new(only: Option<SetAside>, filter: Filter) -> Self {
        let left = match only {
            Some(SetAside::Dead) => vec![EventState::Dead],
            Some(SetAside::Quarantined) => vec![EventState::Quarantined],
            None => vec![EventState::Quarantined, EventState::Dead],
        };
        Self { filter, left, after: EventId(0) }
    }

    /// The next batch, which may be empty; `None` after the last one.
    pub(super) async fn next(&mut self, state: &Arc<AdminState>) -> Result<Option<Vec<EventId>>, Problem> {
        let Some(&current) = self.left.last() else { return Ok(None) };
        let (rows, next) = find_set_aside(state, current, &self.filter, self.after, BATCH_EVENTS).await?;
        if next.is_none() {
            self.left.pop();
        }
        self.after = next.unwrap_or(EventId(0));
        Ok(Some(rows.into_iter().map(|(id, _)| id).collect()))
    }
}
