//! Connects to the NATS server: with `tls://` or `ca_file` only with TLS, otherwise without TLS to private
//! addresses only.
//!
//! What a server sends before TLS is not authenticated, so it decides nothing: servers that it announces are
//! not connected to, and where TLS is required it cannot prevent it.
//!
//! Deliberately absent: publishing, and when to connect again.

use std::error::Error;
use std::net::IpAddr;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::Context;
use async_nats::{ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr, ToServerAddrs};
use reqwest::Url;
use secrecy::ExposeSecret;
use tokio::sync::watch;

use super::settings::{Login, Settings};
use crate::reach::PublicAddress;

/// Reconnects of a client that connects to resolved addresses, within about half a minute. The next client
/// resolves the name again.
const RESOLVED_RECONNECTS_MAX: usize = 20;

const PORT: u16 = 4222;

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
    /// The TLS handshake failed otherwise: the server's certificate is not trusted, or is for another name.
    Tls,
    /// The login is refused or cannot be read.
    Login,
    Other,
}

/// Returns a new client that is connected, and reconnects up to `reconnects_max` times by itself; or the
/// reason, for an operator. `is_private` decides which addresses are connected to without TLS.
pub(super) async fn connect(
    settings: &Settings,
    reconnects_max: usize,
    is_private: fn(IpAddr) -> bool,
) -> Result<Connection, String> {
    // Fails if the provider is installed already, by another client of this process: the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let connected = if settings.require_tls() {
        with_tls(settings, reconnects_max).await
    } else {
        by_address(settings, reconnects_max, is_private).await
    };
    connected.map_err(|failure| failure.reason)
}

async fn with_tls(settings: &Settings, reconnects_max: usize) -> Result<Connection, Failure> {
    let url = settings.url.0.as_str();
    match attempt(settings, reconnects_max, Tls::BeforeGreeting, url).await {
        // Most servers greet first. Of several addresses, any may, and only the last error is known.
        Err(first) if first.cause != Cause::Login => {
            let second = attempt(settings, reconnects_max, Tls::AfterGreeting, url).await;
            second.map_err(|second| if first.cause == Cause::NoTls { second } else { first })
        }
        done => done,
    }
}

/// Connects to the private addresses of the host, without TLS if the server does not require it; with TLS to
/// a host that has none.
async fn by_address(
    settings: &Settings,
    reconnects_max: usize,
    is_private: fn(IpAddr) -> bool,
) -> Result<Connection, Failure> {
    let private = private_servers(&settings.url.0, is_private).await?;
    if !private.is_empty() {
        let reconnects_max = reconnects_max.min(RESOLVED_RECONNECTS_MAX);
        match attempt(settings, reconnects_max, Tls::IfRequired, private).await {
            // The server requires TLS, and its certificate is for the name.
            Err(failure) if failure.cause == Cause::Tls => {}
            done => return done,
        }
    }
    attempt(settings, reconnects_max, Tls::AfterGreeting, settings.url.0.as_str()).await
}

/// The private addresses of the host in `url`.
async fn private_servers(url: &Url, is_private: fn(IpAddr) -> bool) -> Result<Vec<ServerAddr>, Failure> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let resolving = tokio::net::lookup_host((host, url.port().unwrap_or(PORT)));
    let resolved = tokio::time::timeout(WAIT_MAX, resolving).await.unwrap_or_else(|late| Err(late.into()));
    let addresses = resolved.map_err(|error| unresolved(&format!(": {error}")))?;
    let private = addresses.filter(|address| is_private(address.ip()));
    Ok(private.filter_map(|address| format!("nats://{address}").parse().ok()).collect())
}

async fn attempt(
    settings: &Settings,
    reconnects_max: usize,
    tls: Tls,
    servers: impl ToServerAddrs,
) -> Result<Connection, Failure> {
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
    let connecting = tokio::time::timeout(WAIT_MAX, options.connect(servers)).await;
    match connecting.unwrap_or_else(|_| Err(ConnectErrorKind::TimedOut.into())) {
        Ok(client) => {
            let mut jetstream = async_nats::jetstream::new(client);
            jetstream.set_timeout(WAIT_MAX);
            Ok(Connection { jetstream, events })
        }
        Err(error) => Err(failure(&error, settings)),
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

fn unresolved(why: &str) -> Failure {
    Failure { cause: Cause::Other, reason: format!("the NATS server's name cannot be resolved{why}") }
}

fn failure(error: &ConnectError, settings: &Settings) -> Failure {
    let tls_error = tls_error(error);
    if let Some(rustls::Error::InvalidMessage(_)) = tls_error {
        let reason = if settings.require_tls() {
            "the NATS server offers no TLS, which tls:// and ca_file require".to_owned()
        } else {
            format!("{PublicAddress}, and the NATS server offers no TLS")
        };
        return Failure { cause: Cause::NoTls, reason };
    }
    let other = if tls_error.is_some() { Cause::Tls } else { Cause::Other };
    let deepest = std::iter::successors(error.source(), |cause| (*cause).source()).last();
    let deepest = deepest.map(|cause| format!(": {cause}")).unwrap_or_default();
    let (cause, reason) = match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            let checks = "check token, user and password, or credentials_file";
            (Cause::Login, format!("the NATS server refuses the login; {checks}"))
        }
        ConnectErrorKind::Dns => return unresolved(&deepest),
        ConnectErrorKind::Tls => {
            (other, format!("no TLS connection to the NATS server; check ca_file{deepest}"))
        }
        ConnectErrorKind::TimedOut => {
            (other, format!("the NATS server did not answer within {} s", WAIT_MAX.as_secs()))
        }
        ConnectErrorKind::ServerParse => (other, "the url is not that of a NATS server".to_owned()),
        ConnectErrorKind::Io | ConnectErrorKind::MaxReconnects => {
            (other, format!("no connection to the NATS server{deepest}"))
        }
    };
    Failure { cause, reason }
}

/// The error of the TLS handshake: `InvalidMessage` if the server sent something that is not TLS, such as its
/// greeting.
fn tls_error(error: &ConnectError) -> Option<&rustls::Error> {
    let io = error.source()?.downcast_ref::<std::io::Error>()?;
    io.get_ref()?.downcast_ref::<rustls::Error>()
}
