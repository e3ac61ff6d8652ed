//! `unionlink verify-url`: a URL for a phone, which shows whether the way from the internet to the service is open and
//! spoils nothing.
//!
//! Nobody is asked anything: the URL is made from the configuration. It changes nothing at the service.

use std::process::ExitCode;

use anyhow::Context as _;
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use reqwest::Url;
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::config_file::ConfigFile;
use super::lang::Lang;
use super::output::Output;
use crate::callback::{Seal, Trial};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{self, CallbackSecrets, Environment};
use crate::domain::ids::AppName;
use crate::domain::text::{Text, text};

/// Where WeCom reaches a callback URL.
#[derive(Debug, clap::Args)]
pub(super) struct PublicUrl {
    #[arg(
        long,
        value_name = "URL",
        help = "The callback URL as it stands in WeCom's console, instead of server.public_url; /callback/APP is added \
                if it has no path",
        value_parser = public_url
    )]
    pub(super) url: Option<Url>,
}

#[derive(Debug, clap::Args)]
pub(super) struct VerifyUrl {
    /// The name in the callback URL: that of an app, or of a suite
    #[arg(value_name = "APP", value_parser = |name: &str| AppName::new(name))]
    name: AppName,
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    public: PublicUrl,
    /// The language of the explanation
    #[arg(long, value_enum, value_name = "LANGUAGE", default_value = "both")]
    lang: Lang,
    /// Print the URL and the number as JSON, and nothing else
    #[arg(long)]
    json: bool,
}

fn public_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("must begin with https:// or http://".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must have no ? and no # in it".to_owned());
    }
    Ok(url)
}

impl VerifyUrl {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        self.run_with(&Environment::of_process(), &mut Output::of_process())
    }

    pub(super) fn run_with(self, environment: &Environment, out: &mut Output) -> anyhow::Result<ExitCode> {
        let Self { name, file, public: PublicUrl { url }, lang, json } = self;
        let config = config::load(&file.path, environment)?;
        let secrets = config.callback_secrets(&name)?;
        let url = url.or_else(|| config.callback_url(&name)).context(
            "it is not known how the service is reached from the internet\nhint: set server.public_url, or pass --url \
             https://callback.example.com",
        )?;
        let (url, number) = sealed(url, &name, &secrets, true)?;
        if json {
            out.print(&json!({"url": url.as_str(), "number": number}).to_string())?;
            return Ok(ExitCode::SUCCESS);
        }
        let code =
            QrCode::with_error_correction_level(url.as_str(), EcLevel::L).context("the URL is too long")?;
        // Light on dark, as terminals mostly are.
        let code = code.render().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
        out.print(&code)?;
        out.print(url.as_str())?;
        for paragraph in explanation(&number) {
            out.print("")?;
            lang.lines(&paragraph).iter().try_for_each(|line| out.print(line))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The URL with a query that is sealed for it, and the number that it has to show. With `plus`, there is a `+` in the query,
/// or else none.
pub(super) fn sealed(
    mut url: Url,
    name: &AppName,
    secrets: &CallbackSecrets<'_>,
    plus: bool,
) -> anyhow::Result<(Url, String)> {
    if matches!(url.path(), "" | "/") {
        url.set_path(&format!("/callback/{name}"));
    }
    let seal = Seal {
        token: secrets.token.expose_secret(),
        aes_key: secrets.aes_key.expose_secret(),
        receive_id: secrets.receive_id,
    };
    let Trial { query, number } = Trial::seal(seal, SystemClock.now(), plus).context("encoding_aes_key")?;
    url.set_query(Some(&query));
    Ok((url, number))
}

/// What may appear, and what it means.
fn explanation(number: &str) -> [Text; 8] {
    [
        text!(
            "Open this URL on a phone with WLAN turned off. It must show this number and nothing else: {number}",
            "请在关闭 WLAN 的手机上打开此 URL，应只显示这个数字：{number}",
        ),
        text!(
            "nothing, or a time-out: DNS, a firewall or security group, or a domain without ICP filing (备案)",
            "打不开或超时：DNS、防火墙或安全组，或域名未备案",
        ),
        text!(
            "a warning about the certificate: it is expired, for another name, or its chain is incomplete",
            "证书告警：证书过期、域名不符，或证书链不完整",
        ),
        text!(
            "403: callback_token or encoding_aes_key of the running service is another one, a proxy changes the query \
             (a + must not become a space), or server.callback_ips = enforce refuses everybody but WeCom",
            "403：正在运行的服务使用另一个 callback_token 或 encoding_aes_key；代理改动了查询串（+ 不能变成空格）；\
             或 server.callback_ips = enforce，只接受企业微信的请求",
        ),
        text!(
            "404: a proxy cuts the path off, or the service has no callback URL of this name",
            "404：代理截断了路径，或服务没有此名称的回调 URL",
        ),
        text!(
            "502 or 504: the proxy does not reach the service; 503: the service cannot store now",
            "502 或 504：代理无法连接服务；503：服务暂时无法存储",
        ),
        text!(
            "a page: the answer is that of the proxy or of the hosting company, not of the service",
            "一个网页：这是代理或托管商的响应，不是服务的响应",
        ),
        text!(
            "the number with something around it: a filter changes the body of answers",
            "数字前后有其他内容：有过滤器改动了响应体",
        ),
    ]
}
