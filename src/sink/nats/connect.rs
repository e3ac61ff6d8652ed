//! Connects to the NATS server, with TLS where it is required.
//!
//! What a server sends before TLS is not authenticated, so nothing is decided from it: servers that it
//! announces are not connected to, and it cannot talk the client out of TLS.
//!
//! Deliberately absent: publishing, and when to connect again.

use std::error::Error;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::Context;
use async_nats::{ConnectError, ConnectErrorKind, ConnectOptions, Event};
use secrecy::ExposeSecret;
use tokio::sync::watch;

use super::settings::{Login, Settings};

/// Time-out for connecting, and for each acknowledgement.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(5);

/// A client of the server.
pub(super) struct Connection {
    pub(super) jetstream: Context,
    /// The server's last error on this connection. Changes with every event of the client; closed with the
    /// client.
    pub(super) events: watch::Receiver<Option<String>>,
}

/// The client has stopped trying to reconnect.
pub(super) struct ClientStopped;

impl Connection {
    /// Waits until the connection is established.
    pub(super) async fn established(&mut self) -> Result<(), ClientStopped> {
        while self.jetstream.client().connection_state() != State::Connected {
            // The sender is part of the client and dropped with it.
            self.events.changed().await.map_err(|_| ClientStopped)?;
        }
        Ok(())
    }

    /// Waits until the connection is lost.
    pub(super) async fn lost(&mut self) {
        while self.jetstream.client().connection_state() == State::Connected
            && self.events.changed().await.is_ok()
        {}
    }
}

/// When the TLS handshake takes place.
#[derive(Clone, Copy)]
enum Tls {
    /// Before the server's greeting. Servers from 2.10 on can be set up to wait for it.
    BeforeGreeting,
    /// After the server's greeting, whatever it says.
    AfterGreeting,
    /// After the greeting of a server that requires TLS; never with another server.
    IfRequired,
}

/// Why an attempt failed.
struct Failure {
    cause: Cause,
    /// For an operator.
    reason: String,
}

#[derive(PartialEq, Eq)]
enum Cause {
    /// The server sent something else in place of a TLS handshake.
    NoTls,
    /// The login is refused or cannot be read.
    Login,
    Other,
}

/// A new client that is connected, and reconnects up to `reconnects_max` times by itself; or the reason, for
/// an operator.
pub(super) async fn connect(settings: &Settings, reconnects_max: usize) -> Result<Connection, String> {
    // Fails if the provider is installed already, by another client of this process: the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let attempt = |tls| attempt(settings, reconnects_max, tls);
    let connected = if settings.require_tls() {
        match attempt(Tls::BeforeGreeting).await {
            // Most servers greet first. Of several addresses, any may, and only the last error is known.
            Err(first) if first.cause != Cause::Login => {
                let second = attempt(Tls::AfterGreeting).await;
                second.map_err(|second| if first.cause == Cause::NoTls { second } else { first })
            }
            done => done,
        }
    } else {
        attempt(Tls::IfRequired).await
    };
    connected.map_err(|failure| failure.reason)
}

async fn attempt(settings: &Settings, reconnects_max: usize, tls: Tls) -> Result<Connection, Failure> {
    let (sender, events) = watch::channel(None);
    let options = login(&settings.login)
        .await?
        .name("unionlink")
        .connection_timeout(WAIT_MAX)
        .max_reconnects(reconnects_max)
        .ignore_discovered_servers()
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
    let options = match tls {
        Tls::BeforeGreeting => options.tls_first(),
        Tls::AfterGreeting => options.require_tls(true),
        Tls::IfRequired => options,
    };
    let options = match &settings.ca_file {
        Some(path) => options.add_root_certificates(path.clone()),
        None => options,
    };
    let connecting = tokio::time::timeout(WAIT_MAX, options.connect(settings.url.0.as_str())).await;
    match connecting.unwrap_or_else(|_| Err(ConnectErrorKind::TimedOut.into())) {
        Ok(client) => {
            let mut jetstream = async_nats::jetstream::new(client);
            jetstream.set_timeout(WAIT_MAX);
            Ok(Connection { jetstream, events })
        }
        Err(error) => Err(failure(&error)),
    }
}

async fn login(login: &Login) -> Result<ConnectOptions, Failure> {
    Ok(match login {
        Login::None => ConnectOptions::new(),
        Login::Token(token) => ConnectOptions::with_token(token.expose_secret().to_owned()),
        Login::Password { user, password } => {
            ConnectOptions::with_user_and_password(user.clone(), password.expose_secret().to_owned())
        }
        Login::Credentials(path) => {
            ConnectOptions::with_credentials_file(path).await.map_err(|error| Failure {
                cause: Cause::Login,
                reason: format!("credentials_file {} cannot be used: {error}", path.display()),
            })?
        }
    })
}

fn failure(error: &ConnectError) -> Failure {
    if offers_no_tls(error) {
        let reason = "the NATS server offers no TLS, which tls:// and ca_file require".to_owned();
        return Failure { cause: Cause::NoTls, reason };
    }
    let deepest = std::iter::successors(error.source(), |cause| (*cause).source()).last();
    let deepest = deepest.map(|cause| format!(": {cause}")).unwrap_or_default();
    let (cause, reason) = match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => (
            Cause::Login,
            "the NATS server refuses the login; check token, user and password, or credentials_file"
                .to_owned(),
        ),
        ConnectErrorKind::Dns => {
            (Cause::Other, format!("the NATS server's name cannot be resolved{deepest}"))
        }
        ConnectErrorKind::Tls => {
            (Cause::Other, format!("no TLS connection to the NATS server; check ca_file{deepest}"))
        }
        ConnectErrorKind::TimedOut => {
            (Cause::Other, format!("the NATS server did not answer within {} s", WAIT_MAX.as_secs()))
        }
        ConnectErrorKind::ServerParse => (Cause::Other, "the url is not that of a NATS server".to_owned()),
        ConnectErrorKind::Io | ConnectErrorKind::MaxReconnects => {
            (Cause::Other, format!("no connection to the NATS server{deepest}"))
        }
    };
    Failure { cause, reason }
}

/// Whether the server answered the TLS handshake with something that is not TLS, such as its greeting.
fn offers_no_tls(error: &ConnectError) -> bool {
    let io = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    let tls = io.and_then(std::io::Error::get_ref).and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::InvalidMessage(_)))
}
