//! One callback: sealing an event, posting it, waiting for the answer, retrying (documents 90930 and 90238).
//!
//! Deliberately absent: the events themselves (`event`), and sending many or forged callbacks (`sender`).

use std::time::{Duration, Instant};

use super::error::SimulatorError;
use super::event::Event;
use super::ids;
use super::options::{ReceiveId, SenderOptions};
use super::platform::Platform;
use super::seal::{SealParams, SealedCallback, Sealer};

/// The part of an answer that is kept.
const ANSWER_CHARS_MAX: usize = 256;

/// The result of sending one callback.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Answered with HTTP 200 in time.
    pub acknowledged: bool,
    /// HTTP requests made; 0 if no callback URL is configured or the event got lost.
    pub attempts: u32,
    /// The last status; `None` if the last attempt got no answer.
    pub status: Option<u16>,
    /// The beginning of the last answer.
    pub answer: String,
    /// Duration of the last attempt.
    pub round_trip: Duration,
}

impl Platform {
    /// The sealer for the callback configuration of an upstream corp's app.
    pub(super) fn sealer(&self, upstream_corp_id: &str) -> Result<Sealer, SimulatorError> {
        let world = self.world();
        let app = world.corps[world.upstream(upstream_corp_id)?].app.as_ref();
        let callback = app.and_then(|app| app.callback.as_ref());
        Sealer::new(callback.ok_or_else(|| SimulatorError::NoCallback(upstream_corp_id.to_owned()))?)
    }

    pub(super) fn seal_params(&self) -> SealParams {
        let mut world = self.world();
        let now_secs = world.now().as_secs();
        SealParams::draw(&mut world.noise, now_secs)
    }

    fn sender_options(&self) -> SenderOptions {
        self.world().options.sender
    }

    /// Seals `event` for the receive id in the options.
    pub(super) fn seal(&self, event: &Event) -> Result<SealedCallback, SimulatorError> {
        let receive_id = match self.sender_options().receive_id {
            ReceiveId::Upstream => &event.upstream_corp_id,
            ReceiveId::Dealer => &event.to_user_name,
        };
        self.seal_for(event, receive_id)
    }

    /// Seals `event` for any receive id.
    pub(super) fn seal_for(&self, event: &Event, receive_id: &str) -> Result<SealedCallback, SimulatorError> {
        Ok(self.sealer(&event.upstream_corp_id)?.seal(event, receive_id, &self.seal_params()))
    }

    async fn attempt(&self, callback: &SealedCallback) -> Delivery {
        let started = Instant::now();
        self.world().counters.callbacks.attempts += 1;
        let Some(http) = &self.http else {
            return Delivery { attempts: 1, ..Delivery::default() };
        };
        let request = http
            .post(callback.full_url())
            .header("content-type", "text/xml")
            .timeout(Duration::from_millis(self.sender_options().timeout_ms))
            .body(callback.body.clone());
        let answered = async {
            let response = request.send().await?;
            Ok::<_, reqwest::Error>((response.status().as_u16(), response.text().await?))
        };
        let (status, answer) = match answered.await {
            Ok((status, text)) => (Some(status), text.chars().take(ANSWER_CHARS_MAX).collect()),
            Err(error) => {
                tracing::debug!(error = error.without_url().to_string(), "callback not answered");
                (None, String::new())
            }
        };
        Delivery {
            acknowledged: status == Some(200),
            attempts: 1,
            status,
            answer,
            round_trip: started.elapsed(),
        }
    }

    /// Posts one callback once.
    pub(super) async fn post(&self, callback: &SealedCallback) -> Delivery {
        self.counted(self.attempt(callback).await)
    }

    /// Whether the next event gets lost, in which case it is counted.
    fn loses_event(&self) -> bool {
        let mut world = self.world();
        let percent = u64::from(world.options.sender.lost_percent);
        // Without a draw while nothing can get lost: it would change everything that is drawn later.
        let is_lost = percent > 0 && ids::number(&mut world.noise, 100) < percent;
        world.counters.callbacks.lost += u64::from(is_lost);
        is_lost
    }

    /// Sends `event`, unless it gets lost, until it is acknowledged or `retries` are used up.
    pub(super) async fn deliver(&self, event: &Event, retries: u32) -> Delivery {
        if self.loses_event() {
            return Delivery::default();
        }
        let options = self.sender_options();
        let mut sealed = match self.seal(event) {
            Ok(sealed) => sealed,
            Err(error) => {
                tracing::debug!(error = error.to_string(), "event not sent");
                return self.counted(Delivery::default());
            }
        };
        let mut attempts = 0;
        loop {
            attempts += 1;
            let delivery = Delivery { attempts, ..self.attempt(&sealed).await };
            let is_final = match delivery.status {
                Some(200) => true,
                Some(_) => !options.retry_non_200,
                None => false,
            };
            if is_final || attempts > retries {
                return self.counted(delivery);
            }
            tokio::time::sleep(Duration::from_millis(options.retry_interval_ms)).await;
            // If the callback configuration is gone by now, the same bytes are sent again.
            if options.reencrypt_retries
                && let Ok(again) = self.seal(event)
            {
                sealed = again;
            }
        }
    }

    /// Counts the final result of a callback.
    fn counted(&self, delivery: Delivery) -> Delivery {
        let counters = &mut self.world().counters.callbacks;
        if delivery.acknowledged {
            counters.acknowledged += 1;
        } else {
            counters.gave_up += 1;
        }
        delivery
    }
}
