//! `unionlink doctor`: asks the running service what is wrong, looks at what only somebody outside it can see, and prints
//! all of it.
//!
//! It changes nothing, and calls WeCom for nothing. Deliberately absent: what the service sees (`GET /v1/doctor`).

mod callback;
mod report;

use std::process::ExitCode;

use reqwest::{Method, StatusCode};
use serde_json::Value;
use strum::VariantArray as _;

use self::callback::Outside;
use self::report::Report;
use super::admin::{AdminApi, ServiceArgs, TIMEOUT, failure_reason, read_body};
use super::lang::Lang;
use super::output::Output;
use super::verify_url::PublicUrl;
use crate::config::{self, Config, ConfigError, Environment};
use crate::domain::finding::{Finding, FindingCode, FindingState, Raw, Subject, Todo};
use crate::domain::text::{Text, text};

/// A finding says that something fails.
const FAILED: u8 = 1;
/// The service, or the configuration, could not be looked at.
const COULD_NOT_RUN: u8 = 3;

#[derive(Debug, clap::Args)]
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
        let report = self.look(environment).await;
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

    async fn look(&self, environment: &Environment) -> Report {
        let mut report = Report::default();
        let config = self.configuration(environment, &mut report);
        let is_running = self.ask_service(environment, &mut report).await;
        if let Some(config) = &config {
            let outside =
                Outside { config, is_running, url: self.public.url.as_ref(), offline: self.offline };
            report.add_own(outside.look().await);
        }
        report
    }

    /// The configuration, if it is read and can be used.
    fn configuration(&self, environment: &Environment, report: &mut Report) -> Option<Config> {
        let path = self.service.configured()?;
        let code = FindingCode::ConfigValid;
        match config::load(path, environment) {
            Ok(config) => {
                let path = path.display();
                let seen = text!("{path}", "{path}");
                report.add_own([Finding::ok(code, Subject::default(), seen)]);
                Some(config)
            }
            Err(error) => {
                let is_unread = matches!(error, ConfigError::Read { .. });
                let problems = error.into_problems();
                let shown: Vec<_> = problems.iter().map(ToString::to_string).collect();
                let shown = shown.join("; ");
                let seen = text!("{shown}", "{shown}");
                report.could_not_look |= is_unread;
                report.add_own([if is_unread {
                    Finding::unknown(code, Subject::default(), seen)
                } else {
                    invalid(seen)
                }]);
                None
            }
        }
    }

    /// Asks the service. Returns whether it runs.
    async fn ask_service(&self, environment: &Environment, report: &mut Report) -> bool {
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

fn invalid(seen: Text) -> Finding {
    Finding {
        code: FindingCode::ConfigValid,
        state: FindingState::Fail,
        subject: Subject::default(),
        since: None,
        seen,
        raw: Raw::default(),
        means: text!("the service does not start with it", "服务无法以此配置启动"),
        todo: Todo {
            text: text!(
                "correct what is named; if a variable is missing that the service has, run this as the service is run",
                "请更正上述各项；如果缺少的是服务才有的环境变量，请以服务的运行方式执行本命令",
            ),
        },
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
