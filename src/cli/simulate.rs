//! `unionlink simulate`: runs only the simulated platform, and prints or writes a configuration that works
//! with it.
//!
//! Deliberately absent: the platform, which is in `simulator`, and the text of the configuration
//! (`configuration`). What can be done with the platform by curl is listed by its `GET /sim`.

mod configuration;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::Url;
use tokio_util::sync::CancellationToken;

use self::configuration::{BrandApp, MatchingService, configuration, serve_command, write};
use super::output::{print, say};
use crate::clock::SystemClock;
use crate::config::DEFAULT_PATH;
use crate::lifecycle;
use crate::simulator::{AppSpec, ConversionQuota, Dealer, Options, Person, Simulator, TemplateSpec};

/// How often a service that does not answer yet is tried.
const TRY_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(super) struct Simulate {
    /// The address to listen on
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Simulate an app that a service provider has developed (代开发), instead of a self-built one
    #[arg(long)]
    agency: bool,
    /// The URL to send callbacks to; with --agency it ends in /callback/agency by default
    #[arg(
        long,
        default_value = "http://127.0.0.1:8080/callback/brand",
        default_value_if("agency", "true", "http://127.0.0.1:8080/callback/agency"),
        value_name = "URL"
    )]
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
        let (brand, brand_app) = self.add_brand(&simulator);
        let dealers: Vec<_> =
            (1..=self.dealers).map(|n| simulator.add_dealer(&brand, &format!("Dealer {n}"))).collect();
        let people = simulator.add_people(self.people);

        let name = if self.agency { "agency" } else { "brand" };
        let (base, service) = (simulator.base_url(), MatchingService::called_at(&self.callback, name));
        let text = configuration(&base, &service, &brand_app, quota);
        match &self.write {
            Some(path) => write(path, &text, self.force)?,
            None => print(&text)?,
        }
        say(&format!("simulated WeCom on {base}, callbacks to {}", self.callback));
        say(
            "every process of this machine can use it, and the service's admin API (admin.open), without a token",
        );
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
        if self.agency {
            say("the brand authorises as soon as the service answers");
        }
        say("stop with Ctrl-C; nothing is kept: before the next start, delete the service's store (data)");
        if let BrandApp::Agency(template) = &brand_app {
            tokio::select! {
                () = stop.cancelled() => {}
                () = authorise(&simulator, template, &brand) => {}
            }
        }
        stop.cancelled().await;
        simulator.stop().await;
        Ok(ExitCode::SUCCESS)
    }

    /// Adds a brand with its app. Returns its corp id and the app.
    fn add_brand(&self, simulator: &Simulator) -> (String, BrandApp) {
        let url = self.callback.as_str();
        if self.agency {
            let template = simulator.invent_template(url);
            simulator.add_template(template.clone());
            // Its ids have to be known now; it authorises once there is a service.
            let brand = simulator.scan(&template.suite_id, "Brand").corp_id;
            return (brand, BrandApp::Agency(template));
        }
        let callback = simulator.invent_callback(url);
        let app = AppSpec { callback: Some(callback.clone()), ..simulator.invent_app() };
        simulator.add_app(app.clone());
        (app.corp_id.clone(), BrandApp::SelfBuilt { app, callback })
    }
}

/// Verifies the template's callback URL, sends a ticket, and lets the brand authorise, as soon as the service
/// answers.
async fn authorise(simulator: &Simulator, template: &TemplateSpec, brand: &str) {
    let TemplateSpec { provider_corp_id, suite_id, .. } = template;
    loop {
        // The auth code is valid for ten minutes: it is not sent before there is a service.
        if simulator.verify_template_url(suite_id, provider_corp_id).await
            && simulator.deliver(&simulator.ticket(suite_id)).await.acknowledged
            && simulator.deliver(&simulator.authorize_again(brand)).await.acknowledged
        {
            break;
        }
        tokio::time::sleep(TRY_EVERY).await;
    }
    say(&format!("callback URL verified, suite_ticket sent, brand {brand} has authorised"));
    say("for a service with an empty store, do it again with /sim/template/ticket and /sim/authorize");
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
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        simulate: Simulate,
    }

    #[test]
    fn callbacks_of_an_agency_developed_app_are_sent_to_the_url_of_its_template() {
        for (arguments, url) in [
            (&["simulate"][..], "http://127.0.0.1:8080/callback/brand"),
            (&["simulate", "--agency"], "http://127.0.0.1:8080/callback/agency"),
            (&["simulate", "--agency", "--callback", "http://a.example/b"], "http://a.example/b"),
        ] {
            let line = Line::try_parse_from(arguments).unwrap();
            assert_eq!(line.simulate.callback.as_str(), url);
        }
    }
}
