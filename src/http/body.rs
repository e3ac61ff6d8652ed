//! Reading a request body within limits of size and time.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The largest body that needs no room among large ones.
const SMALL_BODY_BYTES: usize = 64 << 10;
const MEGABYTE: usize = 1 << 20;

/// Reads a body of at most `bytes_max` bytes.
///
/// An oversized body is read and discarded up to twice the limit, because a client whose connection is closed
/// while it is still sending never sees the answer. A body with a longer `Content-Length` is not read at all.
///
/// # Errors
/// 413 when the body is too large, 408 when it takes too long, 400 when it breaks off.
pub(super) async fn read_body(
    body: Body,
    bytes_max: usize,
    timeout: Duration,
) -> Result<Vec<u8>, StatusCode> {
    read(body, bytes_max, timeout, None).await.map(|(bytes, _)| bytes)
}

/// As [`read_body`], but what exceeds [`SMALL_BODY_BYTES`] needs room: a permit for each megabyte, to be kept as
/// long as the bytes are.
///
/// # Errors
/// Also 503 when there is no room.
pub(super) async fn read_large_body(
    body: Body,
    bytes_max: usize,
    timeout: Duration,
    room: &Arc<Semaphore>,
) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), StatusCode> {
    read(body, bytes_max, timeout, Some(room)).await
}

async fn read(
    mut body: Body,
    bytes_max: usize,
    timeout: Duration,
    room: Option<&Arc<Semaphore>>,
) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), StatusCode> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > bytes_max.saturating_mul(2) {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    let (mut bytes, mut permit) = (Vec::new(), None);
    let mut length = 0_usize;
    let read = async {
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| StatusCode::BAD_REQUEST)?.into_data() else { continue };
            length += data.len();
            if length.max(announced) <= bytes_max {
                if let Some(room) = room {
                    make_room(&mut permit, length, room)?;
                }
                bytes.extend_from_slice(&data);
            } else if length > 2 * bytes_max {
                break;
            }
        }
        if length > bytes_max { Err(StatusCode::PAYLOAD_TOO_LARGE) } else { Ok(()) }
    };
    match tokio::time::timeout(timeout, read).await {
        Ok(result) => result.map(|()| (bytes, permit)),
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
    }
}

/// Takes what `length` bytes need beyond the permits held.
fn make_room(
    held: &mut Option<OwnedSemaphorePermit>,
    length: usize,
    room: &Arc<Semaphore>,
) -> Result<(), StatusCode> {
    let needed = if length > SMALL_BODY_BYTES { length.div_ceil(MEGABYTE) } else { 0 };
    let missing = needed.saturating_sub(held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
    if missing > 0 {
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        let more = room.clone().try_acquire_many_owned(missing);
        let more = more.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
        match held {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn large_bodies_share_their_room_and_small_ones_need_none() {
        let room = Arc::new(Semaphore::new(3));
        let read = async |bytes: usize| {
            let body = Body::from(vec![b' '; bytes]);
            read_large_body(body, 16 * MEGABYTE, Duration::from_secs(1), &room).await
        };
        let (_, first) = read(MEGABYTE + 1).await.unwrap();
        assert_eq!(room.available_permits(), 1);
        assert_eq!(read(MEGABYTE + 1).await.unwrap_err(), StatusCode::SERVICE_UNAVAILABLE);
        let (_, second) = read(SMALL_BODY_BYTES + 1).await.unwrap();
        assert_eq!(room.available_permits(), 0);
        assert!(read(SMALL_BODY_BYTES).await.unwrap().1.is_none());
        drop((first, second));
        assert_eq!(room.available_permits(), 3, "also of what was refused");
    }
}
