//! The configuration: defaults, overrides, and every problem at once.

mod admin;
mod reload;
mod severity;
mod suites;

use secrecy::ExposeSecret;

use super::apps::SelfBuilt;
use super::*;
use crate::domain::quota::Limits;

const KEY: &str = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG";
/// Another one.
const OTHER_KEY: &str = "GFEDCBA9876543210zyxwvutsrqponmlkjihgfedcba";

fn environment(pairs: &[(&str, &str)]) -> Environment {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn minimal() -> String {
    format!(
        "[[apps]]\nname = \"brand\"\ncorp_id = \"ww0123456789abcdef\"\nagent_id = 1000002\n\
         secret = {{ value = \"s\" }}\ncallback_token = {{ value = \"callback-token\" }}\n\
         encoding_aes_key = {{ value = \"{KEY}\" }}\n"
    )
}

/// `text`, with an open admin listener if it says nothing about it.
fn opened(text: &str) -> String {
    if text.contains("[admin]") { text.to_owned() } else { format!("{text}\n[admin]\nopen = true\n") }
}

/// What is refused in a configuration, from a severity on.
fn refused(from: Severity, text: &str, environment: &Environment) -> Vec<Problem> {
    match parse_unless(from, &opened(text), Path::new("test.toml"), environment) {
        Err(ConfigError::Problems { problems, .. }) => problems,
        other => panic!("{other:?}"),
    }
}

fn problems(text: &str, environment: &Environment) -> Vec<String> {
    listing(&refused(Severity::Error, text, environment))
}

fn listing(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(Problem::to_string).collect()
}

fn config(text: &str, environment: &Environment) -> Config {
    parse(&opened(text), Path::new("test.toml"), environment).unwrap_or_else(|e| panic!("{e}"))
}

/// How a self-built app calls WeCom.
fn self_built(app: &App) -> &SelfBuilt {
    match &app.access {
        Access::SelfBuilt(app) => app,
        Access::Agency(_) => panic!("{} is not self-built", app.name),
    }
}

#[test]
fn the_defaults_file_says_what_the_code_does() {
    let nothing = Environment::default();
    let open = environment(&[("UNIONLINK__ADMIN__OPEN", "true")]);
    let from_file = config(&format!("{DEFAULTS}\n{}", minimal()), &open);
    let from_code = config(&minimal(), &nothing);
    assert_eq!(toml::to_string(&from_file).unwrap(), toml::to_string(&from_code).unwrap());
}

#[test]
fn the_base_layer_has_the_defaults_of_apps_and_sinks_but_no_examples() {
    let defaults = defaults();
    let keys = |list: &str, n: usize| -> Vec<_> {
        defaults[list][n].as_table().unwrap().keys().map(String::as_str).collect()
    };
    assert_eq!(
        keys("apps", 0),
        [
            "accept_receive_ids",
            "conversion_token",
            "customer_groups",
            "existing_customers",
            "quota",
            "reconcile_hours",
            "renew",
            "same_id_extends",
            "silent_days",
        ]
    );
    assert_eq!(keys("sinks", 0), ["batch", "kind", "private_addresses", "start", "timeout_ms"]);
    assert_eq!(keys("sinks", 1), ["kind", "start", "subject"]);
    assert_eq!(keys("sinks", 2), ["kind", "rotate_daily", "rotate_mb", "start"]);
    for sink in defaults["sinks"].as_array().unwrap() {
        assert_eq!(sink["start"].as_str(), Some("beginning"));
    }
    assert!(defaults["wecom"].get("proxy").is_none() && defaults["admin"].get("token").is_none());
}

/// The defaults file with everything that it comments out, and the variables that it names.
fn every_key() -> (String, Environment) {
    let key = |line: &&str| line.starts_with('[') || line.contains(" = ");
    let prose = |line: &str| line.contains("UNIONLINK__") || line.contains("written as");
    let bare = |line: &&str| !line.starts_with([' ', '#']);
    let lines: Vec<_> = DEFAULTS
        .lines()
        .map(|line| line.strip_prefix('#').filter(bare).unwrap_or(line))
        .map(|line| line.strip_prefix("# ").filter(key).unwrap_or(line))
        .filter(|line| !line.starts_with('#') && !prose(line))
        .collect();
    let environment = environment(&[
        ("UNIONLINK_ADMIN_TOKEN", "an-admin-token-of-32-characters-1"),
        ("UNIONLINK_FANS_TOKEN", "a-token-for-fans-of-32-characters"),
        ("UNIONLINK_FANS_PREVIOUS_TOKEN", "its-previous-one-of-32-characters"),
        ("UNIONLINK_DATABASE_URL", "postgres://unionlink:CANARY@db.example.com/brand"),
        ("UNIONLINK_LISTEN_URL", "postgres://unionlink:CANARY@db2.example.com/brand"),
        ("UNIONLINK_BRAND_SECRET", "s"),
        ("UNIONLINK_BRAND_CALLBACK_TOKEN", "t"),
        ("UNIONLINK_BRAND_AES_KEY", KEY),
        ("UNIONLINK_BRAND_PREVIOUS_TOKEN", "previous-callback-token"),
        ("UNIONLINK_BRAND_PREVIOUS_AES_KEY", OTHER_KEY),
        ("UNIONLINK_SUITE_SECRET", "suite-secret"),
        ("UNIONLINK_SUITE_PREVIOUS_SECRET", "suite-secret-of-before"),
        ("UNIONLINK_SUITE_CALLBACK_TOKEN", "suite-callback-token"),
        ("UNIONLINK_SUITE_AES_KEY", KEY),
        ("UNIONLINK_SUITE_PREVIOUS_TOKEN", "previous-suite-callback-token"),
        ("UNIONLINK_SUITE_PREVIOUS_AES_KEY", OTHER_KEY),
        ("UNIONLINK_CLIENT_CALLBACK_TOKEN", "client-callback-token"),
        ("UNIONLINK_CLIENT_AES_KEY", KEY),
        ("UNIONLINK_CRM_SECRET", "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="),
        ("UNIONLINK_CRM_PREVIOUS_SECRET", "whsec_cHJldmlvdXMtcHJldmlvdXMtcHJldmlvdXMtcHJldmk="),
        ("UNIONLINK_CRM_AUTHORIZATION", "Bearer x"),
        ("UNIONLINK_NATS_TOKEN", "n"),
        ("UNIONLINK_ALERTS_URL", "https://robot.example.com/send?key=k"),
    ]);
    (lines.join("\n"), environment)
}

#[test]
fn what_the_defaults_file_comments_out_is_right_too() {
    let (uncommented, environment) = every_key();
    let config = config(&uncommented, &environment);
    assert_eq!((config.apps.len(), config.suites.len(), config.sinks.len()), (2, 1, 3));
    assert!(config.wecom.proxy.is_some() && config.admin.token.is_some());
    assert_eq!(
        (config.apps[0].quota.limits(), config.apps[0].quota.reserve_percent),
        (Limits::DOCUMENTED, 1)
    );
}

#[test]
fn all_problems_are_reported_at_once_each_with_its_key() {
    let text = "[server]\nlisten = \"nowhere\"\nlistn = 1\n[store]\ncache_mb = \"much\"\ndedupe_days = 0\nquarantine_days = 3651\n[log]\nfilter = \"inf\"\n[typo]\nx = 1\n\
        [[apps]]\nname = \"a b\"\nencoding_aes_key = { value = \"short\" }\nconversion_token = \"both\"\n\
        quota = { per_hour = 0 }\nsecret = { envy = \"X\" }\n";
    assert_eq!(
        problems(text, &Environment::default()),
        [
            "apps[0].agent_id is missing",
            "apps[0].callback_token is missing",
            "apps[0].conversion_token \"both\" is not one of auto, downstream, upstream",
            "apps[0].corp_id is missing",
            "apps[0].encoding_aes_key has 5 characters instead of 43",
            "apps[0].name \"a b\" is not a name",
            "apps[0].quota.per_hour 0 is not between 1 and 4294967295",
            "apps[0].secret has \"envy\" in it",
            "log.filter \"inf\" is not a filter",
            "server.listen \"nowhere\" is not an address and port",
            "server.listn is not a known key",
            "store.cache_mb is text instead of a whole number",
            "store.dedupe_days 0 is not between 1 and 365",
            "store.quarantine_days 3651 is not between 1 and 3650",
            "typo is not a known key",
        ]
    );
}

#[test]
fn customers_are_looked_for_in_groups_and_lists_unless_that_is_turned_off() {
    let of = |keys: &str| {
        let apps = config(&format!("{}{keys}", minimal()), &Environment::default()).apps;
        (apps[0].customer_groups, apps[0].reconcile_hours, apps[0].silent_days)
    };
    assert_eq!(of(""), (true, 24, 7));
    assert_eq!(of("customer_groups = false\nreconcile_hours = 0\nsilent_days = 0\n"), (false, 0, 0));
    let text = format!("{}reconcile_hours = 8761\nsilent_days = -1\n", minimal());
    assert_eq!(
        problems(&text, &Environment::default()),
        [
            "apps[0].reconcile_hours 8761 is not between 0 and 8760",
            "apps[0].silent_days -1 is not between 0 and 365",
        ]
    );
}

#[test]
fn an_unknown_key_hides_no_other_problem() {
    let text = format!("{}kind = \"x\"\nrenew = \"some\"\n", minimal());
    assert_eq!(
        problems(&text, &Environment::default()),
        ["apps[0].kind is not a known key", "apps[0].renew \"some\" is not one of all, unlinked, never"]
    );
}

#[test]
fn a_misspelt_key_gets_a_suggestion() {
    let error =
        parse("[server]\nlistn = 1\n", Path::new("t"), &Environment::default()).unwrap_err().to_string();
    assert!(error.contains("did you mean listen?"), "{error}");
}

#[test]
fn the_environment_overrides_the_file() {
    let environment = environment(&[
        ("UNIONLINK__SERVER__LISTEN", "127.0.0.1:9000"),
        ("UNIONLINK__STORE__DEDUPE_DAYS", "30"),
        ("UNIONLINK__APPS__0__SECRET", "12345"),
        ("UNIONLINK__APPS__0__ACCEPT_RECEIVE_IDS", "[\"wpX\"]"),
        ("UNIONLINK__APPS__0__CORP_ID", "007"),
        ("UNIONLINK__STORE__PATH", "2026"),
        ("UNRELATED", "x"),
    ]);
    let config = config(&minimal(), &environment);
    assert_eq!(config.server.listen.port(), 9_000);
    assert_eq!(config.store.dedupe_days, 30);
    assert_eq!(self_built(&config.apps[0]).secret.value.expose_secret(), "12345");
    assert_eq!(config.apps[0].accept_receive_ids, ["wpX"]);
    assert_eq!(self_built(&config.apps[0]).corp_id.as_str(), "007");
    assert_eq!(config.store.folder().unwrap().path, Path::new("2026"));
    let wrong = problems(&minimal(), &super::tests::environment(&[("UNIONLINK__SERVER__PORT", "1")]));
    assert_eq!(wrong, ["server.port is not a known key"]);
}

#[test]
fn a_secret_of_the_environment_replaces_the_files_whatever_its_form() {
    let written = minimal().replace("secret = { value = \"s\" }", "secret = \"s\"");
    let of = |text: &str, key: &str, value: &str| {
        let environment =
            environment(&[(&format!("UNIONLINK__APPS__0__SECRET{key}"), value), ("HERE", "s-here")]);
        self_built(&config(text, &environment).apps[0]).secret.value.expose_secret().to_owned()
    };
    for text in [minimal(), written] {
        for (key, value, wanted) in [
            ("__ENV", "HERE", "s-here"),
            ("__VALUE", "s-given", "s-given"),
            ("", "{ env = \"HERE\" }", "s-here"),
        ] {
            assert_eq!(of(&text, key, value), wanted, "{key} over {text}");
        }
    }
}

#[test]
fn a_dozen_apps_may_all_come_from_the_environment() {
    let keys: Vec<_> = (0..12).map(|n| format!("UNIONLINK__APPS__{n}__NAME")).collect();
    let named: Vec<_> = keys.iter().map(|key| (key.as_str(), "x")).collect();
    let problems = problems("", &environment(&named));
    assert!(problems.iter().any(|problem| problem.starts_with("apps[11].")), "{problems:#?}");
    assert!(!problems.iter().any(|problem| problem.contains("does not name a place")), "{problems:#?}");
}

#[test]
fn trusted_proxies_are_addresses_and_networks_but_not_everybody() {
    let with = |proxies: &str| format!("[server]\ntrusted_proxies = {proxies}\n{}", minimal());
    let nothing = Environment::default();
    let server =
        config(&with("[\"127.0.0.1\", \"10.9.9.9/8\", \"192.0.2.*\", \"fd00::/8\"]"), &nothing).server;
    let shown: Vec<_> = server.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["127.0.0.1", "10.0.0.0/8", "192.0.2.0/24", "fd00::/8"]);
    let found = problems(&with("[\"127.0.0.1\", \"nginx\"]"), &nothing);
    assert_eq!(found, ["server.trusted_proxies \"nginx\" is not an address or a network"]);
    for everybody in ["0.0.0.0/0", "::/0"] {
        let found = listing(&refused(Severity::Suspect, &with(&format!("[{everybody:?}]")), &nothing));
        let reason = format!("{everybody:?} trusts everybody, who can then claim any address");
        assert_eq!(found, [format!("server.trusted_proxies {reason}")]);
    }
}

#[test]
fn a_file_with_a_secret_is_not_for_everybody() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "CANARY\n").unwrap();
    // As Kubernetes lays them out.
    let link = folder.path().join("link");
    symlink("secret", &link).unwrap();
    let text = minimal().replace("{ value = \"s\" }", &format!("{{ file = {link:?} }}"));
    for (mode, private) in [
        (0o600, true),
        (0o400, true),
        (0o440, true),
        (0o640, true),
        (0o644, false),
        (0o604, false),
        (0o602, false),
    ] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let parsed = parse(&opened(&text), Path::new("t"), &Environment::default());
        if private {
            assert_eq!(self_built(&parsed.unwrap().apps[0]).secret.value.expose_secret(), "CANARY");
            continue;
        }
        let told = parsed.unwrap_err().to_string();
        let place = format!("apps[0].secret file {} is open to every user", link.display());
        for part in [&place, &format!("(mode {mode:04o})"), "chmod 600", "defaultMode: 0400"] {
            assert!(told.contains(part), "{part:?} is not in {told}");
        }
        assert!(!told.contains("CANARY"), "{told}");
    }
}

#[test]
fn a_world_readable_configuration_with_a_secret_is_reported() {
    use std::os::unix::fs::PermissionsExt as _;
    let file = tempfile::NamedTempFile::new().unwrap();
    let elsewhere = minimal().replace("value", "env");
    let without = minimal().lines().filter(|line| !line.contains("value")).collect::<Vec<_>>().join("\n");
    let environment_only = environment(&[
        ("UNIONLINK__APPS__0__SECRET__VALUE", "1"),
        ("UNIONLINK__APPS__0__CALLBACK_TOKEN", "2"),
        ("UNIONLINK__APPS__0__ENCODING_AES_KEY__VALUE", KEY),
        ("UNIONLINK__WECOM__PROXY", "http://user:password@proxy:3128"),
    ]);
    let environment = environment(&[("s", "1"), ("callback-token", "2"), (KEY, KEY)]);
    for (text, environment, mode, told) in [
        (&minimal(), &environment, 0o644, true),
        (&minimal(), &environment, 0o640, false),
        (&elsewhere, &environment, 0o644, false),
        (&without, &environment_only, 0o644, false),
    ] {
        std::fs::write(file.path(), opened(text)).unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        let warnings = load(file.path(), environment).unwrap().warnings;
        let is_of_the_mode = |warning: &Problem| warning.reason.contains("(mode 0644)");
        assert_eq!(warnings.iter().any(is_of_the_mode), told, "{mode:o} {text}");
    }
}

#[test]
fn a_broken_line_is_named_but_not_shown() {
    let text = "[server]\n\nsecret = { value = \"CANARY\n";
    let error = parse(text, Path::new("t"), &Environment::default()).unwrap_err().to_string();
    assert!(error.contains("line 3") && !error.contains("CANARY"), "{error}");
}

#[test]
fn the_login_of_a_url_is_a_secret_of_the_file_and_not_printed() {
    for key in ["proxy", "api_base"] {
        let with = |url: &str| format!("[wecom]\n{key} = \"{url}\"\n{}", minimal().replace("value", "env"));
        let variables = environment(&[("s", "1"), ("callback-token", "2"), (KEY, KEY)]);
        let config = config(&with("http://user:CANARY@host:3128/x?t=CANARY"), &variables);
        assert!(config.holds_a_secret, "{key}");
        let json = serde_json::to_string(&config).unwrap();
        let printed = format!("{}{json}{config:?}", toml::to_string(&config).unwrap());
        let shown = printed.matches("http://[redacted]@host:3128/x?[redacted]").count();
        assert!(shown == 3 && !printed.contains("CANARY"), "{printed}");
        let reported = problems(&with("user:CANARY@host:3128"), &variables);
        assert_eq!(reported, [format!("wecom.{key} is not a URL of http or https")]);
    }
}

#[test]
fn a_secret_in_place_of_its_variable_or_file_is_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    for (written, name, shown) in [
        ("env", "UNIONLINK_BRAND_SECRET", true),
        ("env", "CANARY", false),
        ("env", "CANARY-0123456789abcdef", false),
        ("env", "CANARY_0123456789abcdef", false),
        ("env", "CANARY__X", false),
        ("file", missing.to_str().unwrap(), true),
        ("file", "CANARY", false),
        ("file", "/CANARY", false),
        ("file", "CANARY/0123456789abcdef", false),
    ] {
        let text = minimal().replace("{ value = \"s\" }", &format!("{{ {written} = {name:?} }}"));
        let reported = parse(&text, Path::new("t"), &Environment::default()).unwrap_err().to_string();
        assert!(reported.contains("apps[0].secret "), "{reported}");
        assert_eq!(reported.contains(name), shown, "{name}: {reported}");
        assert_eq!(reported.contains("it may be the secret itself"), !shown, "{name}: {reported}");
    }
}

#[test]
fn a_printed_configuration_shows_no_secret() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "CANARY-FILE\n").unwrap();
    let text = minimal().replace("{ value = \"s\" }", &format!("{{ file = {:?} }}", file.path()));
    let text = text.replace("{ value = \"callback-token\" }", "{ env = \"T\" }");
    let config = config(&text, &environment(&[("T", "CANARY-ENV")]));
    assert_eq!(self_built(&config.apps[0]).secret.value.expose_secret(), "CANARY-FILE");
    let printed = format!("{}{config:?}", toml::to_string(&config).unwrap());
    assert!(!printed.contains("CANARY") && !printed.contains(KEY), "{printed}");
    assert!(printed.contains("[redacted, from environment variable T]"));
}

#[test]
fn a_database_is_configured_by_its_address_which_is_never_shown() {
    let text = |keys: &str| format!("[store]\nkind = \"postgres\"\n{keys}\n{}", minimal());
    let of = |keys: &str| problems(&text(keys), &Environment::default());
    assert_eq!(of(""), ["store.url is missing"]);
    let ours = "url = { value = \"postgres://unionlink:CANARY@10.0.0.1/brand\" }";
    let config = config(&text(ours), &Environment::default());
    let shown = toml::to_string(&config).unwrap();
    assert!(
        shown.contains("schema = \"unionlink\"") && !shown.contains("CANARY") && !shown.contains("path"),
        "{shown}"
    );
    let Place::Database(database) = &config.store.place else { panic!("{shown}") };
    let settings = database.settings(&config.store);
    assert!(settings.url.contains("CANARY") && settings.migrate && settings.prepared);
    assert_eq!((settings.pool_max, settings.dedupe_days), (16, 7));
    assert_eq!(
        of("url = { value = \"postgres://10.0.0.1/CANARY\" }\nschema = \"Union-Link\"\nnotify = \"often\""),
        [
            "store.notify \"often\" is not one of listen, poll",
            "store.schema \"Union-Link\" is not the name of a schema: up to 48 of a-z, 0-9 and _, beginning with a letter",
            "store.url the address of the database names no user: write postgres://user:password@host/database",
        ]
    );
    let of_both = |keys: &str| listing(&refused(Severity::Warning, &text(keys), &Environment::default()));
    assert_eq!(
        of_both(&format!("{ours}\npath = \"data\"\nprepared = false")),
        [
            "store.notify passes no notifications on, if a pooler makes prepared = false necessary",
            "store.path has a meaning only with kind = \"sled\"",
        ]
    );
    let folder = format!("[store]\nurl = {{ env = \"NOT_SET\" }}\n{}", minimal());
    let warnings = listing(&refused(Severity::Warning, &folder, &Environment::default()));
    assert!(
        warnings.contains(&"store.url has a meaning only with kind = \"postgres\"".to_owned()),
        "{warnings:?}"
    );
}
