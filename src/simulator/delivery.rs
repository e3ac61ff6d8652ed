//! One callback: sealing an event, posting it, waiting for the answer, retrying (documents 90930 and 90238).
//!
//! Deliberately absent: the events themselves (`event`), and sending many or forged callbacks (`sender`).

use std::time::{Duration, Instant};

use super::error::SimulatorError;
use super::event::{Event, Sending};
use super::ids;
use super::options::{ReceiveId, SenderOptions};
use super::platform::Platform;
use super::seal::{SealParams, SealedCallback, Sealer};

/// The part of an answer that is kept.
const ANSWER_CHARS_MAX: usize = 256;

/// The result of sending one callback.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Answered with HTTP 200 in time, and if it is a template's event, with exactly `success`.
    pub acknowledged: bool,
    /// The last attempt took longer than an urgent event may.
    pub late: bool,
    /// HTTP requests made; 0 if no callback URL is configured or the event got lost.
    pub attempts: u32,
    /// The last status; `None` if the last attempt got no answer.
    pub status: Option<u16>,
    /// The beginning of the last answer.
    pub answer: String,
    /// Duration of the last attempt.
    pub round_trip: Duration,
}

/// What counts as an acknowledgement besides HTTP 200.
#[derive(Debug, Clone, Copy, Default)]
struct Acknowledgement {
    is_success_required: bool,
    within: Option<Duration>,
}

impl Platform {
    /// The sealer for the callback configuration of the app at a corp.
    pub(super) fn sealer(&self, corp_id: &str) -> Result<Sealer, SimulatorError> {
        let world = self.world();
        let callback = world.app_callback(world.corp(corp_id)?);
        Sealer::new(callback.ok_or_else(|| SimulatorError::NoCallback(corp_id.to_owned()))?)
    }

    /// The sealer for the callback configuration of a template.
    pub(super) fn template_sealer(&self, suite_id: &str) -> Result<Sealer, SimulatorError> {
        let world = self.world();
        Sealer::new(&world.templates[world.template(suite_id)?].spec.callback)
    }

    pub(super) fn seal_params(&self) -> SealParams {
        let mut world = self.world();
        let now_secs = world.now().as_secs();
        SealParams::draw(&mut world.noise, now_secs)
    }

    fn sender_options(&self) -> SenderOptions {
        self.world().options.sender
    }

    /// Seals `event` for the receive id in the options, or if it is a template's, for the suite id.
    pub(super) fn seal(&self, event: &Event) -> Result<SealedCallback, SimulatorError> {
        let receive_id = match (&event.suite_id, self.sender_options().receive_id) {
            (Some(suite_id), _) => suite_id,
            (None, ReceiveId::Upstream) => &event.upstream_corp_id,
            (None, ReceiveId::Dealer) => &event.to_user_name,
        };
        self.seal_for(event, receive_id)
    }

    /// Seals `event` for any receive id.
    pub(super) fn seal_for(&self, event: &Event, receive_id: &str) -> Result<SealedCallback, SimulatorError> {
        let sealer = Sealer::new(self.world().callback_for(event)?)?;
        Ok(sealer.seal(event, receive_id, &self.seal_params()))
    }

    fn acknowledgement(&self, event: &Event) -> Acknowledgement {
        let within = Duration::from_millis(self.world().options.agency.acknowledge_within_ms);
        Acknowledgement {
            is_success_required: event.suite_id.is_some(),
            within: (event.sending == Sending::Urgent).then_some(within),
        }
    }

    async fn attempt(&self, callback: &SealedCallback, needed: Acknowledgement) -> Delivery {
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
        let round_trip = started.elapsed();
        let late = needed.within.is_some_and(|within| round_trip > within);
        let is_text_right = !needed.is_success_required || answer == "success";
        let counters = &mut self.world().counters.callbacks;
        counters.late += u64::from(late);
        counters.not_success += u64::from(status == Some(200) && !late && !is_text_right);
        let acknowledged = status == Some(200) && !late && is_text_right;
        Delivery { acknowledged, late, attempts: 1, status, answer, round_trip }
    }

    /// Posts one callback once, whatever is in it.
    pub(super) async fn post(&self, callback: &SealedCallback) -> Delivery {
        self.counted(self.attempt(callback, Acknowledgement::default()).await)
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
        if event.sending == Sending::Never || self.loses_event() {
            return Delivery::default();
        }
        let needed = self.acknowledgement(event);
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
            let delivery = Delivery { attempts, ..self.attempt(&sealed, needed).await };
            // A template's event with a 200 was answered too late, or with another text than `success`.
            let is_refused = delivery.status.is_some_and(|status| status != 200);
            let is_final = delivery.acknowledged || is_refused && !options.retry_non_200;
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

    /// Sends every template a ticket at intervals, until the platform stops.
    pub(super) async fn send_tickets(&self) {
        loop {
            let wait_ms = self.world().options.agency.ticket_every_ms;
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {}
            }
            let tickets: Vec<Event> = {
                let mut world = self.world();
                (0..world.templates.len()).map(|template| world.ticket(template)).collect()
            };
            // A ticket is not sent again: the next one replaces it.
            for ticket in &tickets {
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    _ = self.deliver(ticket, 0) => {}
                }
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
