//! The reverse proxies of `docs/operations.md`: the real nginx and Caddy, with the configurations of the
//! document, pass on what WeCom sends, end what arrives too slowly and log no query string. How they are run is
//! in `proxy`; what the service itself does with a request is in `callback` and `connections`.

mod proxy;

use std::time::{Duration, Instant};

use rustls::version::{TLS12, TLS13};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use unionlink::simulator::SealedCallback;

use self::proxy::{Address, HOST, Proxy, answer, block, configure_caddy, configure_nginx, request, rest_of};
use crate::doctor::failed;
use crate::harness::{PATIENCE, Setup, World};
use crate::url_trials::run_with;

/// The time after which a request that arrives too slowly must have ended. As documented it takes ten seconds
/// at most; by nginx's defaults it would be 35 for a body and 60 for a head, and Caddy's are endless.
const SLOW_MAX: Duration = Duration::from_secs(30);

#[test]
fn the_configurations_are_the_same_in_english_and_chinese() {
    for language in ["nginx", "caddyfile", "nft"] {
        let [english, chinese] = ["docs/operations.md", "docs/zh/operations.md"].map(|document| {
            let block = block(document, language);
            let code = block.lines().filter(|line| !line.trim_start().starts_with('#')).map(str::to_owned);
            code.collect::<Vec<_>>()
        });
        assert_eq!(english, chinese, "{language}");
    }
}

/// Goes on sending one byte after the other until the server neither answers nor receives any more. Returns
/// how long that took.
fn trickle(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> JoinHandle<Duration> {
    let begun_at = Instant::now();
    let (mut reading, mut writing) = tokio::io::split(stream);
    let goes_on = async move {
        while begun_at.elapsed() < SLOW_MAX
            && writing.write_all(b"x").await.is_ok()
            && writing.flush().await.is_ok()
        {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::spawn(async move {
        tokio::join!(goes_on, rest_of(&mut reading));
        begun_at.elapsed()
    })
}

/// A world whose app has the token and key of a published URL check with an `echostr` that begins with `+`.
async fn world() -> (World, Value) {
    let vectors: Vec<Value> = serde_json::from_str(include_str!("../vectors/callback.json")).unwrap();
    let begins_with_plus =
        |check: &Value| check["echostr_urlencoded"].as_str().is_some_and(|echo| echo.starts_with("%2B"));
    let check = vectors.into_iter().find(begins_with_plus).unwrap();
    let app = format!("accept_receive_ids = [{}]", check["decrypted_receive_id"]);
    let mut world = World::with(Setup { app, ..Setup::default() }).await;
    check["token"].as_str().unwrap().clone_into(&mut world.callback.token);
    check["aes_key"].as_str().unwrap().clone_into(&mut world.callback.aes_key);
    world.restart().await;
    (world, check)
}

/// The proxy passes on what WeCom sends, and nothing else.
async fn passes_callbacks_only(proxy: &Proxy, world: &World, check: &Value) {
    let text = |field: &str| check[field].as_str().unwrap();
    let query = format!(
        "msg_signature={}&timestamp={}&nonce={}&echostr={}",
        text("signature"),
        text("timestamp"),
        text("nonce"),
        text("echostr_urlencoded"),
    );
    let url = format!("/callback/brand?{query}");
    for version in [&TLS12, &TLS13] {
        let mut stream = proxy.connect(proxy.ip, version).await.unwrap();
        stream.write_all(request(&format!("GET {url}"), "").as_bytes()).await.unwrap();
        let echoed = answer(&rest_of(&mut stream).await);
        assert_eq!(echoed, (200, text("expected_plaintext").to_owned()));
    }

    let fan = &world.mint(1).await[0];
    let genuine = world.wecom.seal(&world.befriend(0, fan, "zhangsan").1);
    assert_eq!(proxy.post(&genuine).await, (200, "success".to_owned()));
    world.linked(fan, 1).await;

    let too_large = SealedCallback { body: "x".repeat(1 << 20), ..genuine };
    assert_eq!(proxy.post(&too_large).await.0, 413);
    // The public listener would answer the first with 200.
    for path in ["/livez", "/callback/../livez", "/", "/metrics", "/v1/status"] {
        assert_eq!(proxy.exchange(&request(&format!("GET {path}"), "")).await.0, 404, "{path}");
    }

    let mut stream = proxy.tcp(proxy.ip, proxy.http).await.unwrap();
    stream.write_all(request(&format!("GET {url}"), "").as_bytes()).await.unwrap();
    let redirect = rest_of(&mut stream).await;
    assert!(redirect.starts_with("HTTP/1.1 301 "), "{redirect}");
    assert!(redirect.contains(&format!("\r\nLocation: https://{HOST}{url}\r\n")), "{redirect}");
}

/// `doctor` finds that callbacks pass it; at its plain port, that it redirects; and without its certificate among the
/// roots, that.
async fn doctor_agrees(proxy: &Proxy, world: &World) {
    let roots = proxy.certificate();
    for (url, roots, expected) in [
        (format!("https://{}:{}", proxy.ip, proxy.https), Some(&roots), None),
        (format!("https://{}:{}", proxy.ip, proxy.https), None, Some("callback.certificate")),
        (format!("http://{}:{}", proxy.ip, proxy.http), Some(&roots), Some("callback.public")),
    ] {
        let environment: Vec<_> =
            roots.into_iter().map(|roots| ("SSL_CERT_FILE", roots.as_os_str())).collect();
        let arguments = ["doctor", "--json", "callback", "ports.exposure", "--url", &url];
        let ran = run_with(world, &arguments, &environment).await;
        assert_eq!(failed(&ran), expected.into_iter().collect::<Vec<_>>(), "{url} {ran:?}");
    }
}

/// Requests that arrive too slowly are ended, and genuine callbacks are acknowledged meanwhile. At most
/// `open_max` bodies at a time are received from one address.
async fn ends_slow_requests(proxy: &Proxy, world: &World, open_max: Option<usize>) {
    let attacker = Address::Attacker.ip();
    let line = format!("POST /callback/brand?msg_signature={}&timestamp=1&nonce=n", "a".repeat(40));
    let head = format!("{line} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 60000\r\n");
    let unannounced = format!("{line} HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut slow = Vec::new();
    for opened in 0.. {
        let mut stream = proxy.connect(attacker, &TLS13).await.unwrap();
        stream.write_all(format!("{head}Expect: 100-continue\r\n\r\n").as_bytes()).await.unwrap();
        let mut start = [0; 12];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut start)).await.expect("an answer").unwrap();
        if &start != b"HTTP/1.1 100" {
            // Those before may have ended if this machine is very slow.
            assert!(&start == b"HTTP/1.1 503" && open_max.is_some_and(|max| opened >= max), "{start:?}");
            break;
        }
        slow.push(("a body", trickle(stream)));
        match open_max {
            Some(_) => assert!(opened < 15, "more connections than the limit"),
            None if opened == 50 => break,
            None => {}
        }
    }
    let genuine = world.wecom.seal(&world.befriend(0, &world.wecom.add_person(), "zhangsan").1);
    assert_eq!(proxy.post(&genuine).await, (200, "success".to_owned()));

    for (what, sent) in [
        ("a head", head.clone()),
        ("a body for nobody", format!("{head}\r\n").replace("/callback/brand", "/elsewhere")),
        ("a body for an unknown app", format!("{head}\r\n").replace("/brand", "/nobody")),
        ("an unannounced body", format!("{unannounced}fff0\r\n")),
        ("too large an unannounced body", format!("{unannounced}ffff0\r\n{}", "x".repeat(70_000))),
    ]
    .iter()
    .cycle()
    .take(50)
    {
        let mut stream = proxy.connect(attacker, &TLS13).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        slow.push((*what, trickle(stream)));
    }
    let mut stream = proxy.tcp(attacker, proxy.http).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    slow.push(("a head without TLS", trickle(stream)));
    let mut silent = proxy.tcp(attacker, proxy.https).await.unwrap();
    let begun_at = Instant::now();
    slow.push((
        "silence",
        tokio::spawn(async move {
            rest_of(&mut silent).await;
            begun_at.elapsed()
        }),
    ));
    for (what, ended) in slow {
        let took = ended.await.unwrap();
        assert!(took < SLOW_MAX, "{what} took {took:?}");
    }
}

/// The log has every callback, and of no request the query string: neither where it was passed on, nor where
/// the service could not be asked.
async fn logs_no_query_strings(proxy: &Proxy, world: &mut World, failed: &str) {
    let genuine = world.wecom.seal(&world.befriend(0, &world.wecom.add_person(), "zhangsan").1);
    world.stop().await.unwrap();
    // In place of the service, so that no other test's service gets its port.
    let listener = TcpListener::bind(world.public.trim_start_matches("http://")).await.unwrap();
    let breaks = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    assert_eq!(proxy.post(&genuine).await.0, 502);
    breaks.abort();
    let give_up = Instant::now() + PATIENCE;
    while !proxy.log().contains(failed) {
        assert!(Instant::now() < give_up, "{failed:?} is not in\n{}", proxy.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let log = proxy.log();
    for text in ["msg_signature", "nonce=", "echostr", "?"] {
        assert!(!log.contains(text), "{text:?} is in\n{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_as_documented_passes_callbacks_and_limits_what_one_address_may_send() {
    let (mut world, check) = world().await;
    let Some(proxy) = Proxy::start("nginx", Address::Nginx, configure_nginx, &world).await else { return };
    passes_callbacks_only(&proxy, &world, &check).await;
    doctor_agrees(&proxy, &world).await;
    ends_slow_requests(&proxy, &world, Some(2)).await;

    // The rate: 20 at once, and one every ten seconds.
    let mut stream = proxy.connect(Address::Flood.ip(), &TLS13).await.unwrap();
    let forged = request("GET /callback/brand?msg_signature=x", "");
    let flood = forged.replace("Connection: close\r\n", "").repeat(60) + &forged;
    stream.write_all(flood.as_bytes()).await.unwrap();
    let answers = rest_of(&mut stream).await;
    let statuses: Vec<_> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses.len(), 61);
    assert_eq!(statuses[..20], ["403"; 20]);
    assert!(statuses.contains(&"503"), "{statuses:?}");
    let genuine = world.wecom.seal(&world.befriend(0, &world.wecom.add_person(), "zhangsan").1);
    assert_eq!(proxy.post(&genuine).await, (200, "success".to_owned()));

    logs_no_query_strings(&proxy, &mut world, "\"POST /callback/brand\" 502 502 ").await;
    assert!(proxy.log().contains("\"POST /callback/brand\" 200 200 "), "{}", proxy.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn caddy_as_documented_passes_callbacks() {
    let (mut world, check) = world().await;
    let Some(proxy) = Proxy::start("caddy", Address::Caddy, configure_caddy, &world).await else { return };
    passes_callbacks_only(&proxy, &world, &check).await;
    doctor_agrees(&proxy, &world).await;
    ends_slow_requests(&proxy, &world, None).await;
    logs_no_query_strings(&proxy, &mut world, "\"http.log.error\"").await;
    assert!(proxy.log().contains("\"uri\":\"/callback/brand\""), "{}", proxy.log());
}
