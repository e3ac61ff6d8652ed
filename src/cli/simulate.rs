//! `unionlink simulate`: runs only the simulated platform, and prints or writes a configuration that works
//! with it.
//!
//! Deliberately absent: the platform, which is in `simulator`. What can be done with it by curl is listed by
//! its `GET /sim`.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use reqwest::Url;
use tokio_util::sync::CancellationToken;

use super::output::{print, say};
use crate::clock::SystemClock;
use crate::config::DEFAULT_PATH;
use crate::lifecycle;
use crate::simulator::{AppSpec, CallbackSpec, ConversionQuota, Dealer, Options, Person, Simulator};

/// The first line of a configuration written to a file.
const HEADING: &str =
    "# Written by unionlink simulate. It works only while that command runs on this machine.";

#[derive(Debug, clap::Args)]
pub(super) struct Simulate {
    /// The address to listen on
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// The URL to send callbacks to
    #[arg(long, default_value = "http://127.0.0.1:8080/callback/brand", value_name = "URL")]
    callback: Url,
    /// Write the configuration to a file instead of printing it
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Overwrite the file even if its content differs
    #[arg(long, requires = "write")]
    force: bool,
    /// Number of dealers at the start
    #[arg(long, default_value_t = 3, value_name = "N")]
    dealers: usize,
    /// Number of fans at the start
    #[arg(long, default_value_t = 10, value_name = "N")]
    people: usize,
    /// Delay of every response, in milliseconds
    #[arg(long, default_value_t = 30, value_name = "MS")]
    latency_ms: u64,
    /// Hourly quota of each conversion API; the daily quota is 4.8 times, the 30-day quota 75 times as much
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    quota_per_hour: u64,
    /// Seed for the generated ids
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
}

impl Simulate {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        lifecycle::survive_hangups(|| say("received SIGHUP; there is nothing to reload"))?;
        let stop = CancellationToken::new();
        lifecycle::listen_for_signals(stop.clone(), stop.clone())?;
        let quota = ConversionQuota {
            per_hour: self.quota_per_hour,
            per_day: self.quota_per_hour * 48 / 10,
            per_month: self.quota_per_hour * 75,
        };
        let options = Options {
            listen: self.listen,
            seed: self.seed,
            latency_ms: self.latency_ms,
            quota,
            ..Options::default()
        };
        let simulator = Simulator::start(options, Arc::new(SystemClock))
            .await
            .with_context(|| format!("cannot listen on {}", self.listen))?;
        let callback = simulator.invent_callback(self.callback.as_str());
        let app = AppSpec { callback: Some(callback.clone()), ..simulator.invent_app() };
        simulator.add_app(app.clone());
        let dealers: Vec<_> =
            (1..=self.dealers).map(|n| simulator.add_dealer(&app.corp_id, &format!("Dealer {n}"))).collect();
        let people = simulator.add_people(self.people);

        let (base, service) = (simulator.base_url(), MatchingService::called_at(&self.callback));
        let text = configuration(&base, &service, &app, &callback, quota);
        match &self.write {
            Some(path) => write(path, &format!("{HEADING}\n{text}\n"), self.force)?,
            None => print(&text)?,
        }
        say(&format!("simulated WeCom on {base}, callbacks to {}", self.callback));
        if let Some(path) = &self.write {
            say(&format!("the configuration is in {}; now run:", path.display()));
            say(&format!("  {}", serve_command(path)));
        } else {
            say(&format!("save the lines above as {DEFAULT_PATH} (or use --write FILE), then run:"));
            say("  unionlink serve");
        }
        if let (Some(dealer), Some(fan)) = (dealers.first(), people.first()) {
            say_example(&base, service.admin, dealer, fan);
        }
        say("all calls of the simulated platform:");
        say(&format!("  curl -s {base}/sim"));
        say("stop with Ctrl-C; nothing is kept: before the next start, delete the service's store (data)");
        stop.cancelled().await;
        simulator.stop().await;
        Ok(ExitCode::SUCCESS)
    }
}

/// The service that the configuration is for.
#[derive(Debug, PartialEq, Eq)]
struct MatchingService {
    listen: SocketAddr,
    admin: SocketAddr,
    /// The app's name.
    app: String,
}

impl MatchingService {
    /// The service with this callback URL. If the URL leads to this machine, the service listens there;
    /// otherwise a proxy is expected between them.
    fn called_at(callback: &Url) -> Self {
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
        let app = callback.path().strip_prefix("/callback/");
        let app = app.filter(|name| !name.is_empty() && name.chars().all(is_plain)).unwrap_or("brand");
        Self { listen, admin: SocketAddr::from((Ipv4Addr::LOCALHOST, admin_port)), app: app.to_owned() }
    }
}

fn configuration(
    base: &str,
    service: &MatchingService,
    app: &AppSpec,
    callback: &CallbackSpec,
    quota: ConversionQuota,
) -> String {
    let MatchingService { listen, admin, app: name } = service;
    let ConversionQuota { per_hour, per_day, per_month } = quota;
    let quota = if quota == ConversionQuota::default() {
        String::new()
    } else {
        format!("\nquota = {{ per_hour = {per_hour}, per_day = {per_day}, per_month = {per_month} }}")
    };
    format!(
        "[server]\nlisten = \"{listen}\"\n\n[admin]\nlisten = \"{admin}\"\n\n\
         [wecom]\napi_base = \"{base}\"\n\n\
         [[apps]]\nname = \"{name}\"\ncorp_id = \"{}\"\nagent_id = {}\nsecret = {{ value = \"{}\" }}\n\
         callback_token = {{ value = \"{}\" }}\nencoding_aes_key = {{ value = \"{}\" }}{quota}",
        app.corp_id, app.agent_id, app.secret, callback.token, callback.aes_key
    )
}

/// Writes a file that only its owner can read, and the folders above it. A file with other content is only
/// replaced if `force` is set: somebody may have edited it.
fn write(path: &Path, content: &str, force: bool) -> anyhow::Result<()> {
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
    replace(path, folder, content).with_context(not_written)
}

/// Replaces a file at once, or creates it.
fn replace(path: &Path, folder: &Path, content: &str) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(content.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

fn serve_command(path: &Path) -> String {
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

/// Prints the commands of a first link.
fn say_example(base: &str, admin: SocketAddr, dealer: &Dealer, fan: &Person) {
    let Person { unionid, openid } = fan;
    say("register a fan, let a dealer add this person as a customer, and read the link:");
    let registration = format!(r#"{{"unionid":"{unionid}","openid":"{openid}"}}"#);
    say(&format!("  curl -s http://{admin}/v1/fans -d '{registration}'"));
    let corp_id = &dealer.corp_id;
    let friends = format!(r#"{{"unionid":"{unionid}","corp_id":"{corp_id}","user_id":"zhangsan"}}"#);
    say(&format!("  curl -s {base}/sim/befriend -d '{friends}'"));
    say(&format!("  curl -s 'http://{admin}/v1/links?unionid={unionid}'"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_listens_where_the_callback_url_leads() {
        for (url, listen, admin, app) in [
            ("http://127.0.0.1:8080/callback/brand", "127.0.0.1:8080", "127.0.0.1:8081", "brand"),
            ("http://127.0.0.1:9000/callback/shop", "127.0.0.1:9000", "127.0.0.1:8081", "shop"),
            ("http://localhost:8081/callback/brand", "127.0.0.1:8081", "127.0.0.1:8082", "brand"),
            ("http://[::1]/callback/brand", "[::1]:80", "127.0.0.1:8081", "brand"),
            ("https://127.0.0.1:8443/callback/brand", "127.0.0.1:8080", "127.0.0.1:8081", "brand"),
            ("https://fans.example.com/wecom/a%20b", "127.0.0.1:8080", "127.0.0.1:8081", "brand"),
        ] {
            let (listen, admin) = (listen.parse().unwrap(), admin.parse().unwrap());
            let wanted = MatchingService { listen, admin, app: app.to_owned() };
            assert_eq!(MatchingService::called_at(&url.parse().unwrap()), wanted, "{url}");
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
}
