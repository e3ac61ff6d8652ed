//! From the text of a configuration to an entry at the receiver.

use std::path::Path;
use std::sync::Mutex;

use axum::body::Bytes;
use axum::http::HeaderMap as Headers;

use super::*;
use crate::clock::SystemClock;
use crate::config::{Environment, parse};
use crate::sink::sample::entries;

const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const PREVIOUS: &str = "whsec_cHJldmlvdXMtcHJldmlvdXMtcHJldmlvdXMtcHJldmk=";

fn configured(keys: &str) -> config::Sink {
    let text = format!(
        "[[apps]]\nname = \"brand\"\ncorp_id = \"ww0123456789abcdef\"\nagent_id = 1000002\n\
         secret = \"s\"\ncallback_token = \"t\"\n\
         encoding_aes_key = \"abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG\"\n\
         [admin]\nopen = true\n[[sinks]]\nname = \"crm\"\n{keys}"
    );
    let config = parse(&text, Path::new("t"), &Environment::default());
    config.unwrap_or_else(|error| panic!("{error}")).sinks.remove(0)
}

fn built(keys: &str) -> Box<dyn Sink> {
    build(&configured(keys), Arc::new(SystemClock)).unwrap()
}

#[tokio::test]
async fn a_configured_webhook_sends_what_its_keys_say() {
    let requests: Arc<Mutex<Vec<(Headers, Bytes)>>> = Arc::default();
    let seen = requests.clone();
    let receive = async move |headers: Headers, body: Bytes| seen.lock().unwrap().push((headers, body));
    let router = axum::Router::new().fallback(receive);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let keys = format!(
        "kind = \"webhook\"\nurl = \"http://{address}/\"\nsecret = \"{SECRET}\"\nprevious_secret = \"{PREVIOUS}\"\n\
         batch = 5\nheaders = {{ X-Tenant = \"brand\" }}\n"
    );
    let mut sink = built(&keys);
    assert_eq!(sink.batch_max(), 5);
    sink.deliver(&entries(1, 5)).await.unwrap();
    let requests = requests.lock().unwrap();
    let [(headers, body)] = &requests[..] else { panic!("{}", requests.len()) };
    for secret in [SECRET, PREVIOUS] {
        standardwebhooks::Webhook::new(secret).unwrap().verify(body, headers).unwrap();
    }
    assert_eq!(headers["x-tenant"], "brand");
}

#[tokio::test]
async fn a_configured_folder_gets_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = built(&format!("kind = \"file\"\npath = {:?}\nrotate_mb = 1\n", folder.path()));
    sink.deliver(&entries(1, 500)).await.unwrap();
    let files: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    assert_eq!(std::fs::read_to_string(file).unwrap().lines().count(), 500);
}

#[test]
fn a_configured_stream_logs_in_as_its_keys_say() {
    let target = |keys: &str| {
        let sink = configured(&format!("kind = \"nats\"\nurl = \"nats://127.0.0.1:4222\"\n{keys}"));
        let SinkTarget::Nats(target) = sink.target else { panic!() };
        nats_settings(&target)
    };
    assert!(matches!(target("").login, Login::None));
    assert!(matches!(target("token = \"x\"\n").login, Login::Token(token) if token.expose_secret() == "x"));
    let named = target("user = \"u\"\npassword = \"p\"\nsubject = \"a.b\"\n");
    assert!(
        matches!(named.login, Login::Password { user, password } if user == "u" && password.expose_secret() == "p")
    );
    assert_eq!(named.subject, "a.b");
    assert!(async_nats::ServerAddr::from_url(named.url.0).is_ok());
}
