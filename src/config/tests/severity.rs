//! What `check` refuses, what `serve` refuses, and what both only report.

use super::*;
use crate::domain::ids::CorpId;

/// What `check` refuses in a configuration, and `serve` reports as warnings.
fn suspects(text: &str, environment: &Environment) -> Vec<Problem> {
    let found = refused(Severity::Suspect, text, environment);
    assert_eq!(config(text, environment).warnings, found);
    found
}

#[test]
fn every_placeholder_of_the_example_is_named_with_where_its_value_is_found() {
    let problems = refused(Severity::Error, EXAMPLE, &Environment::default());
    assert_eq!(
        listing(&problems),
        [
            "admin.token environment variable UNIONLINK_ADMIN_TOKEN is not set",
            "apps[0].agent_id 0 is not between 1 and 9007199254740992",
            "apps[0].callback_token environment variable UNIONLINK_BRAND_CALLBACK_TOKEN is not set",
            "apps[0].corp_id is the placeholder of the example",
            "apps[0].encoding_aes_key environment variable UNIONLINK_BRAND_AES_KEY is not set",
            "apps[0].secret environment variable UNIONLINK_BRAND_SECRET is not set",
        ]
    );
    for (problem, place) in
        problems[1..].iter().zip(["AgentId", "Token", "企业ID", "EncodingAESKey", "Secret"])
    {
        let hint = problem.hint.as_deref().unwrap_or_default();
        assert!(hint.contains("you find it under") && hint.ends_with(place), "{problem}: {hint}");
    }
}

#[test]
fn the_example_is_complete_once_it_is_filled_in() {
    let filled_in = environment(&[
        ("UNIONLINK__APPS__0__CORP_ID", "ww0123456789abcdef"),
        ("UNIONLINK__APPS__0__AGENT_ID", "1000002"),
        ("UNIONLINK_ADMIN_TOKEN", "an-admin-token-of-32-characters-1"),
        ("UNIONLINK_BRAND_SECRET", "s"),
        ("UNIONLINK_BRAND_CALLBACK_TOKEN", "callback-token"),
        ("UNIONLINK_BRAND_AES_KEY", KEY),
        ("UNIONLINK_CRM_SECRET", "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="),
    ]);
    let config = config(EXAMPLE, &filled_in);
    assert!(config.warnings.is_empty() && !config.holds_a_secret, "{:?}", config.warnings);
    let (before, sink) = EXAMPLE.split_once("# [[sinks]]").unwrap();
    let with_sink = format!("{before}[[sinks]]{}", sink.replace("\n# ", "\n"));
    let wanted = ["sinks[0].url names crm.example.com, which is reserved for examples"];
    assert_eq!(listing(&suspects(&with_sink, &filled_in)), wanted);
}

#[test]
fn an_id_that_cannot_be_a_corps_is_refused_by_check_only() {
    let with = |id: &str| minimal().replace("ww0123456789abcdef", id);
    let long = "x".repeat(62);
    for id in ["wwabcdef", "wx_-AZaz09", &format!("wp{long}")] {
        assert!(config(&with(id), &Environment::default()).warnings.is_empty(), "{id}");
    }
    for id in
        ["ww12345", &format!("wp{long}x"), "brand", "wm0123456789", "ww…", "ww01234567 89", "WW0123456789"]
    {
        let environment = environment(&[("UNIONLINK__APPS__0__CORP_ID", id)]);
        if CorpId::new(id).is_err() {
            assert_eq!(problems(&minimal(), &environment).len(), 1, "{id}");
            continue;
        }
        let found = suspects(&minimal(), &environment);
        let wanted =
            ["apps[0].corp_id is not a corp id: these are ww, wx or wp and 6 to 62 of A-Z a-z 0-9 - _"];
        assert_eq!(listing(&found), wanted, "{id}");
        assert!(found[0].hint.as_deref().unwrap().contains("企业ID"), "{found:?}");
    }
}

#[test]
fn two_callback_urls_do_not_share_token_and_key() {
    let other = |token: &str, key: &str| {
        minimal().replace("\"brand\"", "\"shop\"").replace("callback-token", token).replace(KEY, key)
    };
    let other_key = KEY.replace('a', "Z");
    let found = |text: String| {
        let warnings = config(&text, &Environment::default()).warnings;
        assert!(warnings.iter().all(|warning| warning.severity == Severity::Suspect), "check refuses it");
        listing(&warnings)
    };
    for (token, key) in [("another-token", KEY), ("callback-token", other_key.as_str())] {
        assert_eq!(found(minimal() + &other(token, key)), [""; 0], "{token} {key}");
    }
    let of = |section: &str, other: &str| {
        format!(
            "{section}.callback_token and encoding_aes_key are those of {other}: a callback for one verifies \
             at the other"
        )
    };
    assert_eq!(found(minimal() + &other("callback-token", KEY)), [of("apps[1]", "app brand")]);
    let suite = |n: u32| {
        format!(
            "[[suites]]\nname = \"agency{n}\"\nprovider_corp_id = \"wwPROVIDER\"\nsuite_id = \"dk{n}\"\n\
             suite_secret = \"s\"\ncallback_token = \"callback-token\"\nencoding_aes_key = \"{KEY}\"\n"
        )
    };
    assert_eq!(found(suite(1) + &minimal()), [of("apps[0]", "suite agency1")]);
    let agency = "[[apps]]\nname = \"shop\"\nsuite = \"agency1\"\n";
    assert_eq!(found(suite(1) + &suite(2) + agency), [of("suites[1]", "suite agency1")]);
    // The URLs of one suite may share them, and an app's own token may complete another suite's pair.
    assert_eq!(found(suite(1) + agency + "callback_token = \"callback-token\"\n"), [""; 0]);
    let first = suite(1).replace("callback-token", "first-token");
    assert_eq!(
        found(first + &suite(2) + agency + "callback_token = \"callback-token\"\n"),
        [of("apps[0]", "suite agency2")]
    );
}

#[test]
fn a_previous_token_or_key_is_another_than_the_present_one_and_counts_as_shared() {
    let with = |lines: &str| format!("{}{lines}", minimal());
    let found = |text: &str| listing(&refused(Severity::Suspect, text, &Environment::default()));
    let same = with(&format!(
        "previous_callback_token = \"callback-token\"\nprevious_encoding_aes_key = \"{KEY}\"\n"
    ));
    let reasons = [
        "apps[0].previous_callback_token is the same as callback_token",
        "apps[0].previous_encoding_aes_key is the same as encoding_aes_key",
    ];
    assert_eq!(found(&same), reasons);
    let short = "apps[0].previous_encoding_aes_key has 5 characters instead of 43";
    assert_eq!(found(&with("previous_encoding_aes_key = \"short\"\n")), [short]);
    let shop = minimal().replace("\"brand\"", "\"shop\"").replace("callback-token", "shop-token");
    let shared = with("previous_callback_token = \"shop-token\"\n") + &shop;
    assert_eq!(
        found(&shared),
        [
            "apps[1].callback_token and encoding_aes_key are those of app brand: a callback for one verifies at the other"
        ]
    );
}

#[test]
fn a_short_callback_token_is_only_a_warning() {
    for (token, warned) in [("1234567", true), ("12345678", false)] {
        let text = minimal().replace("callback-token", token);
        for refused in [Severity::Suspect, Severity::Error] {
            let config =
                parse_unless(refused, &opened(&text), Path::new("t"), &Environment::default()).unwrap();
            let told = listing(&config.warnings);
            let wanted = ["apps[0].callback_token has fewer than 8 characters, which is easy to guess"];
            assert_eq!(told, &wanted[..usize::from(warned)]);
        }
    }
}

#[test]
fn a_store_folder_that_cannot_be_created_is_refused_by_check() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let below = file.path().join("data");
    let text = format!("[store]\npath = {below:?}\n{}", minimal());
    let found = suspects(&text, &Environment::default());
    let (below, file) = (below.display(), file.path().display());
    let wanted = format!("store.path {below} cannot be created: {file} is not a folder");
    assert_eq!(listing(&found), [wanted]);
}

#[test]
fn a_bare_text_is_short_for_a_value() {
    let short = minimal().replace("{ value = \"s\" }", "\"s\"");
    let config = config(&short, &Environment::default());
    assert!(self_built(&config.apps[0]).secret.value.expose_secret() == "s" && config.holds_a_secret);
    assert!(DEFAULTS.contains("or as \"…\", which is short for the"), "it is not documented");
}

/// The warnings of a configuration, after those that `check` refuses.
fn reported(text: &str) -> (Vec<String>, Vec<String>) {
    let all = config(text, &Environment::default()).warnings;
    let (refused, only_reported) =
        all.iter().cloned().partition::<Vec<_>, _>(|p| p.severity > Severity::Warning);
    (listing(&refused), listing(&only_reported))
}

#[test]
fn a_url_without_tls_is_refused_by_check_for_a_public_address_and_reported_for_a_name() {
    let sink = |kind: &str, url: &str, more: &str| {
        format!("{}[[sinks]]\nname = \"s\"\nkind = \"{kind}\"\nurl = \"{url}\"\n{more}", minimal())
    };
    let nats = |url: &str| sink("nats", url, "");
    let webhook = |url: &str| {
        let secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
        sink("webhook", url, &format!("private_addresses = true\nsecret = \"{secret}\"\n"))
    };
    let wecom = |url: &str, more: &str| format!("[wecom]\napi_base = \"{url}\"\n{more}{}", minimal());
    let proxy = "proxy = \"http://proxy:3128\"\n";
    let public = |key: &str| {
        (vec![format!("{key} is a public address without TLS, and nothing is sent there")], vec![])
    };
    let name = |key: &str, host: &str| {
        (vec![], vec![format!("{key} is without TLS: nothing is sent unless {host} has a private address")])
    };
    let through_proxy =
        "wecom.api_base is without TLS and reached through proxy, and no call is made like that";
    for (text, expected) in [
        (nats("nats://1.1.1.1:4222"), public("sinks[0].url")),
        (nats("nats://bus:4222"), name("sinks[0].url", "bus")),
        (nats("nats://10.0.0.7:4222"), (vec![], vec![])),
        (nats("tls://1.1.1.1:4222"), (vec![], vec![])),
        (webhook("http://1.1.1.1/"), public("sinks[0].url")),
        (webhook("http://crm.internal/"), name("sinks[0].url", "crm.internal")),
        (webhook("http://127.0.0.1/"), (vec![], vec![])),
        (webhook("https://crm.internal/"), (vec![], vec![])),
        (wecom("http://1.1.1.1", ""), public("wecom.api_base")),
        (wecom("http://1.1.1.1", proxy), public("wecom.api_base")),
        (wecom("http://wecom", ""), name("wecom.api_base", "wecom")),
        (wecom("http://wecom", proxy), (vec![through_proxy.to_owned()], vec![])),
        (wecom("http://127.0.0.1:9", ""), (vec![], vec![])),
        (wecom("https://wecom", proxy), (vec![], vec![])),
    ] {
        assert_eq!(reported(&text), expected, "{text}");
    }
}

#[test]
fn an_admin_listener_without_tls_that_others_can_reach_is_reported() {
    for (listen, is_exposed) in [
        ("0.0.0.0:8081", true),
        ("[::]:8081", true),
        ("93.184.216.34:8081", true),
        ("10.0.0.7:8081", false),
        ("127.0.0.1:8081", false),
    ] {
        let text = format!("[admin]\nlisten = \"{listen}\"\ntoken = \"{}\"\n{}", "t".repeat(32), minimal());
        let warning =
            format!("admin.listen is {listen}: tokens and personal ids may cross networks without TLS");
        let wanted = if is_exposed { vec![warning] } else { vec![] };
        assert_eq!(reported(&text), (vec![], wanted));
    }
}

#[test]
fn what_needs_the_source_of_a_connection_needs_the_proxy_named() {
    let with = |lines: &str| format!("[server]\nlisten = \"127.0.0.1:8080\"\n{lines}\n{}", minimal());
    let found = |text: &str| listing(&suspects(text, &Environment::default()));
    let share = "source_connections_max = 100\n";
    let reason = "server.source_connections_max counts all connections as those of one source, the proxy";
    assert_eq!(found(&with(share)), [reason]);
    let compared = |how: &str| with(&format!("callback_ips = {how:?}\n"));
    for how in ["report", "enforce"] {
        let reason = "server.callback_ips compares the address of the proxy with WeCom's";
        assert_eq!(found(&compared(how)), [reason]);
    }
    for right in [
        compared("off"),
        compared("enforce").replace("127.0.0.1", "0.0.0.0"),
        with(&format!("{share}trusted_proxies = [\"127.0.0.1\"]")),
        with(share).replace("127.0.0.1", "0.0.0.0"),
    ] {
        assert!(config(&right, &Environment::default()).warnings.is_empty());
    }
}
