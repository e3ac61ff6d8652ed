//! A working model of the `WeCom` platform over real HTTP: it has corps, people, friendships, tokens and
//! quotas, answers the APIs that unionlink uses, sends sealed callbacks, and misbehaves on demand.
//!
//! Used by `unionlink demo`, by `unionlink simulate` and by the tests. It is written from the documents
//! alone and shares no wire code with [`crate`]'s client or callback door, so that a misreading cannot
//! cancel itself out.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use std::sync::Arc;
//! use unionlink::clock::SystemClock;
//! use unionlink::simulator::{Api, Fault, Options, Simulator};
//!
//! let sim = Simulator::start(Options::default(), Arc::new(SystemClock)).await?;
//! let mut app = sim.invent_app();
//! app.callback = Some(sim.invent_callback("http://127.0.0.1:8080/callback/brand"));
//! sim.add_app(app.clone());
//! let dealer = sim.add_dealer(&app.corp_id, "Dealer One");
//! let person = sim.add_person();
//! // … unionlink, pointed at `sim.base_url()`, mints the person …
//! let friendship = sim.befriend(&app.corp_id, &dealer.corp_id, &person, "zhangsan", Some("poster"));
//! sim.inject(Api::ExternalUseridToPendingId, Fault::Reset, Some(1));
//! assert!(sim.deliver(&friendship.event).await.acknowledged);
//! # Ok(())
//! # }
//! ```
//!
//! Time comes from the [`Clock`] handed in (tokens, quotas, 90 days, `CreateTime`, signatures); waiting
//! (latency, retry intervals, time-outs) is real.
//!
//! Methods that name a corp, person or chat panic if the simulator never made it: its users are tests and
//! tools that got the name from it. The HTTP control routes under `/sim/` answer 400 instead.
//!
//! Layout: `world` and `relations` are the state, `quota` the judge of limits, `endpoints` and `convert`
//! the APIs, `server` and `fault` the HTTP side, `event`, `seal` and `sender` the callbacks, `control` the
//! `/sim/` routes.
//!
//! Deliberately absent: everything of `WeCom` that unionlink does not touch, per-IP limits (one machine is
//! one address), several apps in one upstream corp, TLS, and persistence.

mod api;
mod control;
mod convert;
mod counters;
mod endpoints;
mod error;
mod event;
mod fault;
mod handle;
mod ids;
mod options;
pub(crate) mod quota;
mod relations;
mod seal;
mod sender;
mod server;
mod shared;
#[cfg(test)]
mod tests;
mod world;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::DropGuard;

pub use api::Api;
pub use counters::{Call, CallbackCounters, Counters};
pub use error::SimulatorError;
pub use event::{Change, Event};
pub use fault::{Fault, Target};
pub use handle::{QuotaUse, Truth};
pub use options::{Options, Quota, ReceiveId, Remint, SenderOptions, TokenRule, UnknownId, Unminted};
pub use relations::Friendship;
pub use seal::SealedCallback;
pub use sender::{Delivery, Forgery};
pub use server::InProcess;
pub use world::{AppSpec, CallbackSpec, Dealer, Person};

use crate::clock::Clock;
use shared::Shared;
use world::World;

/// Copies of one callback in flight at a time.
const COPIES_IN_FLIGHT_MAX: usize = 256;

/// Whether repeated callbacks are the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copies {
    /// The same nonce, timestamp, ciphertext and signature every time.
    Identical,
    /// The same event sealed afresh every time.
    Resealed,
}

/// A running platform. Clones share it; it stops when the last one is dropped.
#[derive(Clone)]
pub struct Simulator {
    shared: Arc<Shared>,
    address: SocketAddr,
    // Only handles keep the platform running; its own tasks do not.
    _stop_on_drop: Arc<DropGuard>,
}

impl std::fmt::Debug for Simulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulator").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Simulator {
    /// Starts listening and serving.
    ///
    /// # Errors
    /// When the address cannot be listened on, or the HTTP client that sends callbacks cannot be set up.
    pub async fn start(options: Options, clock: Arc<dyn Clock>) -> io::Result<Self> {
        // reqwest is built without a TLS provider of its own. An error means that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            // What WeCom sends, according to its users.
            .user_agent("Mozilla/4.0")
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(io::Error::other)?;
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new(World::new(options), clock, Some(http)));
        let (tasks, stop) = (shared.tasks.clone(), shared.stop.clone());
        shared.tasks.spawn(server::serve(listener, Arc::clone(&shared), tasks, stop.clone()));
        Ok(Self { shared, address, _stop_on_drop: Arc::new(stop.drop_guard()) })
    }

    /// A platform without sockets: its API is called through [`in_process`](Self::in_process), and what it has to
    /// tell is sealed with [`seal`](Self::seal) and carried by hand. Nothing in it waits for the real world.
    #[must_use]
    pub fn unplugged(options: Options, clock: Arc<dyn Clock>) -> Self {
        let address = options.listen;
        let shared = Arc::new(Shared::new(World::new(options), clock, None));
        let stop = shared.stop.clone();
        Self { shared, address, _stop_on_drop: Arc::new(stop.drop_guard()) }
    }

    /// The API without a socket.
    #[must_use]
    pub fn in_process(&self) -> InProcess {
        InProcess::new(Arc::clone(&self.shared))
    }

    /// Closes every connection and waits until nothing runs any more. Judges can still be asked afterwards.
    pub async fn stop(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// `http://127.0.0.1:PORT`, to be used in place of `https://qyapi.weixin.qq.com`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sends an event, with retries.
    pub async fn deliver(&self, event: &Event) -> Delivery {
        let retries = self.shared.world().options.sender.retries;
        self.shared.deliver(event, retries).await
    }

    /// Sends an event, without retries.
    pub async fn deliver_once(&self, event: &Event) -> Delivery {
        self.shared.deliver(event, 0).await
    }

    /// Sends events in shuffled order with at most `in_flight_max` at a time; the result is in the order of
    /// `events`.
    pub async fn deliver_all(&self, events: Vec<Event>, in_flight_max: usize) -> Vec<Delivery> {
        sender::deliver_all(&self.shared, events, in_flight_max).await
    }

    /// Sends one event `count` times, up to 256 at the same time, without retries.
    pub async fn deliver_copies(&self, event: &Event, count: usize, copies: Copies) -> Vec<Delivery> {
        let callbacks = match copies {
            Copies::Identical => vec![self.seal(event); count],
            Copies::Resealed => (0..count).map(|_| self.seal(event)).collect(),
        };
        sender::post_all(&self.shared, callbacks, COPIES_IN_FLIGHT_MAX).await
    }

    /// Posts a sealed callback once, for instance to replay it or after tampering with it.
    pub async fn post(&self, callback: &SealedCallback) -> Delivery {
        self.shared.post(callback).await
    }

    /// Sends forged callbacks and counts the answers by HTTP status, 0 for none.
    pub async fn deliver_forged(
        &self,
        upstream_corp_id: &str,
        forgery: Forgery,
        count: usize,
    ) -> BTreeMap<u16, u64> {
        handle::known(sender::post_forged(&self.shared, upstream_corp_id, forgery, count).await)
    }

    /// Verifies the callback URL as the admin console does: whether the answer, within a second, is exactly
    /// the echo.
    pub async fn verify_url(&self, upstream_corp_id: &str) -> bool {
        handle::known(self.shared.verify_url(upstream_corp_id).await)
    }

    /// Seals an event without sending it.
    #[must_use]
    pub fn seal(&self, event: &Event) -> SealedCallback {
        handle::known(self.shared.seal_event(event))
    }

    /// Seals an event for any receive id. The outer fields come from the event, which can be changed
    /// beforehand.
    #[must_use]
    pub fn seal_with(&self, event: &Event, receive_id: &str) -> SealedCallback {
        handle::known(self.shared.seal_with(event, receive_id))
    }

    /// Seals any inner text as a callback of the upstream corp itself.
    #[must_use]
    pub fn seal_text(&self, upstream_corp_id: &str, inner: &str) -> SealedCallback {
        let event = Event {
            upstream_corp_id: upstream_corp_id.to_owned(),
            to_user_name: upstream_corp_id.to_owned(),
            agent_id: self.agent_id(upstream_corp_id),
            inner: inner.to_owned(),
        };
        self.seal_with(&event, upstream_corp_id)
    }
}
