//! `[[suites]]` and the apps of suites.

use super::*;

fn suite() -> String {
    format!(
        "[[suites]]\nname = \"agency\"\nprovider_corp_id = \"ww0123456789provider\"\n\
         suite_id = \"dk0123456789abcdef\"\nsuite_secret = {{ value = \"suite-secret\" }}\n\
         callback_token = {{ value = \"suite-callback-token\" }}\n\
         encoding_aes_key = {{ value = \"{KEY}\" }}\n"
    )
}

fn with_apps(apps: &str) -> String {
    format!("{}{apps}", suite())
}

fn agency_app(name: &str, more: &str) -> String {
    format!("[[apps]]\nname = \"{name}\"\nsuite = \"agency\"\n{more}")
}

fn all_problems(text: &str) -> Vec<String> {
    listing(&refused(Severity::Suspect, text, &Environment::default()))
}

#[test]
fn an_app_of_a_suite_needs_no_key_of_its_own() {
    let config = config(&with_apps(&agency_app("client", "")), &Environment::default());
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let Access::Agency(agency) = &config.apps[0].access else { panic!("it is of a suite") };
    assert_eq!((agency.suite.as_str(), &agency.corp_id), ("agency", &None));
    assert!(agency.callback_token.is_none() && agency.encoding_aes_key.is_none());
    let printed = toml::to_string(&config).unwrap();
    assert!(printed.contains("suite = \"agency\"") && printed.contains("suite_id = \"dk0123456789abcdef\""));
    assert!(!printed.contains("suite-secret") && !printed.contains("suite-callback-token"), "{printed}");
}

#[test]
fn apps_of_a_suite_are_told_apart_by_their_brands() {
    let brands = |first: &str, second: &str| {
        let corp = |id: &str| if id.is_empty() { String::new() } else { format!("corp_id = \"{id}\"\n") };
        let apps = agency_app("one", &corp(first)) + &agency_app("two", &corp(second));
        match parse_unless(
            Severity::Suspect,
            &opened(&with_apps(&apps)),
            Path::new("test.toml"),
            &Environment::default(),
        ) {
            Ok(_) => Vec::new(),
            Err(ConfigError::Problems { problems, .. }) => listing(&problems),
            Err(other) => panic!("{other}"),
        }
    };
    let none: [&str; 0] = [];
    assert_eq!(brands("wpInventedBrandA", "wpInventedBrandB"), none);
    assert_eq!(brands("wpInventedBrandA", ""), none, "the other one that authorises");
    assert_eq!(
        brands("", ""),
        ["apps[1].corp_id is missing, and so is that of app one, which is of the same suite"]
    );
    assert_eq!(
        brands("wpInventedBrandA", "wpInventedBrandA"),
        ["apps[1].corp_id is that of app one, which is of the same suite"]
    );
}

#[test]
fn every_wrong_key_of_a_suite_and_its_apps_is_reported_at_once() {
    let second = suite()
        .replace("dk0123456789abcdef", "ww0123456789abcdef")
        .replace("ww0123456789provider", "provider");
    let text = format!(
        "{}{second}{}{}",
        suite(),
        agency_app("agency", "secret = { value = \"s\" }\nagent_id = 1\n"),
        agency_app("other", "corp_id = \"brand\"\n").replace("suite = \"agency\"", "suite = \"nobody\"")
    );
    assert_eq!(
        all_problems(&text),
        [
            "apps[0].agent_id is of a self-built app",
            "apps[0].name agency is taken by another app or suite",
            "apps[0].secret is of a self-built app",
            "apps[1].corp_id is not a corp id: these are ww, wx or wp and 6 to 62 of A-Z a-z 0-9 - _",
            "apps[1].suite \"nobody\" is no [[suites]] of this configuration",
            "suites[1].name agency is taken by another suite",
            "suites[1].provider_corp_id is not a corp id: these are ww, wx or wp and 6 to 62 of A-Z a-z 0-9 - _",
            "suites[1].suite_id is not of a template of agency-developed apps: these begin with dk",
        ]
    );
    let missing = all_problems("[[suites]]\nname = \"agency\"\n[[apps]]\nname = \"a\"\nsuite = \"agency\"\n");
    let wanted = ["callback_token", "encoding_aes_key", "provider_corp_id", "suite_id", "suite_secret"];
    let wanted = wanted.map(|key| format!("suites[0].{key} is missing"));
    assert_eq!(
        missing.iter().filter(|line| line.starts_with("suites")).collect::<Vec<_>>(),
        wanted.each_ref()
    );
}
