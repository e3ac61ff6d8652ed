//! `unionlink fans import` against the running service: what fails at once, and the exit status.

use serde_json::json;
use unionlink::simulator::Person;

use crate::harness::{Ran, World};

/// Imports these rows of CSV.
async fn import(world: &World, rows: &[[&str; 2]], arguments: &[&str]) -> Ran {
    let lines: Vec<_> = rows.iter().map(|row| row.join(",") + "\n").collect();
    let file = world.folder.path().join("fans.csv");
    std::fs::write(&file, format!("unionid,openid\n{}", lines.concat())).unwrap();
    let file = file.to_str().unwrap();
    world.unionlink(&[&["fans", "import", file, "--json"][..], arguments].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_with_an_unknown_app_or_a_wrong_format_fails_before_a_row_is_sent() {
    let world = World::usual().await;
    let Person { unionid, openid } = world.wecom.add_person();
    let rows = [[unionid.as_str(), openid.as_str()]];
    for (arguments, wanted) in [
        (
            ["--app", "unknown"],
            "error: no fan was sent: there is no app named \"unknown\"\n\
             hint: name one of the configured apps with --app: brand\n",
        ),
        (["--format", "ndjson"], "hint: leave out --format: it looks like CSV\n"),
    ] {
        let ran = import(&world, &rows, &arguments).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{ran:?}");
        assert!(ran.stderr.ends_with(wanted), "{ran:?}");
    }
    assert_eq!(world.get("/v1/status").await["fans"]["registered"], 0);
    let ran = import(&world, &rows, &["--app", "brand"]).await;
    assert_eq!((ran.code, &ran.json()["accepted"]), (0, &json!(1)), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_of_nothing_but_rejected_rows_exits_with_1() {
    let world = World::usual().await;
    let Person { unionid, openid } = world.wecom.add_person();
    let rows = [["hello", openid.as_str()], [unionid.as_str(), "1.23457E+15"]];
    let fans = rows.map(|[unionid, openid]| json!({"unionid": unionid, "openid": openid}));
    let (_, receipt) = world.post("/v1/fans", &json!(fans)).await;
    for arguments in [&["--dry-run"][..], &[]] {
        let ran = import(&world, &rows, arguments).await;
        let summary = ran.json();
        assert_eq!(ran.code, 1, "{ran:?}");
        assert_eq!((&summary["rejected"], &summary["complete"]), (&json!(2), &json!(true)));
        // With the reasons that the service itself gives.
        for rejected in receipt["rejected"].as_array().unwrap() {
            assert!(ran.stderr.contains(rejected["reason"].as_str().unwrap()), "{rejected}: {ran:?}");
        }
    }
    // One valid row makes it an import with rejected rows.
    let more = [rows[0], rows[1], [unionid.as_str(), openid.as_str()]];
    assert_eq!(import(&world, &more, &[]).await.code, 0);
    let ran = import(&world, &more, &["--max-rejects", "1"]).await;
    assert_eq!((ran.code, &ran.json()["complete"]), (1, &json!(false)), "{ran:?}");
    assert!(ran.stderr.contains("2 rows were rejected, and --max-rejects is 1"), "{ran:?}");
}
