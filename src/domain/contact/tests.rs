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

/// One thing that is learnt about a member and the customer.
#[derive(Debug, Clone)]
enum News {
    Event(ContactEvent, Timestamp),
    /// A list read at the second time had the relation, since the first.
    Listed(UserId, Option<String>, Timestamp, Timestamp),
    /// A complete traversal of the lists begun then did not have it.
    Missing(UserId, Timestamp),
}

fn listed(user: u8, state: Option<u8>, since: i64, seen_at: i64) -> News {
    let state = state.map(|s| format!("state{s}"));
    News::Listed(member(user), state, Timestamp::from_secs(since), Timestamp::from_secs(seen_at))
}

fn member(user: u8) -> UserId {
    UserId::new(format!("member{user}")).unwrap()
}

fn histories() -> impl Strategy<Value = Vec<News>> {
    let change = prop_oneof![
        Just(ContactChange::Added),
        Just(ContactChange::HalfAdded),
        Just(ContactChange::DeletedByMember),
        Just(ContactChange::DeletedByCustomer),
    ];
    let state = || proptest::option::of(0_u8..2);
    let events = (0_u8..3, change, state(), 0_i64..5).prop_map(|(user, change, state, at)| {
        News::Event(event(user, change, state), Timestamp::from_secs(at))
    });
    let lists = (0_u8..3, state(), 0_i64..5, 0_i64..900)
        .prop_map(|(user, state, since, seen_at)| listed(user, state, since, seen_at));
    let missing =
        (0_u8..3, 0_i64..900).prop_map(|(user, at)| News::Missing(member(user), Timestamp::from_secs(at)));
    proptest::collection::vec(prop_oneof![3 => events, 2 => lists, 1 => missing], 0..12)
}

fn learn(contact: &mut Contact, news: &News) {
    match news {
        News::Event(event, at) => drop(contact.apply(event, *at)),
        News::Listed(user_id, state, since, seen_at) => {
            let sighting = Sighting {
                external_userid: ExternalUserid::new("wmINVENTED").unwrap(),
                place: SightingPlace::Follower { user_id: user_id.clone(), state: state.clone() },
                since: Some(*since),
            };
            contact.see(&sighting, *seen_at);
        }
        News::Missing(user_id, at) => drop(contact.miss(user_id, *at)),
    }
}

fn after(history: &[News]) -> Contact {
    let mut contact = Contact::new(Source::Callback, Timestamp::EPOCH);
    for news in history {
        learn(&mut contact, news);
    }
    contact
}

proptest! {
    #[test]
    fn any_order_and_repetition_of_the_same_news_gives_the_same_contact(
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
fn a_list_read_after_a_member_deleted_the_customer_shows_that_they_met_again() {
    // `contact_list` gives the time of the first add.
    let is_follower = |change, seen_at| {
        let ended = News::Event(event(1, change, None), Timestamp::from_secs(1_000));
        !after(&[ended, listed(1, None, 10, seen_at)]).followers_now().is_empty()
    };
    assert!(is_follower(ContactChange::DeletedByMember, 2_000));
    // Too soon after the event: the clocks may differ, and the list may be older.
    assert!(!is_follower(ContactChange::DeletedByMember, 1_100));
    // A customer who deleted the member stays in the lists.
    assert!(!is_follower(ContactChange::DeletedByCustomer, 2_000));
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

#[test]
fn of_several_rows_about_one_member_the_newest_relation_has_the_state_whatever_the_order() {
    let row = |state: Option<&str>, since: i64| {
        let user_id = UserId::new("member1").unwrap();
        let place = SightingPlace::Follower { user_id, state: state.map(str::to_owned) };
        let external_userid = ExternalUserid::new("wmINVENTED").unwrap();
        Sighting { external_userid, place, since: Some(Timestamp::from_secs(since)) }
    };
    // The last list has no states: an absent one overwrites nothing.
    let rows = [row(Some("z-poster"), 10), row(Some("a-fair"), 30), row(Some("b-shop"), 20), row(None, 40)];
    let after = |order: [usize; 4]| {
        let mut contact = Contact::new(Source::Reconcile, Timestamp::EPOCH);
        for index in order.into_iter().chain(order) {
            contact.see(&rows[index], Timestamp::from_secs(100));
        }
        contact
    };
    let followers = after([0, 1, 2, 3]).followers_now();
    let shown = (followers[0].state.as_deref(), followers[0].added_at);
    assert_eq!(shown, (Some("a-fair"), Timestamp::from_secs(40)));
    for order in [[3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
        assert_eq!(after(order), after([0, 1, 2, 3]));
    }
}
