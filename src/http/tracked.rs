//! The HTTP service of one connection: adds its [`Source`] to each request, reports the request's progress to
//! the connection's [`Slot`], and announces the end of the connection in a response that is sent before the
//! request's body was read.
//!
//! Deliberately absent: which connection is shed, which `admission` decides, and which proxies are believed
//! (see `source`).

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderValue};
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::service::TowerToHyperService;

use super::admission::Slot;
use super::socket::Source;
use super::source::TrustedProxies;

/// A router that reports each request's progress to the connection's slot.
pub(super) struct TrackedService {
    router: TowerToHyperService<Router>,
    slot: Arc<Slot>,
    source: Source,
    /// Read `X-Forwarded-For` with these; `None` if it is not believed on this connection.
    proxies: Option<TrustedProxies>,
    served_before: AtomicBool,
}

impl TrackedService {
    /// For a connection from `source`.
    pub(super) fn new(router: Router, slot: Arc<Slot>, source: Source, proxies: &TrustedProxies) -> Self {
        let router = TowerToHyperService::new(router);
        let proxies = proxies.contains(source).then(|| proxies.clone());
        Self { router, slot, source, proxies, served_before: AtomicBool::new(false) }
    }
}

impl Service<Request<Incoming>> for TrackedService {
    type Response = Response<TrackedBody<Body>>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.slot.head_complete(!request.body().is_end_stream());
        let slot = self.slot.clone();
        let mut request =
            request.map(|body| Body::new(TrackedBody { body, slot, direction: Direction::Request }));
        let source = match &self.proxies {
            Some(proxies) => proxies.forwarded_for(request.headers(), self.source),
            None => self.source,
        };
        request.extensions_mut().insert(source);
        let slot = self.slot.clone();
        let response = self.router.call(request);
        let served_before = self.served_before.swap(true, Ordering::Relaxed);
        Box::pin(async move {
            if served_before {
                // Fairness with pipelined requests: hyper would serve sixteen of them before it yields.
                tokio::task::yield_now().await;
            }
            let mut response = response.await?;
            if !slot.body_is_read() {
                // What follows on the connection is the rest of the body, so hyper closes it. Announced, so
                // that a proxy that pools connections does not send its next request into a reset.
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response.map(|body| TrackedBody { body, slot, direction: Direction::Response }))
        })
    }
}

/// A request's or a response's body that reports its progress to the connection's slot.
pub(super) struct TrackedBody<B> {
    body: B,
    slot: Arc<Slot>,
    direction: Direction,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Response,
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for TrackedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if this.direction == Direction::Request {
            if let Poll::Ready(Some(Ok(frame))) = &polled {
                this.slot.body_received(frame.data_ref().map_or(0, Bytes::len));
            }
            if matches!(polled, Poll::Ready(None)) || this.body.is_end_stream() {
                this.slot.body_complete();
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for TrackedBody<B> {
    /// hyper drops a response's body once all of it has been handed to the connection, which writes it in the
    /// same poll.
    fn drop(&mut self) {
        if self.direction == Direction::Response {
            self.slot.answered();
        }
    }
}
