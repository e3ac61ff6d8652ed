//! Which keys a reload takes over, and which it names because they need a restart.

use std::collections::BTreeSet;

use toml::Value;

use super::*;
use crate::config::store::OF_DATABASE;
use crate::domain::ids::{AppName, SinkName};

fn changes(before: &Config, after: &Config) -> Changes {
    before.values().changes(&after.values())
}

fn names(keys: &BTreeSet<String>) -> Vec<&str> {
    keys.iter().map(String::as_str).collect()
}

/// The path of every value in a table; a secret is one value.
fn paths(table: &Table, above: &str) -> Vec<String> {
    let below = |(key, value): (&String, &Value)| {
        let path = format!("{above}/{key}");
        match value {
            Value::Table(table) if !table.contains_key("env") => paths(table, &path),
            Value::Array(items) if items.iter().any(Value::is_table) => {
                let items = items.iter().enumerate();
                items.flat_map(|(n, item)| paths(item.as_table().unwrap(), &format!("{path}/{n}"))).collect()
            }
            _ => vec![path],
        }
    };
    table.iter().flat_map(below).collect()
}

fn at<'a>(table: &'a mut Table, path: &str) -> &'a mut Value {
    let (first, rest) = path.trim_start_matches('/').split_once('/').unwrap();
    rest.split('/').fold(&mut table[first], |value, part| match value {
        Value::Array(items) => &mut items[part.parse::<usize>().unwrap()],
        value => &mut value[part],
    })
}

/// Other values in place of this one, at least one of which is valid.
fn others(key: &str, value: &Value) -> Vec<Value> {
    let text = |text: &str| vec![text.into()];
    match (key, value) {
        (_, Value::Integer(number)) => vec![(number + 1).into(), (number - 1).into()],
        (_, Value::Boolean(flag)) => vec![(!flag).into()],
        ("allow", _) => vec![vec!["links"].into()],
        (_, Value::Array(_)) => vec![vec!["other.example.org"].into(), vec!["127.0.0.1"].into()],
        (key, Value::Table(_)) if key.ends_with("encoding_aes_key") => text(&"k".repeat(43)),
        (_, Value::Table(_)) => vec![
            "another-value-of-more-than-32-characters".into(),
            "whsec_YW5vdGhlci1hbm90aGVyLWFub3RoZXItYW5vdGhlcjE=".into(),
            "postgres://other:password@db.example.com/brand".into(),
            "https://robot.example.com/send?key=another".into(),
        ],
        ("listen", _) => text("127.0.0.1:9999"),
        ("corp_id" | "provider_corp_id", _) => text("ww9999999999999999"),
        ("filter", _) => text("debug"),
        ("format", _) => text("json"),
        ("conversion_token", _) => text("upstream"),
        ("renew", _) => text("never"),
        ("callback_ips", _) => text("report"),
        ("kind", _) => text("feishu"),
        ("lang", _) => text("en"),
        ("start", _) => text("now"),
        ("migrate", _) => text("manual"),
        ("notify", _) => text("poll"),
        ("url", url) => text(&url.as_str().unwrap().replace(".com", ".org")),
        // Only the password.
        ("proxy", _) => text("http://user:password@proxy.example.com:3128"),
        ("api_base", _) => text("https://other.example.com"),
        (_, value) => text(&format!("{}x", value.as_str().unwrap())),
    }
}

#[test]
fn a_reload_takes_over_or_names_every_key() {
    // Another kind has other keys, and no other suite is there.
    const ONE_OF_A_KIND: [&str; 6] =
        ["/store/kind", "/sinks/0/kind", "/sinks/1/kind", "/sinks/2/kind", "/suites/0/name", "/apps/1/suite"];
    let (text, environment) = every_key();
    let of_kind = |kind: &str| {
        let mut table: Table = text.parse().unwrap();
        *at(&mut table, "/store/kind") = Value::String(kind.to_owned());
        (config(&table.to_string(), &environment), table)
    };
    let [folder, database] = ["sled", "postgres"].map(of_kind);
    let table = &folder.1;
    let (mut reloaded, mut restarted) = (BTreeSet::new(), BTreeSet::new());
    // A token and an open listener exclude each other: see below.
    let is_tested = |path: &&String| !ONE_OF_A_KIND.contains(&path.as_str()) && *path != "/admin/open";
    for path in paths(table, "").iter().filter(is_tested) {
        let key = path.rsplit('/').next().unwrap();
        let is_of_database = path.starts_with("/store/") && OF_DATABASE.iter().any(|of| path.contains(of));
        let (before, table) = if is_of_database { &database } else { &folder };
        let mut changed = table.clone();
        let value = at(&mut changed, path).clone();
        let after = others(key, &value).into_iter().find_map(|other| {
            *at(&mut changed, path) = other;
            parse(&changed.to_string(), Path::new("test.toml"), &environment).ok()
        });
        let after = after.unwrap_or_else(|| panic!("{path} has no other value"));
        let found = changes(before, &after);
        let named: Vec<_> = found.changed.union(&found.needs_restart).collect();
        assert!(!named.is_empty(), "{path} is not noticed");
        if key != "name" {
            assert_eq!(named.len(), 1, "{path}: {named:?}");
            let is_part = path.contains("/quota/")
                || path.contains("/tokens/")
                || path.starts_with("/sinks")
                || path.starts_with("/alerts");
            assert!(is_part || named[0].ends_with(&format!(".{key}")), "{path}: {named:?}");
        }
        reloaded.extend(found.changed);
        restarted.extend(found.needs_restart);
        assert!(changes(before, before).changed.is_empty());
    }
    assert_eq!(
        names(&reloaded),
        [
            "admin.hosts",
            "admin.token",
            "admin.tokens.mini-program",
            "admin.tokens.mini-programx",
            "apps.brand.accept_receive_ids",
            "apps.brand.callback_token",
            "apps.brand.encoding_aes_key",
            "apps.brand.previous_callback_token",
            "apps.brand.previous_encoding_aes_key",
            "apps.brand.quota",
            "apps.brand.secret",
            "apps.client.callback_token",
            "apps.client.encoding_aes_key",
            "log.filter",
            "sinks.archive",
            "sinks.archivex",
            "sinks.crm",
            "sinks.crmx",
            "sinks.stream",
            "sinks.streamx",
            "suites.agency.callback_token",
            "suites.agency.encoding_aes_key",
            "suites.agency.previous_callback_token",
            "suites.agency.previous_encoding_aes_key",
        ]
    );
    for key in [
        "admin.listen",
        "apps.brand",
        "apps.brandx",
        "apps.brand.corp_id",
        "apps.client.corp_id",
        "log.format",
        "server.listen",
        "store.path",
        "suites.agency.suite_secret",
        "wecom.proxy",
    ] {
        assert!(restarted.contains(key), "{key} is not in {restarted:?}");
    }
}

#[test]
fn what_was_taken_over_is_no_difference_the_next_time_and_the_rest_still_is() {
    let before = minimal();
    let after = format!("[server]\nlisten = \"127.0.0.1:1\"\n[log]\nfilter = \"debug\"\n{before}");
    let after = after.replace("{ value = \"s\" }", "{ value = \"other\" }");
    let [before, after] = [before, after].map(|text| config(&text, &Environment::default()).values());
    let first = before.changes(&after);
    assert_eq!(names(&first.changed), ["apps.brand.secret", "log.filter"]);
    let second = first.values.changes(&after);
    assert_eq!((names(&second.changed), names(&second.needs_restart)), (vec![], vec!["server.listen"]));
    let back = first.values.changes(&before);
    assert_eq!(
        (names(&back.changed), back.needs_restart.len()),
        (vec!["apps.brand.secret", "log.filter"], 0)
    );
}

#[test]
fn of_an_app_that_is_another_now_nothing_is_taken_over() {
    let (text, environment) = every_key();
    let before = config(&text, &environment);
    let other =
        text.replacen("corp_id = \"ww", "corp_id = \"ww1", 1).replacen("per_hour = ", "per_hour = 1", 1);
    let found = changes(&before, &config(&other, &environment));
    assert_eq!(names(&found.needs_restart), ["apps.brand.corp_id", "apps.brand.quota"]);
    assert!(found.changed.is_empty() && found.held.iter().map(AppName::as_str).eq(["brand"]), "{found:?}");
    // A suite's apps have its token and key.
    let of_suite = config(&text.replace("\"dk", "\"dkOTHER"), &environment);
    let found = changes(&before, &of_suite);
    assert_eq!(names(&found.needs_restart), ["suites.agency.suite_id"]);
    assert!(found.held.iter().map(AppName::as_str).eq(["agency", "client"]), "{found:?}");
    // Apps that are added or removed.
    let mut without = before.clone();
    without.apps.remove(0);
    for (one, other) in [(&before, &without), (&without, &before)] {
        let found = changes(one, other);
        assert_eq!(names(&found.needs_restart), ["apps.brand"]);
        assert!(found.held.iter().map(AppName::as_str).eq(["brand"]), "{found:?}");
    }
}

#[test]
fn only_a_restart_removes_the_last_token() {
    let admin = |lines: &str| {
        let text = format!("[admin]\n{lines}\n{}", minimal());
        config(&text, &Environment::default())
    };
    let token = "token = \"an-admin-token-of-32-characters-1\"";
    let (guarded, open) = (admin(&format!("{token}\nhosts = [\"a.example.org\"]")), admin("open = true"));
    let opened = changes(&guarded, &open);
    assert_eq!(names(&opened.needs_restart), ["admin.hosts", "admin.open", "admin.token"]);
    assert!(opened.holds_admin && opened.changed.is_empty());
    let closed = changes(&open, &guarded);
    assert_eq!(names(&closed.changed), ["admin.hosts", "admin.open", "admin.token"]);
    assert!(!closed.holds_admin && closed.needs_restart.is_empty());
}

#[test]
fn the_content_of_the_files_that_a_sink_names_is_a_part_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    let with_certificate = || {
        let made = rcgen::generate_simple_self_signed(vec!["receiver.test".to_owned()]).unwrap();
        std::fs::write(&path, made.cert.pem()).unwrap();
        let sink = format!(
            "[[sinks]]\nname = \"bus\"\nkind = \"nats\"\nurl = \"tls://nats.test\"\nca_file = {:?}\n",
            path.display().to_string()
        );
        config(&format!("{}{sink}", minimal()), &Environment::default()).values()
    };
    let (before, after) = (with_certificate(), with_certificate());
    assert_eq!(names(&before.changes(&after).changed), ["sinks.bus"]);
    assert!(before.changes(&after).sinks.iter().map(SinkName::as_str).eq(["bus"]));
}
