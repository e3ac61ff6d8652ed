//! One case for each finding, and the cases that are none.

use std::collections::BTreeSet;

use strum::VariantArray as _;

use super::*;
use crate::domain::authorization::{Agent, Authorization, Granted, SharedFrom};
use crate::domain::bindings::Unserved;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::sealed::Sealed;
use crate::domain::suite::{CodeId, CodeKind, Exchange, ExchangeEnd};
use crate::domain::text::Text;
use crate::domain::time::{HOUR_MS, MINUTE_MS};
use FindingCode as Code;
use FindingState::{Fail, Warn};

const NOW: Timestamp = Timestamp::from_secs(1_795_309_323);

fn name(name: &str) -> AppName {
    AppName::new(name).unwrap()
}

fn corp(id: &str) -> CorpId {
    CorpId::new(id).unwrap()
}

fn sealed() -> Sealed {
    Sealed { key: [0; 8], nonce: [0; 12], text: Vec::new() }
}

/// What is known of a suite, owned.
struct Suite {
    name: AppName,
    waits_since: Timestamp,
    ticket: Option<TicketFacts>,
    exchanges: Vec<(CodeId, Exchange)>,
    authorizations: Vec<(Authorization, bool)>,
    apps: Vec<(AppName, Option<CorpId>, Result<CorpId, Unserved>)>,
    refusals: Vec<Refusal>,
}

impl Suite {
    /// With a valid ticket, and one app that serves its brand.
    fn working() -> Self {
        let ticket = TicketFacts {
            received_at: NOW.plus_ms(-MINUTE_MS),
            expires_at: NOW.plus_ms(29 * MINUTE_MS),
            is_refused: false,
        };
        Self {
            name: name("agency"),
            waits_since: NOW.plus_ms(-HOUR_MS),
            ticket: Some(ticket),
            exchanges: Vec::new(),
            authorizations: vec![(authorized("wpA"), true)],
            apps: vec![(name("brand"), None, Ok(corp("wpA")))],
            refusals: Vec::new(),
        }
    }

    /// The only app serves no brand.
    fn unserved(configured: Option<CorpId>, why: Unserved) -> Self {
        Self {
            authorizations: Vec::new(),
            apps: vec![(name("brand"), configured, Err(why))],
            ..Self::working()
        }
    }

    fn findings(&self) -> Vec<Finding> {
        let facts = SuiteFacts {
            suite: &self.name,
            waits_since: self.waits_since,
            ticket: self.ticket,
            exchanges: &self.exchanges,
            authorizations: self
                .authorizations
                .iter()
                .map(|(record, is_readable)| AuthorizationFacts { record, is_readable: *is_readable })
                .collect(),
            apps: self
                .apps
                .iter()
                .map(|(app, configured, brand)| AppFacts {
                    app,
                    configured: configured.as_ref(),
                    brand: brand.clone(),
                })
                .collect(),
            refusals: self.refusals.clone(),
        };
        suite_findings(&facts, NOW)
    }

    fn codes(&self) -> Vec<(FindingCode, FindingState)> {
        self.findings().iter().map(|finding| (finding.code, finding.state)).collect()
    }
}

/// A corp that authorised an hour ago and was read then.
fn authorized(corp_id: &str) -> Authorization {
    authorized_with(corp_id, |_| {})
}

fn authorized_with(corp_id: &str, change: impl FnOnce(&mut Agent)) -> Authorization {
    let mut record = unread(corp_id, HOUR_MS);
    let read_at = record.changed_at;
    let mut agent =
        Agent { agent_id: 7, shared_from: None, is_verified: None, may_read_customers: None, read_at };
    change(&mut agent);
    assert!(record.read(1, 1, String::new(), agent));
    record
}

fn unread(corp_id: &str, ago_ms: i64) -> Authorization {
    let at = NOW.plus_ms(-ago_ms);
    let granted =
        Granted { corp_id: corp(corp_id), name: "甲品牌".to_owned(), code: sealed(), sent_at: at };
    Authorization::granted(None, granted, at)
}

fn cancelled(corp_id: &str) -> Authorization {
    let mut record = authorized(corp_id);
    assert!(record.cancelled(NOW.plus_ms(-MINUTE_MS), NOW));
    record
}

fn exchange(n: u8, end: Option<ExchangeEnd>) -> (CodeId, Exchange) {
    let at = NOW.plus_ms(-30 * MINUTE_MS);
    let mut exchange = Exchange::new(CodeKind::Create, sealed(), at, at);
    exchange.end = end;
    (CodeId([n; 16]), exchange)
}

fn ended(ends: &[ExchangeEnd]) -> Suite {
    let exchanges = (0..).zip(ends).map(|(n, end)| exchange(n, Some(*end))).collect();
    Suite { exchanges, ..Suite::working() }
}

fn refused(app: Option<&str>, corp_id: Option<&str>, errcode: i64) -> Suite {
    Suite { refusals: vec![refusal(app, corp_id, errcode)], ..Suite::working() }
}

fn refusal(app: Option<&str>, corp_id: Option<&str>, errcode: i64) -> Refusal {
    Refusal {
        app: app.map(name),
        corp: corp_id.map(|id| (corp(id), None)),
        errcode,
        since: NOW.plus_ms(-MINUTE_MS),
        remedy: Text { en: "do this".to_owned(), zh: "请这样做".to_owned() },
    }
}

fn with_brand(record: Authorization, is_readable: bool) -> Suite {
    Suite { authorizations: vec![(record, is_readable)], ..Suite::working() }
}

/// A name, the facts, and what is wrong.
type Case = (&'static str, Suite, Vec<(FindingCode, FindingState)>);

/// What can be wrong with a suite's calls and its apps.
fn cases_of_apps() -> Vec<Case> {
    let old = |ago_ms: i64| {
        let received_at = NOW.plus_ms(-ago_ms);
        Some(TicketFacts { received_at, expires_at: received_at.plus_ms(30 * MINUTE_MS), is_refused: false })
    };
    let brands = || vec![(corp("wpA"), "甲".to_owned()), (corp("wpB"), "乙".to_owned())];
    let other_brand = || Unserved::OtherBrand { bound: corp("wpA"), configured: corp("wpB") };
    let without_app =
        |why| Suite { authorizations: vec![(authorized("wpB"), true)], ..Suite::unserved(None, why) };
    vec![
        ("working", Suite::working(), vec![]),
        (
            "no ticket yet",
            Suite { ticket: None, waits_since: NOW, ..Suite::working() },
            vec![(Code::Ticket, Warn)],
        ),
        ("no ticket for an hour", Suite { ticket: None, ..Suite::working() }, vec![(Code::Ticket, Fail)]),
        (
            "an expired ticket",
            Suite { ticket: old(31 * MINUTE_MS), ..Suite::working() },
            vec![(Code::Ticket, Warn)],
        ),
        (
            "a long expired ticket",
            Suite { ticket: old(HOUR_MS), ..Suite::working() },
            vec![(Code::Ticket, Fail)],
        ),
        ("a wrong secret", refused(None, None, 40_080), vec![(Code::Secret, Fail)]),
        ("a wrong id", refused(None, None, 40_083), vec![(Code::Secret, Fail)]),
        ("an IP address, suite", refused(None, None, 60_020), vec![(Code::TrustedIp, Fail)]),
        ("an IP address, app", refused(Some("brand"), None, 301_042), vec![(Code::TrustedIp, Fail)]),
        ("a licence", refused(Some("brand"), Some("wpD"), 701_008), vec![(Code::Licence, Fail)]),
        ("a code that only its breaker shows", refused(Some("brand"), None, 48_002), vec![]),
        ("an app of no brand", Suite::unserved(None, Unserved::NoBrand), vec![(Code::AppWaiting, Warn)]),
        (
            "an app of a brand that has not authorised",
            Suite::unserved(Some(corp("wpA")), Unserved::NoBrand),
            vec![(Code::AppWaiting, Warn)],
        ),
        ("several brands", without_app(Unserved::Several(brands())), vec![(Code::AppAmbiguous, Fail)]),
        ("another brand's data", without_app(other_brand()), vec![(Code::AppOfOtherBrand, Fail)]),
        (
            "another app's brand",
            Suite::unserved(Some(corp("wpA")), Unserved::Taken { corp_id: corp("wpA"), by: name("own") }),
            vec![(Code::AppTaken, Fail)],
        ),
    ]
}

/// What can be wrong with auth codes, and with the corps that have authorised.
fn cases_of_corps() -> Vec<Case> {
    let at = NOW;
    let mut cases = vec![
        ("lost", ended(&[ExchangeEnd::Lost { at }]), vec![(Code::AuthCodeLost, Fail)]),
        ("expired", ended(&[ExchangeEnd::Expired { at }]), vec![(Code::AuthCodeExpired, Fail)]),
        (
            "refused, twice",
            ended(&[ExchangeEnd::Refused { errcode: 40_078, at }, ExchangeEnd::Refused { errcode: 1, at }]),
            vec![(Code::AuthCodeRefused, Fail)],
        ),
        ("an unreadable auth code", ended(&[ExchangeEnd::Unreadable { at }]), vec![(Code::Sealed, Fail)]),
        ("in progress", Suite { exchanges: vec![exchange(1, None)], ..Suite::working() }, vec![]),
        ("a brand that cancelled", with_brand(cancelled("wpA"), true), vec![(Code::Cancelled, Fail)]),
        ("and whose code cannot be read", with_brand(cancelled("wpA"), false), vec![(Code::Cancelled, Fail)]),
        ("an unreadable code", with_brand(authorized("wpA"), false), vec![(Code::Sealed, Fail)]),
        ("an app that is being read", with_brand(unread("wpA", MINUTE_MS), true), vec![]),
        (
            "an app that cannot be read",
            with_brand(unread("wpA", HOUR_MS), true),
            vec![(Code::Incomplete, Warn)],
        ),
        (
            "no permission",
            with_brand(authorized_with("wpA", |agent| agent.may_read_customers = Some(false)), true),
            vec![(Code::Permission, Fail)],
        ),
        (
            "an unverified brand",
            with_brand(authorized_with("wpA", |agent| agent.is_verified = Some(false)), true),
            vec![(Code::Unverified, Warn)],
        ),
        (
            "a verified brand",
            with_brand(
                authorized_with("wpA", |agent| {
                    (agent.is_verified, agent.may_read_customers) = (Some(true), Some(true));
                }),
                true,
            ),
            vec![],
        ),
    ];
    let dealer = |agent: &mut Agent| {
        agent.shared_from = Some(SharedFrom { corp_id: corp("wpA"), share_type: 1 });
    };
    let mut two = Suite::working();
    two.authorizations.push((authorized("wpB"), true));
    cases.push(("a second brand", two, vec![(Code::BrandWithoutApp, Warn)]));
    let mut others = Suite::working();
    others.authorizations.push((authorized_with("wpD", dealer), true));
    others.authorizations.push((cancelled("wpE"), true));
    cases.push(("a dealer, and a corp of no app that cancelled", others, vec![]));
    cases
}

#[test]
fn every_situation_has_its_findings_in_both_languages() {
    let mut seen = BTreeSet::new();
    for (case, suite, expected) in cases_of_apps().into_iter().chain(cases_of_corps()) {
        assert_eq!(suite.codes(), expected, "{case}");
        for finding in suite.findings() {
            assert_eq!(finding.subject.suite, Some(name("agency")), "{case}");
            assert_both_languages(&finding);
            seen.insert(finding.code);
        }
    }
    let (own, agency, corp_id) = (name("own"), name("agency"), corp("wwOWN"));
    let url_checks = [
        CheckedUrl::SelfBuilt { app: &own, corp_id: &corp_id },
        CheckedUrl::Agency { app: &own, suite: &agency },
        CheckedUrl::Suite(&agency),
    ]
    .map(|url| UrlCheckFacts { url, receive_id: "", at: NOW });
    for finding in url_check_findings(&url_checks) {
        assert_eq!((finding.code, finding.state), (Code::ReceiveId, Fail));
        assert_both_languages(&finding);
        assert!(finding.seen.en.contains("\"\"") && finding.seen.zh.contains("\"\""), "{finding:?}");
        seen.insert(finding.code);
    }
    let of_suites_and_urls = |code: &&FindingCode| {
        let name: &str = (*code).into();
        ["suite.", "app."].iter().any(|area| name.starts_with(area))
    };
    let expected: BTreeSet<_> = FindingCode::VARIANTS.iter().filter(of_suites_and_urls).copied().collect();
    assert_eq!(seen, expected);
}

fn assert_both_languages(Finding { seen, means, todo, .. }: &Finding) {
    for Text { en, zh } in [seen, means, &todo.text] {
        assert!(!en.is_empty() && !en.contains("  ") && !zh.is_ascii(), "{en} {zh}");
    }
}

fn only(suite: &Suite) -> Finding {
    let [finding] = <[Finding; 1]>::try_from(suite.findings()).unwrap();
    finding
}

#[test]
fn a_missing_ticket_says_since_when_and_when_the_next_is_due() {
    let received_at = NOW.plus_ms(-34 * MINUTE_MS);
    let expires_at = NOW.plus_ms(-4 * MINUTE_MS);
    let suite = Suite {
        ticket: Some(TicketFacts { received_at, expires_at, is_refused: false }),
        ..Suite::working()
    };
    let Finding { since, seen, todo, .. } = only(&suite);
    assert_eq!(since, Some(expires_at));
    assert!(seen.en.ends_with(&received_at.in_china()), "{seen:?}");
    let next = NOW.plus_ms(6 * MINUTE_MS).in_china();
    assert!(todo.text.en.contains(&next) && todo.text.zh.contains(&next), "{todo:?}");
    assert!(todo.text.en.ends_with("/callback/agency"), "{todo:?}");
}

#[test]
fn an_ambiguous_app_lists_the_brands_with_their_names() {
    let brands = ["wpA", "wpB", "wpC", "wpD"].map(|id| (corp(id), format!("甲{id}")));
    let Finding { seen, subject, .. } = only(&Suite::unserved(None, Unserved::Several(brands.to_vec())));
    assert!(seen.en.ends_with(": 甲wpA (wpA), 甲wpB (wpB), 甲wpC (wpC), 甲wpD (wpD)"), "{seen:?}");
    assert!(seen.zh.contains("甲wpC (wpC)、甲wpD (wpD)"), "{seen:?}");
    assert_eq!((subject.app, subject.corp_id), (Some(name("brand")), None));
}

#[test]
fn many_corps_are_one_finding_that_names_the_first() {
    let dealers = ["wpD1", "wpD2", "wpD3", "wpD4", "wpD5"];
    let refusals = dealers.map(|id| refusal(Some("brand"), Some(id), 701_008)).to_vec();
    let Finding { seen, subject, .. } = only(&Suite { refusals, ..Suite::working() });
    assert!(seen.en.contains("the app brand at wpD1, wpD2, wpD3 and 2 more (code"), "{seen:?}");
    assert!(seen.zh.contains("应用 brand 的调用（wpD1、wpD2、wpD3 等 5 家企业）"), "{seen:?}");
    assert_eq!(subject.corp_id, None);
    let subject = only(&refused(Some("brand"), Some("wpD1"), 701_008)).subject;
    assert_eq!((subject.app, subject.corp_id), (Some(name("brand")), Some(corp("wpD1"))));
}

#[test]
fn a_corp_that_was_granted_since_ends_the_finding_about_the_only_lost_code() {
    let lost = ExchangeEnd::Lost { at: NOW };
    let mut suite = ended(&[lost]);
    assert_eq!(suite.findings().len(), 1, "the brand authorised before that code");
    let (corp_id, code) = (corp("wpA"), Sealed { text: vec![1], ..sealed() });
    let granted = Granted { corp_id, name: "甲品牌".to_owned(), code, sent_at: NOW.plus_ms(-MINUTE_MS) };
    let mut record = Authorization::granted(Some(authorized("wpA")), granted, NOW);
    let agent = authorized("wpA").agent.unwrap();
    assert!(record.read(record.codes, record.changes, String::new(), agent));
    suite.authorizations = vec![(record, true)];
    assert_eq!(suite.findings(), []);
    suite.exchanges = ended(&[lost, lost]).exchanges;
    assert_eq!(suite.codes(), [(FindingCode::AuthCodeLost, FindingState::Fail)], "the other is still lost");
}

#[test]
fn a_finding_is_serialised_in_the_documented_form() {
    let value = serde_json::to_value(only(&with_brand(cancelled("wpA"), true))).unwrap();
    assert_eq!((&value["code"], &value["state"]), (&"suite.cancelled".into(), &"fail".into()));
    let subject = serde_json::json!(
        {"suite": "agency", "app": "brand", "corp_id": "wpA", "corp_name": "甲品牌"}
    );
    assert_eq!(value["subject"], subject);
    assert_eq!(value["since"], "2026-11-22T01:01:03.000Z");
    for text in [&value["seen"], &value["means"], &value["todo"]["text"]] {
        assert!(text["en"].is_string() && text["zh"].is_string(), "{value}");
    }
}
