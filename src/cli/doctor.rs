//! `unionlink doctor`: asks the running service what is wrong, looks at what only somebody outside it can see, and prints
//! all of it.
//!
//! It changes nothing. It calls WeCom only where no service answers, for each self-built app at most `gettoken` and a page of
//! the list of dealers; and with `--deep`. Deliberately absent: what the service sees (`GET /v1/doctor`).

mod bundle;
mod callback;
mod local;
mod network;
mod report;
mod wecom;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use strum::VariantArray as _;

use self::bundle::Bundle;
use self::callback::Outside;
use self::report::Report;
use super::admin::{AdminApi, ServiceArgs, failure_reason, read_body};
use super::lang::Lang;
use super::output::{Output, say};
use super::verify_url::PublicUrl;
use crate::clock::{Clock as _, SystemClock};
use crate::config::{self, Config, Environment};
use crate::domain::finding::{Finding, FindingCode, FindingState, Raw, Subject, Todo};
use crate::domain::text::{Text, text};

/// A finding says that something fails.
const FAILED: u8 = 1;
/// The service, or the configuration, could not be looked at.
const COULD_NOT_RUN: u8 = 3;
/// How long the service may take to say what it finds.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option")]
pub(super) struct Doctor {
    /// Only what has these codes, such as callback.public, or begins with them, such as callback
    #[arg(value_name = "CODE", value_parser = known)]
    codes: Vec<String>,
    #[command(flatten)]
    service: ServiceArgs,
    #[command(flatten)]
    public: PublicUrl,
    /// Stay on this machine: nothing outside it is looked up or connected to
    #[arg(long)]
    offline: bool,
    /// Also spend a call of the quota for each self-built app, and send a test message to each webhook
    #[arg(long, conflicts_with = "offline")]
    deep: bool,
    /// Also write a ZIP file for those who help: findings, status, counts, metrics and the redacted configuration, with the
    /// names and ids of corps and hosts replaced
    #[arg(long, value_name = "FILE.zip")]
    report: Option<PathBuf>,
    /// List what is looked at, and look at nothing
    #[arg(long)]
    list: bool,
    /// The language
    #[arg(long, value_enum, value_name = "LANGUAGE", default_value = "both")]
    lang: Lang,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn known(text: &str) -> Result<String, String> {
    let is_meant = |code: &FindingCode| is_of(code.into(), text);
    if FindingCode::VARIANTS.iter().any(is_meant) {
        return Ok(text.to_owned());
    }
    Err("nothing has this code; --list shows all".to_owned())
}

/// Whether a code is meant by a text: the code itself, or its area.
fn is_of(code: &str, text: &str) -> bool {
    code.strip_prefix(text).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl Doctor {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        self.run_with(&Environment::of_process(), &mut Output::of_process()).await
    }

    pub(super) async fn run_with(
        self,
        environment: &Environment,
        out: &mut Output,
    ) -> anyhow::Result<ExitCode> {
        if self.list {
            for code in FindingCode::VARIANTS.iter().filter(|code| self.is_wanted((*code).into())) {
                let name: &str = code.into();
                let lines = self.lang.lines(&code.checked()).into_iter();
                let names = std::iter::once(name).chain(std::iter::repeat(""));
                lines.zip(names).try_for_each(|(line, name)| out.print(&format!("{name:<26}  {line}")))?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        if self.deep {
            for line in self.lang.lines(&deep()) {
                say(&line);
            }
        }
        let mut bundle = match self.report.as_deref().map(Bundle::create).transpose() {
            Ok(bundle) => bundle,
            Err(error) => {
                say(&format!(
                    "error: {error}\nhint: name a file that does not exist yet, in a folder that does"
                ));
                return Ok(ExitCode::from(COULD_NOT_RUN));
            }
        };
        let progress = looking(self.lang);
        let report = self.look(environment, &mut bundle).await;
        progress.finish_and_clear();
        if let (Some(mut bundle), Some(path)) = (bundle, &self.report) {
            bundle.add_json("findings.json", report.json());
            say(&format!("{}:", path.display()));
            bundle.contents().iter().for_each(|file| say(&format!("  {file}")));
            bundle.write().with_context(|| format!("cannot write {}", path.display()))?;
        }
        let report = report.only(|code| self.is_wanted(code));
        if self.json {
            out.print(&report.json().to_string())?;
        } else {
            report.lines(self.lang).iter().try_for_each(|line| out.print(line))?;
        }
        Ok(if report.fails() {
            ExitCode::from(FAILED)
        } else if report.could_not_look {
            ExitCode::from(COULD_NOT_RUN)
        } else {
            ExitCode::SUCCESS
        })
    }

    fn is_wanted(&self, code: &str) -> bool {
        self.codes.is_empty() || self.codes.iter().any(|text| is_of(code, text))
    }

    /// Whether one of these is wanted.
    fn wants(&self, codes: &[FindingCode]) -> bool {
        codes.iter().any(|code| self.is_wanted(code.into()))
    }

    async fn look(&self, environment: &Environment, bundle: &mut Option<Bundle>) -> Report {
        let mut report = Report::default();
        let config = self.configuration(environment, &mut report);
        let is_running = self.ask_service(environment, &mut report, bundle).await;
        let Some(config) = &config else { return report };
        let (url, offline) = (self.public.url.as_ref(), self.offline);
        if let Some(bundle) = bundle {
            bundle.add_config(config, url);
        }
        let is_mint_wanted = self.deep && self.wants(&[FindingCode::WecomPermission]);
        let is_test_wanted = self.deep && self.wants(&[FindingCode::SinkVerifies]);
        let of_wecom = async {
            // The service knows how it is answered.
            let is_left_to_service = is_running && !is_mint_wanted;
            if offline || is_left_to_service || !self.wants(&wecom::OF_APPS) {
                return Vec::new();
            }
            wecom::ask(config, is_mint_wanted, SystemClock.now()).await
        };
        let way = async {
            if self.wants(&network::OF_WAY) { network::way(config, offline).await } else { Vec::new() }
        };
        let urls = async {
            let outside = Outside { config, is_running, url, offline };
            if self.wants(&callback::OF_URLS) { outside.look().await } else { Vec::new() }
        };
        let exposure = async {
            let is_wanted = self.wants(&[FindingCode::PortsExposure]);
            if is_wanted { Some(network::exposure(config, url, offline).await) } else { None }
        };
        let sinks = async {
            let codes = [FindingCode::SinkFile, FindingCode::SinkNats, FindingCode::SinkVerifies];
            if self.wants(&codes) { local::sinks(config, offline, is_test_wanted).await } else { Vec::new() }
        };
        let (way, urls, exposure, of_wecom, sinks) = tokio::join!(way, urls, exposure, of_wecom, sinks);
        report.add_own(local::lock(config, is_running));
        report.add_own(way);
        report.add_own(urls);
        report.add_own(exposure);
        if is_running {
            // What the deeper look finds wrong, and what came of the test messages.
            let is_wrong =
                |finding: &Finding| finding.code == FindingCode::WecomPermission && finding.is_trouble();
            report.replace(of_wecom.into_iter().filter(is_wrong));
            report.replace(sinks);
        } else {
            report.add_own(of_wecom);
            report.add_own(sinks);
            report.add_own(local::machine(config));
        }
        report
    }

    /// The configuration, if it is read and can be used.
    fn configuration(&self, environment: &Environment, report: &mut Report) -> Option<Config> {
        let path = self.service.configured()?;
        match config::load(path, environment) {
            Ok(config) => {
                report.add_own(local::of_configuration(path, &config));
                Some(config)
            }
            Err(error) => {
                let (findings, is_unread) = local::unusable(error);
                report.could_not_look |= is_unread;
                report.add_own(findings);
                None
            }
        }
    }

    /// Asks the service. Returns whether it runs.
    async fn ask_service(
        &self,
        environment: &Environment,
        report: &mut Report,
        bundle: &mut Option<Bundle>,
    ) -> bool {
        let (code, subject) = (FindingCode::PortsListen, Subject::default());
        // What is wrong with the configuration was said.
        let Ok(api) = self.service.access(environment).and_then(|access| AdminApi::new(&access)) else {
            report.add_own([Finding::skipped(code, subject, FindingCode::ConfigValid)]);
            return false;
        };
        let place = &api.place;
        let request = api.request(Method::GET, api.url(&["v1", "doctor"], &[])).timeout(TIMEOUT);
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => {
                let reason = failure_reason(&error);
                let seen = text!("no service at {place}: {reason}", "{place} 没有服务：{reason}");
                report.could_not_look |= !error.is_connect();
                let finding = if error.is_connect() {
                    not_running(seen)
                } else {
                    Finding::unknown(code, subject, seen)
                };
                report.add_own([finding]);
                return false;
            }
        };
        report.add_own([Finding::ok(
            code,
            subject,
            text!("a service answers at {place}", "{place} 有服务响应"),
        )]);
        let status = answer.status();
        let body = read_body(answer).await.unwrap_or_default();
        let findings = if status == StatusCode::OK { api.parsed::<Value>(&body).ok() } else { None };
        if let Some(version) = findings.as_ref().and_then(|answer| answer["unionlink"].as_str()) {
            report.add_own([local::version(version)]);
        }
        if let Some(bundle) = bundle {
            collect(&api, bundle).await;
        }
        if let Some(findings) = findings.as_ref().and_then(|answer| answer["findings"].as_array()) {
            report.add_of_service(findings.clone());
        } else {
            let refusal = api.refusal(status, &body).to_string();
            let reason = refusal.lines().next().unwrap_or_default();
            let why = text!("the service did not say: {reason}", "服务未给出结果：{reason}");
            report.could_not_look = true;
            report.add_own([Finding::unknown(FindingCode::StoreReady, Subject::default(), why)]);
        }
        true
    }
}

/// Shows on a terminal that it is looked.
fn looking(lang: Lang) -> ProgressBar {
    let is_seen = console::user_attended_stderr();
    let target = if is_seen { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let progress = ProgressBar::with_draw_target(None, target);
    progress.set_message(lang.lines(&text!("looking …", "正在检查…")).join(" · "));
    progress.enable_steady_tick(Duration::from_millis(100));
    progress
}

/// What `--deep` does and costs.
fn deep() -> Text {
    text!(
        "--deep: one call of unionid_to_pending_id for each self-built app (of 100,000 an hour), and a message of the type \
         unionlink.test to each webhook",
        "--deep：每个自建应用调用一次 unionid_to_pending_id（每小时配额 100,000 次），并向每个 webhook 发送一条类型为 unionlink.test 的消息",
    )
}

/// Collects status, counts and metrics of the service for the report.
async fn collect(api: &AdminApi, bundle: &mut Bundle) {
    // The dealers only for their names, which are replaced in the others.
    for (name, path, parameters) in [
        (None, ["v1", "dealers"].as_slice(), [].as_slice()),
        (Some("status.json"), &["v1", "status"], &[]),
        (Some("history.json"), &["v1", "history"], &[("hours", Some("48"))]),
    ] {
        let answer = api.get(api.url(path, parameters)).await;
        let Ok(value) = answer.and_then(|body| api.parsed::<Value>(&body)) else { continue };
        match name {
            Some(name) => bundle.add_json(name, value),
            None => bundle.learn(&value),
        }
    }
    if let Ok(body) = api.get(api.url(&["metrics"], &[])).await {
        bundle.add_text("metrics.txt", String::from_utf8_lossy(&body).into_owned());
    }
}

fn not_running(seen: Text) -> Finding {
    Finding {
        code: FindingCode::PortsListen,
        state: FindingState::Fail,
        subject: Subject::default(),
        since: None,
        seen,
        raw: Raw::default(),
        means: text!(
            "nothing is received; WeCom sends each callback a few times, and then never again",
            "无法接收回调；企业微信对每条回调只重试几次，之后不再发送",
        ),
        todo: Todo {
            text: text!(
                "start it with unionlink serve, and see its log if it does not stay",
                "请用 unionlink serve 启动；若启动后退出，请查看运行日志",
            ),
        },
    }
}
