//! The way to WeCom, step by step, and whether the admin API is open to the world.

use std::time::{Duration, Instant};

use reqwest::redirect::Policy;
use reqwest::{Client, Proxy, Url};
use serde_json::Value;
use tokio::net::{TcpStream, lookup_host};

use super::super::admin::{failure_reason, read_body};
use super::local::not_offline;
use crate::certificate;
use crate::config::Config;
use crate::domain::finding::{Finding, FindingCode as Code, FindingState, Subject};
use crate::domain::text::{Text, text};

const TIMEOUT: Duration = Duration::from_secs(5);

/// The steps of the way.
pub(super) const OF_WAY: [Code; 4] = [Code::NetDns, Code::NetProxy, Code::NetTcp, Code::NetTls];

/// Parts of the names of public certificate authorities that issue for hosts of WeCom, or might.
const PUBLIC_ISSUERS: [&str; 22] = [
    "DigiCert",
    "GeoTrust",
    "RapidSSL",
    "Thawte",
    "GlobalSign",
    "TrustAsia",
    "Sectigo",
    "Comodo",
    "Entrust",
    "Let's Encrypt",
    "GoDaddy",
    "Amazon",
    "Google Trust",
    "SSL.com",
    "CFCA",
    "WoTrus",
    "vTrus",
    "iTrus",
    "BJCA",
    "UniTrust",
    "Xcc",
    "Certum",
];

fn ok(code: Code, seen: Text) -> Finding {
    Finding::ok(code, Subject::default(), seen)
}

fn unknown(code: Code, why: Text) -> Finding {
    Finding::unknown(code, Subject::default(), why)
}

fn skipped(code: Code, because_of: Code) -> Finding {
    Finding::skipped(code, Subject::default(), because_of)
}

fn failed(code: Code, seen: Text, todo: Text) -> Finding {
    let means = text!(
        "no call to WeCom succeeds; callbacks are accepted and wait, nothing is lost",
        "无法调用企业微信；回调照常接收，等待处理，不会丢失",
    );
    Finding::trouble(code, FindingState::Fail, Subject::default(), seen).that(means, todo)
}

/// The way to WeCom.
pub(super) async fn way(config: &Config, offline: bool) -> Vec<Finding> {
    if offline {
        return OF_WAY.map(|code| unknown(code, not_offline())).into();
    }
    let url = &config.wecom.api_base.0;
    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(443));
    match &config.wecom.proxy {
        None => direct(config, host, port).await,
        Some(proxy) => through(config, &proxy.0).await,
    }
}

async fn direct(config: &Config, host: &str, port: u16) -> Vec<Finding> {
    let no_proxy = || ok(Code::NetProxy, text!("none is used", "未使用代理"));
    let asked = Instant::now();
    let addresses = resolved(host, port).await;
    let ms = asked.elapsed().as_millis();
    let addresses = match addresses {
        Ok(addresses) => addresses,
        Err(reason) => {
            let seen = text!("{host} is not resolved: {reason}", "无法解析 {host}：{reason}");
            let todo = text!(
                "give this machine a DNS server that resolves it, or set wecom.proxy",
                "请为本机配置可解析该域名的 DNS，或设置 wecom.proxy",
            );
            return vec![
                failed(Code::NetDns, seen, todo),
                no_proxy(),
                skipped(Code::NetTcp, Code::NetDns),
                skipped(Code::NetTls, Code::NetTcp),
            ];
        }
    };
    let shown: Vec<_> = addresses.iter().take(3).map(|address| address.ip().to_string()).collect();
    let shown = shown.join(", ");
    let dns = ok(Code::NetDns, text!("{host}: {shown}, {ms} ms", "{host}：{shown}，{ms} ms"));
    let asked = Instant::now();
    if let Err(reason) = connected(&addresses).await {
        let seen = text!("{host}:{port} accepts no connection: {reason}", "{host}:{port} 无法连接：{reason}");
        let todo = text!(
            "let this machine reach {host}:{port} in the firewall, or set wecom.proxy",
            "请在防火墙放行 {host}:{port}，或设置 wecom.proxy",
        );
        return vec![dns, no_proxy(), failed(Code::NetTcp, seen, todo), skipped(Code::NetTls, Code::NetTcp)];
    }
    let ms = asked.elapsed().as_millis();
    let tcp = ok(Code::NetTcp, text!("{host}:{port}, {ms} ms", "{host}:{port}，{ms} ms"));
    vec![dns, no_proxy(), tcp, encrypted(config).await]
}

async fn through(config: &Config, proxy: &Url) -> Vec<Finding> {
    let (host, port) = (proxy.host_str().unwrap_or_default(), proxy.port_or_known_default().unwrap_or(80));
    let by_proxy = |code| {
        let why = text!("the proxy does it", "由代理完成");
        Finding { state: FindingState::Skip, ..unknown(code, why) }
    };
    let reached = match resolved(host, port).await {
        Ok(addresses) => connected(&addresses).await,
        Err(reason) => Err(reason),
    };
    if let Err(reason) = reached {
        let seen = text!(
            "the proxy {host}:{port} does not answer: {reason}",
            "代理 {host}:{port} 没有响应：{reason}"
        );
        let todo = text!("see wecom.proxy, and who runs the proxy", "请检查 wecom.proxy，并联系代理管理员");
        let proxy = failed(Code::NetProxy, seen, todo);
        return vec![
            by_proxy(Code::NetDns),
            proxy,
            by_proxy(Code::NetTcp),
            skipped(Code::NetTls, Code::NetTcp),
        ];
    }
    let proxy = ok(Code::NetProxy, text!("{host}:{port} answers", "{host}:{port} 可连接"));
    let tls = encrypted(config).await;
    // It answers, and does not connect: it wants a login, or forbids this host.
    if tls.state == FindingState::Fail && tls.seen.en.contains("tunnel") {
        let todo = text!(
            "have the proxy allow CONNECT to the host of wecom.api_base, with the login of wecom.proxy",
            "请让代理允许以 wecom.proxy 中的账号 CONNECT 到 wecom.api_base 的主机",
        );
        let refused = failed(Code::NetProxy, tls.seen, todo);
        return vec![
            by_proxy(Code::NetDns),
            refused,
            by_proxy(Code::NetTcp),
            skipped(Code::NetTls, Code::NetProxy),
        ];
    }
    vec![by_proxy(Code::NetDns), proxy, by_proxy(Code::NetTcp), tls]
}

async fn resolved(host: &str, port: u16) -> Result<Vec<std::net::SocketAddr>, String> {
    // In brackets an address of version 6 is part of a URL, not of a name.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match tokio::time::timeout(TIMEOUT, lookup_host((host, port))).await {
        Err(_) => Err("no answer in time".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(addresses)) => {
            let addresses: Vec<_> = addresses.collect();
            if addresses.is_empty() { Err("it has no address".to_owned()) } else { Ok(addresses) }
        }
    }
}

async fn connected(addresses: &[std::net::SocketAddr]) -> Result<(), String> {
    match tokio::time::timeout(TIMEOUT, TcpStream::connect(addresses)).await {
        Err(_) => Err("no answer in time".to_owned()),
        Ok(result) => result.map(drop).map_err(|error| error.to_string()),
    }
}

/// One GET of nothing in particular: what counts is the certificate.
async fn encrypted(config: &Config) -> Finding {
    let (code, url) = (Code::NetTls, config.wecom.api_base.0.clone());
    if url.scheme() != "https" {
        let why = text!("wecom.api_base is without TLS", "wecom.api_base 未使用 TLS");
        return Finding { state: FindingState::Skip, ..unknown(code, why) };
    }
    let mut builder = Client::builder().no_proxy().redirect(Policy::none()).timeout(TIMEOUT).tls_info(true);
    if let Some(proxy) = &config.wecom.proxy {
        match Proxy::all(proxy.0.clone()) {
            Ok(proxy) => builder = builder.proxy(proxy),
            Err(error) => return unknown(code, text!("{error}", "{error}")),
        }
    }
    let answer = match builder.build() {
        Ok(client) => client.get(url).send().await,
        Err(error) => Err(error),
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            let reason = failure_reason(&error);
            let seen = text!("no TLS connection: {reason}", "无法建立 TLS 连接：{reason}");
            let todo = text!(
                "let the connection through unchanged; if a proxy of yours decrypts it, add its CA to the system's roots",
                "请勿拦截该连接；如果由自有代理解密，请把其 CA 加入系统信任",
            );
            return failed(code, seen, todo);
        }
    };
    let Some(read) = certificate::Read::of_answer(&answer) else {
        return ok(code, text!("accepted", "已接受"));
    };
    let issuer = read.issuer;
    let seen = text!("issued by {issuer}", "签发者：{issuer}");
    if PUBLIC_ISSUERS.iter().any(|public| issuer.contains(public)) {
        return ok(code, seen);
    }
    let means = text!(
        "TLS is decrypted by a proxy: it can read secrets and customers' ids",
        "TLS 被代理解密：代理可以读取密钥和客户 ID",
    );
    let todo = text!(
        "if the proxy is yours, nothing; else let connections to WeCom through unchanged",
        "如果是自有代理，无需处理；否则请放行到企业微信的连接",
    );
    Finding::trouble(code, FindingState::Warn, Subject::default(), seen).that(means, todo)
}

/// Whether the admin API answers where callbacks are received from outside.
pub(super) async fn exposure(config: &Config, url: Option<&Url>, offline: bool) -> Finding {
    let code = Code::PortsExposure;
    if offline {
        return unknown(code, not_offline());
    }
    let public = url.or_else(|| config.server.public_url.as_ref().map(|address| &address.0));
    let Some(public) = public else {
        return unknown(
            code,
            text!("set server.public_url, or pass --url", "请设置 server.public_url 或使用 --url"),
        );
    };
    let client = Client::builder().no_proxy().redirect(Policy::none()).timeout(TIMEOUT).build();
    let host = public.host_str().unwrap_or_default().to_owned();
    for path in ["/v1/status", "/metrics"] {
        let (Ok(client), mut url) = (&client, public.clone()) else { break };
        url.set_path(path);
        let answer = match client.get(url).send().await {
            Ok(answer) => answer,
            Err(error) => {
                let reason = failure_reason(&error);
                return unknown(
                    code,
                    text!("{host} is not reached from here: {reason}", "本机无法访问 {host}：{reason}"),
                );
            }
        };
        let body = read_body(answer).await.unwrap_or_default();
        if is_ours(&body) {
            let seen = text!("{host}{path} is answered by the admin API", "{host}{path} 由管理接口响应");
            let means = text!(
                "anybody may guess tokens; who has one reads and erases everything",
                "任何人都可以尝试令牌；持有令牌者可读取和清除全部数据",
            );
            let todo = text!(
                "have the proxy pass on /callback/ only, and admin.listen stay in the private network",
                "请让代理只转发 /callback/，并让 admin.listen 只监听内网",
            );
            return Finding::trouble(code, FindingState::Fail, Subject::default(), seen).that(means, todo);
        }
    }
    ok(code, text!("{host} does not answer for it", "{host} 不提供管理接口"))
}

/// Whether an answer is one of the admin API: its refusal, or its metrics.
fn is_ours(body: &[u8]) -> bool {
    let is_refusal =
        |problem: &Value| matches!(problem["code"].as_str(), Some("unauthorized" | "host_not_allowed"));
    serde_json::from_slice(body).is_ok_and(|problem| is_refusal(&problem))
        || body.windows(11).any(|window| window == b"unionlink_b".as_slice())
}
