//! `GET /v1/authorizations`: the corps that have authorised a suite (代开发应用模版), and the auth codes that are
//! being exchanged. Neither has a code, ticket or token.
//!
//! Deliberately absent: what is wrong with them, which is in `findings` of `/v1/status`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::explain::text;
use super::extract::QueryParams;
use super::state::{AdminState, Shared};
use crate::domain::authorization::{AuthorizationState, Role, SharedFrom};
use crate::domain::ids::{AppName, CorpId};
use crate::domain::suite::{CodeKind, Exchange, ExchangeEnd};
use crate::domain::text::Text;
use crate::domain::time::Timestamp;
use crate::http::problem::Problem;
use crate::wecom::{Development, Remedy, Unavailable, remedy_for};
use crate::worker::suites::{AuthorizationView, SuiteView};

/// WeCom's code for a call that the app's permissions do not allow.
const NO_PERMISSION: i64 = 48_002;
/// WeCom's code for a call to a corp that has not authorised the suite, or has cancelled.
const NOT_AUTHORIZED: i64 = 48_004;

/// What to do about a cancelled authorisation of a shared app.
const SHARED_CANCELLED: Remedy = Remedy {
    en: "have the corp install the shared app again: it has cancelled the authorisation",
    zh: "请该企业重新安装共享的应用：该企业已取消授权",
};

/// A corp that has authorised a suite.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Authorization)]
struct Row {
    #[schema(value_type = String, example = "agency")]
    suite: AppName,
    /// The corp, as the provider's apps see it.
    #[schema(value_type = String, example = "wpINVENTED-brand-01")]
    corp_id: CorpId,
    #[schema(example = "甲品牌")]
    corp_name: String,
    #[schema(inline)]
    state: AuthorizationState,
    /// What the corp is; `null` until its app has been read.
    #[schema(inline)]
    role: Option<RoleName>,
    /// The app that serves the brand, or that a dealer's customers are looked up with; `null` if there is
    /// none.
    #[schema(value_type = Option<String>, example = "brand")]
    app: Option<AppName>,
    /// The app's id at the corp; `null` until the app has been read.
    #[schema(example = 1_000_007)]
    agent_id: Option<i64>,
    /// The corp that shared the app, or had before the corp authorised by QR code too; `null` of a brand.
    shared_from: Option<SharedFromView>,
    /// When WeCom sent the newest authorisation.
    #[schema(value_type = String, format = DateTime)]
    authorized_at: Timestamp,
    /// When this record last changed.
    #[schema(value_type = String, format = DateTime)]
    changed_at: Timestamp,
    /// When the corp cancelled, if it has. Where only a refused call shows that, when it was refused.
    #[schema(value_type = Option<String>, format = DateTime)]
    cancelled_at: Option<Timestamp>,
    /// Whether WeCom has verified the corp; `null` if that is not known.
    verified: Option<bool>,
    /// Whether the app may read customers; `null` if that is not known.
    may_read_customers: Option<bool>,
    /// What to do, if no call can be made with this authorisation, or none about customers.
    remedy: Option<Text>,
}

/// What a corp is to the provider's apps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum RoleName {
    /// It authorised the app itself.
    Brand,
    /// It has the app from a brand, through 上下游.
    Dealer,
    /// It has the app another way, such as 企业互联; it is not used.
    Other,
}

impl From<Role> for RoleName {
    fn from(role: Role) -> Self {
        match role {
            Role::Brand => Self::Brand,
            Role::Dealer(_) => Self::Dealer,
            Role::Other => Self::Other,
        }
    }
}

/// The corp that shared an app.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SharedFrom)]
struct SharedFromView {
    #[schema(value_type = String)]
    corp_id: CorpId,
    /// 0: 企业互联, 1: 上下游.
    #[schema(example = 1)]
    share_type: i64,
}

impl From<SharedFrom> for SharedFromView {
    fn from(SharedFrom { corp_id, share_type }: SharedFrom) -> Self {
        Self { corp_id, share_type }
    }
}

/// An auth code that is being exchanged for an authorisation, or could not be.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuthCodeExchange)]
struct ExchangeRow {
    #[schema(value_type = String, example = "agency")]
    suite: AppName,
    /// `create`: a corp authorised the suite; `reset`: the provider chose 重新获取 secret. WeCom does not say
    /// for which corp.
    #[schema(value_type = String, example = "create")]
    kind: &'static str,
    /// `waiting`; or how it failed: `lost` (a call without an answer used up the code), `expired`, `refused`
    /// (by WeCom), `unreadable` (the suite secret was changed).
    #[schema(value_type = String, example = "waiting")]
    state: &'static str,
    #[schema(value_type = String, format = DateTime)]
    received_at: Timestamp,
    /// Until when it is tried.
    #[schema(value_type = String, format = DateTime)]
    deadline: Timestamp,
    /// The calls made with it so far.
    tries: u32,
    /// When it failed; `null` while it can succeed.
    #[schema(value_type = Option<String>, format = DateTime)]
    failed_at: Option<Timestamp>,
    /// WeCom's code, of a code that was refused.
    errcode: Option<i64>,
}

impl ExchangeRow {
    fn of(suite: &AppName, exchange: &Exchange) -> Self {
        let kind: CodeKind = exchange.kind;
        Self {
            suite: suite.clone(),
            kind: kind.into(),
            state: exchange.end.as_ref().map_or("waiting", Into::into),
            received_at: exchange.received_at,
            deadline: exchange.deadline,
            tries: exchange.asked,
            failed_at: exchange.end.map(ExchangeEnd::at),
            errcode: match exchange.end {
                Some(ExchangeEnd::Refused { errcode, .. }) => Some(errcode),
                Some(
                    ExchangeEnd::Lost { .. } | ExchangeEnd::Expired { .. } | ExchangeEnd::Unreadable { .. },
                )
                | None => None,
            },
        }
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only those of this suite.
    #[param(example = "agency")]
    suite: Option<String>,
    /// Only the brand and the dealers of this app, and the auth codes of its suite.
    #[param(example = "brand")]
    app: Option<String>,
    /// Only authorisations in this state. Auth codes are listed whatever their state.
    #[param(inline)]
    state: Option<AuthorizationState>,
}

/// Authorisations, and the auth codes that are being exchanged or could not be.
#[derive(Serialize, ToSchema)]
#[schema(as = AuthorizationList)]
pub(super) struct List {
    authorizations: Vec<Row>,
    /// The oldest first. Those that failed are kept for a week.
    exchanges: Vec<ExchangeRow>,
}

/// List the corps that have authorised a suite
///
/// In the order of their suites and ids, those that have cancelled included; and the auth codes that are
/// being exchanged, or could not be. Secrets are not shown.
#[utoipa::path(operation_id = "list_authorizations", get, path = "/v1/authorizations", tag = "agency",
    params(ListQuery),
    responses(
        (status = 200, body = List, description = "The authorisations that match, and auth codes"),
        (status = 404, response = super::openapi::NotFound),
        super::openapi::Errors,
    ))]
pub(super) async fn list(
    State(state): Shared,
    QueryParams(ListQuery { suite, app, state: only }): QueryParams<ListQuery>,
) -> Result<Json<List>, Problem> {
    let app = app.map(|app| state.app(Some(&app)).map_err(Problem::unknown_app)).transpose()?;
    let mut suites = state.suites_named(suite.as_deref())?;
    if let Some(app) = &app {
        let of_app = state.apps.get(app).and_then(|rules| rules.suite.clone());
        suites.retain(|(suite, _)| Some(suite) == of_app.as_ref());
    }
    let mut list = List { authorizations: Vec::new(), exchanges: Vec::new() };
    for (suite, view) in suites {
        let rows = state.authorizations(&suite, &view).into_iter();
        let rows = rows.filter(|row| only.is_none_or(|only| row.state == only));
        list.authorizations.extend(rows.filter(|row| app.is_none() || row.app == app));
        list.exchanges.extend(view.exchanges.iter().map(|(_, exchange)| ExchangeRow::of(&suite, exchange)));
    }
    list.exchanges.sort_by_key(|exchange| exchange.received_at);
    Ok(Json(list))
}

impl AdminState {
    /// The suite named `name`, or all, as they are now.
    fn suites_named(&self, name: Option<&str>) -> Result<Vec<(AppName, Arc<SuiteView>)>, Problem> {
        if let Some(name) = name {
            let suite = AppName::new(name).map_err(|_| Problem::unknown_suite(name))?;
            let view = self.apps.suite(&suite).ok_or_else(|| Problem::unknown_suite(name))?;
            return Ok(vec![(suite, view)]);
        }
        let names = self.apps.suites().keys();
        Ok(names.filter_map(|suite| Some((suite.clone(), self.apps.suite(suite)?))).collect())
    }

    fn authorizations(&self, suite: &AppName, view: &SuiteView) -> Vec<Row> {
        let mut apps: BTreeMap<CorpId, &AppName> = BTreeMap::new();
        for agency in self.apps.agency().iter().filter(|agency| agency.suite == *suite) {
            let dealers = self.apps.authorized_dealers(&agency.app);
            let brand = self
                .apps
                .authorization_of(&agency.app)
                .and_then(|(_, brand)| Some(view.authorization(brand.as_str())?.record.corp_id.clone()));
            for corp_id in dealers.iter().map(|dealer| dealer.corp_id.clone()).chain(brand) {
                apps.entry(corp_id).or_insert(&agency.app);
            }
        }
        let row = |one: &AuthorizationView| {
            let app = apps.get(&one.record.corp_id).map(|app| (*app).clone());
            row(suite.clone(), app, one)
        };
        view.authorizations.values().map(row).collect()
    }
}

/// What to do about a corp that has cancelled: the QR code is for brands.
fn cancelled(role: Option<&Role>) -> Remedy {
    match role {
        Some(Role::Brand) => Unavailable::Cancelled.remedy(),
        Some(Role::Dealer(_) | Role::Other) => SHARED_CANCELLED,
        None => remedy_for(NOT_AUTHORIZED, Development::Agency),
    }
}

fn row(suite: AppName, app: Option<AppName>, one: &AuthorizationView) -> Row {
    let (record, agent) = (&one.record, one.record.agent.as_ref());
    let may_read_customers = agent.and_then(|agent| agent.may_read_customers);
    let remedy = match (record.state(), one.code.is_some(), may_read_customers) {
        (AuthorizationState::Cancelled, ..) => Some(cancelled(record.role().as_ref())),
        (_, false, _) => Some(Unavailable::Unreadable.remedy()),
        (AuthorizationState::Incomplete, ..) => Some(Unavailable::Incomplete.remedy()),
        (AuthorizationState::Active, true, Some(false)) => {
            Some(remedy_for(NO_PERMISSION, Development::Agency))
        }
        (AuthorizationState::Active, true, Some(true) | None) => None,
    };
    Row {
        suite,
        corp_id: record.corp_id.clone(),
        corp_name: record.name.clone(),
        state: record.state(),
        role: record.role().map(RoleName::from),
        app,
        agent_id: agent.map(|agent| agent.agent_id),
        shared_from: record.shared_from().cloned().map(SharedFromView::from),
        authorized_at: record.granted_at,
        changed_at: record.changed_at,
        cancelled_at: record.cancellation_noticed_at(),
        verified: agent.and_then(|agent| agent.is_verified),
        may_read_customers,
        remedy: remedy.map(text),
    }
}

#[cfg(test)]
mod tests;
