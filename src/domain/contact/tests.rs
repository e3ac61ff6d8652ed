//! Histories of events and lists in any order.

use super::super::ids::{AppName, CorpId, ExternalUserid, Unionid};
use super::*;
use proptest::prelude::*;

fn event(user: u8, change: ContactChange, state: Option<u8>) -> ContactEvent {
    ContactEvent {
        change,
        user_id: UserId::new(format!("member{user}")).unwrap(),
        external_userid: ExternalUserid::new("wmINVENTED").unwrap(),
        state: state.map(|s| format!("state{s}")),
        welcome_code: None,
    }
}

fn histories() -> impl Strategy<Value = Vec<(ContactEvent, Timestamp)>> {
    let change = prop_oneof![
        Just(ContactChange::Added),
        Just(ContactChange::HalfAdded),
        Just(ContactChange::DeletedByMember),
        Just(ContactChange::DeletedByCustomer),
    ];
    let one = (0_u8..3, change, proptest::option::of(0_u8..2), 0_i64..5)
        .prop_map(|(user, change, state, at)| (event(user, change, state), Timestamp::from_secs(at)));
    proptest::collection::vec(one, 0..12)
}

fn after(history: &[(ContactEvent, Timestamp)]) -> Contact {
    let mut contact = Contact::new(Source::Callback, Timestamp::EPOCH);
    for (event, at) in history {
        contact.apply(event, *at);
    }
    contact
}

proptest! {
    #[test]
    fn any_order_and_repetition_of_the_same_events_gives_the_same_contact(
        history in histories(), shuffle in proptest::collection::vec(any::<usize>(), 24)
    ) {
        let mut other = history.clone();
        other.extend(history.iter().rev().cloned());
        for (i, j) in shuffle.iter().enumerate() {
            if !other.is_empty() {
                let (a, b) = (i % other.len(), j % other.len());
                other.swap(a, b);
            }
        }
        prop_assert_eq!(after(&history), after(&other));
    }
}

#[test]
fn an_older_add_does_not_bring_back_a_follower_who_left() {
    let mut contact = Contact::new(Source::Callback, Timestamp::EPOCH);
    contact.apply(&event(1, ContactChange::DeletedByMember, None), Timestamp::from_secs(20));
    contact.apply(&event(1, ContactChange::Added, None), Timestamp::from_secs(10));
    assert!(contact.followers_now().is_empty());
    contact.apply(&event(1, ContactChange::Added, Some(1)), Timestamp::from_secs(30));
    assert_eq!(contact.followers_now().len(), 1);
}

#[test]
fn a_welcome_code_can_be_used_for_twenty_seconds() {
    let mut contact = Contact::new(Source::Callback, Timestamp::EPOCH);
    let mut add = event(1, ContactChange::Added, None);
    add.welcome_code = Some("CODE".to_owned());
    contact.apply(&add, Timestamp::from_secs(100));
    assert_eq!(contact.welcome_code(Timestamp::from_secs(119)), Some("CODE"));
    assert_eq!(contact.welcome_code(Timestamp::from_secs(120)), None);
}

#[test]
fn the_number_of_followers_kept_is_bounded_and_those_who_left_go_first() {
    let mut contact = Contact::new(Source::Callback, Timestamp::EPOCH);
    contact.apply(&event(0, ContactChange::DeletedByMember, None), Timestamp::from_secs(1_000));
    for n in 0..FOLLOWERS_MAX {
        let mut add = event(1, ContactChange::Added, None);
        add.user_id = UserId::new(format!("m{n}")).unwrap();
        contact.apply(&add, Timestamp::from_secs(i64::try_from(n).unwrap()));
    }
    assert_eq!(contact.followers_now().len(), FOLLOWERS_MAX);
    // An add that is older than all of them changes nothing, not even for a linked customer.
    let claim = Claim {
        contact: ContactKey {
            app: AppName::new("brand").unwrap(),
            corp_id: CorpId::new("wpDEALER").unwrap(),
            external_userid: ExternalUserid::new("wmINVENTED").unwrap(),
        },
        unionid: Unionid::new("oFAN").unwrap(),
        pending_id: None,
        source: None,
        evidence_at: Timestamp::EPOCH,
    };
    contact.accept(&claim, "lnk_1".to_owned(), Timestamp::EPOCH);
    let before = contact.clone();
    assert_eq!(contact.apply(&event(9, ContactChange::Added, None), Timestamp::from_secs(-1)), None);
    assert_eq!(contact, before);
    assert!(contact.apply(&event(9, ContactChange::Added, None), Timestamp::from_secs(2_000)).is_some());
}
