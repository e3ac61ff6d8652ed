//! Which corp an agency-developed app serves, and what a change of its authorisation means for it.

use secrecy::SecretString;

use super::*;
use crate::at_rest::{Purpose, Sealer};
use crate::domain::authorization::{Agent, Granted, SharedFrom};
use crate::domain::bindings::bind;
use crate::domain::ids::SuiteId;
use crate::domain::time::Timestamp;
use crate::store::SuiteRecords;

const T0: Timestamp = Timestamp::from_secs(1_795_309_323);

pub(super) fn name(name: &str) -> AppName {
    AppName::new(name).unwrap()
}

pub(super) fn corp(id: &str) -> CorpId {
    CorpId::new(id).unwrap()
}

pub(super) fn rules(suite: Option<&str>, corp_id: Option<&str>) -> AppRules {
    AppRules { customer_groups: false, ..AppRules::for_tests(suite.map(name), corp_id.map(corp)) }
}

pub(super) fn settings() -> SuiteSettings {
    let (suite_id, secret) = (SuiteId::new("dkSUITE").unwrap(), SecretString::from("secret"));
    let sealer = Arc::new(Sealer::new(&suite_id, &secret, None));
    SuiteSettings { provider_corp_id: corp("wwPROVIDER"), suite_id, secret, sealer, waits_since: T0 }
}

pub(super) fn settings_of(suite: &str) -> BTreeMap<AppName, SuiteSettings> {
    BTreeMap::from([(name(suite), settings())])
}

/// One self-built app, and one of the suite `agency`.
pub(super) fn apps() -> Apps {
    let rules = [("own", rules(None, Some("wwOWN"))), ("brand", rules(Some("agency"), None))];
    let rules = rules.map(|(app, rules)| (name(app), rules));
    Apps::new(rules, settings_of("agency"))
}

pub(super) fn authorized(corp_id: &str, shared_from: Option<&str>, sent_secs: i64) -> Authorization {
    let code = SecretString::from(format!("code{sent_secs}"));
    let code = settings().sealer.seal(Purpose::PermanentCode, corp_id, &code, [7; 12]);
    let sent_at = T0.plus_ms(sent_secs * 1_000);
    let granted = Granted { corp_id: corp(corp_id), name: corp_id.to_owned(), code, sent_at };
    let mut record = Authorization::granted(None, granted, T0);
    let shared_from = shared_from.map(|of| SharedFrom { corp_id: corp(of), share_type: 1 });
    let agent = Agent { agent_id: 7, shared_from, is_verified: None, may_read_customers: None, read_at: T0 };
    assert!(record.read(1, 1, String::new(), agent));
    record
}

/// Replaces what is known, as if these were the stored authorisations.
pub(super) fn replace(apps: &Apps, authorizations: Vec<Authorization>) -> AppChanges {
    let records = SuiteRecords { authorizations: authorizations.clone(), ..SuiteRecords::default() };
    let bound = apps.agency().iter().filter_map(|one| Some((one.app.clone(), apps.corp_of(&one.app)?)));
    let bound = bound.collect();
    let granted = BTreeMap::from([(name("agency"), authorizations)]);
    let bindings = bind(apps.agency(), &granted, &bound, T0);
    let view = SuiteView::of(records, &settings().sealer);
    apps.replace(BTreeMap::from([(name("agency"), view)]), &bindings, Timestamp::EPOCH)
}

#[test]
fn an_agency_developed_app_serves_a_corp_once_a_brand_has_authorised() {
    let apps = apps();
    assert_eq!(apps.corp_of(&name("own")), Some(corp("wwOWN")));
    assert_eq!((apps.corp_of(&name("brand")), apps.unserved(&name("own"))), (None, None));
    assert_eq!(apps.unserved(&name("brand")), Some(Unserved::NoBrand));
    let usable = vec![(name("brand"), corp("wpA"))];
    let authorization = authorized("wpA", None, 1);
    assert_eq!(replace(&apps, vec![authorization.clone()]), AppChanges { usable, ..AppChanges::default() });
    assert_eq!(replace(&apps, vec![authorization]), AppChanges::default(), "nothing has changed");
    assert_eq!((apps.corp_of(&name("brand")), apps.unserved(&name("brand"))), (Some(corp("wpA")), None));
    assert_eq!(apps.app_of_brand(&name("agency"), "wpA"), Some(name("brand")));
    assert_eq!(apps.app_of_brand(&name("agency"), "wwOWN"), None, "it is of no suite");
}

#[test]
fn a_configured_corp_is_not_served_before_it_has_authorised() {
    let rules = [(name("brand"), rules(Some("agency"), Some("wpA")))];
    let apps = Apps::new(rules, settings_of("agency"));
    assert_eq!(apps.corp_of(&name("brand")), None);
    assert_eq!(replace(&apps, vec![authorized("wpB", None, 1)]), AppChanges::default());
    assert_eq!(replace(&apps, vec![authorized("wpA", None, 1)]).usable, [(name("brand"), corp("wpA"))]);
}

#[test]
fn a_cancelled_app_is_parked_and_goes_on_with_the_next_authorisation() {
    let apps = apps();
    let mut authorization = authorized("wpA", None, 1);
    replace(&apps, vec![authorization.clone()]);
    assert!(authorization.cancelled(T0.plus_ms(5_000), T0));
    assert_eq!(replace(&apps, vec![authorization]).parked, [name("brand")]);
    assert_eq!(apps.corp_of(&name("brand")), Some(corp("wpA")), "its data remains that of this corp");
    assert!(apps.has_authorized(&name("agency"), "wpA"));
    let usable = replace(&apps, vec![authorized("wpA", None, 9)]).usable;
    assert_eq!(usable, [(name("brand"), corp("wpA"))]);
}

#[test]
fn a_code_that_cannot_be_opened_parks_its_app() {
    let apps = apps();
    replace(&apps, vec![authorized("wpA", None, 1)]);
    let mut other = authorized("wpA", None, 1);
    other.code.key = [0; 8];
    assert_eq!(replace(&apps, vec![other]).parked, [name("brand")]);
}

#[test]
fn a_dealer_belongs_to_the_app_of_the_brand_that_shared_it() {
    let apps = apps();
    let dealer = authorized("wpD", Some("wpA"), 2);
    replace(&apps, vec![authorized("wpA", None, 1), dealer.clone()]);
    assert_eq!(*apps.authorized_dealers(&name("brand")), [dealer]);
    assert_eq!(apps.apps_of_dealer(&name("agency"), &corp("wpD")), [name("brand")]);
    assert!(apps.apps_of_dealer(&name("agency"), &corp("wpA")).is_empty());
    assert!(apps.authorized_dealers(&name("own")).is_empty());
}

#[test]
fn a_dealer_of_a_brand_that_has_not_authorised_yet_is_no_other_brands() {
    let of = |corp_id| rules(Some("agency"), Some(corp_id));
    let apps = Apps::new([(name("brand"), of("wpA")), (name("other"), of("wpB"))], settings_of("agency"));
    let (brand, dealer) = (authorized("wpA", None, 1), authorized("wpD", Some("wpB"), 2));
    replace(&apps, vec![brand.clone(), dealer.clone()]);
    assert!(apps.authorized_dealers(&name("brand")).is_empty());
    replace(&apps, vec![brand, dealer, authorized("wpB", None, 3)]);
    assert_eq!(apps.apps_of_dealer(&name("agency"), &corp("wpD")), [name("other")]);
}
