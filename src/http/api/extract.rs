//! Reads a request's path, query and JSON body. Malformed input becomes a [`Problem`].

use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};

use crate::domain::ids::IdError;
use crate::domain::instant::{INSTANT_FORMS, instant};
use crate::domain::time::Timestamp;
use crate::http::body::read_body;
use crate::http::problem::Problem;

/// The largest JSON body that [`json`] accepts.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// How long it may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The query, parsed.
pub(super) struct QueryParams<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryParams<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query
            .map(|Query(params)| Self(params))
            .map_err(|error: QueryRejection| Problem::bad_request(error.body_text()))
    }
}

/// Deserializes a parameter that is an instant as people write it, for `deserialize_with`.
pub(super) fn instant_param<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
    let text = String::deserialize(from)?;
    let at = instant(text.trim());
    at.map(Some).ok_or_else(|| D::Error::custom(format_args!("not an instant: {INSTANT_FORMS}")))
}

/// The only parameter of the path, an id or a name.
pub(super) struct PathParam(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for PathParam {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(param)| Self(param))
            .map_err(|error: PathRejection| Problem::bad_request(error.body_text()))
    }
}

/// Parses a JSON body. Not an extractor, so that handlers can check the path first.
pub(super) async fn json<T: DeserializeOwned>(body: Body) -> Result<T, Problem> {
    parse(&read(body).await?)
}

/// As [`json`]; an empty body, or `null`, stands for the default.
pub(super) async fn optional_json<T: DeserializeOwned + Default>(body: Body) -> Result<T, Problem> {
    let bytes = read(body).await?;
    if bytes.is_empty() {
        Ok(T::default())
    } else {
        parse::<Option<T>>(&bytes).map(Option::unwrap_or_default)
    }
}

async fn read(body: Body) -> Result<Vec<u8>, Problem> {
    read_body(body, BODY_BYTES_MAX, BODY_TIMEOUT).await.map_err(Problem::body)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes)
        .map_err(|error| Problem::bad_request(format!("the body is invalid: {error}")))
}

/// For `map_err`: the problem of a malformed id in the parameter or field `name`.
pub(super) fn invalid_id(name: &'static str) -> impl FnOnce(IdError) -> Problem {
    move |error| Problem::bad_request(format!("{name} {error}"))
}
