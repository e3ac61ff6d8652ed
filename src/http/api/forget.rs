//! `POST /v1/forget` and `GET /v1/forget/{receipt}`: erasing a person, and the receipt for it.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::audit::By;
use super::extract::{PathParam, invalid_id, json};
use super::state::{Shared, scan};
use crate::domain::ids::{ExternalUserid, Unionid};
use crate::domain::time::Timestamp;
use crate::http::problem::Problem;
use crate::store::{Erased, PersonId, Receipt};

const REQUEST_CHARS_MAX: usize = 200;

/// The person to forget, by exactly one of the two ids.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Forget {
    /// The unionid of a fan.
    #[schema(example = "oINVENTED-unionid-0001")]
    unionid: Option<String>,
    /// The `external_userid` of a dealer's customer.
    external_userid: Option<String>,
    /// A reference to the person's request, such as a ticket number. It is kept in the receipt, so it must
    /// not contain personal data.
    #[schema(example = "ticket 4711", max_length = 200)]
    request: Option<String>,
}

/// The proof that a person was forgotten. It contains no personal id.
#[derive(Serialize, ToSchema)]
pub(super) struct ReceiptView {
    #[schema(example = "rcp_0123456789abcdef01234567")]
    receipt: String,
    #[schema(value_type = String, format = DateTime)]
    forgotten_at: Timestamp,
    #[schema(example = "ticket 4711")]
    request: Option<String>,
    /// A salted hash of the id in the request: the same id has the same hash, and the hash does not reveal
    /// the id.
    #[schema(example = "0123456789abcdef0123456789abcdef")]
    subject: String,
    erased: Erased,
}

impl From<Receipt> for ReceiptView {
    fn from(receipt: Receipt) -> Self {
        let Receipt { id, forgotten_at, request, subject, erased } = receipt;
        Self { receipt: id.to_string(), forgotten_at, request, subject, erased }
    }
}

/// Erase a person
///
/// Erases the person's fans, customers, links, events and the content of their feed entries in one
/// transaction. Receivers get a `link.erased` that contains only the link's id. The person is linked again
/// only if the brand registers the fan again.
#[utoipa::path(operation_id = "forget", post, path = "/v1/forget",
    tag = "people", request_body = Forget, responses(
    (status = 200, body = ReceiptView, description = "The receipt"),
    (status = 408, response = super::openapi::TooSlow),
    (status = 413, response = super::openapi::TooLarge),
    super::openapi::Errors,
))]
pub(super) async fn forget(
    State(state): Shared,
    By(by): By,
    body: Body,
) -> Result<Json<ReceiptView>, Problem> {
    let Forget { unionid, external_userid, request } = json(body).await?;
    let person = match (unionid, external_userid) {
        (Some(id), None) => PersonId::Unionid(Unionid::new(id).map_err(invalid_id("unionid"))?),
        (None, Some(id)) => {
            PersonId::ExternalUserid(ExternalUserid::new(id).map_err(invalid_id("external_userid"))?)
        }
        _ => return Err(Problem::bad_request("exactly one of unionid and external_userid is required")),
    };
    let request = request.filter(|request| !request.trim().is_empty());
    if request.as_ref().is_some_and(|request| request.chars().count() > REQUEST_CHARS_MAX) {
        return Err(Problem::bad_request(format!("request is longer than {REQUEST_CHARS_MAX} characters")));
    }
    let (store, now) = (state.store.clone(), state.clock.now());
    let receipt =
        scan(&state.permits.erasures, async move { store.forget(&person, request, by, now).await }).await??;
    state.pages.clear().await;
    // The trail has it from the same transaction.
    tracing::info!(target: "audit", receipt = %receipt.id, "audit: erase");
    Ok(Json(receipt.into()))
}

/// Show the receipt of an erasure
#[utoipa::path(operation_id = "show_receipt", get, path = "/v1/forget/{receipt}", tag = "people",
    params(("receipt" = String, Path, description = "The receipt's id",
        example = "rcp_0123456789abcdef01234567")),
    responses(
        (status = 200, body = ReceiptView, description = "The receipt"),
        (status = 404, response = super::openapi::NotFound),
        super::openapi::Errors,
    ))]
pub(super) async fn receipt(
    State(state): Shared,
    PathParam(id): PathParam,
) -> Result<Json<ReceiptView>, Problem> {
    let not_found = || Problem::not_found("receipt not found");
    let id = id.parse().map_err(|()| not_found())?;
    let receipt = state.store.receipt(id).await?;
    receipt.map(|receipt| Json(receipt.into())).ok_or_else(not_found)
}
