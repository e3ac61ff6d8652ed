//! A sink that publishes entries to a stream of NATS JetStream, one message an entry.
//!
//! Each message is acknowledged by the stream before the next is sent. Pipelining would be faster and wrong: with k
//! refused and k + 1 accepted, the repetition of k would come behind k + 1, and a reader who keeps the latest state of
//! a link would keep the older one. Repetitions carry the same `Nats-Msg-Id`, which the stream drops within its
//! duplicate window.
//!
//! Deliberately absent: making the stream. How long and how often messages are kept is the operator's decision.

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

use super::{Again, Sink, Undelivered};
use crate::domain::link::FeedEntry;

/// The longest of each wait: for a connection, for an acknowledgement.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// How often the client tries to connect again by itself, within about five minutes; then the connection is made anew
/// and with it the credentials are read anew.
const RECONNECTS_MAX: usize = 80;

/// Entries of one delivery.
const BATCH_MAX: usize = 32;

/// Where and as whom messages are published.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `nats://host:port` or `tls://host:port`.
    pub url: String,
    /// What the messages' subject is.
    pub subject: String,
    /// How the server knows us.
    pub login: Login,
    /// The roots of trust, as PEM, in place of the system's.
    pub ca_file: Option<PathBuf>,
}

/// How the server knows us.
#[derive(Debug, Clone)]
pub enum Login {
    /// It does not ask.
    None,
    /// By a token.
    Token(SecretString),
    /// By name and password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: SecretString,
    },
    /// By a `.creds` file, read at every connection.
    Credentials(PathBuf),
}

/// Whether a subject can be published to.
#[must_use]
pub fn is_subject(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '*' | '>');
    text.len() <= 255 && text.split('.').all(|token| !token.is_empty() && token.chars().all(plain))
}

/// Whether the content of a `.creds` file is one.
#[must_use]
pub fn are_credentials(content: &str) -> bool {
    ConnectOptions::with_credentials(content).is_ok()
}

/// The sink.
pub struct Nats {
    settings: Settings,
    reconnects_max: usize,
    connection: Option<Connection>,
}

/// A client of the server and what it last said about itself.
struct Connection {
    jetstream: Context,
    news: watch::Receiver<Option<String>>,
}

impl Nats {
    /// A sink for one subject. The connection is made by the first delivery.
    #[must_use]
    pub const fn new(settings: Settings) -> Self {
        Self { settings, reconnects_max: RECONNECTS_MAX, connection: None }
    }

    async fn publish(&mut self, entry: &FeedEntry) -> Result<(), String> {
        let payload = serde_json::to_vec(entry)
            .map_err(|error| format!("an entry cannot be written as JSON: {error}"))?;
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, entry.id.as_str());
        let subject = self.settings.subject.clone();
        let connection = self.connected().await?;
        let sent = connection.jetstream.publish_with_headers(subject.clone(), headers, payload.into()).await;
        let acknowledged = match sent {
            Ok(acknowledgement) => tokio::select! {
                acknowledged = acknowledgement => acknowledged,
                // Acknowledgements come over the connection that the message went over, or not at all.
                () = connection.falls() => Err(PublishErrorKind::BrokenPipe.into()),
            },
            Err(error) => Err(error),
        };
        // A duplicate is acknowledged too: the entry is there.
        acknowledged.map(|_| ()).map_err(|error| {
            let complaint = connection.news.borrow().clone();
            unacknowledged(&error, &subject, complaint.as_deref())
        })
    }

    /// A connection that stands. While it does not, nothing is handed to the client: it would send it much later,
    /// behind the back of whoever was told that it had failed.
    async fn connected(&mut self) -> Result<&mut Connection, String> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let standing = tokio::time::timeout(WAIT_MAX, connection.stands()).await;
        match standing {
            // The client has given up; the next delivery begins anew.
            Ok(Err(GivenUp)) => Err("the NATS server could not be reached for minutes".to_owned()),
            Ok(Ok(())) => Ok(self.connection.insert(connection)),
            Err(_) => {
                self.connection = Some(connection);
                Err("the connection to the NATS server is down; it is being made again".to_owned())
            }
        }
    }

    async fn connect(&self) -> Result<Connection, String> {
        // An error means that another client of this process was first, with the same provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (tell, news) = watch::channel(None);
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
                    Event::Connected => tell.send_modify(|complaint| *complaint = None),
                    Event::ServerError(error) => {
                        tell.send_modify(|complaint| *complaint = Some(error.to_string()));
                    }
                    // No complaint, but news.
                    Event::Disconnected => tell.send_modify(|_| {}),
                    _ => {}
                }
                std::future::ready(())
            });
        let options = match &self.settings.ca_file {
            Some(path) => options.add_root_certificates(path.clone()),
            None => options,
        };
        let connecting = tokio::time::timeout(WAIT_MAX, options.connect(&self.settings.url)).await;
        match connecting {
            Ok(Ok(client)) => {
                let mut jetstream = async_nats::jetstream::new(client);
                jetstream.set_timeout(WAIT_MAX);
                Ok(Connection { jetstream, news })
            }
            Ok(Err(error)) => Err(unconnected(error.kind(), &error)),
            Err(_) => Err(format!("the NATS server did not answer within {} s", WAIT_MAX.as_secs())),
        }
    }
}

/// The client tries no more.
struct GivenUp;

impl Connection {
    /// Waits until the connection stands.
    async fn stands(&mut self) -> Result<(), GivenUp> {
        while self.jetstream.client().connection_state() != State::Connected {
            // Its end is the end of the client: whoever tells is dropped with it.
            self.news.changed().await.map_err(|_| GivenUp)?;
        }
        Ok(())
    }

    /// Waits until the connection does not stand any more.
    async fn falls(&mut self) {
        while self.jetstream.client().connection_state() == State::Connected
            && self.news.changed().await.is_ok()
        {}
    }
}

fn unconnected(kind: ConnectErrorKind, error: &dyn Error) -> String {
    let cause = std::iter::successors(error.source(), |cause| (*cause).source()).last();
    let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
    match kind {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            "the NATS server refuses the login; check token, user and password, or credentials_file"
                .to_owned()
        }
        ConnectErrorKind::Dns => format!("the NATS server's name cannot be resolved{cause}"),
        ConnectErrorKind::Tls => format!("no TLS with the NATS server (ca_file?){cause}"),
        ConnectErrorKind::TimedOut => "the NATS server did not answer in time".to_owned(),
        ConnectErrorKind::ServerParse => "the url is not one of a NATS server".to_owned(),
        ConnectErrorKind::Io | ConnectErrorKind::MaxReconnects => {
            format!("no connection to the NATS server{cause}")
        }
    }
}

fn unacknowledged(error: &PublishError, subject: &str, complaint: Option<&str>) -> String {
    let cause = || error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    match error.kind() {
        PublishErrorKind::StreamNotFound => format!(
            "no stream takes the subject {subject}; make one: nats stream add unionlink --subjects {subject} \
             (and see that JetStream is on: nats-server -js)"
        ),
        PublishErrorKind::TimedOut => {
            let complaint = complaint.map(|text| format!("; the server said: {text}")).unwrap_or_default();
            format!("the stream of {subject} did not acknowledge within {} s{complaint}", WAIT_MAX.as_secs())
        }
        PublishErrorKind::BrokenPipe => "the connection to the NATS server broke".to_owned(),
        PublishErrorKind::MaxPayloadExceeded => {
            format!("an entry is larger than the NATS server takes; raise its max_payload{}", cause())
        }
        PublishErrorKind::MaxAckPending
        | PublishErrorKind::WrongLastMessageId
        | PublishErrorKind::WrongLastSequence
        | PublishErrorKind::Other => format!("the stream of {subject} did not take an entry{}", cause()),
    }
}

#[async_trait]
impl Sink for Nats {
    fn batch_max(&self) -> usize {
        BATCH_MAX
    }

    async fn deliver(&mut self, entries: &[FeedEntry]) -> Result<(), Undelivered> {
        for (arrived, entry) in entries.iter().enumerate() {
            let published = self.publish(entry).await;
            published.map_err(|reason| Undelivered { arrived, again: Again::Later, reason })?;
        }
        Ok(())
    }
}
