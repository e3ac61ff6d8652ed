//! `unionlink simulate`: the simulated platform alone, with the configuration that fits it.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::{print, say};
use crate::clock::SystemClock;
use crate::lifecycle;
use crate::simulator::{AppSpec, CallbackSpec, ConversionQuota, Options, Simulator};

#[derive(Debug, clap::Args)]
pub(super) struct Simulate {
    /// Where the platform listens
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Where it sends callbacks
    #[arg(long, default_value = "http://127.0.0.1:8080/callback/brand", value_name = "URL")]
    callback: String,
    /// Dealers to begin with
    #[arg(long, default_value_t = 3, value_name = "N")]
    dealers: usize,
    /// Fans to begin with
    #[arg(long, default_value_t = 10, value_name = "N")]
    people: usize,
    /// Delay of every answer, in milliseconds
    #[arg(long, default_value_t = 30, value_name = "MS")]
    latency_ms: u64,
    /// Calls an hour of each conversion with a quota of its own (a day: 4.8 times, 30 days: 75 times as many)
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    quota_per_hour: u64,
    /// Seed of all invented ids
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
        say("save the lines above as config/unionlink.toml, run `unionlink serve`, then for example:");
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
