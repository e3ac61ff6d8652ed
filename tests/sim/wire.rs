//! The transport between the real WeCom client and the simulated platform: real HTTP messages, no sockets.

use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use unionlink::simulator::InProcess;
use unionlink::wecom::{Reply, Transport, Wire};

/// The default of `wecom.timeout_ms`.
const TIMEOUT: Duration = Duration::from_secs(10);

pub struct InProcessWire {
    pub api: InProcess,
    /// Cancelled when the process dies; afterwards nothing is sent or received.
    pub dead: CancellationToken,
}

#[async_trait]
impl Wire for InProcessWire {
    async fn exchange(&self, target: &str, body: Option<&Value>) -> Result<Reply, Transport> {
        let uri = format!("http://platform.invalid{target}");
        let request = match body {
            Some(body) => Request::post(uri)
                .header("content-type", "application/json")
                .body(Body::from(serde_json::to_vec(body).unwrap())),
            None => Request::get(uri).body(Body::empty()),
        };
        let answered = async {
            let response = self.api.call(request.unwrap()).await.ok_or(Transport::Broken)?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.map_err(|_| Transport::Broken)?;
            Ok(Reply { status, body: body.to_bytes().to_vec() })
        };
        tokio::select! {
            biased;
            () = self.dead.cancelled() => std::future::pending().await,
            answer = tokio::time::timeout(TIMEOUT, answered) => answer.unwrap_or(Err(Transport::Timeout)),
        }
    }
}
