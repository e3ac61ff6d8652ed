//! The sections of sinks: what the contract promises, and every problem in its place.

use std::path::Path;

use super::*;
use crate::config::{Config, ConfigError, parse};

const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const APP: &str = "[[apps]]\nname = \"brand\"\ncorp_id = \"ww0123456789abcdef\"\nagent_id = 1000002\n\
    secret = { value = \"s\" }\n\
    callback_token = { value = \"t\" }\n\
    encoding_aes_key = { value = \"abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG\" }\n";

fn parsed(sinks: &str) -> Result<Config, ConfigError> {
    let environment = [("SECRET".to_owned(), SECRET.to_owned())].into_iter().collect();
    parse(&format!("{APP}[admin]\nopen = true\n{sinks}"), Path::new("test.toml"), &environment)
}

fn config(sinks: &str) -> Config {
    parsed(sinks).unwrap_or_else(|error| panic!("{error}"))
}

fn problems(sinks: &str) -> Vec<String> {
    match parsed(sinks) {
        Err(ConfigError::Problems { problems, .. }) => {
            problems.into_iter().map(|problem| format!("{} {}", problem.key, problem.reason)).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn webhook_at(url: &str, more: &str) -> String {
    format!(
        "[[sinks]]\nname = \"crm\"\nkind = \"webhook\"\nurl = \"{url}\"\nsecret = {{ env = \"SECRET\" }}\n{more}"
    )
}

#[test]
fn the_contracts_four_keys_are_enough() {
    let config = config(&webhook_at("https://crm.example.com/hooks/unionlink", ""));
    let Sink { name, start, target: SinkTarget::Webhook(target) } = &config.sinks[0] else { panic!() };
    assert_eq!((name.as_str(), *start), ("crm", Start::Beginning));
    assert_eq!(target.url.0.as_str(), "https://crm.example.com/hooks/unionlink");
    assert_eq!((target.batch, target.timeout_ms, target.private_addresses), (1, 10_000, false));
    assert!(target.headers.is_empty() && target.previous_secret.is_none() && target.ca_file.is_none());
}

#[test]
fn the_other_kinds_need_little_too() {
    let text = "[[sinks]]\nname = \"n\"\nkind = \"nats\"\nstart = \"now\"\nurl = \"tls://nats.example.com\"\n\
                [[sinks]]\nname = \"f\"\nkind = \"file\"\npath = \"links\"\n";
    let config = config(text);
    let Sink { start, target: SinkTarget::Nats(nats), .. } = &config.sinks[0] else { panic!() };
    assert_eq!((*start, nats.subject.as_str()), (Start::Now, "unionlink.links"));
    let SinkTarget::File(file) = &config.sinks[1].target else { panic!() };
    assert_eq!((file.path.as_path(), file.rotate_mb, file.rotate_daily), (Path::new("links"), 100, true));
}

#[test]
fn every_problem_of_a_webhook_is_reported_with_its_key() {
    let text = "[[sinks]]\nname = \"a b\"\nkind = \"webhook\"\nstart = \"end\"\nurl = \"ftp://user:CANARY@x/\"\n\
        secret = { value = \"CANARY\" }\nprevious_secret = { value = \"whsec_Q0FOQVJZ\" }\nbatch = 1001\n\
        timeout_ms = 99\nca_file = \"/nonexistent/ca.pem\"\nsubject = \"x\"\n\
        headers = { \"webhook-id\" = \"x\", Host = \"x\", Content-Type = \"x\", \"a b\" = \"x\", ok = \"a\\nb\", n = 1 }\n";
    assert_eq!(
        problems(text),
        [
            "sinks[0].batch 1001 is not between 1 and 1000",
            "sinks[0].ca_file cannot be read: No such file or directory (os error 2)",
            "sinks[0].headers.Content-Type is written by unionlink itself",
            "sinks[0].headers.Host is written by unionlink itself",
            "sinks[0].headers.a b is not the name of a header",
            "sinks[0].headers.n is not written as a secret",
            "sinks[0].headers.ok has a value that no header can carry",
            "sinks[0].headers.webhook-id is written by unionlink itself",
            "sinks[0].name \"a b\" is not a name",
            "sinks[0].previous_secret is 6 bytes long instead of 24 to 64",
            "sinks[0].secret does not begin with whsec_",
            "sinks[0].start \"end\" is not one of beginning, now",
            "sinks[0].subject is not a known key",
            "sinks[0].timeout_ms 99 is not between 100 and 60000",
            "sinks[0].url is not a URL of https or http",
        ]
    );
    assert_eq!(
        problems("[[sinks]]\nname = \"crm\"\nkind = \"webhook\"\n"),
        ["sinks[0].secret is missing", "sinks[0].url is missing"]
    );
    assert_eq!(
        problems(&webhook_at("https://x/", "previous_secret = { env = \"SECRET\" }\n")),
        ["sinks[0].previous_secret is the same as secret"]
    );
}

#[test]
fn every_problem_of_the_other_kinds_is_reported_with_its_key() {
    let certificate = tempfile::NamedTempFile::new().unwrap();
    let text = format!(
        "[[sinks]]\nname = \"n\"\nkind = \"nats\"\nurl = \"nats://user:CANARY@x\"\nsubject = \"a.*\"\ntoken = \"t\"\n\
         user = \"u\"\ncredentials_file = {:?}\nca_file = {:?}\nrotate_mb = 1\n\
         [[sinks]]\nname = \"f\"\nkind = \"file\"\nrotate_mb = 0\nrotate_daily = 1\nurl = \"x\"\n\
         [[sinks]]\nname = \"k\"\nkind = \"kafka\"\nbrokers = \"x\"\n\
         [[sinks]]\nname = \"w\"\nkind = \"nats\"\nurl = \"ws://x\"\npassword = \"p\"\n",
        certificate.path(),
        certificate.path(),
    );
    assert_eq!(
        problems(&text),
        [
            "sinks[0] has more than one login: token, user and password, or credentials_file",
            "sinks[0].ca_file holds no certificate in PEM",
            "sinks[0].credentials_file holds no credentials of NATS",
            "sinks[0].password is missing: there is a user",
            "sinks[0].rotate_mb is not a known key",
            "sinks[0].subject \"a.*\" is not a subject that can be published to",
            "sinks[0].url has a login in it",
            "sinks[1].path is missing",
            "sinks[1].rotate_daily is a whole number instead of true or false",
            "sinks[1].rotate_mb 0 is not between 1 and 100000",
            "sinks[1].url is not a known key",
            "sinks[2].kind \"kafka\" is not one of webhook, nats, file",
            "sinks[3].url is not a URL of nats or tls",
            "sinks[3].user is missing: there is a password",
        ]
    );
}

#[test]
fn two_sinks_share_neither_name_nor_folder() {
    let file = |name, path| format!("[[sinks]]\nname = \"{name}\"\nkind = \"file\"\npath = \"{path}\"\n");
    assert_eq!(
        problems(&format!("{}{}", file("a", "x"), file("a", "y"))),
        ["sinks[1].name a is taken by another sink"]
    );
    assert_eq!(
        problems(&format!("{}{}", file("a", "x"), file("b", "x"))),
        ["sinks[1].path is already the folder of sink a"]
    );
}

#[test]
fn personal_data_is_sent_unencrypted_only_if_allowed() {
    for url in ["http://127.0.0.1:9/", "http://localhost/", "http://10.0.0.7/hook", "http://[::1]/"] {
        config(&webhook_at(url, ""));
    }
    config(&webhook_at("http://crm.internal/", "private_addresses = true\n"));
    for url in ["http://crm.example.com/", "http://1.1.1.1/"] {
        assert_eq!(problems(&webhook_at(url, "")), ["sinks[0].url would send personal data unencrypted"]);
    }
}

#[test]
fn a_printed_sink_shows_no_secret_and_reads_as_in_the_file() {
    let more = "headers = { X-Tenant = \"CANARY\", authorization = { value = \"CANARY\" } }\n\
        [[sinks]]\nname = \"n\"\nkind = \"nats\"\nurl = \"nats://nats.example.com:4222\"\nuser = \"u\"\npassword = \"CANARY\"\n\
        [[sinks]]\nname = \"f\"\nkind = \"file\"\npath = \"links\"\n";
    let config = config(&webhook_at("https://user:CANARY@crm.example.com/hooks?token=CANARY#CANARY", more));
    let printed = toml::to_string(&config).unwrap();
    let everything = format!("{printed}{config:?}{}", serde_json::to_string(&config).unwrap());
    assert!(!everything.contains("CANARY") && !everything.contains(SECRET), "{everything}");
    let printed: toml::Table = printed.parse().unwrap();
    let sinks = printed["sinks"].as_array().unwrap();
    assert_eq!(sinks[0]["url"].as_str(), Some("https://[redacted]@crm.example.com/hooks?[redacted]"));
    assert_eq!(sinks[0]["headers"]["x-tenant"].as_str(), Some("[redacted, from the file]"));
    assert_eq!(sinks[0]["secret"].as_str(), Some("[redacted, from environment variable SECRET]"));
    let kinds: Vec<_> = sinks.iter().map(|sink| sink["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["webhook", "nats", "file"]);
    assert_eq!(sinks[2]["start"].as_str(), Some("beginning"));
}

#[test]
fn valid_certificates_and_credentials_are_accepted() {
    let pem = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap().cert.pem();
    let ca_file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca_file.path(), pem).unwrap();
    let more = format!("ca_file = {:?}\n", ca_file.path());
    let config = config(&webhook_at("https://crm.example.com/", &more));
    let SinkTarget::Webhook(target) = &config.sinks[0].target else { panic!() };
    assert_eq!(target.ca_file.as_deref(), Some(ca_file.path()));
}
