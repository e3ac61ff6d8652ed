//! A client of a running service's admin API, and the options that say where the service is. Error answers
//! become messages with hints.
//!
//! Deliberately absent: retries. Callers that can wait retry on their own schedule.

use std::error::Error as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::config_file::ConfigFile;
use crate::config::{self, AdminAccess, Environment};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Until an answer is complete. A write is answered when it is durable, which takes long on a busy disk.
pub(super) const TIMEOUT: Duration = Duration::from_mins(1);
/// The same, where the service may have to read its whole store.
pub(super) const LONG_TIMEOUT: Duration = Duration::from_mins(15);
/// The most that is read of an answer; a page of a thousand events is smaller.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Which service a command talks to.
#[derive(Debug, clap::Args)]
pub(super) struct ServiceArgs {
    #[command(flatten)]
    config: ConfigFile,
    #[arg(
        long,
        value_name = "URL",
        help = "URL of the admin API or unix:PATH, instead of --config; the token is read from UNIONLINK_TOKEN \
                or UNIONLINK_ADMIN_TOKEN",
        value_parser = admin_url
    )]
    admin: Option<String>,
}

impl ServiceArgs {
    /// Where the service is, and the token it asks for.
    pub(super) fn access(&self, environment: &Environment) -> anyhow::Result<AdminAccess> {
        Ok(match &self.admin {
            Some(url) => AdminAccess::at(url, environment),
            None => config::load_admin(&self.config.path, environment)?,
        })
    }

    /// The configuration file, unless the service was named otherwise.
    pub(super) fn configured(&self) -> Option<&Path> {
        self.admin.is_none().then_some(&self.config.path)
    }

    /// A client of the service's admin API.
    pub(super) fn api(&self) -> anyhow::Result<AdminApi> {
        AdminApi::new(&self.access(&Environment::of_process())?)
    }
}

/// Checks the URL of an admin API, or `unix:` and a path. A password in a URL would appear in messages, so it is
/// refused.
fn admin_url(text: &str) -> Result<String, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return config::socket_path(path).map(|_| text.to_owned()).map_err(|(reason, _)| reason);
    }
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must begin with http://, https:// or unix:/".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must have no password in it; the token is read from UNIONLINK_TOKEN".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must have no ? and no # in it".to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// The parts of the admin API's `application/problem+json` that are shown.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Problem {
    pub(super) detail: String,
    pub(super) hint: Option<String>,
    /// The configured apps, if the request names none of them.
    pub(super) apps: Vec<String>,
}

impl Problem {
    /// Parses the body of an error answer; empty if it is not one of the admin API.
    pub(super) fn parse(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_default()
    }
}

/// An answer of the admin API.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Vec<u8>,
}

/// A client of one service's admin API.
pub(super) struct AdminApi {
    http: reqwest::Client,
    /// Where the service is, for messages.
    pub(super) place: String,
    base: Url,
}

impl AdminApi {
    pub(super) fn new(access: &AdminAccess) -> anyhow::Result<Self> {
        // Fails only if a provider is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut headers = HeaderMap::new();
        if let Some(token) = &access.token {
            let mut bearer =
                HeaderValue::from_str(&format!("Bearer {}", token.expose_secret())).map_err(|_| {
                    anyhow::anyhow!(
                        "the admin token cannot be sent: it contains a line end or another control character"
                    )
                })?;
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        let mut http = reqwest::Client::builder();
        if let Some(path) = &access.socket {
            http = http.unix_socket(path.clone());
        }
        let http = http
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("unionlink/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .no_proxy()
            .build()
            .context("cannot build an HTTP client")?;
        let base =
            Url::parse(&access.base_url).with_context(|| format!("{} is not a URL", access.base_url))?;
        Ok(Self { http, place: access.shown(), base })
    }

    /// The URL of `path`, whose segments are percent-encoded. Parameters without a value are left out.
    pub(super) fn url(&self, path: &[&str], parameters: &[(&str, Option<&str>)]) -> Url {
        let mut url = self.base.clone();
        // Fails only for a URL that cannot have a path; one with http or https can.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        for (name, value) in parameters {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, value);
            }
        }
        url
    }

    /// A request; the caller sets its timeout and sends it.
    pub(super) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.http.request(method, url)
    }

    /// Sends a request once and reads the whole answer, whatever its status.
    ///
    /// # Errors
    /// When there is no answer.
    pub(super) async fn send(&self, request: RequestBuilder) -> anyhow::Result<Answer> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let body = read_body(response).await.map_err(|error| self.unreachable(&error))?;
        Ok(Answer { status, body })
    }

    /// Sends a GET. Returns the body of the answer; an error unless its status is 200.
    pub(super) async fn get(&self, url: Url) -> anyhow::Result<Vec<u8>> {
        self.success(self.send(self.request(Method::GET, url).timeout(TIMEOUT)).await?)
    }

    /// The body of an answer; an error unless its status is 200.
    pub(super) fn success(&self, answer: Answer) -> anyhow::Result<Vec<u8>> {
        match answer.status {
            StatusCode::OK => Ok(answer.body),
            status => Err(self.refusal(status, &answer.body)),
        }
    }

    /// Parses the JSON in `body`.
    pub(super) fn parsed<T: DeserializeOwned>(&self, body: &[u8]) -> anyhow::Result<T> {
        serde_json::from_slice(body).map_err(|_| self.unexpected_answer(StatusCode::OK))
    }

    /// The error for an answer whose status is not a success.
    pub(super) fn refusal(&self, status: StatusCode, body: &[u8]) -> anyhow::Error {
        if status == StatusCode::UNAUTHORIZED {
            return anyhow::anyhow!(
                "{} refuses the admin token\nhint: set UNIONLINK_TOKEN to one of the service's tokens; without \
                 it, admin.token is used, or UNIONLINK_ADMIN_TOKEN with --admin",
                self.place
            );
        }
        match Problem::parse(body) {
            Problem { detail, .. } if detail.is_empty() => self.unexpected_answer(status),
            Problem { detail, hint, .. } => {
                let hint = hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
                anyhow::anyhow!("{} answered {status}: {detail}{hint}", self.place)
            }
        }
    }

    /// The error for an answer that unionlink does not give: most likely another service is there.
    pub(super) fn unexpected_answer(&self, status: StatusCode) -> anyhow::Error {
        anyhow::anyhow!(
            "{} answered {status}, but not as unionlink does\nhint: is it the admin listener's address? see \
             admin.listen, or --admin URL",
            self.place
        )
    }

    /// The error when there is no complete answer.
    pub(super) fn unreachable(&self, error: &reqwest::Error) -> anyhow::Error {
        let (url, what) = (&self.place, failure_reason(error));
        if error.is_connect() {
            return anyhow::anyhow!(
                "no service at {url}: {what}\nhint: start it with unionlink serve, or name another with \
                 --admin URL"
            );
        }
        anyhow::anyhow!(
            "no answer from {url}: {what}\nhint: try again; if it persists, see the service's log"
        )
    }
}

/// Reads a body, but not beyond [`ANSWER_BYTES_MAX`].
pub(super) async fn read_body(mut response: Response) -> reqwest::Result<Vec<u8>> {
    let mut answer = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if answer.len() + chunk.len() > ANSWER_BYTES_MAX {
            break;
        }
        answer.extend_from_slice(&chunk);
    }
    Ok(answer)
}

/// The root cause of a failed request, in a few words. Never the text of `error` itself, which has the URL.
pub(super) fn failure_reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let Some(mut root) = error.source() else { return "the connection failed".to_owned() };
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}
