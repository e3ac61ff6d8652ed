//! `POST /v1/resume`: tries paused calls to WeCom now, not at the end of their wait, looks customers without
//! a pending id up again, reads the customer groups that could not be read, and goes on with comparisons that
//! failures put off.
//!
//! Deliberately absent: waits for a quota, which cannot be shortened, and sinks, which `/v1/sinks` resumes.

use std::collections::BTreeSet;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{invalid_id, optional_json};
use super::state::{AdminState, Shared, scan};
use crate::domain::ids::{AppName, CorpId};
use crate::http::problem::Problem;
use crate::store::StoreError;
use crate::worker::breaker::Scope;

/// What to resume; an empty object means everything that is paused.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Resume {
    /// Only what is paused of this app.
    #[schema(example = "brand")]
    app: Option<String>,
    /// Only the calls for this corp's customers.
    corp_id: Option<String>,
}

/// The result of resuming.
#[derive(Serialize, ToSchema)]
pub(super) struct Resumed {
    /// The number of paused things that are tried now: those listed as `paused` by `/v1/status`.
    #[schema(example = 1)]
    resumed: usize,
}

/// Try paused calls to WeCom now
///
/// For use after the cause of a pause is removed. Without this request the next try is made at `until` in
/// `/v1/status`. A try that fails makes the next wait longer. Waits for a quota (`pacing`) are not ended.
///
/// Customers without a pending id are looked up again, customer groups that could not be read are read,
/// comparisons that were put off after a failure go on, and calls that WeCom did not allow are tried again;
/// none of these is counted.
#[utoipa::path(operation_id = "resume_calls", post, path = "/v1/resume", tag = "service",
    request_body = Option<Resume>,
    responses(
        (status = 200, body = Resumed, description = "How much was resumed"),
        (status = 404, response = super::openapi::NotFound),
        (status = 408, response = super::openapi::TooSlow),
        (status = 413, response = super::openapi::TooLarge),
        super::openapi::Errors,
    ))]
pub(super) async fn resume(State(state): Shared, body: Body) -> Result<Json<Resumed>, Problem> {
    let Resume { app, corp_id } = optional_json(body).await?;
    let app = app.map(|app| state.app(Some(&app))).transpose().map_err(|error| {
        Problem::not_found(error).hint("use the name of an [[apps]] section of the configuration")
    })?;
    let corp_id = corp_id.map(CorpId::new).transpose().map_err(invalid_id("corp_id"))?;
    let heavy = state.heavy.clone();
    let resumed = scan(&heavy, async move { state.resume(app, corp_id).await }).await??;
    Ok(Json(Resumed { resumed }))
}

impl AdminState {
    /// Makes the next probe of each paused scope due now, and the work that waits for it.
    /// Returns the number of paused things.
    async fn resume(&self, app: Option<AppName>, corp_id: Option<CorpId>) -> Result<usize, StoreError> {
        let concerns = |scope: &Scope| {
            app.as_ref().is_none_or(|app| scope.app() == app)
                && corp_id.as_ref().is_none_or(|wanted| {
                    scope.corp_id().is_some_and(|corp_id| corp_id.same_corp(wanted.as_str()))
                })
        };
        let corps = self.corps(app.as_ref(), corp_id.as_ref()).await?;
        let now = self.clock.now();
        self.directory.forget_failures(app.as_ref());
        self.optional_calls.forget(app.as_ref(), corp_id.as_ref());
        let probes = self.breakers.resume(concerns, now);
        let resumed = probes.len();
        tracing::info!(resumed, "an operator resumed paused calls to WeCom");
        // Several scopes may have had the same probe.
        let deferred_until: BTreeSet<_> = probes.into_iter().filter(|due_at| now < *due_at).collect();
        let mut brought_forward = Ok(());
        for due_at in deferred_until {
            let moved = self.store.bring_forward(due_at, self.clock.now()).await;
            brought_forward = brought_forward.and(moved.map(|_| ()));
        }
        // Also after an error: the work that was not brought forward is due at its own time.
        for (app, corp_id) in &corps {
            self.wake.comparison_resumed(app, corp_id);
        }
        self.wake.calls_resumed();
        brought_forward?;
        self.look_up_again(corps).await?;
        Ok(resumed)
    }

    /// The dealers that have not left and the brands' own corps, of one app or of all, or the one with this
    /// id.
    async fn corps(
        &self,
        app: Option<&AppName>,
        corp_id: Option<&CorpId>,
    ) -> Result<Vec<(AppName, CorpId)>, StoreError> {
        let mut concerned = Vec::new();
        for (app, rules) in self.apps.all().iter().filter(|(name, _)| app.is_none_or(|app| app == *name)) {
            let dealers = self.store.dealers(app).await?.into_iter();
            let dealers = dealers.filter(|dealer| dealer.left_at.is_none()).map(|dealer| dealer.corp_id);
            let corps = dealers.chain(rules.corp_id.clone());
            let corps = corps.filter(|corp| corp_id.is_none_or(|wanted| wanted.same_corp(corp.as_str())));
            concerned.extend(corps.map(|corp| (app.clone(), corp)));
        }
        Ok(concerned)
    }

    /// Makes the lookups of customers without a pending id due now, and the readings of groups that were put
    /// off: an operator may have made them visible to the app.
    async fn look_up_again(&self, corps: Vec<(AppName, CorpId)>) -> Result<(), StoreError> {
        let (mut lookups, mut groups) = (0, 0);
        for (app, corp_id) in corps {
            lookups += self.store.look_up_again(&app, &corp_id, true, self.clock.now()).await?;
            groups += self.store.read_chats_again(&app, &corp_id, self.clock.now()).await?;
        }
        if lookups > 0 {
            tracing::info!(lookups, "customers without a pending id are looked up again");
            self.wake.inbox.notify_one();
        }
        if groups > 0 {
            tracing::info!(groups, "customer groups that could not be read are read now");
            self.wake.groups.notify_one();
        }
        Ok(())
    }
}
