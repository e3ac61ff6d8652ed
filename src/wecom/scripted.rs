//! For the tests of the client: a WeCom whose answers are a function of the request, and quotas without
//! limits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::Value;

use super::api::Api;
use super::credentials::QuotaLimits;
use super::error::Transport;
use super::limiter::Ledgers;
use super::wire::{Reply, Wire};
use crate::domain::ids::CorpId;
use crate::domain::quota::{Budget, Grant, Limits, Share};
use crate::domain::time::Moment;

/// A request, without the host.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    /// The path without `/cgi-bin/`.
    pub(super) path: String,
    pub(super) query: String,
    pub(super) body: Option<Value>,
}

/// WeCom as a function.
pub(super) struct Scripted {
    answer: Box<dyn Fn(&Request) -> Value + Send + Sync>,
    requests: Mutex<Vec<Request>>,
}

impl Scripted {
    pub(super) fn new(answer: impl Fn(&Request) -> Value + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { answer: Box::new(answer), requests: Mutex::default() })
    }

    /// The requests so far.
    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The number of requests with this path.
    pub(super) fn count(&self, path: &str) -> usize {
        self.requests().iter().filter(|request| request.path == path).count()
    }
}

#[async_trait]
impl Wire for Scripted {
    async fn exchange(&self, target: &str, body: Option<&Value>) -> Result<Reply, Transport> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = path.strip_prefix("/cgi-bin/").unwrap().to_owned();
        let request = Request { path, query: query.to_owned(), body: body.cloned() };
        self.requests.lock().unwrap().push(request.clone());
        // Other callers send their requests before this one is answered.
        tokio::task::yield_now().await;
        let answer = (self.answer)(&request);
        Ok(Reply { status: 200, body: serde_json::to_vec(&answer).unwrap(), at: None })
    }
}

/// A call and the accounts that it was charged to.
pub(super) type Charge = (Api, [(String, Budget); 2]);

/// Ledgers that grant every permit, and keep the accounts that were charged.
#[derive(Default)]
pub(super) struct Unlimited {
    pub(super) charged: Mutex<Vec<Charge>>,
}

#[async_trait]
impl Ledgers for Unlimited {
    async fn reserve(
        &self,
        accounts: &[(String, Budget)],
        api: Api,
        _share: Share,
        want: u32,
        _now: Moment,
    ) -> Result<Grant, String> {
        self.charged.lock().unwrap().push((api, accounts.to_vec().try_into().unwrap()));
        Ok(Grant::Permits(want))
    }

    async fn rate_limited(
        &self,
        _account: &str,
        _budget: Budget,
        _api: Api,
        _now: Moment,
    ) -> Result<i64, String> {
        Ok(0)
    }
}

/// The documented limits for every corp.
pub(super) fn documented_limits() -> Arc<dyn QuotaLimits> {
    Arc::new(BTreeMap::<CorpId, Limits>::new())
}
