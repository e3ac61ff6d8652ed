//! Splits a streamed body of any length into lines of bounded length.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use http_body_util::BodyExt;

/// The longest accepted line.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Bytes read and discarded after an early answer: a client whose connection is closed while it is still
/// sending never sees the answer.
const DRAINED_BYTES_MAX: usize = 64 << 20;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The non-blank lines of a body. Lines are numbered from 1, blank ones included.
pub(super) struct Lines {
    body: Body,
    /// The longest accepted pause between two parts of the body.
    pause_max: Duration,
    /// What has been received and not yet split.
    unread: Bytes,
    /// The number of the last line that has ended.
    line: u64,
    /// The beginning of the current line.
    partial: Vec<u8>,
    /// Whether the current line is too long; its bytes are not kept then.
    is_overlong: bool,
    /// Whether the whole body has been received.
    has_ended: bool,
}

/// A line's number and its bytes, or what is wrong with it.
type Line = (u64, Result<Vec<u8>, String>);

impl Lines {
    pub(super) fn new(body: Body, pause_max: Duration) -> Self {
        let (unread, partial) = (Bytes::new(), Vec::new());
        Self { body, pause_max, unread, line: 0, partial, is_overlong: false, has_ended: false }
    }

    /// The next line; `None` after the last.
    ///
    /// # Errors
    /// 408 after too long a pause, 400 when the body breaks off.
    pub(super) async fn next(&mut self) -> Result<Option<Line>, StatusCode> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let part = self.unread.split_to(end + 1);
                self.append(&part[..end]);
                if let Some(line) = self.end_line() {
                    return Ok(Some(line));
                }
                continue;
            }
            let part = std::mem::take(&mut self.unread);
            self.append(&part);
            if self.has_ended {
                let is_unfinished = !self.partial.is_empty() || self.is_overlong;
                return Ok(if is_unfinished { self.end_line() } else { None });
            }
            match tokio::time::timeout(self.pause_max, self.body.frame()).await {
                Err(_) => return Err(StatusCode::REQUEST_TIMEOUT),
                Ok(Some(Err(_))) => return Err(StatusCode::BAD_REQUEST),
                Ok(Some(Ok(frame))) => self.unread = frame.into_data().unwrap_or_default(),
                Ok(None) => self.has_ended = true,
            }
        }
    }

    /// Appends to the current line.
    fn append(&mut self, part: &[u8]) {
        if self.partial.len() + part.len() > LINE_BYTES_MAX {
            self.is_overlong = true;
            self.partial = Vec::new();
        }
        if !self.is_overlong {
            self.partial.extend_from_slice(part);
        }
    }

    /// Ends the current line. Returns it unless it is blank.
    fn end_line(&mut self) -> Option<Line> {
        self.line += 1;
        let text = std::mem::take(&mut self.partial);
        if std::mem::take(&mut self.is_overlong) {
            return Some((self.line, Err(format!("longer than {} KiB", LINE_BYTES_MAX / 1024))));
        }
        (!text.trim_ascii().is_empty()).then_some((self.line, Ok(text)))
    }

    /// Reads and discards the rest of the body, within limits.
    pub(super) async fn drain(&mut self) {
        let mut drained = 0;
        let reading = async {
            while let Some(Ok(frame)) = self.body.frame().await {
                drained += frame.into_data().map_or(0, |data| data.len());
                if drained > DRAINED_BYTES_MAX {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, reading).await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use hyper::body::Frame;
    use proptest::prelude::*;

    use super::*;

    async fn all(chunks: Vec<Vec<u8>>) -> Vec<Line> {
        let body = Body::new(Chunks(chunks.into_iter()));
        let mut lines = Lines::new(body, Duration::from_secs(1));
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            assert!(lines.partial.capacity() <= 2 * LINE_BYTES_MAX);
            all.push(line);
        }
        all
    }

    /// A body that arrives in these pieces.
    struct Chunks(std::vec::IntoIter<Vec<u8>>);

    impl hyper::body::Body for Chunks {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Ready(self.0.next().map(|chunk| Ok(Frame::data(chunk.into()))))
        }
    }

    proptest! {
        #[test]
        fn lines_are_the_same_however_the_body_is_cut(text in "[ab\\n\\r ]{0,200}", cut in 1_usize..20) {
            let chunks: Vec<_> = text.as_bytes().chunks(cut).map(<[u8]>::to_vec).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let expected: Vec<Line> = (1..)
                .zip(text.split('\n'))
                .filter(|(_, line)| !line.trim_ascii().is_empty())
                .map(|(n, line)| (n, Ok(line.as_bytes().to_vec())))
                .collect();
            prop_assert_eq!(runtime.block_on(all(chunks)), expected);
        }
    }

    #[tokio::test]
    async fn an_endless_line_is_rejected_and_the_next_one_read() {
        let mut chunks = vec![vec![b'x'; 1 << 20]; 64];
        chunks.push(b"\nnext".to_vec());
        let lines = all(chunks).await;
        assert_eq!(lines, [(1, Err("longer than 64 KiB".to_owned())), (2, Ok(b"next".to_vec()))]);
    }
}
