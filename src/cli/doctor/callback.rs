//! The callback URLs, tried as WeCom's console tries them: on this machine, and where WeCom reaches them.

use std::error::Error as _;
use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_ENCODING, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Client, Url};

use super::super::admin::{failure_reason, read_body};
use super::super::verify_url::sealed;
use crate::certificate;
use crate::clock::{Clock as _, SystemClock};
use crate::config::{CallbackIps, CallbackSecrets, Config};
use crate::domain::finding::{Finding, FindingCode, FindingState, Raw, Subject, Todo, certificate_finding};
use crate::domain::ids::AppName;
use crate::domain::text::{Text, text};
use crate::domain::time::Timestamp;

const TIMEOUT: Duration = Duration::from_secs(5);
/// WeCom gives up after a second.
const SLOW: Duration = Duration::from_secs(1);
const RATHER_SLOW: Duration = Duration::from_millis(300);
/// As WeCom calls itself.
const USER_AGENT: &str = "Mozilla/4.0";

/// What is looked at.
pub(super) const OF_URLS: [FindingCode; 5] = [
    FindingCode::CallbackLocal,
    FindingCode::CallbackPublic,
    FindingCode::CallbackCertificate,
    FindingCode::CallbackPlus,
    FindingCode::CallbackBody,
];

/// What is tried.
pub(super) struct Outside<'a> {
    pub(super) config: &'a Config,
    pub(super) is_running: bool,
    pub(super) url: Option<&'a Url>,
    pub(super) offline: bool,
}

/// What came back.
enum Answer {
    /// The number, and nothing else.
    Number(Duration),
    /// The number within something else.
    Spoilt(Text),
    /// Another answer: what it says about the way.
    Other(Text),
    /// None.
    None { reason: String, is_certificate: bool },
}

impl Outside<'_> {
    pub(super) async fn look(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let Ok(client) = Client::builder()
            .no_proxy()
            // Each as WeCom's, which sets up TLS anew.
            .pool_max_idle_per_host(0)
            .redirect(Policy::none())
            .user_agent(USER_AGENT)
            .tls_info(true)
            .timeout(TIMEOUT)
            .build()
        else {
            return findings;
        };
        for (name, secrets) in self.config.callback_urls() {
            let subject = Subject::app(name);
            let local = self.local(&client, name, &secrets).await;
            let is_open = local.state == FindingState::Ok;
            findings.push(local);
            // Unless somebody asks for it: perhaps the service runs elsewhere.
            if !is_open && self.url.is_none() {
                findings.extend(skipped(&subject, FindingCode::CallbackLocal));
                continue;
            }
            findings.extend(self.public(&client, name, &secrets).await);
        }
        findings
    }

    /// On this machine.
    async fn local(&self, client: &Client, name: &AppName, secrets: &CallbackSecrets<'_>) -> Finding {
        let (code, subject) = (FindingCode::CallbackLocal, Subject::app(name));
        if !self.is_running {
            return Finding::skipped(code, subject, FindingCode::PortsListen);
        }
        if self.config.server.callback_ips == CallbackIps::Enforce {
            return Finding::unknown(code, subject, only_wecom());
        }
        let base = match self.config.local_url() {
            Ok(base) => base,
            Err(error) => return Finding::unknown(code, subject, text!("{error}", "{error}")),
        };
        match try_out(client, base.clone(), name, secrets, true).await.0 {
            Answer::Number(_) => Finding::ok(code, subject, text!("{base} answers", "{base} 正常响应")),
            Answer::Spoilt(seen) | Answer::Other(seen) => failed(
                code,
                subject,
                seen,
                text!(
                    "compare callback_token and encoding_aes_key of this file with those of the running service, and \
                     reload it",
                    "请核对此文件与运行中服务的 callback_token 和 encoding_aes_key，然后重新加载",
                ),
            ),
            Answer::None { reason, .. } => failed(
                code,
                subject,
                text!("{base} does not answer: {reason}", "{base} 没有响应：{reason}"),
                text!("see server.listen, and the log of the service", "请检查 server.listen 和运行日志"),
            ),
        }
    }

    /// Where WeCom reaches it.
    async fn public(&self, client: &Client, name: &AppName, secrets: &CallbackSecrets<'_>) -> Vec<Finding> {
        let (code, subject) = (FindingCode::CallbackPublic, Subject::app(name));
        let unknown = |why: Text| {
            let mut findings = vec![Finding::unknown(code, subject.clone(), why)];
            findings.extend(skipped(&subject, code).into_iter().skip(1));
            findings
        };
        if self.offline {
            return unknown(text!("not looked at: --offline", "未检查：--offline"));
        }
        if self.config.server.callback_ips == CallbackIps::Enforce {
            return unknown(only_wecom());
        }
        // An address with a path is that of one app or suite.
        let is_of_another = |url: &&Url| {
            let last = url.path().rsplit('/').next().unwrap_or_default();
            !last.is_empty() && last != name.as_str() && self.config.callback_urls().count() > 1
        };
        if self.url.as_ref().is_some_and(is_of_another) {
            return unknown(text!("not looked at: --url is that of another", "未检查：--url 是另一个的地址"));
        }
        let Some(url) = self.url.cloned().or_else(|| self.config.callback_url(name)) else {
            return unknown(text!(
                "it is not known how the service is reached from outside: set server.public_url, or pass --url",
                "不知道外网如何访问：请设置 server.public_url 或使用 --url",
            ));
        };
        let shown = url.host_str().unwrap_or_default().to_owned();
        let is_encrypted = url.scheme() == "https";
        let (answer, read) = try_out(client, url.clone(), name, secrets, true).await;
        let certificate = || {
            let code = FindingCode::CallbackCertificate;
            if is_encrypted {
                accepted(subject.clone(), &shown, read.as_ref(), SystemClock.now())
            } else {
                let seen = text!("{shown} is reached without TLS", "{shown} 未使用 TLS");
                Finding { state: FindingState::Skip, ..Finding::unknown(code, subject.clone(), seen) }
            }
        };
        let ok = |code, en: &str, zh: &str| Finding::ok(code, subject.clone(), text!("{en}", "{zh}"));
        let whole = || ok(FindingCode::CallbackBody, "the number, and nothing else", "只有数字本身");
        let plus = || ok(FindingCode::CallbackPlus, "a + arrives as one", "+ 原样到达");
        match answer {
            Answer::Number(took) => vec![in_time(code, &subject, took), certificate(), plus(), whole()],
            Answer::Spoilt(seen) => {
                let todo = text!(
                    "turn off what changes answers of this path: compression, injected scripts, a BOM, a line end",
                    "请对此路径关闭会改动响应的功能：压缩、注入脚本、BOM、换行",
                );
                let body = failed(FindingCode::CallbackBody, subject.clone(), seen, todo);
                vec![ok(code, "a request arrives", "请求可以到达"), certificate(), plus(), body]
            }
            Answer::None { reason, is_certificate: true } => {
                let todo = text!(
                    "install the whole chain, for this name, and renew it in time",
                    "请安装该域名的完整证书链，并及时续期",
                );
                let seen = text!("{shown}: {reason}", "{shown}：{reason}");
                let mut findings = unknown(text!("see callback.certificate", "见 callback.certificate"));
                findings.retain(|finding| finding.code != FindingCode::CallbackCertificate);
                findings.push(failed(FindingCode::CallbackCertificate, subject, seen, todo));
                findings
            }
            Answer::None { reason, is_certificate: false } => unknown(text!(
                "{shown} cannot be reached from here: {reason}. A network may not lead back to itself: try it on a phone, \
                 with unionlink verify-url {name}",
                "本机无法访问 {shown}：{reason}。有些网络不能从内部访问自己的公网地址：请用手机测试，unionlink verify-url {name}",
            )),
            Answer::Other(seen) => {
                // Perhaps only a plus is spoilt.
                if let (Answer::Number(took), _) = try_out(client, url, name, secrets, false).await {
                    let todo = text!(
                        "have the proxy pass the query on as it is: proxy_pass without a path, no rewriting",
                        "请让代理原样转发查询串：proxy_pass 后不带路径，不做改写",
                    );
                    let Text { en, zh } = seen;
                    let seen = text!(
                        "without a + the number comes back, with one: {en}",
                        "不含 + 时返回数字，含 + 时：{zh}",
                    );
                    let plus = failed(FindingCode::CallbackPlus, subject.clone(), seen, todo);
                    return vec![in_time(code, &subject, took), certificate(), plus, whole()];
                }
                let todo = text!(
                    "correct the proxy in front of the service; what each answer means is in the document below",
                    "请更正服务前的代理；各种响应的含义见下方文档",
                );
                let mut findings = vec![failed(code, subject.clone(), seen, todo)];
                findings.extend(skipped(&subject, code).into_iter().skip(1));
                findings
            }
        }
    }
}

/// A certificate that is accepted here: for how long.
fn accepted(subject: Subject, shown: &str, read: Option<&certificate::Read>, now: Timestamp) -> Finding {
    let code = FindingCode::CallbackCertificate;
    let Some(read) = read else {
        return Finding::ok(code, subject, text!("{shown}: accepted here", "{shown}：本机接受"));
    };
    let days = read.days_left(now);
    let seen = text!("{shown}: accepted here, {days} days left", "{shown}：本机接受，剩余 {days} 天");
    certificate_finding(subject, days, seen)
}

/// Why a trial says nothing.
fn only_wecom() -> Text {
    text!(
        "server.callback_ips = enforce refuses everybody but WeCom",
        "server.callback_ips = enforce 时，只接受来自企业微信的请求",
    )
}

/// The findings about the way from outside that were not looked at.
fn skipped(subject: &Subject, because_of: FindingCode) -> [Finding; 4] {
    [
        FindingCode::CallbackPublic,
        FindingCode::CallbackCertificate,
        FindingCode::CallbackPlus,
        FindingCode::CallbackBody,
    ]
    .map(|code| Finding::skipped(code, subject.clone(), because_of))
}

fn in_time(code: FindingCode, subject: &Subject, took: Duration) -> Finding {
    let ms = took.as_millis();
    let seen = text!("answered after {ms} ms", "{ms} 毫秒后响应");
    if took <= RATHER_SLOW {
        return Finding::ok(code, subject.clone(), seen);
    }
    let todo = text!(
        "shorten the way: TLS set-up counts; WeCom gives up after a second",
        "请缩短访问路径：TLS 建立也计入；企业微信一秒后放弃",
    );
    let finding = failed(code, subject.clone(), seen, todo);
    if took > SLOW {
        return finding;
    }
    let means =
        text!("the URL can be saved; above a second it could not", "可以保存 URL；超过一秒则无法保存",);
    Finding { state: FindingState::Warn, means, ..finding }
}

fn failed(code: FindingCode, subject: Subject, seen: Text, todo: Text) -> Finding {
    let means = text!(
        "WeCom does not save the URL, and sends callbacks only to one that it has saved",
        "企业微信无法保存该 URL，而回调只发送到已保存的 URL",
    );
    let (state, since, raw) = (FindingState::Fail, None, Raw::default());
    Finding { code, state, subject, since, seen, raw, means, todo: Todo { text: todo } }
}

/// Opens a sealed URL.
async fn try_out(
    client: &Client,
    url: Url,
    name: &AppName,
    secrets: &CallbackSecrets<'_>,
    plus: bool,
) -> (Answer, Option<certificate::Read>) {
    let (url, number) = match sealed(url, name, secrets, plus) {
        Ok(sealed) => sealed,
        Err(error) => return (Answer::None { reason: error.to_string(), is_certificate: false }, None),
    };
    let asked = Instant::now();
    let failed = |error: &reqwest::Error| {
        let mut cause = error.source();
        let mut is_certificate = false;
        while let Some(source) = cause {
            is_certificate |= source.to_string().contains("certificate");
            cause = source.source();
        }
        Answer::None { reason: failure_reason(error), is_certificate }
    };
    let answer = match client.get(url).send().await {
        Ok(answer) => answer,
        Err(error) => return (failed(&error), None),
    };
    let read = certificate::Read::of_answer(&answer);
    let status = answer.status().as_u16();
    let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (encoding, location) = (header(CONTENT_ENCODING), header(LOCATION));
    let body = match read_body(answer).await {
        Ok(body) => body,
        Err(error) => return (failed(&error), read),
    };
    if status == 200 && body == number.as_bytes() && encoding.is_none() {
        return (Answer::Number(asked.elapsed()), read);
    }
    if let Some(encoding) = encoding.filter(|_| status == 200) {
        let seen = text!("the answer is compressed ({encoding})", "响应被压缩（{encoding}）");
        return (Answer::Spoilt(seen), read);
    }
    let text = String::from_utf8_lossy(&body);
    if status == 200 && text.contains(&number) {
        let bytes = body.len() - number.len();
        let seen = text!("{bytes} bytes stand around the number", "数字前后多出 {bytes} 字节");
        return (Answer::Spoilt(seen), read);
    }
    (Answer::Other(what(status, &text, location.as_deref())), read)
}

/// What an answer says about the way.
fn what(status: u16, body: &str, location: Option<&str>) -> Text {
    let is_page = body.trim_start().starts_with('<');
    match (status, location) {
        (300..400, location) => {
            // Without the query, which is ours.
            let to = location.unwrap_or_default().split('?').next().unwrap_or_default();
            text!(
                "{status}: redirected to {to}; WeCom does not follow",
                "{status}：重定向到 {to}；企业微信不会跟随"
            )
        }
        (403, _) if body.is_empty() => text!(
            "403: the service refuses it; another Token or AES key, or a proxy has changed the query",
            "403：服务拒绝；Token 或 AESKey 不同，或代理改动了查询串",
        ),
        (404, _) if body.is_empty() => {
            text!("404: a proxy cuts off or changes the path", "404：代理截断或改动了路径")
        }
        (502 | 504, _) => {
            text!("{status}: the proxy does not reach the service", "{status}：代理无法连接服务")
        }
        (200, _) if is_page => text!("a page of somebody else", "返回的是其他系统的网页"),
        _ if is_page => text!("{status} with a page of the proxy", "{status}，内容是代理的网页"),
        _ => text!("{status}", "{status}"),
    }
}
