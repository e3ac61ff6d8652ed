//! `POST /v1/resume`: what is paused of an app, of a suite, or of all of them, goes on now and not at the end
//! of its wait.
//!
//! Deliberately absent: how it is resumed (see [`crate::worker::resume`]), waits for a quota, which cannot be
//! shortened, and sinks, which `/v1/sinks` resumes.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::audit::By;
use super::extract::{invalid_id, optional_json};
use super::state::{AdminState, Shared, scan};
use crate::domain::audit::AuditAction;
use crate::domain::ids::{AppName, CorpId};
use crate::http::problem::Problem;
use crate::store::StoreError;
use crate::worker::resume::{Lookups, Paused, Resumed, Resumer, is_of};

/// What to resume; an empty object means everything that is paused.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Resume {
    /// Only what is paused of this app, or of this suite.
    #[schema(example = "brand")]
    app: Option<String>,
    /// Only the calls for this corp's customers.
    corp_id: Option<String>,
}

/// The result of resuming.
#[derive(Serialize, ToSchema)]
#[schema(as = Resumed)]
pub(super) struct Answer {
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
///
/// For a suite, a ticket that WeCom refused is tried again, and corps whose app could not be read are read.
/// If the suite is named, auth codes that could not be exchanged are forgotten as well.
#[utoipa::path(operation_id = "resume_calls", post, path = "/v1/resume", tag = "service",
    request_body = Option<Resume>,
    responses(
        (status = 200, body = Answer, description = "How much was resumed"),
        (status = 404, response = super::openapi::NotFound),
        (status = 408, response = super::openapi::TooSlow),
        (status = 413, response = super::openapi::TooLarge),
        super::openapi::Errors,
    ))]
pub(super) async fn resume(State(state): Shared, by: By, body: Body) -> Result<Json<Answer>, Problem> {
    let Resume { app, corp_id } = optional_json(body).await?;
    let corp_id = corp_id.map(CorpId::new).transpose().map_err(invalid_id("corp_id"))?;
    let scans = state.permits.scans.clone();
    let entry = by
        .did(AuditAction::Resume, &state)
        .about_some("app", app.clone())
        .about_some("corp_id", corp_id.clone());
    let for_audit = state.clone();
    let suite = app.as_ref().and_then(|name| AppName::new(name).ok());
    let resumed = match suite.filter(|name| state.apps.suite(name).is_some()) {
        Some(_) if corp_id.is_some() => {
            return Err(Problem::bad_request("corp_id goes with an app, not with a suite"));
        }
        Some(suite) => scan(&scans, async move { state.resume_suite(&suite).await }).await??,
        None => {
            let app = app.map(|app| state.app(Some(&app))).transpose().map_err(|error| {
                let hint = "use the name of an [[apps]] or [[suites]] section of the configuration";
                Problem::not_found(error).hint(hint)
            })?;
            scan(&scans, async move { state.resume(app, corp_id).await }).await??
        }
    };
    for_audit.record(entry.count("resumed", resumed as u64)).await?;
    Ok(Json(Answer { resumed }))
}

impl AdminState {
    /// Resumes what is paused of an app, or of all apps and suites. Returns the number of paused things.
    async fn resume(&self, app: Option<AppName>, corp_id: Option<CorpId>) -> Result<usize, StoreError> {
        let corps = self.corps(app.as_ref(), corp_id.as_ref()).await?;
        self.optional_calls.forget(app.as_ref(), corp_id.as_ref());
        self.directory.forget_refused_codes(app.as_ref());
        let paused = Paused { app: app.as_ref(), corps: &corps, lookups: Lookups::All };
        let resumed = self.resumer().run(paused, is_of(app.as_ref(), corp_id.as_ref())).await;
        let elsewhere = self.paused_elsewhere(app.as_ref(), corp_id.as_ref()).await;
        self.wake.tell_resumed(app.as_ref(), corp_id.as_ref());
        if app.is_none() && corp_id.is_none() {
            for suite in self.apps.suites().keys() {
                self.wake.suite_resumed(suite);
            }
        }
        if let Ok(Resumed { breakers, lookups, groups, .. }) = resumed {
            tracing::info!(resumed = breakers, lookups, groups, "an operator resumed paused calls to WeCom");
        }
        Ok(resumed?.breakers + elsewhere)
    }

    /// Resumes a suite. Returns the number of paused things.
    async fn resume_suite(&self, suite: &AppName) -> Result<usize, StoreError> {
        let Resumed { breakers, exchanges, .. } = self.resumer().run_suite(suite).await?;
        let elsewhere = self.paused_elsewhere(Some(suite), None).await;
        self.wake.tell_resumed(Some(suite), None);
        tracing::info!(%suite, resumed = breakers, exchanges, "an operator resumed a suite");
        Ok(breakers + elsewhere)
    }

    /// How much of this the other replicas hold back, as far as they have published it.
    async fn paused_elsewhere(&self, app: Option<&AppName>, corp_id: Option<&CorpId>) -> usize {
        self.replicas().await.paused_of(app, corp_id)
    }

    fn resumer(&self) -> Resumer<'_> {
        let Self { store, breakers, directory, wake, .. } = self;
        Resumer { store: &**store, breakers, directory, wake, now: self.clock.now() }
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
}
