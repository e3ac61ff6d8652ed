//! Builds sinks from their configuration.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use secrecy::ExposeSecret;

use crate::clock::Clock;
use crate::config::{self, FileTarget, NatsTarget, Secret, SinkTarget, WebhookTarget};
use crate::domain::ids::SinkName;
use crate::sink::Sink;
use crate::sink::file::{self, Files};
use crate::sink::nats::{self, Login, Nats};
use crate::sink::webhook::{self, SecretError, SigningKey, Webhook, WebhookError};

/// Why a sink cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The webhook cannot be set up.
    #[error("sink {sink} cannot be set up")]
    Webhook {
        /// The sink.
        sink: SinkName,
        /// Why.
        source: WebhookError,
    },
    /// A secret is malformed.
    #[error("the secret of sink {sink} {source}")]
    Secret {
        /// The sink.
        sink: SinkName,
        /// Why.
        source: SecretError,
    },
    /// A header is malformed.
    #[error("sink {sink} cannot send its header {header}")]
    Header {
        /// The sink.
        sink: SinkName,
        /// The name of the header.
        header: String,
    },
}

/// Builds a sink. Connects to nothing.
pub(crate) fn build(sink: &config::Sink, clock: Arc<dyn Clock>) -> Result<Box<dyn Sink>, BuildError> {
    Ok(match &sink.target {
        SinkTarget::Webhook(target) => {
            let settings = webhook_settings(&sink.name, target)?;
            let built = Webhook::new(settings, clock);
            Box::new(built.map_err(|source| BuildError::Webhook { sink: sink.name.clone(), source })?)
        }
        SinkTarget::Nats(target) => Box::new(Nats::new(nats_settings(target))),
        SinkTarget::File(target) => Box::new(Files::new(file_settings(target), clock)),
    })
}

/// How long a delivery to this sink may take.
pub(super) fn longest_delivery(target: &SinkTarget) -> Duration {
    match target {
        SinkTarget::Webhook(target) => Duration::from_millis(target.timeout_ms),
        // It connects, and waits for an acknowledgement; a disk may take as long.
        SinkTarget::Nats(_) | SinkTarget::File(_) => Duration::from_secs(10),
    }
}

fn webhook_settings(sink: &SinkName, target: &WebhookTarget) -> Result<webhook::Settings, BuildError> {
    let key = |secret: &Secret| {
        let parsed = SigningKey::parse(secret.value.expose_secret());
        parsed.map_err(|source| BuildError::Secret { sink: sink.clone(), source })
    };
    let mut headers = HeaderMap::new();
    for (name, value) in &target.headers {
        let header = HeaderName::from_bytes(name.as_bytes()).ok();
        let value = HeaderValue::from_str(value.value.expose_secret()).ok();
        let (Some(header), Some(mut value)) = (header, value) else {
            return Err(BuildError::Header { sink: sink.clone(), header: name.clone() });
        };
        value.set_sensitive(true);
        headers.insert(header, value);
    }
    Ok(webhook::Settings {
        url: target.url.clone(),
        key: key(&target.secret)?,
        previous_key: target.previous_secret.as_ref().map(key).transpose()?,
        headers,
        batch: usize::try_from(target.batch).unwrap_or(1),
        timeout: Duration::from_millis(target.timeout_ms),
        private_addresses: target.private_addresses,
        ca_file: target.ca_file.clone(),
    })
}

fn nats_settings(target: &NatsTarget) -> nats::Settings {
    let login = match (&target.token, &target.user, &target.password, &target.credentials_file) {
        (Some(token), ..) => Login::Token(token.value.clone()),
        (None, Some(user), Some(password), _) => {
            Login::Password { user: user.clone(), password: password.value.clone() }
        }
        (None, _, _, Some(path)) => Login::Credentials(path.clone()),
        (None, _, _, None) => Login::None,
    };
    nats::Settings {
        url: target.url.clone(),
        subject: target.subject.clone(),
        login,
        ca_file: target.ca_file.clone(),
    }
}

fn file_settings(target: &FileTarget) -> file::Settings {
    file::Settings {
        path: target.path.clone(),
        rotate_bytes: target.rotate_mb << 20,
        rotate_daily: target.rotate_daily,
    }
}
