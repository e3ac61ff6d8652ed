//! A sink that publishes entries to a stream of NATS JetStream, one message per entry.
//!
//! The stream acknowledges each message before the next is sent. Pipelining would break the order: if message
//! k were rejected and k + 1 accepted, the retry of k would come after k + 1, and a reader that keeps the
//! latest state of each link would keep the older one. A retried message has the same `Nats-Msg-Id`, so the
//! stream drops duplicates within its duplicate window.
//!
//! Deliberately absent: creating the stream. Its retention and replicas are the operator's decision.

#[cfg(test)]
mod tests;

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::{ConnectErrorKind, ConnectOptions, Event, HeaderMap};
use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;

use super::{DeliveryError, Retry, Sink};
use crate::domain::link::FeedEntry;
use crate::telemetry::address::Address;

/// Time-out for connecting, and for each acknowledgement.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Reconnects that the client tries by itself, within about five minutes. After them the sink builds a new
/// client, which reads the credentials file again.
const RECONNECTS_MAX: usize = 80;

/// Entries of one delivery.
const BATCH_MAX: usize = 32;

/// Where messages are published, and with which login.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `nats://host:port` or `tls://host:port`.
    pub url: Address,
    /// The subject of the messages.
    pub subject: String,
    /// How to authenticate.
    pub login: Login,
    /// A PEM file of CA certificates that are trusted in place of the system's.
    pub ca_file: Option<PathBuf>,
}

/// How to authenticate with the server.
#[derive(Debug, Clone)]
pub enum Login {
    /// Without authentication.
    None,
    /// With a token.
    Token(SecretString),
    /// With a user name and a password.
    Password {
        /// The user name.
        user: String,
        /// The password.
        password: SecretString,
    },
    /// With a `.creds` file, which is read for every new client.
    Credentials(PathBuf),
}

/// Whether a subject can be published to: without wildcards, at most 255 bytes.
#[must_use]
pub fn is_subject(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '*' | '>');
    text.len() <= 255 && text.split('.').all(|token| !token.is_empty() && token.chars().all(plain))
}

/// Whether this is the content of a `.creds` file.
#[must_use]
pub fn are_credentials(content: &str) -> bool {
    ConnectOptions::with_credentials(content).is_ok()
}

/// The NATS sink.
pub struct Nats {
    settings: Settings,
    reconnects_max: usize,
    connection: Option<Connection>,
}

/// A client of the server.
struct Connection {
    jetstream: Context,
    /// The server's last error on this connection. Changes with every event of the client; closed with the
    /// client.
    events: watch::Receiver<Option<String>>,
}

impl Nats {
    /// A sink for one subject. The connection is made by the first delivery.
    #[must_use]
    pub const fn new(settings: Settings) -> Self {
        Self { settings, reconnects_max: RECONNECTS_MAX, connection: None }
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
            None => self.connect().await?,
        };
        let established = tokio::time::timeout(WAIT_MAX, connection.established()).await;
        match established {
            // The client has stopped; the next delivery builds a new one.
            Ok(Err(ClientStopped)) => Err("the NATS server could not be reached for minutes".to_owned()),
            Ok(Ok(())) => Ok(self.connection.insert(connection)),
            Err(_) => {
                self.connection = Some(connection);
                Err("the connection to the NATS server is down; reconnecting".to_owned())
            }
        }
    }

    async fn connect(&self) -> Result<Connection, String> {
        // Fails if the provider is installed already, by another client of this process: the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (sender, events) = watch::channel(None);
        let options = match &self.settings.login {
            Login::None => ConnectOptions::new(),
            Login::Token(token) => ConnectOptions::with_token(token.expose_secret().to_owned()),
            Login::Password { user, password } => {
                ConnectOptions::with_user_and_password(user.clone(), password.expose_secret().to_owned())
            }
            Login::Credentials(path) => ConnectOptions::with_credentials_file(path)
                .await
                .map_err(|error| format!("credentials_file {} cannot be used: {error}", path.display()))?,
        };
        let options = options
            .name("unionlink")
            .connection_timeout(WAIT_MAX)
            .max_reconnects(self.reconnects_max)
            .event_callback(move |event| {
                match event {
                    Event::Connected => sender.send_modify(|server_error| *server_error = None),
                    Event::ServerError(error) => {
                        sender.send_modify(|server_error| *server_error = Some(error.to_string()));
                    }
                    // Wakes what waits for a change of the connection's state.
                    Event::Disconnected => sender.send_modify(|_| {}),
                    _ => {}
                }
                std::future::ready(())
            });
        let options = match &self.settings.ca_file {
            Some(path) => options.add_root_certificates(path.clone()),
            None => options,
        };
        let connecting = tokio::time::timeout(WAIT_MAX, options.connect(self.settings.url.0.as_str())).await;
        match connecting {
            Ok(Ok(client)) => {
                let mut jetstream = async_nats::jetstream::new(client);
                jetstream.set_timeout(WAIT_MAX);
                Ok(Connection { jetstream, events })
            }
            Ok(Err(error)) => Err(connect_failed(error.kind(), &error)),
            Err(_) => Err(format!("the NATS server did not answer within {} s", WAIT_MAX.as_secs())),
        }
    }
}

/// The client has stopped trying to reconnect.
struct ClientStopped;

impl Connection {
    /// Waits until the connection is established.
    async fn established(&mut self) -> Result<(), ClientStopped> {
        while self.jetstream.client().connection_state() != State::Connected {
            // The sender is part of the client and dropped with it.
            self.events.changed().await.map_err(|_| ClientStopped)?;
        }
        Ok(())
    }

    /// Waits until the connection is lost.
    async fn lost(&mut self) {
        while self.jetstream.client().connection_state() == State::Connected
            && self.events.changed().await.is_ok()
        {}
    }
}

fn connect_failed(kind: ConnectErrorKind, error: &dyn Error) -> String {
    let cause = std::iter::successors(error.source(), |cause| (*cause).source()).last();
    let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
    match kind {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            "the NATS server refuses the login; check token, user and password, or credentials_file"
                .to_owned()
        }
        ConnectErrorKind::Dns => format!("the NATS server's name cannot be resolved{cause}"),
        ConnectErrorKind::Tls => format!("no TLS connection to the NATS server; check ca_file{cause}"),
        ConnectErrorKind::TimedOut => "the NATS server did not answer in time".to_owned(),
        ConnectErrorKind::ServerParse => "the url is not that of a NATS server".to_owned(),
        ConnectErrorKind::Io | ConnectErrorKind::MaxReconnects => {
            format!("no connection to the NATS server{cause}")
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
}
