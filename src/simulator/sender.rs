//! The methods of [`Simulator`] that seal and send callbacks: one or many, repeated, or forged.
//!
//! Deliberately absent: sealing and posting one callback (`delivery`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::RngExt;
use rand::seq::SliceRandom;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::delivery::Delivery;
use super::event::{Event, Sending};
use super::handle::{Simulator, known};
use super::ids;
use super::seal::{SealedCallback, Sealer};

/// Time-out of a verification.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(1);
/// Copies of one callback in flight at a time.
const COPIES_IN_FLIGHT_MAX: usize = 256;
/// Forged callbacks in flight at a time.
const FORGED_IN_FLIGHT_MAX: usize = 32;
/// Forged callbacks in memory at a time.
const FORGED_CHUNK: usize = 1_000;

/// Whether repeated callbacks are the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copies {
    /// The same nonce, timestamp, ciphertext and signature every time.
    Identical,
    /// The same event sealed again every time.
    Resealed,
}

/// What is wrong with a forged callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgery {
    /// A genuine ciphertext with a well-formed signature that is not its own.
    Signature,
    /// A valid signature over bytes that do not decrypt to a message.
    Cipher,
    /// Correctly sealed with another token and key.
    WrongKeys,
}

impl Simulator {
    /// Loses this share of the events that are sent from now on: see `Delivery::attempts`.
    pub fn lose_callbacks(&self, percent: u8) {
        self.world().options.sender.lost_percent = percent;
    }

    /// Sends an event, with retries.
    pub async fn deliver(&self, event: &Event) -> Delivery {
        let retries = self.world().options.sender.retries;
        self.platform.deliver(event, retries).await
    }

    /// Sends an event, without retries.
    pub async fn deliver_once(&self, event: &Event) -> Delivery {
        self.platform.deliver(event, 0).await
    }

    /// Sends events in random order with at most `in_flight_max` at a time; the results are in the order of
    /// `events`.
    pub async fn deliver_all(&self, events: Vec<Event>, in_flight_max: usize) -> Vec<Delivery> {
        let retries = self.world().options.sender.retries;
        let mut events: Vec<(usize, Event)> = events.into_iter().enumerate().collect();
        events.shuffle(&mut self.world().noise);
        let jobs = events.into_iter().map(|(index, event)| {
            let platform = Arc::clone(&self.platform);
            (index, async move { platform.deliver(&event, retries).await })
        });
        run_all(jobs.collect(), in_flight_max).await
    }

    /// Sends one event `count` times, up to 256 at the same time, without retries.
    pub async fn deliver_copies(&self, event: &Event, count: usize, copies: Copies) -> Vec<Delivery> {
        let callbacks = match copies {
            Copies::Identical => vec![self.seal(event); count],
            Copies::Resealed => (0..count).map(|_| self.seal(event)).collect(),
        };
        self.post_all(callbacks, COPIES_IN_FLIGHT_MAX).await
    }

    /// Sends forged callbacks and counts the answers by HTTP status, 0 for none.
    pub async fn deliver_forged(
        &self,
        upstream_corp_id: &str,
        forgery: Forgery,
        count: usize,
    ) -> BTreeMap<u16, u64> {
        let mut statuses = BTreeMap::new();
        for sent in (0..count).step_by(FORGED_CHUNK) {
            let chunk = FORGED_CHUNK.min(count - sent);
            let forged = (0..chunk).map(|_| self.forge(upstream_corp_id, forgery)).collect();
            for delivery in self.post_all(forged, FORGED_IN_FLIGHT_MAX).await {
                *statuses.entry(delivery.status.unwrap_or(0)).or_default() += 1;
            }
        }
        statuses
    }

    /// Posts a sealed callback once, for instance to replay it or after tampering with it.
    pub async fn post(&self, callback: &SealedCallback) -> Delivery {
        self.platform.post(callback).await
    }

    /// Posts every callback once, with at most `in_flight_max` at a time.
    async fn post_all(&self, callbacks: Vec<SealedCallback>, in_flight_max: usize) -> Vec<Delivery> {
        let jobs = callbacks.into_iter().enumerate().map(|(index, callback)| {
            let platform = Arc::clone(&self.platform);
            (index, async move { platform.post(&callback).await })
        });
        run_all(jobs.collect(), in_flight_max).await
    }

    /// Verifies the callback URL of an upstream corp's app as the admin console does: whether the answer
    /// within a second is exactly the echo. For an agency-developed app, the receive id is that of
    /// `AgencyOptions::app_url_check`.
    pub async fn verify_url(&self, upstream_corp_id: &str) -> bool {
        let receive_id = {
            let world = self.world();
            world.app_url_receive_id(known(world.upstream(upstream_corp_id)))
        };
        self.verify_app_url(upstream_corp_id, &receive_id).await
    }

    /// Verifies the app URL of an upstream corp, or of a dealer that installed the app, with any receive id.
    pub async fn verify_app_url(&self, corp_id: &str, receive_id: &str) -> bool {
        self.verify(&known(self.platform.sealer(corp_id)), receive_id).await
    }

    /// Verifies the callback URL of a template with any receive id; the platform itself uses the provider's
    /// corp id.
    pub async fn verify_template_url(&self, suite_id: &str, receive_id: &str) -> bool {
        self.verify(&known(self.platform.template_sealer(suite_id)), receive_id).await
    }

    async fn verify(&self, sealer: &Sealer, receive_id: &str) -> bool {
        let params = self.platform.seal_params();
        let echo = ids::nonce(&mut self.world().noise).repeat(2);
        let url = sealer.verification_url(&echo, receive_id, &params);
        let Some(http) = &self.platform.http else { return false };
        let answered = async {
            let response = http.get(url).timeout(VERIFY_TIMEOUT).send().await?;
            Ok::<_, reqwest::Error>((response.status().as_u16(), response.bytes().await?))
        };
        answered.await.is_ok_and(|(status, body)| status == 200 && body == echo.as_bytes())
    }

    /// Seals an event without sending it.
    #[must_use]
    pub fn seal(&self, event: &Event) -> SealedCallback {
        known(self.platform.seal(event))
    }

    /// Seals an event for any receive id. The outer fields are those of `event`, which the caller may change.
    #[must_use]
    pub fn seal_with(&self, event: &Event, receive_id: &str) -> SealedCallback {
        known(self.platform.seal_for(event, receive_id))
    }

    /// Seals any inner text as a callback of the upstream corp itself.
    #[must_use]
    pub fn seal_text(&self, upstream_corp_id: &str, inner: &str) -> SealedCallback {
        let event = own_event(upstream_corp_id, self.agent_id(upstream_corp_id), inner);
        self.seal_with(&event, upstream_corp_id)
    }

    fn forge(&self, upstream_corp_id: &str, forgery: Forgery) -> SealedCallback {
        let genuine = known(self.platform.sealer(upstream_corp_id));
        let params = self.platform.seal_params();
        let mut noise = [0_u8; 192];
        self.world().noise.fill(&mut noise);
        let other = known(Sealer::new(&self.invent_callback(&genuine.url)));
        let event = own_event(upstream_corp_id, 1, "<xml><Event><![CDATA[forged]]></Event></xml>");
        match forgery {
            Forgery::Signature => {
                let encrypted = genuine.encrypt(params.random, &event.inner, upstream_corp_id);
                other.envelope(&encrypted, &event, &params)
            }
            Forgery::Cipher => genuine.envelope(&STANDARD.encode(noise), &event, &params),
            Forgery::WrongKeys => other.seal(&event, upstream_corp_id, &params),
        }
    }
}

/// An event about the upstream corp itself.
fn own_event(upstream_corp_id: &str, agent_id: u64, inner: &str) -> Event {
    let (upstream_corp_id, inner) = (upstream_corp_id.to_owned(), inner.to_owned());
    let (suite_id, sending) = (None, Sending::Usual);
    Event { to_user_name: upstream_corp_id.clone(), upstream_corp_id, agent_id, inner, suite_id, sending }
}

/// Runs jobs with at most `in_flight_max` at a time; the results are sorted by the jobs' indices.
async fn run_all<J>(jobs: Vec<(usize, J)>, in_flight_max: usize) -> Vec<Delivery>
where
    J: Future<Output = Delivery> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(in_flight_max.clamp(1, Semaphore::MAX_PERMITS)));
    let mut running = JoinSet::new();
    for (index, job) in jobs {
        let permit = Arc::clone(&permits).acquire_owned().await;
        running.spawn(async move {
            let delivery = job.await;
            drop(permit);
            (index, delivery)
        });
    }
    let mut done = running.join_all().await;
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, delivery)| delivery).collect()
}
