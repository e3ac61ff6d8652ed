//! The transport between the real WeCom client and the simulated platform: real HTTP messages, no sockets.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use unionlink::simulator::InProcess;
use unionlink::wecom::{Reply, Transport, Wire};

use crate::replicas::Pause;

/// The default of `wecom.timeout_ms`.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The call that exchanges an auth code.
const EXCHANGE: &str = "/cgi-bin/service/v2/get_permanent_code";

/// The calls that exchange an auth code, oldest first. Clones share it.
#[derive(Clone, Default)]
pub struct ExchangeLog(Arc<Mutex<Vec<ExchangeCall>>>);

/// A call that exchanges an auth code.
#[derive(Debug, Clone)]
pub struct ExchangeCall {
    /// The process that made it.
    pub process: u64,
    pub auth_code: String,
    pub answer: ExchangeAnswer,
}

/// What the service learned from such a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExchangeAnswer {
    /// Nothing yet; for ever, if the process has died.
    Awaited,
    /// Nothing.
    None,
    /// The permanent code of this corp.
    Granted(String),
    Refused(i64),
}

impl ExchangeLog {
    pub fn calls(&self) -> Vec<ExchangeCall> {
        self.0.lock().unwrap().clone()
    }

    fn begin(&self, process: u64, body: &Value) -> usize {
        let mut calls = self.0.lock().unwrap();
        let auth_code = body["auth_code"].as_str().unwrap_or_default().to_owned();
        calls.push(ExchangeCall { process, auth_code, answer: ExchangeAnswer::Awaited });
        calls.len() - 1
    }

    fn end(&self, call: usize, reply: &Result<Reply, Transport>) {
        let body = reply.as_ref().ok().filter(|reply| reply.status == 200);
        let body = body.and_then(|reply| serde_json::from_slice::<Value>(&reply.body).ok());
        let answer = match body.map(|body| (body["errcode"].as_i64(), body)) {
            Some((Some(0) | None, body)) => {
                ExchangeAnswer::Granted(body["auth_corp_info"]["corpid"].as_str().unwrap().to_owned())
            }
            Some((Some(errcode), _)) => ExchangeAnswer::Refused(errcode),
            None => ExchangeAnswer::None,
        };
        self.0.lock().unwrap()[call].answer = answer;
    }
}

pub struct InProcessWire {
    pub api: InProcess,
    /// Cancelled when the process dies; afterwards nothing is sent or received.
    pub dead: CancellationToken,
    /// While the process is suspended, nothing is either.
    pub pause: Pause,
    pub exchanges: ExchangeLog,
    /// The number of the process.
    pub process: u64,
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
            Ok(Reply { status, body: body.to_bytes().to_vec(), at: None })
        };
        let exchange = body.filter(|_| target.starts_with(EXCHANGE));
        let exchange = exchange.map(|body| self.exchanges.begin(self.process, body));
        let answered = async {
            self.pause.over().await;
            let answer = tokio::time::timeout(TIMEOUT, answered).await;
            self.pause.over().await;
            answer.unwrap_or(Err(Transport::Timeout))
        };
        let answer = tokio::select! {
            biased;
            () = self.dead.cancelled() => std::future::pending().await,
            answer = answered => answer,
        };
        if let Some(call) = exchange {
            self.exchanges.end(call, &answer);
        }
        answer
    }
}
