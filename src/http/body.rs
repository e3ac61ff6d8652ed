//! Reading a request body within limits of size and time.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Body as _;

/// Reads a body of at most `bytes_max` bytes.
///
/// An oversized body is read and discarded up to twice the limit, because a client whose connection is closed
/// while it is still sending never sees the answer. A body with a longer `Content-Length` is not read at all.
///
/// # Errors
/// 413 when the body is too large, 408 when it takes too long, 400 when it breaks off.
pub(super) async fn read_body(
    mut body: Body,
    bytes_max: usize,
    timeout: Duration,
) -> Result<Vec<u8>, StatusCode> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > bytes_max.saturating_mul(2) {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    let mut bytes = Vec::new();
    let mut length = 0_usize;
    let read = async {
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| StatusCode::BAD_REQUEST)?.into_data() else { continue };
            length += data.len();
            if length.max(announced) <= bytes_max {
                bytes.extend_from_slice(&data);
            } else if length > 2 * bytes_max {
                break;
            }
        }
        if length > bytes_max { Err(StatusCode::PAYLOAD_TOO_LARGE) } else { Ok(()) }
    };
    match tokio::time::timeout(timeout, read).await {
        Ok(result) => result.map(|()| bytes),
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
    }
}
