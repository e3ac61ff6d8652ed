//! `unionlink simulate`: runs only the simulated platform, and prints a configuration that works with it.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::output::{print, say};
use crate::clock::SystemClock;
use crate::lifecycle;
use crate::simulator::{AppSpec, CallbackSpec, ConversionQuota, Options, Simulator};

#[derive(Debug, clap::Args)]
pub(super) struct Simulate {
    /// The address to listen on
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// The URL to send callbacks to
    #[arg(long, default_value = "http://127.0.0.1:8080/callback/brand", value_name = "URL")]
    callback: String,
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
        let callback = simulator.invent_callback(&self.callback);
        let app = AppSpec { callback: Some(callback.clone()), ..simulator.invent_app() };
        simulator.add_app(app.clone());
        let dealers: Vec<_> =
            (1..=self.dealers).map(|n| simulator.add_dealer(&app.corp_id, &format!("Dealer {n}"))).collect();
        let _ = simulator.add_people(self.people);

        print(&configuration(&simulator.base_url(), &app, &callback))?;
        let base = simulator.base_url();
        say(&format!("simulated WeCom on {base}, callbacks to {}", self.callback));
        say("save the lines above as config/unionlink.toml, run unionlink serve, then for example:");
        say(&format!("  curl {base}/sim/people"));
        if let Some(dealer) = dealers.first() {
            say(&format!(
                "  curl {base}/sim/befriend -H 'Content-Type: application/json' -d '{{\"unionid\":\"…\",\"corp_id\":\"{}\",\"user_id\":\"zhangsan\"}}'",
                dealer.corp_id
            ));
        }
        say("stop with Ctrl-C");
        let stop = CancellationToken::new();
        lifecycle::listen_for_signals(stop.clone(), stop.clone())?;
        stop.cancelled().await;
        simulator.stop().await;
        Ok(ExitCode::SUCCESS)
    }
}

fn configuration(base: &str, app: &AppSpec, callback: &CallbackSpec) -> String {
    format!(
        "[server]\nlisten = \"127.0.0.1:8080\"\n\n[admin]\nlisten = \"127.0.0.1:8081\"\n\n[wecom]\napi_base = \"{base}\"\n\n\
         [[apps]]\nname = \"brand\"\ncorp_id = \"{}\"\nagent_id = {}\nsecret = {{ value = \"{}\" }}\n\
         callback_token = {{ value = \"{}\" }}\nencoding_aes_key = {{ value = \"{}\" }}",
        app.corp_id, app.agent_id, app.secret, callback.token, callback.aes_key
    )
}
