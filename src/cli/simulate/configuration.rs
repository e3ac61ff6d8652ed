//! The configuration that matches the simulated platform, its file, and the command that starts a service
//! with it.
//!
//! Deliberately absent: what the platform knows (`simulate`).

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use reqwest::Url;

use crate::config::DEFAULT_PATH;
use crate::simulator::{AppSpec, CallbackSpec, ConversionQuota, TemplateSpec};

/// The first line of a configuration written to a file.
const HEADING: &str =
    "# Written by unionlink simulate. It works only while that command runs on this machine.";

/// The brand's app, as the configuration has to know it.
#[derive(Debug)]
pub(super) enum BrandApp {
    SelfBuilt { app: AppSpec, callback: CallbackSpec },
    Agency(TemplateSpec),
}

/// The service that the configuration is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MatchingService {
    listen: SocketAddr,
    pub(super) admin: SocketAddr,
    /// The `{name}` of `/callback/{name}`: of the app, or of the template of agency-developed apps.
    name: String,
}

impl MatchingService {
    /// The service with this callback URL, and with `name` if the URL contains no name. If the URL leads to
    /// this machine, the service listens there; otherwise a proxy is expected between them.
    pub(super) fn called_at(callback: &Url, name: &str) -> Self {
        let host = callback.host_str().unwrap_or_default();
        let ip = match host.trim_start_matches('[').trim_end_matches(']') {
            "localhost" => Some(IpAddr::from(Ipv4Addr::LOCALHOST)),
            text => text.parse().ok().filter(IpAddr::is_loopback),
        };
        let listen = match (ip, callback.port_or_known_default()) {
            (Some(ip), Some(port)) if callback.scheme() == "http" => SocketAddr::new(ip, port),
            _ => SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
        };
        let admin_port = if listen.port() == 8081 { 8082 } else { 8081 };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let in_url = callback.path().strip_prefix("/callback/");
        let in_url = in_url.filter(|name| !name.is_empty() && name.chars().all(is_plain));
        let name = in_url.unwrap_or(name).to_owned();
        Self { listen, admin: SocketAddr::from((Ipv4Addr::LOCALHOST, admin_port)), name }
    }
}

pub(super) fn configuration(
    base: &str,
    service: &MatchingService,
    brand_app: &BrandApp,
    quota: ConversionQuota,
) -> String {
    let MatchingService { listen, admin, name } = service;
    let ConversionQuota { per_hour, per_day, per_month } = quota;
    let quota = if quota == ConversionQuota::default() {
        String::new()
    } else {
        format!("\nquota = {{ per_hour = {per_hour}, per_day = {per_day}, per_month = {per_month} }}")
    };
    let callback_keys = |CallbackSpec { token, aes_key, .. }: &CallbackSpec| {
        format!("callback_token = {{ value = \"{token}\" }}\nencoding_aes_key = {{ value = \"{aes_key}\" }}")
    };
    let sections = match brand_app {
        BrandApp::SelfBuilt { app: AppSpec { corp_id, agent_id, secret, .. }, callback } => format!(
            "[[apps]]\nname = \"{name}\"\ncorp_id = \"{corp_id}\"\nagent_id = {agent_id}\n\
             secret = {{ value = \"{secret}\" }}\n{}{quota}",
            callback_keys(callback)
        ),
        BrandApp::Agency(TemplateSpec { provider_corp_id, suite_id, suite_secret, callback }) => {
            // Apps and templates have different names.
            let app = if name == "brand" { "app" } else { "brand" };
            format!(
                "[[suites]]\nname = \"{name}\"\nprovider_corp_id = \"{provider_corp_id}\"\n\
                 suite_id = \"{suite_id}\"\nsuite_secret = {{ value = \"{suite_secret}\" }}\n{}\n\n\
                 [[apps]]\nname = \"{app}\"\nsuite = \"{name}\"{quota}",
                callback_keys(callback)
            )
        }
    };
    format!(
        "[server]\nlisten = \"{listen}\"\n\n[admin]\nlisten = \"{admin}\"\n\
         open = true   # without a token: every process of this machine may do everything\n\n\
         [wecom]\napi_base = \"{base}\"\n\n{sections}"
    )
}

/// Writes a configuration to a file that only its owner can read, and creates the folders above it. A file
/// with other content is only replaced if `force` is set: somebody may have edited it.
pub(super) fn write(path: &Path, text: &str, force: bool) -> anyhow::Result<()> {
    let content = format!("{HEADING}\n{text}\n");
    let shown = path.display();
    let not_written = || format!("cannot write {shown}");
    match fs::read(path) {
        Ok(found) if found == content.as_bytes() => {
            return fs::set_permissions(path, Permissions::from_mode(0o600)).with_context(not_written);
        }
        Ok(_) if !force => {
            bail!("{shown} exists and differs\nhint: name another file, or overwrite this one with --force");
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {shown}")),
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    replace(path, folder, &content).with_context(not_written)
}

/// Replaces a file at once, or creates it.
fn replace(path: &Path, folder: &Path, content: &str) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(content.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

pub(super) fn serve_command(path: &Path) -> String {
    if path == Path::new(DEFAULT_PATH) {
        return "unionlink serve".to_owned();
    }
    let path = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_');
    if path.chars().all(is_plain) {
        return format!("unionlink serve --config {path}");
    }
    format!("unionlink serve --config '{}'", path.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::SystemClock;
    use crate::config::{self, Environment};
    use crate::simulator::{Options, Simulator};

    #[test]
    fn the_service_listens_where_the_callback_url_leads() {
        for (url, listen, admin, name) in [
            ("http://127.0.0.1:8080/callback/brand", "127.0.0.1:8080", "127.0.0.1:8081", "brand"),
            ("http://127.0.0.1:9000/callback/shop", "127.0.0.1:9000", "127.0.0.1:8081", "shop"),
            ("http://localhost:8081/callback/brand", "127.0.0.1:8081", "127.0.0.1:8082", "brand"),
            ("http://[::1]/callback/brand", "[::1]:80", "127.0.0.1:8081", "brand"),
            ("https://127.0.0.1:8443/callback/brand", "127.0.0.1:8080", "127.0.0.1:8081", "brand"),
            ("https://fans.example.com/wecom/a%20b", "127.0.0.1:8080", "127.0.0.1:8081", "brand"),
        ] {
            let (listen, admin) = (listen.parse().unwrap(), admin.parse().unwrap());
            let wanted = MatchingService { listen, admin, name: name.to_owned() };
            assert_eq!(MatchingService::called_at(&url.parse().unwrap(), "brand"), wanted, "{url}");
        }
    }

    #[test]
    fn the_command_to_start_the_service_can_be_pasted_into_a_shell() {
        for (path, command) in [
            ("config/unionlink.toml", "unionlink serve"),
            ("/tmp/sim.toml", "unionlink serve --config /tmp/sim.toml"),
            ("my sim's.toml", r"unionlink serve --config 'my sim'\''s.toml'"),
        ] {
            assert_eq!(serve_command(Path::new(path)), command);
        }
    }

    #[test]
    fn the_configuration_is_valid_and_doubtful_in_nothing() {
        let simulator = Simulator::unplugged(Options::default(), Arc::new(SystemClock));
        let url = "http://127.0.0.1:8080/callback/";
        let self_built =
            BrandApp::SelfBuilt { app: simulator.invent_app(), callback: simulator.invent_callback(url) };
        let agency = BrandApp::Agency(simulator.invent_template(url));
        let few = ConversionQuota { per_hour: 5, per_day: 6, per_month: 7 };
        for (brand_app, name, suites, app) in [
            (&self_built, "brand", vec![], "brand"),
            (&agency, "agency", vec!["agency"], "brand"),
            (&agency, "brand", vec!["brand"], "app"),
        ] {
            let service = MatchingService::called_at(&format!("{url}{name}").parse().unwrap(), "other");
            for quota in [ConversionQuota::default(), few] {
                let text = configuration("http://127.0.0.1:9090", &service, brand_app, quota);
                let config = config::parse(&text, "simulate".as_ref(), &Environment::default()).unwrap();
                assert!(config.warnings.is_empty(), "{text}");
                let names: Vec<_> = config.suites.iter().map(|suite| suite.name.as_str()).collect();
                assert_eq!((names, config.apps[0].name.as_str()), (suites.clone(), app));
                assert_eq!(u64::from(config.apps[0].quota.per_hour), quota.per_hour);
            }
        }
    }
}
