//! A sink that publishes entries to a stream of NATS JetStream, one message per entry.
//!
//! The stream acknowledges each message before the next is sent. Pipelining would break the order: if message
//! k were rejected and k + 1 accepted, the retry of k would come after k + 1, and a reader that keeps the
//! latest state of each link would keep the older one. A retried message has the same `Nats-Msg-Id`, so the
//! stream drops duplicates within its duplicate window.
//!
//! Deliberately absent: creating the stream. Its retention and replicas are the operator's decision.

mod connect;
mod settings;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::net::IpAddr;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::context::{GetStreamByNameErrorKind, PublishError, PublishErrorKind};
use async_trait::async_trait;
use connect::{ClientStopped, Connection, WAIT_MAX, connect};
pub use settings::{Login, Settings, are_credentials, is_subject};

use super::{DeliveryError, Looked, Retry, Sink};
use crate::domain::link::FeedEntry;
use crate::reach::is_private;

/// Reconnects that the client tries by itself, within about five minutes. After them the sink builds a new
/// client, which reads the credentials file again.
const RECONNECTS_MAX: usize = 80;

/// The least time for which a stream has to remember message ids: a delivery is retried that late.
const DUPLICATE_WINDOW_MIN: Duration = Duration::from_mins(2);

/// Entries of one delivery.
const BATCH_MAX: usize = 32;

/// The NATS sink.
pub struct Nats {
    settings: Settings,
    reconnects_max: usize,
    /// Which addresses are connected to without TLS.
    is_private: fn(IpAddr) -> bool,
    connection: Option<Connection>,
}

impl Nats {
    /// A sink for one subject. The connection is made by the first delivery.
    #[must_use]
    pub const fn new(settings: Settings) -> Self {
        Self { settings, reconnects_max: RECONNECTS_MAX, is_private, connection: None }
    }

    async fn publish(&mut self, entry: &FeedEntry) -> Result<(), String> {
        let payload = serde_json::to_vec(entry)
            .map_err(|error| format!("an entry cannot be serialised as JSON: {error}"))?;
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, entry.id.as_str());
        let subject = self.settings.subject.clone();
        let connection = self.connected().await?;
        let sent = connection.jetstream.publish_with_headers(subject.clone(), headers, payload.into()).await;
        let acknowledged = match sent {
            Ok(acknowledgement) => tokio::select! {
                acknowledged = acknowledgement => acknowledged,
                // Once the connection is lost, the acknowledgement cannot arrive any more.
                () = connection.lost() => Err(PublishErrorKind::BrokenPipe.into()),
            },
            Err(error) => Err(error),
        };
        // A duplicate is acknowledged too: the stream has the entry.
        acknowledged.map(|_| ()).map_err(|error| {
            let server_error = connection.events.borrow().clone();
            publish_failed(&error, &subject, server_error.as_deref())
        })
    }

    /// A client that is connected. Nothing is published through one that is not: it would buffer the message
    /// and send it later, although the delivery was reported as failed.
    async fn connected(&mut self) -> Result<&mut Connection, String> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.settings, self.reconnects_max, self.is_private).await?,
        };
        let established = tokio::time::timeout(WAIT_MAX, connection.established()).await;
        match established {
            // The client has stopped; the next delivery builds a new one.
            Ok(Err(ClientStopped)) => Err("the NATS server could not be reached for a while".to_owned()),
            Ok(Ok(())) => Ok(self.connection.insert(connection)),
            Err(_) => {
                self.connection = Some(connection);
                Err("the connection to the NATS server is down; reconnecting".to_owned())
            }
        }
    }
}

fn publish_failed(error: &PublishError, subject: &str, server_error: Option<&str>) -> String {
    let cause = || error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    match error.kind() {
        PublishErrorKind::StreamNotFound => format!(
            "no stream takes the subject {subject}; create one: \
             nats stream add unionlink --subjects {subject} (JetStream has to be on: nats-server -js)"
        ),
        PublishErrorKind::TimedOut => {
            let hint = server_error.map(|text| format!("; the server reported: {text}")).unwrap_or_default();
            format!("the stream of {subject} did not acknowledge within {} s{hint}", WAIT_MAX.as_secs())
        }
        PublishErrorKind::BrokenPipe => "the connection to the NATS server broke".to_owned(),
        PublishErrorKind::MaxPayloadExceeded => {
            format!("an entry is larger than the NATS server accepts; raise its max_payload{}", cause())
        }
        PublishErrorKind::MaxAckPending
        | PublishErrorKind::WrongLastMessageId
        | PublishErrorKind::WrongLastSequence
        | PublishErrorKind::Other => format!("the stream of {subject} did not accept an entry{}", cause()),
    }
}

#[async_trait]
impl Sink for Nats {
    fn batch_max(&self) -> usize {
        BATCH_MAX
    }

    async fn deliver(&mut self, entries: &[FeedEntry]) -> Result<(), DeliveryError> {
        for (delivered, entry) in entries.iter().enumerate() {
            let published = self.publish(entry).await;
            published.map_err(|reason| DeliveryError { delivered, retry: Retry::Backoff, reason })?;
        }
        Ok(())
    }

    async fn look(&mut self) -> Result<Looked, String> {
        let subject = self.settings.subject.clone();
        let connection = connect(&self.settings, 0, self.is_private).await?;
        let name = match connection.jetstream.stream_by_subject(subject.clone()).await {
            Ok(name) => name,
            Err(error) if error.kind() == GetStreamByNameErrorKind::NotFound => {
                return Err(format!("no stream takes {subject}: nats stream add NAME --subjects {subject}"));
            }
            // A login that may only publish is enough to deliver.
            Err(error) => return Ok(Looked::Unknown(format!("streams cannot be looked up: {error}"))),
        };
        let window = match connection.jetstream.get_stream(&name).await {
            Ok(stream) => stream,
            Err(error) => return Ok(Looked::Unknown(format!("the stream {name} cannot be read: {error}"))),
        };
        let window = window.cached_info().config.duplicate_window;
        if window < DUPLICATE_WINDOW_MIN {
            let secs = window.as_secs();
            return Ok(Looked::Doubtful(format!(
                "the stream {name} forgets message ids after {secs} s, so that a retried entry may be in it twice: nats \
                 stream edit {name} --dupe-window 2m"
            )));
        }
        Ok(Looked::Well(format!("the stream {name} takes {subject}")))
    }
}
