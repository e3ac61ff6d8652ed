//! WeCom as it answers somebody without the service: few calls, none of which has a quota, unless `--deep` asks for one.

use std::time::Duration;

use crate::config::{Access, Config};
use crate::domain::finding::{
    Finding, FindingCode as Code, HeldBackCalls, ServedApp, ServedDealer, ServiceFacts, Subject,
    service_findings,
};
use crate::domain::ids::CorpId;
use crate::domain::text::{Text, text};
use crate::domain::time::Timestamp;
use crate::wecom::{CallError, Class, ClientSettings, Development, Https, Probe, class, remedy_for};
use crate::worker::failure_reason;

/// How long a call may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What is found about apps without the service.
pub(super) const OF_APPS: [Code; 6] = [
    Code::Reachable,
    Code::WecomTrustedIp,
    Code::WecomToken,
    Code::WecomPermission,
    Code::WecomCalls,
    Code::ShareList,
];

/// How WeCom answers each self-built app: `gettoken`, and a page of the list of dealers; with `mint`, also a call for a
/// pending id of somebody who cannot exist.
pub(super) async fn ask(config: &Config, mint: bool, now: Timestamp) -> Vec<Finding> {
    let settings = ClientSettings {
        api_base: config.wecom.api_base.clone(),
        proxy: config.wecom.proxy.clone(),
        connect_timeout: TIMEOUT,
        timeout: TIMEOUT,
    };
    let probe = match Https::new(&settings) {
        Ok(https) => Probe(https),
        Err(error) => {
            let why = text!("{error}", "{error}");
            return vec![Finding::unknown(Code::Reachable, Subject::default(), why)];
        }
    };
    let (mut facts, nobody) = (ServiceFacts::default(), nobody());
    for app in &config.apps {
        let Access::SelfBuilt(own) = &app.access else { continue };
        facts.calls += 1;
        let (mut refusal, mut dealers, mut list_read) = (None, Vec::new(), false);
        match probe.token(&own.corp_id, &own.secret.value).await {
            Ok(token) => {
                match probe.dealers(&token, own.agent_id).await {
                    Ok(count) => {
                        list_read = true;
                        dealers =
                            vec![ServedDealer { corp_id: &nobody, name: "", silent_since: None }; count];
                    }
                    Err(error) => refusal = Some(error),
                }
                if mint && refusal.is_none() {
                    refusal = probe.mint_nobody(&token).await.err().filter(|error| !is_expected(error));
                }
            }
            Err(error) => refusal = Some(error),
        }
        let held_back = match refusal {
            None => Vec::new(),
            Some(error @ CallError::Transport { .. }) => {
                facts.unanswered = Some((error.to_string(), 3));
                Vec::new()
            }
            Some(error) => vec![held_back(&error, now)],
        };
        facts.apps.push(ServedApp {
            app: &app.name,
            is_agency: false,
            has_brand: true,
            held_back,
            dealers,
            list_read,
            left_lately: 0,
            used_up: Vec::new(),
        });
    }
    let findings = service_findings(&facts, now).into_iter();
    let of_apps = findings.filter(|finding| OF_APPS.contains(&finding.code));
    // Since when is not known.
    of_apps.map(|finding| Finding { since: None, ..finding }).collect()
}

/// A corp that stands for those that were only counted.
#[expect(clippy::unwrap_used, reason = "it is a corp id")]
fn nobody() -> CorpId {
    CorpId::new("wpCOUNTED").unwrap()
}

/// Whether a refusal of somebody who cannot exist says that the app may make the call: it is about the person.
fn is_expected(error: &CallError) -> bool {
    matches!(error, CallError::Refused { errcode, .. } if class(*errcode) == Class::Item)
}

fn held_back(error: &CallError, now: Timestamp) -> HeldBackCalls {
    let errcode = error.errcode();
    let remedy = errcode.map(|errcode| remedy_for(errcode, Development::SelfBuilt));
    HeldBackCalls {
        corp: None,
        errcode,
        is_setting: errcode.is_some_and(|errcode| class(errcode) == Class::Configuration),
        reason: failure_reason(error).text,
        since: now,
        remedy: remedy.map(|remedy| Text { en: remedy.en.to_owned(), zh: remedy.zh.to_owned() }),
    }
}
