//! Security of the admin API and of the service's files: host, origin and token checks, security headers,
//! file modes, and that no secret appears in any response, log or command output.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use unionlink::simulator::{Fault, Forgery, Target};

use crate::harness::{LOG_EVERYTHING, PATIENCE, Setup, World};
use crate::process::Process;
use crate::receivers::{SECRET, Webhook};

const TOKEN: &str = "the-admin-token-of-32-characters";

/// Sends a request head exactly as given. Returns the status, the head in lower case, and the body.
async fn raw(world: &World, first_line: &str, headers: &[&str]) -> (u16, String, Value) {
    let mut stream = TcpStream::connect(world.admin.trim_start_matches("http://")).await.unwrap();
    let head = [&[first_line], headers, &["Connection: close", "\r\n"]].concat().join("\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), head.to_ascii_lowercase(), serde_json::from_str(body).unwrap_or_default())
}

async fn metrics(world: &World, token: &str) -> String {
    let request = world.http.get(format!("{}/metrics", world.admin)).bearer_auth(token);
    request.send().await.unwrap().text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_configured_host_names_are_answered() {
    let admin = "hosts = [\"Unionlink.example.com\"]".to_owned();
    let world = World::with(Setup { admin, ..Setup::default() }).await;
    let port = world.admin.rsplit_once(':').unwrap().1;
    let get = "GET /v1/status HTTP/1.1";
    for ours in [
        "127.0.0.1",
        &format!("127.0.0.1:{port}"),
        "[::1]:1",
        "localhost",
        "a.localhost:80",
        "unionlink.example.com:8443",
    ] {
        assert_eq!(raw(&world, get, &[&format!("Host: {ours}")]).await.0, 200, "{ours}");
    }
    for (first_line, headers) in [
        (get, &["Host: evil.example"][..]),
        (get, &["Host: evil.example:8081"]),
        (get, &["Host: 127.0.0.1@evil.example"]),
        (get, &["Host:"]),
        ("GET http://evil.example/v1/status HTTP/1.1", &["Host: 127.0.0.1"]),
        ("GET http://127.0.0.1/v1/status HTTP/1.1", &["Host: evil.example"]),
        ("CONNECT evil.example:443 HTTP/1.1", &["Host: evil.example:443"]),
        ("GET /no/such/path HTTP/1.1", &["Host: evil.example"]),
        ("POST /v1/forget HTTP/1.1", &["Host: evil.example", "Content-Length: 0"]),
    ] {
        let (status, head, problem) = raw(&world, first_line, headers).await;
        assert_eq!((status, &problem["code"]), (421, &json!("host_not_allowed")), "{first_line} {headers:?}");
        assert!(problem["hint"].as_str().unwrap().contains("[admin] hosts"), "{problem}");
        assert!(head.contains("content-type: application/problem+json"), "{head}");
    }
    for headers in
        [&[][..], &["Host: 127.0.0.1", "Host: evil.example"], &["Host: 127.0.0.1", "Host: 127.0.0.1"]]
    {
        let (status, _, problem) = raw(&world, get, headers).await;
        assert_eq!((status, &problem["code"]), (400, &json!("bad_request")), "{headers:?}");
    }
    assert_eq!(raw(&world, "GET http://localhost/v1/status HTTP/1.1", &["Host: localhost"]).await.0, 200);
    // Probes may use any host name.
    for path in ["/livez", "/readyz"] {
        assert_eq!(raw(&world, &format!("GET {path} HTTP/1.1"), &["Host: evil.example"]).await.0, 200);
    }
    let text = metrics(&world, "").await;
    assert!(text.contains("unionlink_admin_refused_total{reason=\"host\"} 12"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_can_change_nothing_and_read_nothing() {
    let world = World::usual().await;
    let host = world.admin.trim_start_matches("http://").to_owned();
    let body = r#"{"unionid": "oINVENTED-unionid-0001", "openid": "oINVENTED-openid-0001"}"#;
    let post = async |origin: &str| {
        let url = format!("{}/v1/fans", world.admin);
        // A request that a form can send without a CORS preflight.
        let request = world.http.post(url).header("content-type", "text/plain").header("origin", origin);
        let answer = request.body(body).send().await.unwrap();
        assert!(!answer.headers().keys().any(|name| name.as_str().starts_with("access-control")));
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap()["code"].clone())
    };
    for origin in ["https://evil.example", "null", "http://localhost:3000", "http://127.0.0.1:1", ""] {
        assert_eq!(post(origin).await, (403, json!("cross_origin")), "{origin}");
    }
    assert_eq!(world.get("/v1/status").await["fans"]["registered"], 0);
    assert_eq!(post(&format!("http://{host}")).await.0, 202);
    // Preflights are not allowed, and no response may be read by the page.
    let ask = ["Host: 127.0.0.1", "Origin: https://evil.example", "Access-Control-Request-Method: POST"];
    for first_line in ["OPTIONS /v1/fans HTTP/1.1", "GET /v1/status HTTP/1.1", "GET /livez HTTP/1.1"] {
        let (_, head, _) = raw(&world, first_line, &ask).await;
        assert!(!head.contains("access-control"), "{head}");
    }
    let text = metrics(&world, "").await;
    assert!(text.contains("unionlink_admin_refused_total{reason=\"origin\"} 5"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_are_refused_and_the_right_one_always_passes() {
    let admin = format!("token = {{ value = \"{TOKEN}\" }}");
    let world = World::with(Setup { admin, ..Setup::default() }).await;
    let ask = async |token: Option<&str>| {
        let request = world.http.get(format!("{}/v1/links?unionid=x", world.admin));
        let request = if let Some(token) = token { request.bearer_auth(token) } else { request };
        request.send().await.unwrap()
    };
    let wrong = async |n: usize| {
        let answer = ask(Some(&format!("wrong-{n}"))).await;
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["www-authenticate"]),
            (401, &"Bearer".parse().unwrap())
        );
        assert_eq!(answer.json::<Value>().await.unwrap()["code"], "unauthorized");
    };
    // Those who guess wait for half a second longer each time; nobody else does.
    let guesses = futures_util::future::join_all((0..8).map(wrong));
    let rights = async {
        for _ in 0..10 {
            assert_eq!(ask(Some(TOKEN)).await.status(), 200);
        }
    };
    let start = Instant::now();
    tokio::pin!(guesses, rights);
    tokio::select! {
        biased;
        () = &mut rights => {}
        _ = &mut guesses => panic!("the right token was held up"),
    }
    guesses.await;
    assert!(start.elapsed() >= Duration::from_secs(4), "{:?}", start.elapsed());
    assert_eq!(ask(None).await.status(), 401);
    let text = metrics(&world, TOKEN).await;
    for line in ["{reason=\"token\"} 9", "{reason=\"host\"} 0"] {
        assert!(text.contains(&format!("unionlink_admin_refused_total{line}")), "{line} is not in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_response_carries_the_security_headers() {
    let admin = format!("token = {{ value = \"{TOKEN}\" }}");
    let world = World::with(Setup { admin, ..Setup::default() }).await;
    let bearer = format!("Authorization: Bearer {TOKEN}");
    for (path, headers) in [
        ("/livez", vec!["Host: evil.example"]),
        ("/readyz", vec!["Host: localhost"]),
        ("/metrics", vec!["Host: localhost", &bearer]),
        ("/openapi.json", vec!["Host: localhost", &bearer]),
        ("/v1/links/export", vec!["Host: localhost", &bearer]),
        ("/v1/links", vec!["Host: localhost", &bearer]),
        ("/v1/status", vec!["Host: localhost"]),
        ("/v1/status", vec!["Host: evil.example"]),
        ("/no/such/path", vec!["Host: localhost"]),
        ("/", vec![]),
    ] {
        let (_, head, _) = raw(&world, &format!("GET {path} HTTP/1.1"), &headers).await;
        for line in [
            "content-security-policy: default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
            "cross-origin-resource-policy: same-origin",
        ] {
            let times = head.lines().filter(|found| *found == line).count();
            assert_eq!(times, 1, "{path}: {line:?} in\n{head}");
        }
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Every path in a folder, with its mode.
fn modes(folder: &Path) -> Vec<(String, u32)> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        found.push((folder.display().to_string(), mode(&folder)));
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push((path.display().to_string(), mode(&path)));
            }
        }
    }
    found
}

fn assert_private(folder: &Path) {
    let modes = modes(folder);
    for (path, mode) in &modes {
        let wanted = if Path::new(path).is_dir() { 0o700 } else { 0o600 };
        assert_eq!(*mode, wanted, "{path}: {mode:o}");
    }
    for name in ["lock", "index/conf", "index/db"] {
        assert!(modes.iter().any(|(path, _)| path.ends_with(name)), "{name} is not in {modes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_service_are_accessible_to_its_user_only() {
    let links = tempfile::tempdir().unwrap();
    let app =
        format!("[[sinks]]\nname = \"archive\"\nkind = \"file\"\npath = {:?}\n", links.path().join("l"));
    // The store was created by the in-process service; widen its modes as an older version may have left
    // them.
    let mut process = Process::with(Setup { app, ..Setup::default() }).await;
    let data = process.world.folder.path().join("data");
    std::fs::write(data.join("index/snap.leftover"), "").unwrap();
    for (path, _) in modes(&data) {
        let mode = if Path::new(&path).is_dir() { 0o755 } else { 0o644 };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    std::fs::remove_file(data.join("index/snap.leftover")).unwrap();
    let log = process.start_logging().await;
    let fans = process.world.mint(3).await;
    for fan in &fans {
        process.world.add(0, fan, "zhangsan").await;
        process.world.linked(fan, 1).await;
    }
    process.world.until("/v1/status", |s| s["sinks"][0]["after"] == 3).await;
    assert_private(&data);
    process.stop().await;
    assert_private(&data);
    assert!(log.await.unwrap().contains("files of the store were open to others"));
    let compact = ["store", "compact", "--config", process.file.to_str().unwrap()];
    let done = Command::new(env!("CARGO_BIN_EXE_unionlink")).args(compact).output().await.unwrap();
    assert!(done.status.success(), "{done:?}");
    assert_private(&data);
    for (path, mode) in modes(&links.path().join("l")) {
        assert_eq!(mode, if Path::new(&path).is_dir() { 0o700 } else { 0o600 }, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_refuses_to_start_with_a_secret_file_that_every_user_can_read() {
    let mut process = Process::with(Setup::default()).await;
    let secret = process.world.folder.path().join("secret");
    std::fs::write(&secret, "CANARY").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).unwrap();
    process.world.setup.admin = format!("token = {{ file = {:?} }}", secret.display().to_string());
    std::fs::write(&process.file, process.world.configuration("127.0.0.1:0", "127.0.0.1:0")).unwrap();
    for command in ["serve", "check"] {
        let arguments = [command, "--config", process.file.to_str().unwrap()];
        let done = Command::new(env!("CARGO_BIN_EXE_unionlink")).args(arguments).output().await.unwrap();
        let stderr = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(1));
        for part in ["admin.token file", "(mode 0644)", "chmod 600", "defaultMode"] {
            assert!(stderr.contains(part), "{part:?} is not in {stderr}");
        }
        assert!(!stderr.contains("CANARY"), "{stderr}");
    }
}

/// The text of every secret of a test service, to be searched for.
struct Canaries(Vec<String>);

impl Canaries {
    const ADMIN: &str = "CANARY-ADMIN-TOKEN-OF-32-CHARACTERS";
    const WRONG: &str = "CANARY-WRONG-TOKEN";
    const TOKENS: &str = "[[admin.tokens]]\nname = \"reader\"\ntoken = \"CANARY-READER-TOKEN-OF-32-CHARACTERS\"\n\
        previous_token = \"CANARY-PREVIOUS-TOKEN-OF-32-CHARACTERS\"\nallow = [\"links\"]\n";
    const PREVIOUS_KEYS: &str = "previous_callback_token = { value = \"CANARY-PREVIOUS-CALLBACK\" }\n\
        previous_encoding_aes_key = { value = \"CANARYCANARYCANARYCANARYCANARYCANARYCANARYC\" }\n";
    const PREVIOUS: &str = "whsec_Q0FOQVJZLXByZXZpb3VzLXNlY3JldC0wMDAwMQ==";

    /// Configuration sections with the secrets that the test chooses.
    fn sections(hook: &str) -> String {
        format!(
            "{}[log]\nfilter = \"{LOG_EVERYTHING}\"\n\
             [[sinks]]\nname = \"crm\"\nkind = \"webhook\"\nurl = \"{hook}?key=CANARY-URL\"\nsecret = {{ value = \"{SECRET}\" }}\n\
             previous_secret = {{ value = \"{}\" }}\nheaders = {{ authorization = {{ value = \"CANARY-HEADER\" }} }}\n\
             [[sinks]]\nname = \"bus\"\nkind = \"nats\"\nurl = \"nats://127.0.0.1:1\"\nsubject = \"links\"\n\
             token = {{ value = \"CANARY-NATS-TOKEN\" }}\n\
             [[sinks]]\nname = \"bus2\"\nkind = \"nats\"\nurl = \"nats://127.0.0.1:1\"\nsubject = \"links\"\n\
             user = \"unionlink\"\npassword = {{ value = \"CANARY-NATS-PASSWORD\" }}\n",
            Self::PREVIOUS_KEYS,
            Self::PREVIOUS
        )
    }

    fn of(world: &World) -> Self {
        let bare = |secret: &str| secret.trim_start_matches("whsec_").trim_end_matches('=').to_owned();
        let mut all = vec![bare(SECRET), bare(Self::PREVIOUS)];
        all.extend([&world.corp.secret, &world.callback.token, &world.callback.aes_key].map(Clone::clone));
        // Query parameters that carry a secret in a URL.
        all.extend(["CANARY", "access_token=", "corpsecret="].map(str::to_owned));
        Self(all)
    }

    fn assert_not_in(&self, what: &str, text: &str) {
        for canary in &self.0 {
            if let Some(at) = text.find(canary) {
                let line = text[..at].rfind('\n').map_or(0, |start| start + 1);
                panic!("{canary} is in {what}: {}", text[line..].lines().next().unwrap_or_default());
            }
        }
    }
}

/// The response to every GET operation of the description, with ids that exist and ids that do not.
async fn all_answers(world: &World, ids: &[&str]) -> Vec<(String, String)> {
    let get =
        |path: &str| world.http.get(format!("{}{path}", world.admin)).bearer_auth(Canaries::ADMIN).send();
    let description: Value = get("/openapi.json").await.unwrap().json().await.unwrap();
    let mut answers = Vec::new();
    for (path, operations) in description["paths"].as_object().unwrap() {
        if operations.get("get").is_none() {
            continue;
        }
        let queries = [
            "",
            "?unionid=x",
            "?state=dead",
            "?state=quarantined&app=brand",
            "?after=0&wait=0",
            "?format=csv",
        ];
        for (id, query) in ids.iter().flat_map(|id| queries.map(|query| (id, query))) {
            let mut path = path.clone();
            while let (Some(start), Some(end)) = (path.find('{'), path.find('}')) {
                path.replace_range(start..=end, id);
            }
            let mut answer = get(&format!("{path}{query}")).await.unwrap();
            let mut text = format!("{:?}\n", answer.headers());
            if path.ends_with("/stream") {
                // A stream does not end.
                let first = tokio::time::timeout(Duration::from_secs(2), answer.chunk()).await;
                text += &String::from_utf8_lossy(&first.ok().and_then(|c| c.unwrap()).unwrap_or_default());
            } else {
                text += &answer.text().await.unwrap();
            }
            answers.push((format!("{path}{query}"), text));
            if query.is_empty() && path.ends_with("/stream") {
                break;
            }
        }
    }
    assert!(answers.len() > 60, "{}", answers.len());
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_appears_in_any_response_log_or_command_output() {
    let hook = Webhook::start().await;
    hook.answer_with(500);
    let admin = format!("token = {{ value = \"{}\" }}\n{}", Canaries::ADMIN, Canaries::TOKENS);
    let setup = Setup { admin, app: Canaries::sections(&hook.url), ..Setup::default() };
    let mut process = Process::with(setup).await;
    let log = process.start_logging().await;
    let world = &process.world;
    let canaries = Canaries::of(world);
    let post = async |path: &str, body: String, token: &str| {
        let request = world.http.post(format!("{}{path}", world.admin)).bearer_auth(token).body(body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let until = async |what: &str, is: &dyn Fn(&Value) -> bool| {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let request = world.http.get(format!("{}/v1/status", world.admin)).bearer_auth(Canaries::ADMIN);
            let status: Value = request.send().await.unwrap().json().await.unwrap();
            if is(&status) {
                return;
            }
            assert!(Instant::now() < give_up, "{what}: {status:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // Provoke every kind of failure.
    let people = world.wecom.add_people(5);
    let rows: Vec<_> = people.iter().map(|p| json!({"unionid": p.unionid, "openid": p.openid})).collect();
    assert_eq!(post("/v1/fans", json!(rows).to_string(), Canaries::ADMIN).await.0, 202);
    let asked = |s: &Value| s["fans"]["minted"] == 5 && s["calls"]["unionid_to_external_userid"] == 5;
    until("minted", &asked).await;
    world.wecom.inject(Target::Every, Fault::Reset, Some(1));
    world.wecom.inject(Target::Every, Fault::Errcode(40_001), Some(1));
    world.wecom.revoke_tokens(&world.corp.corp_id);
    let mut customers = Vec::new();
    for (n, person) in people.iter().enumerate() {
        let (id, event) = world.befriend(n % 2, person, "zhangsan");
        if n == 1 {
            world.wecom.poison_with(&id, 40_058);
        }
        world.deliver(&event).await;
        customers.push(id);
    }
    let stray = world.wecom.seal_with(&world.befriend(0, &people[0], "lisi").1, "wwSTRAY");
    assert!(world.wecom.post(&stray).await.acknowledged);
    for forgery in [Forgery::Signature, Forgery::Cipher, Forgery::WrongKeys] {
        world.wecom.deliver_forged(&world.corp.corp_id, forgery, 3).await;
    }
    until("linked", &|s| s["links"] == 4 && s["inbox"]["dead"] == 1 && s["inbox"]["quarantined"] == 1).await;
    let failing =
        |s: &Value| s["sinks"].as_array().unwrap().iter().all(|sink| sink["failures"].as_u64() > Some(0));
    until("sinks fail", &failing).await;
    world.wecom.set_dealer_error(&world.dealers[0].corp_id, Some(48_002));
    world.deliver(&world.befriend(0, &world.wecom.add_person(), "zhangsan").1).await;
    until("paused", &|s| s["paused"].as_array().is_some_and(|p| !p.is_empty())).await;
    for token in [Canaries::WRONG; 2] {
        canaries.assert_not_in("a refusal", &post("/v1/forget", "{}".into(), token).await.1);
    }
    for body in ["{", "[]", "{\"unionid\": 7}", "{\"app\": \"nobody\"}"] {
        for path in [
            "/v1/fans",
            "/v1/forget",
            "/v1/events/evt_1/redrive",
            "/v1/events/redrive",
            "/v1/events/discard",
            "/v1/sinks/crm/rewind",
        ] {
            canaries.assert_not_in(path, &post(path, body.to_owned(), Canaries::ADMIN).await.1);
        }
    }
    let of_people = people.iter().flat_map(|person| [person.unionid.clone(), person.openid.clone()]);
    let persons = Canaries(of_people.chain(customers.iter().cloned()).collect());
    let ids = [people[0].unionid.as_str(), &customers[1], "evt_1", "crm", "bus", "CANAR"];
    for (path, answer) in all_answers(world, &ids).await {
        canaries.assert_not_in(&path, &answer);
        // What is for operators names nobody.
        if ["/metrics", "/v1/status", "/v1/audit", "/v1/sinks", "/v1/dealers"]
            .iter()
            .any(|p| path.starts_with(p))
        {
            persons.assert_not_in(&path, &answer);
        }
    }
    let valid = std::fs::read_to_string(&process.file).unwrap();
    let invalid = valid.replace("cache_mb = 16", "cache_mb = 0").replace(SECRET, "CANARY-BROKEN");
    for (text, status) in [(&invalid, 422), (&valid, 200)] {
        std::fs::write(&process.file, text).unwrap();
        let (answered, answer) = post("/v1/reload", String::new(), Canaries::ADMIN).await;
        assert_eq!(answered, status, "{answer}");
        canaries.assert_not_in("a reload", &answer);
    }
    process.stop().await;
    let log = log.await.unwrap();
    persons.assert_not_in("the log", &log);
    for expected in ["DEBUG", "wrong admin token", "dead letter", "quarantined", "paused"] {
        assert!(log.contains(expected), "{expected:?} is not in the log");
    }
    canaries.assert_not_in("the log", &log);
    check_commands(&process, &canaries).await;
}

/// Checks the output of other commands, with the same configuration and with a broken one.
async fn check_commands(process: &Process, canaries: &Canaries) {
    let file = process.file.to_str().unwrap();
    let run = async |arguments: &[&str]| {
        let done = Command::new(env!("CARGO_BIN_EXE_unionlink")).args(arguments).output().await.unwrap();
        format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
    };
    let text = std::fs::read_to_string(file).unwrap();
    let logging_in = text.replace("api_base = \"http://", "api_base = \"http://user:CANARY-BASE@");
    std::fs::write(file, logging_in).unwrap();
    for arguments in [&["check", "--config", file][..], &["check", "--json", "--config", file]] {
        let output = run(arguments).await;
        for part in ["[redacted, from the file]", "holds a secret", "http://[redacted]@127.0.0.1"] {
            assert!(output.contains(part), "{part:?} is not in {output}");
        }
        canaries.assert_not_in("check", &output);
    }
    canaries.assert_not_in("status", &run(&["events", "list", "--config", file]).await);
    let backup = process.world.folder.path().join("backup");
    let output = run(&["store", "backup", backup.to_str().unwrap(), "--config", file]).await;
    let mut files = 0;
    for (path, _) in modes(&backup) {
        if Path::new(&path).is_file() {
            canaries.assert_not_in("a backup", &String::from_utf8_lossy(&std::fs::read(&path).unwrap()));
            files += 1;
        }
    }
    assert!(files > 0, "{output}");
    let broken = text
        .replace(&process.world.callback.aes_key, "CANARY-SHORT")
        .replace(SECRET, "CANARY")
        .replace("[log]", "[log]\nx = 1");
    std::fs::write(file, broken).unwrap();
    for command in ["check", "serve"] {
        let output = run(&[command, "--config", file]).await;
        assert!(output.contains(" problems in "), "{output}");
        canaries.assert_not_in(command, &output);
    }
}
