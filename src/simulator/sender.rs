//! Sending callbacks: seal, post, wait at most five seconds, retry (documents 90930 and 90238).
//!
//! Deliberately absent: which events there are (`event`) and what they change (`relations`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::RngExt;
use rand::seq::SliceRandom;
use tokio::task::JoinSet;

use super::error::SimulatorError;
use super::event::Event;
use super::ids;
use super::options::{ReceiveId, SenderOptions};
use super::seal::{self, Outer, Salt, SealedCallback, Sealer};
use super::shared::Shared;
use super::world::CallbackSpec;

/// How much of an answer is kept.
const ANSWER_CHARS_MAX: usize = 256;
/// How long the answer to a verification may take.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(1);
/// Forged callbacks in flight at a time.
const FORGED_IN_FLIGHT_MAX: usize = 32;

/// What became of one callback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Answered with HTTP 200 in time.
    pub acknowledged: bool,
    /// HTTP requests made; 0 if no callback URL is configured.
    pub attempts: u32,
    /// The last status; `None` if the last attempt got no answer.
    pub status: Option<u16>,
    /// The beginning of the last answer.
    pub answer: String,
    /// How long the last attempt took.
    pub round_trip: Duration,
}

/// What is wrong with a forged callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgery {
    /// A genuine ciphertext under a signature of the right form that does not belong to it.
    Signature,
    /// A right signature over bytes that do not decrypt to a message.
    Cipher,
    /// Sealed in good order with somebody else's token and key.
    Stranger,
}

struct Attempt {
    status: Option<u16>,
    answer: String,
    round_trip: Duration,
}

impl Shared {
    fn callback(&self, upstream_corp_id: &str) -> Result<(CallbackSpec, Sealer), SimulatorError> {
        let world = self.world();
        let spec = world
            .app(world.upstream(upstream_corp_id)?)
            .and_then(|app| app.callback.clone())
            .ok_or_else(|| SimulatorError::NoCallback(upstream_corp_id.to_owned()))?;
        let sealer = Sealer::new(&spec.token, &spec.aes_key)?;
        Ok((spec, sealer))
    }

    fn salt(&self) -> Salt {
        let now_secs = self.clock.now().as_secs();
        Salt::draw(&mut self.world().rng, now_secs)
    }

    fn sender_options(&self) -> SenderOptions {
        self.world().options.sender
    }

    /// Seals `event` the way the options say.
    pub(super) fn seal_event(&self, event: &Event) -> Result<SealedCallback, SimulatorError> {
        let receive_id = match self.sender_options().receive_id {
            ReceiveId::Upstream => &event.upstream_corp_id,
            ReceiveId::Dealer => &event.to_user_name,
        };
        self.seal_with(event, receive_id)
    }

    /// Seals `event` for any receive id.
    pub(super) fn seal_with(
        &self,
        event: &Event,
        receive_id: &str,
    ) -> Result<SealedCallback, SimulatorError> {
        let (spec, sealer) = self.callback(&event.upstream_corp_id)?;
        let agent_id = event.agent_id.to_string();
        let outer = Outer { to_user_name: &event.to_user_name, agent_id: &agent_id };
        Ok(seal::seal(&sealer, &spec.url, &event.inner, receive_id, outer, &self.salt()))
    }

    async fn attempt(&self, callback: &SealedCallback, timeout: Duration) -> Attempt {
        let started = Instant::now();
        self.world().counters.callbacks.attempts += 1;
        let Some(http) = &self.http else {
            return Attempt { status: None, answer: String::new(), round_trip: Duration::ZERO };
        };
        let request = http
            .post(callback.full_url())
            .header("content-type", "text/xml")
            .timeout(timeout)
            .body(callback.body.clone());
        let answered = async {
            let response = request.send().await?;
            Ok::<_, reqwest::Error>((response.status().as_u16(), response.text().await?))
        };
        let (status, answer) = match answered.await {
            Ok((status, text)) => (Some(status), text.chars().take(ANSWER_CHARS_MAX).collect()),
            Err(error) => {
                tracing::debug!(error = %error.without_url(), "callback was not answered");
                (None, String::new())
            }
        };
        Attempt { status, answer, round_trip: started.elapsed() }
    }

    /// Posts one callback once.
    pub(super) async fn post(&self, callback: &SealedCallback) -> Delivery {
        let attempt = self.attempt(callback, Duration::from_millis(self.sender_options().timeout_ms)).await;
        self.conclude(1, attempt)
    }

    /// Sends `event` until it is acknowledged or `retries` are used up.
    pub(super) async fn deliver(&self, event: &Event, retries: u32) -> Delivery {
        let options = self.sender_options();
        let mut sealed = match self.seal_event(event) {
            Ok(sealed) => sealed,
            Err(error) => {
                tracing::debug!(%error, "event was not sent");
                let nothing = Attempt { status: None, answer: String::new(), round_trip: Duration::ZERO };
                return self.conclude(0, nothing);
            }
        };
        let mut attempts = 1;
        loop {
            let attempt = self.attempt(&sealed, Duration::from_millis(options.timeout_ms)).await;
            let is_final = match attempt.status {
                Some(200) => true,
                Some(_) => !options.retry_non_200,
                None => false,
            };
            if is_final || attempts > retries {
                return self.conclude(attempts, attempt);
            }
            tokio::time::sleep(Duration::from_millis(options.retry_interval_ms)).await;
            attempts += 1;
            // The configuration may have gone in the meantime; then the old bytes have to do.
            if options.reencrypt_retries
                && let Ok(again) = self.seal_event(event)
            {
                sealed = again;
            }
        }
    }

    fn conclude(&self, attempts: u32, last: Attempt) -> Delivery {
        let acknowledged = last.status == Some(200);
        let counters = &mut self.world().counters.callbacks;
        if acknowledged {
            counters.acknowledged += 1;
        } else {
            counters.gave_up += 1;
        }
        Delivery {
            acknowledged,
            attempts,
            status: last.status,
            answer: last.answer,
            round_trip: last.round_trip,
        }
    }

    /// Forges one callback for `upstream_corp_id`.
    fn forge(&self, upstream_corp_id: &str, forgery: Forgery) -> Result<SealedCallback, SimulatorError> {
        let (spec, genuine) = self.callback(upstream_corp_id)?;
        let salt = self.salt();
        let (other_token, other_key, noise) = {
            let mut world = self.world();
            let mut noise = [0_u8; 192];
            world.rng.fill(&mut noise);
            (ids::callback_token(&mut world.rng), ids::encoding_aes_key(&mut world.rng), noise)
        };
        let stranger = Sealer::new(&other_token, &other_key)?;
        let outer = Outer { to_user_name: upstream_corp_id, agent_id: "1" };
        let message = "<xml><Event><![CDATA[forged]]></Event></xml>";
        Ok(match forgery {
            Forgery::Signature => {
                let encrypted = genuine.encrypt(salt.random, message, upstream_corp_id);
                seal::envelope(&stranger, &spec.url, &encrypted, outer, &salt)
            }
            Forgery::Cipher => seal::envelope(&genuine, &spec.url, &STANDARD.encode(noise), outer, &salt),
            Forgery::Stranger => seal::seal(&stranger, &spec.url, message, upstream_corp_id, outer, &salt),
        })
    }

    /// Asks the callback URL to prove that it can decrypt, as the admin console does on saving.
    pub(super) async fn verify_url(&self, upstream_corp_id: &str) -> Result<bool, SimulatorError> {
        let (spec, sealer) = self.callback(upstream_corp_id)?;
        let salt = self.salt();
        let echo = ids::nonce(&mut self.world().rng).repeat(2);
        let url = seal::verification_url(&sealer, &spec.url, &echo, upstream_corp_id, &salt);
        let Some(http) = &self.http else { return Ok(false) };
        let answered = async {
            let response = http.get(url).timeout(VERIFY_TIMEOUT).send().await?;
            Ok::<_, reqwest::Error>((response.status().as_u16(), response.bytes().await?))
        };
        Ok(answered.await.is_ok_and(|(status, body)| status == 200 && body == echo.as_bytes()))
    }
}

/// Delivers `events` with at most `in_flight_max` at a time, in shuffled order. The result is in the order
/// of `events`.
pub(super) async fn deliver_all(
    shared: &Arc<Shared>,
    events: Vec<Event>,
    in_flight_max: usize,
) -> Vec<Delivery> {
    let retries = shared.sender_options().retries;
    let mut order: Vec<usize> = (0..events.len()).collect();
    order.shuffle(&mut shared.world().rng);
    let shared = Arc::clone(shared);
    let events = Arc::new(events);
    for_each(order, in_flight_max, move |index| {
        let (shared, events) = (Arc::clone(&shared), Arc::clone(&events));
        async move { shared.deliver(&events[index], retries).await }
    })
    .await
}

/// Posts every callback once, with at most `in_flight_max` at a time.
pub(super) async fn post_all(
    shared: &Arc<Shared>,
    callbacks: Vec<SealedCallback>,
    in_flight_max: usize,
) -> Vec<Delivery> {
    let order = (0..callbacks.len()).collect();
    let shared = Arc::clone(shared);
    let callbacks = Arc::new(callbacks);
    for_each(order, in_flight_max, move |index| {
        let (shared, callbacks) = (Arc::clone(&shared), Arc::clone(&callbacks));
        async move { shared.post(&callbacks[index]).await }
    })
    .await
}

/// Sends `count` forged callbacks and counts the answers by status, 0 for none.
pub(super) async fn post_forged(
    shared: &Arc<Shared>,
    upstream_corp_id: &str,
    forgery: Forgery,
    count: usize,
) -> Result<BTreeMap<u16, u64>, SimulatorError> {
    let mut statuses = BTreeMap::new();
    let mut left = count;
    // In pieces, so that a flood does not need memory for all of its callbacks at once.
    while left > 0 {
        let piece = left.min(1_000);
        left -= piece;
        let forged: Result<Vec<_>, _> = (0..piece).map(|_| shared.forge(upstream_corp_id, forgery)).collect();
        for delivery in post_all(shared, forged?, FORGED_IN_FLIGHT_MAX).await {
            *statuses.entry(delivery.status.unwrap_or(0)).or_default() += 1;
        }
    }
    Ok(statuses)
}

/// Runs `job` for every index of `order`, at most `in_flight_max` at a time; results sorted by index.
async fn for_each<T, F, J>(order: Vec<usize>, in_flight_max: usize, job: F) -> Vec<T>
where
    T: Send + 'static,
    F: Fn(usize) -> J + Clone + Send + 'static,
    J: Future<Output = T> + Send + 'static,
{
    let order = Arc::new(order);
    let next = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(std::sync::Mutex::new(Vec::with_capacity(order.len())));
    let mut workers = JoinSet::new();
    for _ in 0..in_flight_max.clamp(1, order.len().max(1)) {
        let (order, next, done, job) =
            (Arc::clone(&order), Arc::clone(&next), Arc::clone(&done), job.clone());
        workers.spawn(async move {
            while let Some(index) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                let result = job(*index).await;
                done.lock().unwrap_or_else(PoisonError::into_inner).push((*index, result));
            }
        });
    }
    workers.join_all().await;
    let mut done = std::mem::take(&mut *done.lock().unwrap_or_else(PoisonError::into_inner));
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}
