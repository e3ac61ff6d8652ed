//! `/v1/reconcile`: begins a comparison of the dealers' customers with WeCom's lists, and shows its progress.
//!
//! Deliberately absent: the comparison, which is [`worker`](crate::worker)'s.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::audit::By;
use super::extract::{invalid_id, optional_json};
use super::state::{AdminState, Shared};
use crate::domain::audit::AuditAction;
use crate::domain::dealer::DealerState;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::reconcile::ReconcileRun;
use crate::domain::time::Timestamp;
use crate::http::problem::Problem;

/// What to compare; an empty object means the customers of all dealers.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Reconcile {
    /// Only the dealers of this app.
    #[schema(example = "brand")]
    app: Option<String>,
    /// Only this dealer.
    corp_id: Option<String>,
}

/// A comparison of dealers' customers with WeCom's lists.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = ReconcileRun)]
pub(super) struct RunView {
    /// Whether it is under way.
    running: bool,
    /// When it was asked for or began by itself; `null` if there was none yet.
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<Timestamp>,
    /// When the last dealer was done.
    #[schema(value_type = Option<String>, format = DateTime)]
    finished_at: Option<Timestamp>,
    /// The number of dealers.
    dealers_total: u64,
    /// The number of dealers that are done, or cannot be compared now.
    dealers_done: u64,
    /// Rows in WeCom's lists: a customer is in several if followed by several members.
    customers_seen: u64,
    /// Customers who were not known before.
    customers_new: u64,
    /// Links of customers whom the comparison found.
    links_made: u64,
}

impl From<Option<ReconcileRun>> for RunView {
    fn from(run: Option<ReconcileRun>) -> Self {
        let Some(run) = run else { return Self::default() };
        Self {
            running: run.is_running(),
            started_at: Some(run.started_at),
            finished_at: run.finished_at,
            dealers_total: run.dealers_total,
            dealers_done: run.dealers_done,
            customers_seen: run.customers_seen,
            customers_new: run.customers_new,
            links_made: run.links_made,
        }
    }
}

/// Compare dealers' customers with WeCom's lists now
///
/// Finds the customers of lost callbacks and those of before the installation. Without this request each
/// dealer is compared every `reconcile_hours`. While a comparison is under way, the dealers are added to it.
/// It goes on after a restart.
#[utoipa::path(operation_id = "reconcile", post, path = "/v1/reconcile", tag = "dealers",
    request_body = Option<Reconcile>,
    responses(
        (status = 202, body = RunView, description = "The comparison is durable and goes on by itself"),
        (status = 404, response = super::openapi::NotFound),
        (status = 408, response = super::openapi::TooSlow),
        (status = 413, response = super::openapi::TooLarge),
        super::openapi::Errors,
    ))]
pub(super) async fn begin(
    State(state): Shared,
    by: By,
    body: Body,
) -> Result<(StatusCode, Json<RunView>), Problem> {
    let Reconcile { app, corp_id } = optional_json(body).await?;
    let corp_id = corp_id.map(CorpId::new).transpose().map_err(invalid_id("corp_id"))?;
    let dealers = state.dealers_to_compare(app.as_deref(), corp_id.as_ref()).await?;
    let asked_for = dealers.len();
    let run = state.store.begin_reconcile(dealers, state.clock.now()).await?;
    let entry = by.did(AuditAction::Reconcile, &state).count("dealers", asked_for as u64);
    state.record(entry.about_some("app", app).about_some("corp_id", corp_id)).await?;
    state.wake.reconcile.notify_one();
    Ok((StatusCode::ACCEPTED, Json(Some(run).into())))
}

impl AdminState {
    /// The dealers of one app or of all, or the one with this id, that have not left.
    async fn dealers_to_compare(
        &self,
        app: Option<&str>,
        corp_id: Option<&CorpId>,
    ) -> Result<Vec<(AppName, CorpId)>, Problem> {
        let mut dealers = Vec::new();
        for app in self.apps_named(app)? {
            let of_app = self.store.dealers(&app).await?.into_iter().filter(|dealer| {
                dealer.state() != DealerState::Left
                    && corp_id.is_none_or(|wanted| dealer.corp_id.same_corp(wanted.as_str()))
            });
            dealers.extend(of_app.map(|dealer| (app.clone(), dealer.corp_id)));
        }
        if corp_id.is_some() && dealers.is_empty() {
            return Err(Problem::unknown_dealer());
        }
        Ok(dealers)
    }
}

/// Show how far the comparison of dealers' customers is
///
/// The one that is under way, or else the last one.
#[utoipa::path(operation_id = "show_reconcile", get, path = "/v1/reconcile", tag = "dealers", responses(
    (status = 200, body = RunView, description = "The comparison; `started_at` is `null` before the first"),
    super::openapi::Errors,
))]
pub(super) async fn show(State(state): Shared) -> Result<Json<RunView>, Problem> {
    Ok(Json(state.store.reconcile_run().await?.into()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_run_is_shown_in_the_documented_form_before_the_first_one_too() {
        let none = serde_json::to_value(RunView::from(None)).unwrap();
        let wanted = json!({
            "running": false, "started_at": null, "finished_at": null, "dealers_total": 0, "dealers_done": 0,
            "customers_seen": 0, "customers_new": 0, "links_made": 0,
        });
        assert_eq!(none, wanted);
        let run = ReconcileRun { dealers_total: 3, links_made: 2, ..ReconcileRun::new(Timestamp::EPOCH) };
        let view = serde_json::to_value(RunView::from(Some(run))).unwrap();
        assert_eq!((&view["running"], &view["dealers_total"]), (&json!(true), &json!(3)));
        assert_eq!(view["links_made"], 2);
        assert_eq!(view["started_at"], "1970-01-01T00:00:00.000Z");
        let ended = ReconcileRun { finished_at: Some(Timestamp::EPOCH), ..run };
        assert_eq!(serde_json::to_value(RunView::from(Some(ended))).unwrap()["running"], false);
    }
}
