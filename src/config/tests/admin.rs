//! `[admin]`: the tests of its listener and tokens, and of how commands reach the admin API.

use strum::VariantArray as _;

use super::*;
use crate::domain::access::TokenScope;

/// Three tokens of sufficient length.
const TOKENS: [&str; 3] = [
    "token-0-of-at-least-32-characters",
    "token-1-of-at-least-32-characters",
    "token-2-of-at-least-32-characters",
];

fn with(admin: &str) -> String {
    format!("[admin]\n{admin}\n{}", minimal())
}

#[test]
fn without_a_token_the_listener_is_for_its_user_or_said_to_be_open() {
    let nothing = Environment::default();
    let said = |admin: &str| problems(&with(admin), &nothing);
    let token = format!("token = {:?}", TOKENS[0]);
    assert_eq!(
        said("listen = \"0.0.0.0:8081\""),
        ["admin.token is missing, and 0.0.0.0:8081 can be reached from other machines"]
    );
    for loopback in ["", "listen = \"[::1]:8081\""] {
        let missing = "admin.token is missing: any process of this machine could export and erase everything";
        assert_eq!(said(loopback), [missing]);
        config(&with(&format!("{loopback}\nopen = true")), &nothing);
    }
    for listen in ["", "listen = \"unix:/run/unionlink/admin.sock\""] {
        let found = said(&format!("{listen}\nopen = true\n{token}"));
        assert_eq!(found, ["admin.open contradicts the token"]);
    }
    assert_eq!(
        said("listen = \"10.0.0.1:8081\"\nopen = true"),
        [
            "admin.open is for loopback addresses, and 10.0.0.1:8081 can be reached from other machines",
            "admin.token is missing, and 10.0.0.1:8081 can be reached from other machines",
        ]
    );
    let open = with("listen = \"0.0.0.0:8081\"");
    config(&open, &environment(&[("UNIONLINK__ADMIN__TOKEN", TOKENS[0])]));
    let unix = config(&with("listen = \"unix:/run/unionlink/admin.sock\""), &nothing);
    assert!(toml::to_string(&unix).unwrap().contains("listen = \"unix:/run/unionlink/admin.sock\""));
    assert_eq!(
        said("listen = \"unix:admin.sock\"\nopen = true"),
        ["admin.listen \"admin.sock\" is not an absolute path"]
    );
    let long = format!("listen = \"unix:/{}\"\nopen = true", "x".repeat(107));
    assert_eq!(said(&long), ["admin.listen has a path of more than 107 bytes"]);
}

#[test]
fn a_token_that_can_be_guessed_is_refused_wherever_it_comes_from() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{}\n", "x".repeat(31))).unwrap();
    let (by_file, short) = (format!("token = {{ file = {:?} }}", file.path()), "x".repeat(31));
    let set = environment(&[("SHORT", &short)]);
    for token in [&by_file, "token = { env = \"SHORT\" }", &format!("token = {short:?}")] {
        let found = refused(Severity::Error, &with(token), &set);
        assert_eq!(listing(&found), ["admin.token has 31 characters; at least 32 are needed"]);
        assert_eq!(found[0].hint.as_deref(), Some("make one with: openssl rand -hex 32"));
    }
    config(&with(&format!("token = {:?}", "x".repeat(32))), &set);
    let unfit = with(&format!("token = \"{}\\u0007\"", "x".repeat(32)));
    assert_eq!(problems(&unfit, &set), ["admin.token has a character in it that no header can have"]);
}

#[test]
fn further_tokens_have_names_values_and_scopes_of_their_own() {
    let text = format!(
        "token = {:?}\n[[admin.tokens]]\nname = \"shop\"\ntoken = {:?}\nprevious_token = {:?}\n\
         allow = [\"fans\", \"links\"]\n",
        TOKENS[0], TOKENS[1], TOKENS[2]
    );
    let found = config(&with(&text), &Environment::default());
    let token = &found.admin.tokens[0];
    assert_eq!(token.name.as_str(), "shop");
    let allowed = TokenScope::VARIANTS.iter().filter(|scope| token.allow.contain(**scope));
    assert_eq!(allowed.collect::<Vec<_>>(), [&TokenScope::Fans, &TokenScope::Links]);
    let printed = format!("{}{found:?}", toml::to_string(&found).unwrap());
    assert!(!printed.contains("of-at-least-32"), "{printed}");
    let wrong = format!(
        "token = {0:?}\n[[admin.tokens]]\nname = \"admin\"\ntoken = {0:?}\nallow = [\"links\"]\n\
         [[admin.tokens]]\nname = \"a\"\ntoken = {1:?}\nallow = []\n\
         [[admin.tokens]]\nname = \"a\"\ntoken = \"short\"\nallow = [\"everything\"]\n\
         [[admin.tokens]]\nname = \"b\"\ntoken = {0:?}\nprevious_token = {1:?}\nallow = [\"links\"]\n[[admin.tokens]]\n",
        TOKENS[0], TOKENS[1]
    );
    assert_eq!(
        problems(&with(&wrong), &Environment::default()),
        [
            "admin.tokens has one value for admin.token and b",
            "admin.tokens has one value for a and b",
            "admin.tokens[0].name admin is taken by another token",
            "admin.tokens[1].allow is empty: the token would allow nothing",
            "admin.tokens[2].allow \"everything\" is not one of fans, links, people, operate, erase, metrics",
            "admin.tokens[2].name a is taken by another token",
            "admin.tokens[2].token has 5 characters; at least 32 are needed",
            "admin.tokens[4].allow is missing",
            "admin.tokens[4].name is missing",
            "admin.tokens[4].token is missing",
        ]
    );
}

#[test]
fn names_of_the_admin_listener_are_names() {
    let with = |hosts: &str| with(&format!("open = true\nhosts = {hosts}"));
    let text = with("[\"UnionLink.example.com\", \"unionlink-admin\"]");
    let admin = config(&text, &Environment::default()).admin;
    assert_eq!(admin.hosts, ["unionlink.example.com", "unionlink-admin"]);
    for wrong in ["https://x", "x:8081", "*.x", "", "x..y", "[::1]", "x y", "x/", ".x"] {
        let told = problems(&with(&format!("[{wrong:?}]")), &Environment::default());
        assert_eq!(told, [format!("admin.hosts {wrong:?} is not a host name")]);
    }
}

fn access(text: &str, pairs: &[(&str, &str)]) -> Result<AdminAccess, ConfigError> {
    let environment = environment(pairs);
    let found = read(text, Path::new("t"), &environment, Some("admin"), Severity::Error, admin_access);
    found.map(|(access, _)| access)
}

fn token(access: &AdminAccess) -> Option<&str> {
    access.token.as_ref().map(ExposeSecret::expose_secret)
}

#[test]
fn commands_read_only_the_admin_section() {
    let text = "nonsense = 1\n[store]\ncache_mb = \"?\"\n[admin]\nlisten = \"0.0.0.0:9\"\ntoken = { env = \"T\" }\n\
                [[admin.tokens]]\ntoken = { env = \"NOT_SET\" }\n[[apps]]\nsecret = { env = \"NOT_SET\" }\n";
    let found = access(text, &[("T", TOKENS[0]), ("UNIONLINK__STORE__CACHE_MB", "x")]).unwrap();
    assert_eq!((&*found.base_url, token(&found)), ("http://127.0.0.1:9", Some(TOKENS[0])));
    assert!(!format!("{found:?}").contains(TOKENS[0]));
    let own = access(text, &[("UNIONLINK_TOKEN", TOKENS[1])]).unwrap();
    assert_eq!(token(&own), Some(TOKENS[1]), "that of the configuration need not be available");
    let default = access("", &[("UNIONLINK_TOKEN", "")]).unwrap();
    assert_eq!((&*default.base_url, token(&default)), ("http://127.0.0.1:8081", None));
    let unix = access("[admin]\nlisten = \"unix:/run/a.sock\"\n", &[]).unwrap();
    assert_eq!(
        (unix.socket.as_deref(), &*unix.shown()),
        (Some(Path::new("/run/a.sock")), "unix:/run/a.sock")
    );
}

#[test]
fn the_environment_overrides_the_admin_section_too() {
    let pairs = [("UNIONLINK__ADMIN__LISTEN", "[::]:7"), ("UNIONLINK__ADMIN__TOKEN", TOKENS[2])];
    let found = access("[admin]\nlisten = \"127.0.0.1:9\"\n", &pairs).unwrap();
    assert_eq!((&*found.base_url, token(&found)), ("http://[::1]:7", Some(TOKENS[2])));
}

#[test]
fn problems_of_the_admin_section_are_reported_to_commands() {
    let missing = access("[admin]\ntoken = { env = \"ADMIN_TOKEN\" }\n", &[]).unwrap_err().to_string();
    assert!(missing.contains("admin.token environment variable ADMIN_TOKEN is not set"), "{missing}");
    let port = access("[admin]\nlisten = \"127.0.0.1:0\"\n", &[]).unwrap_err().to_string();
    assert!(port.contains("--admin URL"), "{port}");
}

#[test]
fn a_named_service_needs_no_configuration() {
    let both = environment(&[("UNIONLINK_ADMIN_TOKEN", "admin"), ("UNIONLINK_TOKEN", "own")]);
    let admin = environment(&[("UNIONLINK_ADMIN_TOKEN", "admin")]);
    for (environment, expected) in
        [(&both, Some("own")), (&admin, Some("admin")), (&Environment::default(), None)]
    {
        let found = AdminAccess::at("https://fans.example.com/", environment);
        assert_eq!((&*found.base_url, token(&found)), ("https://fans.example.com", expected));
    }
    assert_eq!(AdminAccess::at("unix:/run/a.sock", &both).socket.as_deref(), Some(Path::new("/run/a.sock")));
}
