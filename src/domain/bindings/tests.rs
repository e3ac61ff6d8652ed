//! The rules of [`bind`], one by one and over any history.

use super::super::authorization::{Agent, Granted, SharedFrom};
use super::super::sealed::Sealed;
use super::super::time::Timestamp;
use super::*;
use crate::domain::authorization::READING_MS;
use proptest::prelude::*;

fn corp(id: &str) -> CorpId {
    CorpId::new(id).unwrap()
}

/// An active authorisation of `corp_id`, shared through 上下游 from the other corp.
fn active(corp_id: &str, shared_from: Option<&str>) -> Authorization {
    let code = Sealed { key: [1; 8], nonce: [1; 12], text: Vec::new() };
    let name = format!("{corp_id} 品牌");
    let at = Timestamp::EPOCH;
    let mut active =
        Authorization::granted(None, Granted { corp_id: corp(corp_id), name, code, sent_at: at }, at);
    let shared_from = shared_from.map(|id| SharedFrom { corp_id: corp(id), share_type: 1 });
    let agent =
        Agent { agent_id: 7, shared_from, is_verified: Some(true), may_read_customers: None, read_at: at };
    assert!(active.read(active.codes, active.changes, String::new(), agent));
    active
}

fn name(name: &str) -> AppName {
    AppName::new(name).unwrap()
}

fn app(app: &str, corp_id: Option<&str>) -> AgencyApp {
    AgencyApp { app: name(app), suite: name("agency"), corp_id: corp_id.map(corp) }
}

fn cancelled(corp_id: &str) -> Authorization {
    let mut authorization = active(corp_id, None);
    assert!(authorization.cancelled(authorization.granted_at.plus_ms(1_000), Timestamp::EPOCH));
    authorization
}

fn brands(ids: &[&str]) -> Vec<Authorization> {
    ids.iter().map(|id| active(id, None)).collect()
}

/// `bind` with the authorisations of one suite.
fn bound(apps: &[AgencyApp], granted: Vec<Authorization>, bound: &[(&str, &str)]) -> Bindings {
    bound_at(Timestamp::EPOCH, apps, granted, bound)
}

fn bound_at(
    now: Timestamp,
    apps: &[AgencyApp],
    granted: Vec<Authorization>,
    bound: &[(&str, &str)],
) -> Bindings {
    let bound = bound.iter().map(|(app, corp_id)| (name(app), corp(corp_id))).collect();
    bind(apps, &BTreeMap::from([(name("agency"), granted)]), &bound, now)
}

fn result(bindings: &Bindings, app: &str) -> Result<CorpId, Unserved> {
    bindings.apps[&name(app)].clone()
}

#[test]
fn a_bound_app_keeps_its_corp_even_if_that_has_cancelled() {
    for configured in [None, Some("wpA")] {
        let apps = [app("p", configured)];
        for granted in [brands(&["wpA", "wpB"]), vec![cancelled("wpA"), active("wpB", None)], brands(&[])] {
            let bindings = bound(&apps, granted, &[("p", "wpA")]);
            assert_eq!(result(&bindings, "p"), Ok(corp("wpA")));
            assert!(bindings.to_store.is_empty());
        }
    }
}

#[test]
fn a_second_brand_does_not_stop_the_first_and_is_reported() {
    let bindings = bound(&[app("p", None)], brands(&["wpA", "wpB"]), &[("p", "wpA")]);
    assert_eq!(bindings.without_app, [(name("agency"), corp("wpB"), "wpB 品牌".to_owned())]);
}

#[test]
fn an_app_with_the_data_of_another_brand_serves_neither() {
    let bindings = bound(&[app("p", Some("wpB"))], brands(&["wpA", "wpB"]), &[("p", "wpA")]);
    let unserved = Unserved::OtherBrand { bound: corp("wpA"), configured: corp("wpB") };
    assert_eq!(result(&bindings, "p"), Err(unserved));
    assert!(bindings.to_store.is_empty());
    assert_eq!(bindings.without_app.len(), 1, "the configured one is in the reason");
}

#[test]
fn a_configured_corp_is_bound_once_it_is_an_active_brand() {
    let apps = [app("p", Some("wpA"))];
    let dealer = active("wpA", Some("wpB"));
    for granted in [brands(&["wpB"]), vec![cancelled("wpA")], vec![dealer]] {
        assert_eq!(result(&bound(&apps, granted, &[]), "p"), Err(Unserved::NoBrand));
    }
    let bindings = bound(&apps, brands(&["wpB", "wpA"]), &[]);
    assert_eq!(result(&bindings, "p"), Ok(corp("wpA")));
    assert_eq!(bindings.to_store, [(name("p"), corp("wpA"))]);
}

#[test]
fn without_a_configured_corp_the_only_brand_is_bound() {
    let apps = [app("p", None)];
    assert_eq!(result(&bound(&apps, Vec::new(), &[]), "p"), Err(Unserved::NoBrand));
    let dealer = active("wpD", Some("wpA"));
    let bindings = bound(&apps, vec![dealer, cancelled("wpC"), active("wpA", None)], &[]);
    assert_eq!(result(&bindings, "p"), Ok(corp("wpA")));
    assert_eq!(bindings.to_store, [(name("p"), corp("wpA"))]);
}

#[test]
fn several_brands_are_named_and_none_is_chosen() {
    let bindings = bound(&[app("p", None)], brands(&["wpA", "wpB"]), &[]);
    let named = ["wpA", "wpB"].map(|id| (corp(id), format!("{id} 品牌")));
    assert_eq!(result(&bindings, "p"), Err(Unserved::Several(named.to_vec())));
    assert!(bindings.to_store.is_empty() && bindings.without_app.is_empty());
}

#[test]
fn no_brand_is_chosen_while_the_app_at_another_corp_is_being_read() {
    let incomplete = Authorization { agent: None, ..active("wpB", None) };
    let (any, granted) = ([app("p", None)], vec![active("wpA", None), incomplete]);
    let (now, later) = (Timestamp::EPOCH.plus_ms(READING_MS - 1), Timestamp::EPOCH.plus_ms(READING_MS));
    let waiting = bound_at(now, &any, granted.clone(), &[]);
    assert_eq!(result(&waiting, "p"), Err(Unserved::NoBrand));
    assert!(waiting.to_store.is_empty() && waiting.without_app.is_empty());
    // Not for ever, nor after the clock was set back.
    for now in [later, Timestamp::EPOCH.plus_ms(-1)] {
        assert_eq!(result(&bound_at(now, &any, granted.clone(), &[]), "p"), Ok(corp("wpA")));
    }
    // Not for a corp that cannot become this app's, nor where the corp is configured or bound.
    let cancelled = Authorization { agent: None, ..cancelled("wpB") };
    for (apps, granted, stored) in [
        (vec![app("p", None)], vec![active("wpA", None), cancelled], &[][..]),
        (vec![app("p", None), app("q", Some("wpB"))], granted.clone(), &[]),
        (vec![app("p", Some("wpA"))], granted.clone(), &[]),
        (vec![app("p", None)], granted, &[("p", "wpA")]),
    ] {
        assert_eq!(result(&bound_at(now, &apps, granted, stored), "p"), Ok(corp("wpA")), "{apps:?}");
    }
}

#[test]
fn a_brand_of_another_app_is_not_taken() {
    let claims = [(app("q", Some("wpA")), &[][..]), (app("q", None), &[("q", "wpA")][..])];
    for (other, stored) in claims {
        let apps = [app("p", None), other];
        assert_eq!(result(&bound(&apps, brands(&["wpA"]), stored), "p"), Err(Unserved::NoBrand));
        assert_eq!(result(&bound(&apps, brands(&["wpA", "wpB"]), stored), "p"), Ok(corp("wpB")));
    }
}

#[test]
fn of_two_apps_with_one_corp_the_bound_one_serves_it() {
    let taken = |by| Err(Unserved::Taken { corp_id: corp("wpA"), by: name(by) });
    let apps = [app("p", Some("wpA")), app("q", None)];
    let bindings = bound(&apps, brands(&["wpA"]), &[("q", "wpA")]);
    assert_eq!((result(&bindings, "p"), result(&bindings, "q")), (taken("q"), Ok(corp("wpA"))));
    let bindings = bound(&apps, brands(&["wpA"]), &[("q", "wpA"), ("p", "wpA")]);
    assert_eq!((result(&bindings, "p"), result(&bindings, "q")), (Ok(corp("wpA")), taken("p")));
}

#[test]
fn suites_are_separate() {
    let apps = [app("p", None), AgencyApp { suite: name("other"), ..app("q", None) }];
    let granted = ["agency", "other"].map(|suite| (name(suite), brands(&["wpA"])));
    let bindings = bind(&apps, &BTreeMap::from(granted), &BTreeMap::new(), Timestamp::EPOCH);
    assert_eq!((result(&bindings, "p"), result(&bindings, "q")), (Ok(corp("wpA")), Ok(corp("wpA"))));
}

/// A moment of a history: the apps that are configured, with their corps, and the brands.
type Moment = (Vec<Option<Option<usize>>>, Vec<Option<bool>>);

fn moments() -> impl Strategy<Value = Vec<Moment>> {
    use proptest::{collection::vec, option::of};
    let apps = vec(of(of(0_usize..3)), 3);
    let brands = vec(of(any::<bool>()), 3);
    vec((apps, brands), 1..8)
}

proptest! {
    #[test]
    fn over_any_history_no_binding_moves_and_no_corp_is_served_twice(moments in moments()) {
        const CORPS: [&str; 3] = ["wpA", "wpB", "wpC"];
        let mut stored = BTreeMap::new();
        for (apps, brands) in moments {
            let apps: Vec<_> = apps
                .iter()
                .zip(["p", "q", "r"])
                .filter_map(|(corp_id, name)| Some(app(name, (*corp_id)?.map(|index| CORPS[index]))))
                .collect();
            let granted = brands.iter().zip(CORPS).filter_map(|(is_active, id)| {
                Some(if (*is_active)? { active(id, None) } else { cancelled(id) })
            });
            let granted = BTreeMap::from([(name("agency"), granted.collect())]);
            let bindings = bind(&apps, &granted, &stored, Timestamp::EPOCH);
            prop_assert_eq!(bindings.apps.len(), apps.len());
            for (app, corp_id) in bindings.to_store {
                prop_assert_eq!(stored.insert(app, corp_id), None, "a binding moved");
            }
            let mut served: Vec<_> = bindings.apps.values().flatten().collect();
            let count = served.len();
            served.sort_unstable();
            served.dedup();
            prop_assert_eq!(served.len(), count, "a corp is served twice");
            for (app, corp_id) in &bindings.apps {
                prop_assert!(corp_id.as_ref().ok().is_none_or(|corp_id| stored.get(app) == Some(corp_id)));
            }
        }
    }
}
