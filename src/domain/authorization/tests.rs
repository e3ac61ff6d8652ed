//! The news of an authorisation in any order, and which dealers are of which brand.

use super::*;
use proptest::prelude::*;

const T0: Timestamp = Timestamp::from_secs(1_795_309_323);

fn corp(id: &str) -> CorpId {
    CorpId::new(id).unwrap()
}

fn at(secs: i64) -> Timestamp {
    T0.plus_ms(secs * 1_000)
}

fn sealed(n: u8) -> Sealed {
    Sealed { key: [n; 8], nonce: [n; 12], text: vec![n] }
}

/// The grant whose auth code was sent then; each has a code of its own.
fn grant(secs: u8) -> Granted {
    Granted { corp_id: corp("wpA"), name: "甲品牌".into(), code: sealed(secs), sent_at: at(secs.into()) }
}

fn authorized(secs: u8) -> Authorization {
    Authorization::granted(None, grant(secs), T0)
}

fn again(known: Authorization, secs: u8) -> Authorization {
    Authorization::granted(Some(known), grant(secs), T0)
}

fn agent(agent_id: i64, shared_from: Option<(&str, i64)>) -> Agent {
    let shared_from =
        shared_from.map(|(corp_id, share_type)| SharedFrom { corp_id: corp(corp_id), share_type });
    Agent { agent_id, shared_from, is_verified: Some(true), may_read_customers: None, read_at: T0 }
}

/// An active authorisation of `corp_id`, shared from the other corp.
fn active(corp_id: &str, shared_from: Option<(&str, i64)>) -> Authorization {
    let granted = Granted { corp_id: corp(corp_id), name: format!("{corp_id} 品牌"), ..grant(1) };
    let mut active = Authorization::granted(None, granted, T0);
    assert!(active.read(1, 1, String::new(), agent(7, shared_from)));
    active
}

#[test]
fn an_authorization_can_be_used_once_its_app_has_been_read() {
    let mut authorization = authorized(1);
    assert_eq!(authorization.state(), AuthorizationState::Incomplete);
    assert_eq!((authorization.role(), authorization.check_due), (None, true));
    assert!(authorization.read(1, 1, "甲品牌二".into(), agent(7, None)));
    assert_eq!(authorization.state(), AuthorizationState::Active);
    assert_eq!((authorization.role(), authorization.check_due), (Some(Role::Brand), false));
    assert_eq!(authorization.name, "甲品牌二");
}

#[test]
fn an_app_shared_downstream_makes_a_dealer() {
    let role = |shared| active("wpD", shared).role().unwrap();
    assert_eq!(role(Some(("wpA", 1))), Role::Dealer(corp("wpA")));
    assert_eq!(role(Some(("wpA", 0))), Role::Other);
    assert_eq!(role(Some(("wpD", 1))), Role::Other, "WeCom does not say from which corp");
    assert_eq!(role(None), Role::Brand);
}

#[test]
fn a_dealer_that_authorises_by_qr_code_too_remains_a_dealer() {
    let mut dealer = again(active("wpA", Some(("wpB", 1))), 2);
    assert_eq!(dealer.role(), None, "the app has to be read again");
    assert!(dealer.read(2, 2, String::new(), agent(8, None)));
    assert_eq!(dealer.role(), Some(Role::Dealer(corp("wpB"))));
    assert_eq!(dealer.agent.as_ref().unwrap().shared_from, None);
    // A later sharing counts, and so does another way of it.
    assert!(dealer.read(2, 2, String::new(), agent(8, Some(("wpC", 1)))));
    assert_eq!(dealer.role(), Some(Role::Dealer(corp("wpC"))));
    assert!(dealer.read(2, 2, String::new(), agent(8, Some(("wpC", 0)))));
    assert_eq!(dealer.role(), Some(Role::Other));
    assert!(dealer.read(2, 2, String::new(), agent(8, None)));
    assert_eq!(dealer.role(), Some(Role::Brand));
}

#[test]
fn a_reset_code_replaces_the_older_one_in_any_order() {
    let newer = again(authorized(1), 2);
    assert_eq!((&newer.code, newer.codes), (&sealed(2), 2));
    assert_eq!(again(newer.clone(), 1), newer, "the older grant was answered late");
    assert_eq!(again(newer.clone(), 2), newer, "the same grant again");
}

#[test]
fn a_cancellation_newer_than_the_grant_cancels() {
    let mut authorization = active("wpA", None);
    assert!(authorization.cancelled(at(2), at(9)));
    assert_eq!(authorization.state(), AuthorizationState::Cancelled);
    assert_eq!(authorization.role(), Some(Role::Brand), "it remains a brand");
    assert_eq!((authorization.cancelled_at, authorization.changed_at), (Some(at(2)), at(9)));
    assert!(!authorization.cancelled(at(2), at(10)), "a repetition");
    let granted = again(authorization.clone(), 3);
    assert_eq!((granted.state(), granted.cancelled_at), (AuthorizationState::Incomplete, None));
    assert_eq!(again(authorization, 2).cancelled_at, None, "of the same second: the app is read");
}

#[test]
fn a_cancellation_older_than_the_grant_has_no_effect() {
    let mut authorization = again(authorized(1), 3);
    let before = authorization.clone();
    assert!(!authorization.cancelled(at(2), at(9)));
    assert_eq!(authorization, before);
}

#[test]
fn a_cancellation_in_the_second_of_the_grant_is_checked() {
    let mut authorization = active("wpA", None);
    assert!(authorization.cancelled(at(1), at(9)));
    assert_eq!((authorization.state(), authorization.check_due), (AuthorizationState::Active, true));
    assert!(authorization.refused(1, at(10)));
    assert_eq!((authorization.state(), authorization.check_due), (AuthorizationState::Cancelled, false));
    assert!(!authorization.cancelled(at(1), at(11)), "known by now");
    assert_eq!(again(authorization, 2).state(), AuthorizationState::Incomplete, "whatever our clock says");
}

#[test]
fn a_cancellation_that_only_a_refused_call_showed_ends_with_a_later_reading() {
    let mut authorization = active("wpA", None);
    let before = (authorization.codes, authorization.changes);
    assert!(authorization.refused(1, at(9)));
    assert!(authorization.read(before.0, before.1, String::new(), agent(7, None)));
    let state = (authorization.state(), authorization.check_due);
    assert_eq!(state, (AuthorizationState::Cancelled, true), "the reading may be older than the refusal");
    let (codes, changes) = (authorization.codes, authorization.changes);
    assert!(authorization.read(codes, changes, String::new(), agent(7, None)));
    assert_eq!((authorization.state(), authorization.check_due), (AuthorizationState::Active, false));
    // One that WeCom reported does not.
    assert!(authorization.cancelled(at(2), at(10)));
    assert!(authorization.read(codes, changes, String::new(), agent(7, None)));
    assert_eq!(authorization.state(), AuthorizationState::Cancelled);
}

#[test]
fn what_was_read_with_an_older_code_is_ignored() {
    let mut authorization = again(authorized(1), 2);
    let before = authorization.clone();
    assert!(!authorization.read(1, 1, "x".into(), agent(7, None)));
    assert!(!authorization.refused(1, at(9)));
    assert_eq!(authorization, before);
}

#[test]
fn a_change_during_a_reading_is_read_too() {
    let mut authorization = authorized(1);
    authorization.changed(at(2));
    assert!(authorization.read(1, 1, String::new(), agent(7, None)));
    assert_eq!((authorization.state(), authorization.check_due), (AuthorizationState::Active, true));
    assert!(authorization.read(1, 2, String::new(), agent(8, None)));
    assert!(!authorization.check_due);
}

#[test]
fn a_long_name_is_cut_between_characters() {
    let granted = Granted { name: "牌".repeat(200), ..grant(1) };
    assert_eq!(Authorization::granted(None, granted, T0).name, "牌".repeat(128));
}

#[test]
fn a_dealer_is_of_the_brand_that_shared_the_app() {
    let all = [
        active("wpA", None),
        active("wpB", None),
        active("wpD1", Some(("wpA", 1))),
        active("wpD2", Some(("wpB", 1))),
        active("wpD3", Some(("wpA", 0))),
        active("wpD4", Some(("wwUnknown", 1))),
    ];
    let held = [active("wpD4", Some(("wwUnknown", 1)))];
    let of_at = |brand: &str, all: &[Authorization], now: Timestamp| {
        let dealers = dealers_of(&corp(brand), true, all, &held, now);
        dealers.iter().map(|dealer| dealer.corp_id.to_string()).collect::<Vec<_>>()
    };
    let of = |brand: &str, all: &[Authorization]| of_at(brand, all, T0);
    assert_eq!(of("wpA", &all), ["wpD1"]);
    assert_eq!(of("wpB", &all), ["wpD2"], "with two brands, an unknown id decides nothing");
    let one_brand: Vec<_> = all.iter().filter(|one| one.corp_id != corp("wpB")).cloned().collect();
    assert_eq!(of("wpA", &one_brand), ["wpD1", "wpD2", "wpD4"]);
    assert!(of("wpC", &one_brand).is_empty());
    // The brand of another app may not have authorised yet.
    let named: Vec<_> = dealers_of(&corp("wpA"), false, &one_brand, &[], T0).into_iter().cloned().collect();
    assert_eq!(named, [active("wpD1", Some(("wpA", 1)))]);
    // Another brand may be authorising again, and is read only later: only dealers held before stay.
    let unread = Authorization { agent: None, ..active("wpE", None) };
    let with_unread = [one_brand.clone(), vec![unread.clone()]].concat();
    assert_eq!(of("wpA", &with_unread), ["wpD1", "wpD4"]);
    // Not for ever, if it cannot be read; and not for one that has cancelled.
    assert_eq!(of_at("wpA", &with_unread, T0.plus_ms(READING_MS)), ["wpD1", "wpD2", "wpD4"]);
    let gone = Authorization { cancelled_at: Some(T0), ..unread };
    assert_eq!(of("wpA", &[one_brand, vec![gone]].concat()), ["wpD1", "wpD2", "wpD4"]);
}

/// Something that happens to an authorisation.
#[derive(Debug, Clone, Copy)]
enum News {
    Granted(u8),
    Cancelled(u8),
    /// `v2/get_auth_info` is called with the code of then.
    Call,
    /// The newest such call is answered, or the oldest.
    Answer {
        newest: bool,
    },
}

fn news() -> impl Strategy<Value = Vec<News>> {
    let one = prop_oneof![
        (1_u8..9).prop_map(News::Granted),
        (0_u8..9).prop_map(News::Cancelled),
        Just(News::Call),
        any::<bool>().prop_map(|newest| News::Answer { newest }),
    ];
    proptest::collection::vec(one, 0..14)
}

/// What WeCom says about the app when called with the code of `authorization`.
fn called(authorization: &Authorization) -> (u32, u32, Agent) {
    let agent_id = authorization.code.text[0].into();
    (authorization.codes, authorization.changes, agent(agent_id, None))
}

/// The record after the first grant and `news`, and after what is due has been read.
fn after(news: &[News]) -> Authorization {
    let (mut authorization, mut calls) = (authorized(0), Vec::new());
    for one in news {
        match *one {
            News::Granted(secs) => authorization = again(authorization, secs),
            News::Cancelled(secs) => drop(authorization.cancelled(at(secs.into()), T0)),
            News::Call => calls.push(called(&authorization)),
            News::Answer { newest } if !calls.is_empty() => {
                let (codes, changes, agent) = if newest { calls.pop().unwrap() } else { calls.remove(0) };
                authorization.read(codes, changes, String::new(), agent);
            }
            News::Answer { .. } => {}
        }
    }
    if authorization.check_due {
        let (codes, changes, agent) = called(&authorization);
        assert!(authorization.read(codes, changes, String::new(), agent));
    }
    // The counters are not news: they only have to differ.
    Authorization { codes: 0, changes: 0, ..authorization }
}

proptest! {
    #[test]
    fn an_authorization_ends_the_same_in_any_order_and_repetition(
        (news, shuffled) in news().prop_flat_map(|news| {
            let twice = [news.clone(), news.clone()].concat();
            (Just(news), Just(twice).prop_shuffle())
        }),
    ) {
        let end = after(&news);
        prop_assert!(!end.check_due);
        prop_assert_eq!(i64::from(end.code.text[0]), end.agent.as_ref().unwrap().agent_id);
        prop_assert_eq!(after(&shuffled), end);
    }
}
