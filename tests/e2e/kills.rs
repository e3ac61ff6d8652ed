//! Imports, minting and comparisons across SIGKILL: no fan is lost or minted twice, the quota is used up but
//! never exceeded, and a comparison goes on and links nobody twice.

use std::fmt::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::process::{Child, Command};
use unionlink::simulator::{Api, ConversionQuota, Fault, Options, PageFill, Permission, Person};

use crate::harness::{PATIENCE, Setup};
use crate::process::Process;

const PER_HOUR: u64 = 1_500;

#[tokio::test(flavor = "multi_thread")]
async fn across_kills_the_quota_is_never_exceeded_and_nearly_all_of_it_is_used() {
    let mut setup = Setup {
        app: format!(
            "existing_customers = false\nquota = {{ per_hour = {PER_HOUR}, per_day = 9000, per_month = 9000 }}"
        ),
        ..Setup::default()
    };
    setup.options.quota = ConversionQuota { per_hour: PER_HOUR, per_day: 9_000, per_month: 9_000 };
    let mut process = Process::with(setup).await;
    process.world.wecom.inject(Api::UnionidToPendingId, Fault::Latency(50), None);
    let people = process.world.wecom.add_people(2_000);
    process.start().await;
    process.world.register(&people).await;
    let calls = |process: &Process| process.world.wecom.counters().calls_of(Api::UnionidToPendingId);
    // Killed once in each sixth of the quota.
    for n in 1..=5 {
        while calls(&process) < n * PER_HOUR / 6 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        process.kill().await;
        process.start().await;
    }
    let exhausted =
        |s: &Value| s["pacing"].as_array().is_some_and(|p| p.iter().any(|p| p["scope"] == "fans"));
    process.world.until("/v1/status", exhausted).await;
    let calls = calls(&process);
    assert!((PER_HOUR * 95 / 100..=PER_HOUR).contains(&calls), "{calls} of {PER_HOUR}");
    let counters = process.world.wecom.counters();
    assert_eq!((counters.quota_violations, counters.errcodes_of(45_009)), (0, 0));
}

fn import(process: &Process, file: &std::path::Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unionlink"));
    command.args(["fans", "import", "--json", "--config"]).arg(&process.file).arg(file);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_killed_twice_loses_no_fan_and_mints_none_twice() {
    const ROWS: usize = 10_000;
    let options =
        Options { base_per_minute: 10_000_000, base_per_hour: 10_000_000, ..Setup::default().options };
    let app =
        "existing_customers = false\nquota = { per_hour = 1000, per_day = 1000, per_month = 1000 }".into();
    let mut process = Process::with(Setup { options, app, ..Setup::default() }).await;
    process.start().await;
    let people = process.world.wecom.add_people(ROWS);
    let mut rows = String::from("\u{feff}昵称,微信unionid,小程序openid\r\n");
    for (n, person) in people.iter().enumerate() {
        write!(rows, "\"fan, {n}\",{},{}\r\n", person.unionid, person.openid).unwrap();
    }
    rows.push_str("nobody,,oX\r\n");
    let file = process.world.folder.path().join("fans.csv");
    std::fs::write(&file, rows).unwrap();
    for part in [3, 2] {
        let mut child = import(&process, &file);
        let so_far = |s: &Value| s["fans"]["registered"].as_u64() >= Some((ROWS / part) as u64);
        process.world.until("/v1/status", so_far).await;
        child.kill().await.unwrap();
    }
    let output = import(&process, &file).wait_with_output().await.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["rejected"], 1, "{summary:#}");
    assert!(stderr.contains("unionid"), "{stderr}");
    // The whole quota is granted; on a slow machine a few permits expire unused, or a response is lost.
    let done = |s: &Value| {
        let spent = s["quotas"][0]["hour"]["used"] == 990 && s["pacing"][0]["scope"] == "bulk";
        spent && s["fans"]["minted"].as_u64() > Some(800)
    };
    let status = process.world.until("/v1/status", done).await;
    assert_eq!(status["fans"]["registered"], ROWS);
    let calls = process.world.wecom.counters().calls_of(Api::UnionidToPendingId);
    assert!(calls <= 990, "{calls} calls");
    let corp_id = &process.world.corp.corp_id;
    let ids_of = |person: &&Person| process.world.wecom.pending_ids(corp_id, person).len();
    let twice = people.iter().filter(|person| ids_of(person) > 1).count() as u64;
    let lost = calls - status["fans"]["minted"].as_u64().unwrap();
    assert!(twice <= lost, "{twice} were minted twice, {lost} answers were lost");
    for person in people.iter().step_by(997) {
        let fan = process.world.get(&format!("/v1/fans/{}", person.unionid)).await;
        assert_eq!(fan["openid"], json!(person.openid));
    }
}

/// Waits until the comparison has seen this many customers.
async fn seen(process: &Process, customers: usize) {
    let enough = |run: &Value| run["customers_seen"].as_u64() >= Some(customers as u64);
    process.world.until("/v1/reconcile", enough).await;
}

/// Waits until a call hangs, after `before` that have gone unanswered.
async fn call_hangs(process: &Process, before: u64) {
    let give_up = Instant::now() + PATIENCE;
    while process.world.wecom.counters().unanswered <= before {
        assert!(Instant::now() < give_up, "no call hangs");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_killed_three_times_goes_on_at_its_place_and_links_each_customer_once() {
    const CUSTOMERS: usize = 120;
    const ROWS: usize = 10;
    for (contact_list, list) in
        [(Permission::Allowed, Api::ContactList), (Permission::Refused(48_002), Api::GetByUser)]
    {
        let mut setup = Setup { app: "existing_customers = false".into(), dealers: 1, ..Setup::default() };
        setup.options = Options {
            contact_list,
            contact_list_rows_max: ROWS,
            contact_list_strangers: 0,
            page_fill: PageFill::PerMember,
            ..setup.options
        };
        let mut process = Process::with(setup).await;
        process.start().await;
        let wecom = process.world.wecom.clone();
        let fans = process.world.mint(CUSTOMERS).await;
        for (n, fan) in fans.iter().enumerate() {
            process.world.befriend(0, fan, &format!("member{:02}", n / ROWS));
        }
        process.world.until("/v1/status", |status| status["dealers"]["brand"]["shared"] == 1).await;
        wecom.configure(|options| options.latency_ms = 200);
        let (status, begun) = process.world.post("/v1/reconcile", &json!({})).await;
        assert_eq!(status, 202, "{begun}");
        // Killed during the call for a page.
        seen(&process, CUSTOMERS / 4).await;
        wecom.inject(list, Fault::Hang, None);
        call_hangs(&process, 0).await;
        process.kill().await;
        // Killed at any instant after some more pages.
        wecom.clear_faults();
        wecom.inject(Api::ExternalUseridToPendingId, Fault::Hang, None);
        process.start().await;
        seen(&process, CUSTOMERS / 2).await;
        process.kill().await;
        // Killed once every page is read, during a lookup.
        let before = wecom.counters().unanswered;
        process.start().await;
        seen(&process, CUSTOMERS).await;
        call_hangs(&process, before).await;
        process.kill().await;
        wecom.clear_faults();
        process.start().await;
        let run = process.world.until("/v1/reconcile", |run| run["running"] == false).await;
        assert_eq!(run["started_at"], begun["started_at"], "{run:#}");
        for (field, wanted) in [
            ("dealers_total", 1),
            ("dealers_done", 1),
            ("customers_seen", CUSTOMERS),
            ("links_made", CUSTOMERS),
        ] {
            assert_eq!(run[field], wanted, "{list:?} {field}: {run:#}");
        }
        // The page of the first kill was read again, and perhaps that of the second.
        let pages = CUSTOMERS / ROWS;
        let calls = usize::try_from(wecom.counters().calls_of(list)).unwrap();
        assert!((pages + 1..=pages + 2).contains(&calls), "{list:?}: {calls} calls for {pages} pages");
        process.world.check_links(&fans).await;
        assert_eq!(process.world.feed(CUSTOMERS).await.len(), CUSTOMERS);
    }
}
