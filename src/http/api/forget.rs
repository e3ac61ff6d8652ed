//! `POST /v1/forget` and `GET /v1/forget/{receipt}`.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::links::id;
use super::{Problem, Shared, json, scan};
use crate::domain::ids::{ExternalUserid, IdError, Unionid};
use crate::domain::time::Timestamp;
use crate::store::{Erased, PersonId, Receipt};

const REQUEST_CHARS_MAX: usize = 200;

/// Whom to forget: exactly one of the two ids.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Forget {
    /// A fan.
    #[schema(example = "oINVENTED-unionid-0001")]
    unionid: Option<String>,
    /// A dealer's customer.
    external_userid: Option<String>,
    /// By which request, for the receipt. Not a place for personal data: it is kept.
    #[schema(example = "ticket 4711", max_length = 200)]
    request: Option<String>,
}

/// The proof that a person was forgotten. Holds no personal id.
#[derive(Serialize, ToSchema)]
pub(super) struct ReceiptView {
    #[schema(example = "rcp_0123456789abcdef01234567")]
    receipt: String,
    #[schema(value_type = String, format = DateTime)]
    forgotten_at: Timestamp,
    #[schema(example = "ticket 4711")]
    request: Option<String>,
    /// A salted hash of the id that was named: the same id gives the same hash, nobody can turn it back.
    #[schema(example = "0123456789abcdef0123456789abcdef")]
    subject: String,
    erased: ErasedView,
}

/// How much was erased.
#[derive(Serialize, ToSchema)]
struct ErasedView {
    fans: u64,
    contacts: u64,
    links: u64,
    /// In the inbox.
    events: u64,
    dead_letters: u64,
    quarantined: u64,
    /// Whose content was removed.
    feed_entries: u64,
}

impl From<Receipt> for ReceiptView {
    fn from(receipt: Receipt) -> Self {
        let Receipt { id, forgotten_at, request, subject, erased } = receipt;
        let Erased { fans, contacts, links, events, dead_letters, quarantined, feed_entries } = erased;
        let erased = ErasedView { fans, contacts, links, events, dead_letters, quarantined, feed_entries };
        Self { receipt: id.to_string(), forgotten_at, request, subject, erased }
    }
}

/// Erase a person
///
/// Fans, customers, links, events and the content of feed entries, in one transaction. Receivers are told
/// `link.erased` with the link's id only. Later callbacks are linked again only to a fan registered anew.
#[utoipa::path(operation_id = "forget", post, path = "/v1/forget", tag = "people", request_body = Forget, responses(
    (status = 200, body = ReceiptView),
    (status = 408, response = super::openapi::TooSlow),
    (status = 413, response = super::openapi::TooLarge),
    super::openapi::Errors,
))]
pub(super) async fn forget(State(state): Shared, body: Body) -> Result<Json<ReceiptView>, Problem> {
    let Forget { unionid, external_userid, request } = json(body).await?;
    let of = |name: &str, error: IdError| Problem::bad_request(format!("{name} {error}"));
    let person = match (unionid, external_userid) {
        (Some(id), None) => PersonId::Unionid(Unionid::new(id).map_err(|e| of("unionid", e))?),
        (None, Some(id)) => {
            PersonId::ExternalUserid(ExternalUserid::new(id).map_err(|e| of("external_userid", e))?)
        }
        _ => return Err(Problem::bad_request("exactly one of unionid and external_userid is needed")),
    };
    let request = request.filter(|request| !request.trim().is_empty());
    if request.as_ref().is_some_and(|request| request.chars().count() > REQUEST_CHARS_MAX) {
        return Err(Problem::bad_request(format!("request is longer than {REQUEST_CHARS_MAX} characters")));
    }
    let (store, now) = (state.store.clone(), state.clock.now());
    let receipt = scan(&state, async move { store.forget(&person, request, now).await }).await??;
    state.pages.clear().await;
    tracing::info!(receipt = %receipt.id, "a person was forgotten");
    Ok(Json(receipt.into()))
}

/// A receipt
#[utoipa::path(operation_id = "show_receipt", get, path = "/v1/forget/{receipt}", tag = "people",
    params(("receipt" = String, Path, description = "Its name", example = "rcp_0123456789abcdef01234567")),
    responses(
        (status = 200, body = ReceiptView),
        (status = 404, response = super::openapi::NotFound),
        super::openapi::Errors,
    ))]
pub(super) async fn receipt(
    State(state): Shared,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<ReceiptView>, Problem> {
    let no_such = || Problem::not_found("there is no such receipt");
    let id = id(path)?.parse().map_err(|()| no_such())?;
    let receipt = state.store.receipt(id).await?;
    receipt.map(|receipt| Json(receipt.into())).ok_or_else(no_such)
}
