//! `doctor` where no service answers, where it looks deeper, and what it writes for those who help.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;
use unionlink::clock::{Clock as _, SystemClock};
use unionlink::simulator::{Api, Fault, Target};

use crate::doctor::{doctor, failed, state_of};
use crate::harness::{Ran, Setup, World};
use crate::url_trials::{configured, run_with};

/// Writes a configuration beside that of the world; its path.
fn other(world: &World, text: &str) -> String {
    let file = world.folder.path().join("other.toml");
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    file.to_str().unwrap().to_owned()
}

/// All files of a folder, with their content.
fn content(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(content(&path));
        } else {
            files.insert(path.display().to_string(), std::fs::read(&path).unwrap());
        }
    }
    files
}

fn calls_of(world: &World, api: Api) -> usize {
    world.wecom.calls().iter().filter(|call| call.api == api).count()
}

fn finding(ran: &Ran, code: &str) -> Value {
    let report = ran.json();
    let findings = report["findings"].as_array().unwrap();
    findings.iter().find(|finding| finding["code"] == code).unwrap_or(&Value::Null).clone()
}

#[tokio::test]
async fn without_a_service_wecom_is_asked_little_and_the_store_is_left_alone() {
    let mut world = World::usual().await;
    world.stop().await.unwrap();
    let (before, made) = (content(&world.folder.path().join("data")), world.wecom.calls().len());
    let ran = doctor(&world, &["wecom", "net", "store"]).await;
    assert_eq!(failed(&ran), <[&str; 0]>::default(), "{ran:?}");
    for code in
        ["wecom.token", "wecom.trusted_ip", "wecom.permission", "wecom.share_list", "net.tcp", "store.lock"]
    {
        assert_eq!(state_of(&ran, code), "ok", "{code}");
    }
    let made: Vec<_> = world.wecom.calls().split_off(made).into_iter().map(|call| call.api).collect();
    assert_eq!(made, [Api::GetToken, Api::ListAppShareInfo]);
    assert_eq!(content(&world.folder.path().join("data")), before, "the store is as it was");
    // Each in turn, named the first time.
    let text = configured(&world);
    for (fault, code) in [
        ((Target::Every, Fault::Errcode(60_020)), "wecom.trusted_ip"),
        ((Api::GetToken.into(), Fault::Errcode(40_001)), "wecom.token"),
        ((Api::ListAppShareInfo.into(), Fault::Errcode(48_002)), "wecom.permission"),
        ((Target::Every, Fault::Reset), "wecom.reachable"),
    ] {
        world.wecom.inject(fault.0, fault.1, None);
        let tokens = calls_of(&world, Api::GetToken);
        let ran = doctor(&world, &["wecom"]).await;
        assert_eq!(failed(&ran), [code], "{ran:?}");
        assert!(calls_of(&world, Api::GetToken) <= tokens + 1, "a wrong secret is not tried again");
        world.wecom.clear_faults();
    }
    let wrong = other(&world, &text.replace(&world.corp.secret, "another-secret"));
    let ran = doctor(&world, &["wecom", "--config", &wrong]).await;
    assert_eq!(failed(&ran), ["wecom.token"], "{ran:?}");
    assert!(!format!("{ran:?}").contains("another-secret"), "{ran:?}");
    for dealer in &world.dealers {
        world.wecom.share(&dealer.corp_id, false);
    }
    let ran = doctor(&world, &["wecom"]).await;
    assert_eq!(failed(&ran), ["wecom.share_list"], "{ran:?}");
    for api in [Api::UnionidToPendingId, Api::UnionidToExternalUserid, Api::ExternalUseridToPendingId] {
        assert_eq!(calls_of(&world, api), 0, "{api:?} has a quota");
    }
}

#[tokio::test]
async fn the_way_to_wecom_is_looked_at_step_by_step() {
    let mut world = World::usual().await;
    world.stop().await.unwrap();
    let (text, base) = (configured(&world), world.wecom.base_url());
    let closed = "http://127.0.0.1:1";
    for (from, to, code, skipped) in [
        (base.as_str(), "https://no-such-host.invalid", "net.dns", "net.tcp"),
        (&base, closed, "net.tcp", "net.tls"),
        (&base, &base.replace("http://", "https://"), "net.tls", "wecom.token"),
    ] {
        let file = other(&world, &text.replace(from, to));
        let ran = doctor(&world, &["net", "wecom.token", "--config", &file]).await;
        assert_eq!(
            (failed(&ran), state_of(&ran, skipped).as_str()),
            (vec![code.to_owned()], "skip"),
            "{ran:?}"
        );
    }
    let proxied = text.replace("[wecom]\n", &format!("[wecom]\nproxy = \"{closed}\"\n"));
    let ran = doctor(&world, &["net", "--config", &other(&world, &proxied)]).await;
    assert_eq!(
        (failed(&ran), state_of(&ran, "net.dns").as_str()),
        (vec!["net.proxy".to_owned()], "skip"),
        "{ran:?}"
    );
    let ran = doctor(&world, &["net", "wecom", "--offline"]).await;
    assert_eq!((failed(&ran), state_of(&ran, "net.dns").as_str()), (vec![], "unknown"), "{ran:?}");
}

#[tokio::test]
async fn what_is_wrong_with_files_and_ports_is_named() {
    let mut world = World::usual().await;
    let text = configured(&world);
    // A secret in a file that everybody can read, and one that is old.
    let secret = world.folder.path().join("secret");
    std::fs::write(&secret, &world.corp.secret).unwrap();
    let inline = format!("{{ value = \"{}\" }}", world.corp.secret);
    let in_file =
        other(&world, &text.replace(&inline, &format!("{{ file = {:?} }}", secret.display().to_string())));
    let mode = |mode| std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    let ran = doctor(&world, &["config", "secrets", "--config", &in_file]).await;
    assert_eq!(failed(&ran), ["config.valid", "secrets.mode"], "{ran:?}");
    mode(0o600);
    let ran = doctor(&world, &["config", "secrets", "--config", &in_file]).await;
    assert_eq!((failed(&ran), state_of(&ran, "secrets.age").as_str()), (vec![], "ok"), "{ran:?}");
    let three_years = std::time::SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365 * 50);
    std::fs::File::options().write(true).open(&secret).unwrap().set_modified(three_years).unwrap();
    let ran = doctor(&world, &["secrets", "--config", &in_file]).await;
    assert_eq!(state_of(&ran, "secrets.age"), "warn", "{ran:?}");
    // The service has another configuration than the file; it has none to compare with here.
    assert_eq!(state_of(&doctor(&world, &["process.version"]).await, "process.version"), "ok");
    // The admin API stands where callbacks should.
    let ran = doctor(&world, &["ports", "--url", &world.admin]).await;
    assert_eq!(failed(&ran), ["ports.exposure"], "{ran:?}");
    let ran = doctor(&world, &["ports", "--url", &world.public]).await;
    assert_eq!((failed(&ran), state_of(&ran, "ports.exposure").as_str()), (vec![], "ok"), "{ran:?}");
    // Another process holds the store, and answers nothing.
    world.stop().await.unwrap();
    let lock = std::fs::File::open(world.folder.path().join("data/lock")).unwrap();
    lock.lock().unwrap();
    let ran = doctor(&world, &["store.lock"]).await;
    assert_eq!(failed(&ran), ["store.lock"], "{ran:?}");
    assert!(
        finding(&ran, "store.lock")["seen"]["en"].as_str().unwrap().contains(&std::process::id().to_string())
    );
    // The folder of a sink cannot be made.
    let file = world.folder.path().join("a-file");
    std::fs::write(&file, "").unwrap();
    let sink = format!(
        "[[sinks]]\nname = \"files\"\nkind = \"file\"\npath = {:?}\n",
        file.join("x").display().to_string()
    );
    let ran = doctor(&world, &["sink", "--config", &other(&world, &format!("{text}\n{sink}"))]).await;
    assert_eq!(failed(&ran), ["sink.file"], "{ran:?}");
    let nats =
        "[[sinks]]\nname = \"bus\"\nkind = \"nats\"\nurl = \"nats://127.0.0.1:1\"\nsubject = \"links\"\n";
    let ran = doctor(&world, &["sink", "--config", &other(&world, &format!("{text}\n{nats}"))]).await;
    assert_eq!(failed(&ran), ["sink.nats"], "{ran:?}");
}

type Received = Arc<Mutex<Vec<(HeaderMap, String)>>>;

#[tokio::test]
async fn deep_spends_one_call_and_sends_a_signed_test_and_a_report_names_nobody() {
    let received = Received::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hook = format!("http://{}/hook", listener.local_addr().unwrap());
    let receive = async |State(received): State<Received>, headers: HeaderMap, body: String| {
        received.lock().unwrap().push((headers, body));
    };
    let router = Router::new().fallback(receive).with_state(received.clone());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let secret = "whsec_dW5pb25saW5rLWRvY3Rvci10ZXN0LWtleS0wMDE=";
    let sink = format!(
        "[[sinks]]\nname = \"crm\"\nkind = \"webhook\"\nurl = \"{hook}\"\nsecret = {{ value = \"{secret}\" }}\nprivate_addresses = true\n"
    );
    let world = World::with(Setup { app: sink.clone(), ..Setup::default() }).await;
    let fan = world.mint(1).await.remove(0);
    let customer = world.add(0, &fan, "zhangsan").await;
    world.linked(&fan, 1).await;
    let minted = calls_of(&world, Api::UnionidToPendingId);
    let report = world.folder.path().join("report.zip");
    let ran = doctor(&world, &["--deep", "--report", report.to_str().unwrap()]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("--deep: one call") && ran.stderr.contains("status.json"), "{}", ran.stderr);
    assert_eq!(calls_of(&world, Api::UnionidToPendingId), minted + 1);
    assert_eq!(state_of(&ran, "wecom.permission"), "ok", "{ran:?}");
    assert_eq!(state_of(&ran, "sink.verifies"), "ok", "{ran:?}");
    let tests: Vec<_> = received
        .lock()
        .unwrap()
        .iter()
        .filter(|(_, body)| body.contains("unionlink.test"))
        .cloned()
        .collect();
    let [(headers, body)] = tests.as_slice() else { panic!("{tests:?}") };
    let signed = standardwebhooks::Webhook::new(secret).unwrap();
    signed.verify(body.as_bytes(), headers).unwrap();
    // What is in the report.
    let mut archive = zip::ZipArchive::new(std::fs::File::open(&report).unwrap()).unwrap();
    let mut all = String::new();
    let mut names = Vec::new();
    for nth in 0..archive.len() {
        let mut file = archive.by_index(nth).unwrap();
        names.push(file.name().unwrap().into_owned());
        file.read_to_string(&mut all).unwrap();
    }
    for name in ["config.json", "findings.json", "history.json", "metrics.txt", "status.json"] {
        assert!(names.contains(&name.to_owned()), "{names:?}");
    }
    let corp = &world.corp;
    for secret in [&corp.secret, &world.callback.token, &world.callback.aes_key, &secret.to_owned()] {
        assert!(!all.contains(secret.as_str()) && !format!("{ran:?}").contains(secret.as_str()));
    }
    let dealer = &world.dealers[0];
    for name in [&corp.corp_id, &dealer.corp_id, &customer, &fan.unionid, &fan.openid] {
        assert!(!all.contains(name.as_str()), "{name}");
    }
    let again = doctor(&world, &["--report", report.to_str().unwrap()]).await;
    assert_ne!(again.code, 0, "an existing file is not replaced");
}

/// A proxy that speaks TLS with this certificate, and passes on to the service.
async fn tls_proxy(world: &World, chain: Vec<rcgen::Certificate>, key: &rcgen::KeyPair) -> String {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let chain = chain.iter().map(|certificate| certificate.der().clone()).collect();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let acceptor =
        TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let service = world.public.trim_start_matches("http://").to_owned();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, service) = (acceptor.clone(), service.clone());
            tokio::spawn(async move {
                let Ok(mut outside) = acceptor.accept(stream).await else { return };
                let mut inside = tokio::net::TcpStream::connect(service).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
                let _ = (outside.flush().await, inside.read(&mut [0]).await);
            });
        }
    });
    format!("https://localhost:{port}")
}

#[tokio::test]
async fn a_certificate_that_expires_or_whose_chain_is_incomplete_is_named() {
    let world = World::usual().await;
    let now = SystemClock.now().as_secs();
    let make = |days: i64,
                issued_by: Option<(&rcgen::Certificate, &rcgen::CertificateParams, &rcgen::KeyPair)>,
                is_ca: bool| {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("invented {days} {is_ca}"));
        let until = now + days * 86_400 + 3_600;
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(until.unsigned_abs());
        if is_ca {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = match issued_by {
            None => params.self_signed(&key).unwrap(),
            Some((_, issuer, issuer_key)) => {
                params.signed_by(&key, &rcgen::Issuer::from_params(issuer, issuer_key)).unwrap()
            }
        };
        (certificate, params, key)
    };
    let root = make(900, None, true);
    let between = make(900, Some((&root.0, &root.1, &root.2)), true);
    let roots = world.folder.path().join("roots.pem");
    std::fs::write(&roots, root.0.pem()).unwrap();
    for (days, is_whole, state, code) in
        [(60, true, "ok", 0), (10, true, "warn", 0), (2, true, "fail", 1), (60, false, "fail", 1)]
    {
        let (leaf, _, key) = make(days, Some((&between.0, &between.1, &between.2)), false);
        let chain = if is_whole { vec![leaf, between.0.clone()] } else { vec![leaf] };
        let url = tls_proxy(&world, chain, &key).await;
        let environment = [("SSL_CERT_FILE", roots.as_os_str())];
        let ran = run_with(&world, &["doctor", "--json", "callback", "--url", &url], &environment).await;
        assert_eq!(
            (state_of(&ran, "callback.certificate").as_str(), ran.code),
            (state, code),
            "{days} {is_whole} {ran:?}"
        );
        if is_whole {
            assert_eq!(state_of(&ran, "callback.public"), "ok", "{ran:?}");
            let seen = finding(&ran, "callback.certificate")["seen"]["zh"].as_str().unwrap().to_owned();
            assert!(seen.contains(&format!("剩余 {days} 天")), "{seen}");
        }
    }
}
