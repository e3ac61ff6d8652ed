//! The admin API of a running service, as the commands reach it: where it is, how it is asked, and what its refusals
//! say to a person.
//!
//! Deliberately absent: asking again. Whoever can wait for a service knows for how long.

use std::error::Error as _;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::ConfigFile;
use crate::config::{self, AdminAccess, Environment};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For a whole answer. What is written is durable before it is answered, and a busy disk takes its time.
pub(super) const TIMEOUT: Duration = Duration::from_mins(1);
/// For an answer that may take work all over the store.
pub(super) const LONG_TIMEOUT: Duration = Duration::from_mins(15);
/// A thousand rows of the inbox, with room to spare.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Which service a command talks to.
#[derive(Debug, clap::Args)]
pub(super) struct ToService {
    #[command(flatten)]
    config: ConfigFile,
    /// The admin API, instead of what the configuration says; the token is taken from `UNIONLINK_ADMIN_TOKEN`
    #[arg(long, value_name = "URL", value_parser = admin_url)]
    admin: Option<String>,
}

impl ToService {
    /// Where the service is, and the token it asks for.
    pub(super) fn access(&self, environment: &Environment) -> anyhow::Result<AdminAccess> {
        Ok(match &self.admin {
            Some(url) => AdminAccess::at(url, environment),
            None => config::load_admin(&self.config.path, environment)?,
        })
    }

    /// Its admin API.
    pub(super) fn api(&self) -> anyhow::Result<AdminApi> {
        AdminApi::new(&self.access(&Environment::of_process())?)
    }
}

/// An address the admin API can have. A password in it would end up in messages.
fn admin_url(text: &str) -> Result<String, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("it must begin with http:// or https:// and a host".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "there must be no password in it; the token is taken from UNIONLINK_ADMIN_TOKEN".to_owned()
        );
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("there must be no ? and no # in it".to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// An error of the admin API, as far as a person is told of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Problem {
    pub(super) detail: String,
    pub(super) hint: Option<String>,
}

impl Problem {
    /// What an answer that is no success says; empty if it is not the admin API's.
    pub(super) fn of(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_default()
    }

    /// The hint on a line of its own.
    pub(super) fn hint_line(&self) -> String {
        self.hint.as_ref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default()
    }
}

/// What the admin API answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Vec<u8>,
}

/// The admin API.
pub(super) struct AdminApi {
    http: reqwest::Client,
    pub(super) base_url: String,
    base: Url,
}

impl AdminApi {
    pub(super) fn new(access: &AdminAccess) -> anyhow::Result<Self> {
        // An error means that another client of this process was first, with the same provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut headers = HeaderMap::new();
        if let Some(token) = &access.token {
            let mut bearer =
                HeaderValue::from_str(&format!("Bearer {}", token.expose_secret())).map_err(|_| {
                    anyhow::anyhow!(
                        "the admin token cannot be sent: it has line ends or control characters in it"
                    )
                })?;
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("unionlink/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .no_proxy()
            .build()
            .context("cannot build an HTTP client")?;
        let base_url = access.base_url.clone();
        let base = Url::parse(&base_url).with_context(|| format!("{base_url} is not an address"))?;
        Ok(Self { http, base_url, base })
    }

    /// The address of `path`; whatever its parts contain stays within them. A parameter without a value is left out.
    pub(super) fn address(&self, path: &[&str], parameters: &[(&str, Option<&str>)]) -> Url {
        let mut url = self.base.clone();
        // Only an address that cannot have a path fails here, and such a one was not accepted.
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

    /// A request that the caller sends, and limits in time.
    pub(super) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.http.request(method, url)
    }

    /// Asks once, and reads the whole answer.
    ///
    /// # Errors
    /// When there is none.
    pub(super) async fn ask(&self, request: RequestBuilder) -> anyhow::Result<Answer> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let body = read(response).await.map_err(|error| self.unreachable(&error))?;
        Ok(Answer { status, body })
    }

    /// The answer to a question that the service can answer.
    pub(super) async fn get(&self, url: Url) -> anyhow::Result<Vec<u8>> {
        self.good(self.ask(self.request(Method::GET, url).timeout(TIMEOUT)).await?)
    }

    /// The body of a success.
    pub(super) fn good(&self, answer: Answer) -> anyhow::Result<Vec<u8>> {
        match answer.status {
            StatusCode::OK => Ok(answer.body),
            status => Err(self.refusal(status, &answer.body)),
        }
    }

    /// What `body` says.
    pub(super) fn parsed<T: DeserializeOwned>(&self, body: &[u8]) -> anyhow::Result<T> {
        serde_json::from_slice(body).map_err(|_| self.stranger(StatusCode::OK))
    }

    /// Why the service did not do it.
    pub(super) fn refusal(&self, status: StatusCode, body: &[u8]) -> anyhow::Error {
        if status == StatusCode::UNAUTHORIZED {
            return anyhow::anyhow!(
                "{} refuses the admin token\nhint: set admin.token, or UNIONLINK_ADMIN_TOKEN with --admin, to the \
                 service's own",
                self.base_url
            );
        }
        match Problem::of(body) {
            Problem { detail, .. } if detail.is_empty() => self.stranger(status),
            problem => {
                let hint = problem.hint_line();
                anyhow::anyhow!("{} answered {status}: {}{hint}", self.base_url, problem.detail)
            }
        }
    }

    /// Whoever answered is not unionlink.
    pub(super) fn stranger(&self, status: StatusCode) -> anyhow::Error {
        anyhow::anyhow!(
            "{} answered {status} as unionlink does not\nhint: is it the admin listener's address? see admin.listen, or \
             --admin URL",
            self.base_url
        )
    }

    /// Nobody answered, or not to the end.
    pub(super) fn unreachable(&self, error: &reqwest::Error) -> anyhow::Error {
        let (url, what) = (&self.base_url, what_failed(error));
        if error.is_connect() {
            return anyhow::anyhow!(
                "no service at {url}: {what}\nhint: start it with unionlink serve, or name another with --admin URL"
            );
        }
        anyhow::anyhow!(
            "no answer from {url}: {what}\nhint: try again; if it stays, look at the service's log"
        )
    }
}

/// Reads an answer, as far as it has a sensible size.
pub(super) async fn read(mut response: Response) -> reqwest::Result<Vec<u8>> {
    let mut answer = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if answer.len() + chunk.len() > ANSWER_BYTES_MAX {
            break;
        }
        answer.extend_from_slice(&chunk);
    }
    Ok(answer)
}

/// Why a request failed, in a few words.
pub(super) fn what_failed(error: &reqwest::Error) -> String {
    let mut root: &dyn std::error::Error = error;
    while let Some(source) = root.source() {
        root = source;
    }
    if error.is_timeout() {
        "no answer in time".to_owned()
    } else if error.source().is_some() {
        root.to_string()
    } else {
        "the connection failed".to_owned()
    }
}
