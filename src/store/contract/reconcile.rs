//! The comparison with WeCom's lists (runs, tasks, pages, missing followers), and the activity of dealers.

use super::*;
use crate::domain::audit::AuditBy;
use crate::domain::dealer::{DealerState, Qualification};
use crate::domain::dealer_activity::{DealerCounts, DealerTrouble, EventsSeen, NewActivity};
use crate::domain::event::{AppAlarm, AppAlarmKind};
use crate::domain::link::Source;
use crate::domain::reconcile::{ReconcilePlace, ReconcileTask};
use crate::domain::sighting::{Sighting, SightingPlace};

fn followed(person: u8, member: u8, since: Timestamp) -> Sighting {
    let user_id = UserId::new(format!("member{member}")).unwrap();
    let place = SightingPlace::Follower { user_id, state: None };
    Sighting { external_userid: customer(person), place, since: Some(since) }
}

fn at_page(cursor: &str) -> ReconcileTask {
    let place = ReconcilePlace::Contacts { cursor: cursor.to_owned(), since: T0 };
    ReconcileTask { begun_at: Some(T0), place, ..ReconcileTask::new() }
}

async fn task(store: &Tested) -> ReconcileTask {
    store.reconcile_tasks(&app()).await.unwrap().pop().expect("a task").1
}

async fn a_run_goes_on_where_it_was_and_counts_what_it_finds(place: &dyn Place) {
    let store = place.open().await;
    mint(&store, 1, 1, T0).await;
    store.append(added(3, 1)).await.unwrap();
    settle_next(&store, T0, Outcome::Missed).await;
    let corps = |ns: &[u8]| ns.iter().map(|n| (app(), corp(*n))).collect::<Vec<_>>();
    assert_eq!(store.begin_reconcile(corps(&[1]), T0).await.unwrap().dealers_total, 1);
    // Asking again joins the run.
    let joined = store.begin_reconcile(corps(&[1, 2]), T0.plus_ms(5)).await.unwrap();
    assert_eq!((joined.dealers_total, joined.started_at), (2, T0));
    let long_ago = T0.plus_ms(-300 * DAY_MS);
    let page = vec![followed(1, 1, long_ago), followed(2, 1, long_ago), followed(3, 1, T0)];
    let found = store.page_read(&app(), &corp(1), page.clone(), at_page("2"), T0).await.unwrap();
    assert_eq!(found, PageFound { new: 2, queued: 2 }, "one is known, and costs no lookup");
    let store = reopen(place, store).await;
    let tasks = store.reconcile_tasks(&app()).await.unwrap();
    assert_eq!(tasks[0].1, ReconcileTask { number: 1, rows_seen: 3, unresolved: 2, ..at_page("2") });
    assert_eq!(tasks.len(), 2);
    // The same page again, as after a crash.
    let found = store.page_read(&app(), &corp(1), page, at_page("2"), T0).await.unwrap();
    assert_eq!(found, PageFound::default());

    let mut outcomes = Vec::new();
    assert_eq!(store.lease(T0, 10, 0).await.unwrap(), [], "they do not go before an event");
    for work in store.lease(T0, 10, 10).await.unwrap() {
        let is_fan = work.contact.external_userid == customer(1);
        outcomes.push((work, if is_fan { Outcome::Resolved(pending(1)) } else { Outcome::Missed }));
    }
    store.settle(outcomes, T0).await.unwrap();
    assert_eq!(store.reconcile_tasks(&app()).await.unwrap()[0].1.unresolved, 0);
    // For a customer of long ago the early lookups are left out.
    assert_eq!(store.lease(T0.plus_ms(71 * HOUR_MS), 10, 10).await.unwrap().len(), 1);
    store.end_task(&app(), &corp(1), true, T0.plus_ms(7)).await.unwrap();
    assert!(store.reconcile_run().await.unwrap().unwrap().is_running());
    store.end_task(&app(), &corp(2), false, T0.plus_ms(8)).await.unwrap();
    let run = store.reconcile_run().await.unwrap().unwrap();
    assert_eq!(run.finished_at, Some(T0.plus_ms(8)));
    assert_eq!((run.dealers_done, run.customers_new, run.links_made), (2, 2, 1));
    let link = links_of(&store, LinkBy::Unionid(fan_key(1).unionid)).await.pop().unwrap();
    assert_eq!((link.source, link.followers[0].added_at), (Source::Reconcile, long_ago));
    assert_eq!(store.audit().await, Ok(vec![]));
    // Without any dealer it ends at once.
    assert!(!store.begin_reconcile(Vec::new(), T0).await.unwrap().is_running());
}

async fn a_lookup_that_has_to_wait_does_not_hold_up_the_run(place: &dyn Place) {
    let store = place.open().await;
    store.begin_reconcile(vec![(app(), corp(1))], T0).await.unwrap();
    store.page_read(&app(), &corp(1), vec![followed(1, 1, T0)], at_page(""), T0).await.unwrap();
    assert_eq!(task(&store).await.unresolved, 1);
    let reason = FailureReason { errcode: None, text: String::new() };
    let work = store.lease(T0, 1, 1).await.unwrap().pop().unwrap();
    let later = Outcome::Retry { due_at: T0.plus_ms(HOUR_MS), reason, spent: false };
    store.settle(vec![(work, later)], T0).await.unwrap();
    assert_eq!((task(&store).await.unresolved, store.counts().waiting), (0, 1));
}

async fn a_comparison_waits_for_no_lookup_of_an_earlier_one(place: &dyn Place) {
    let store = place.open().await;
    let unresolved =
        async |store: &Tested| store.reconcile_tasks(&app()).await.unwrap().swap_remove(0).1.unresolved;
    // The other dealer is still compared meanwhile: the second comparison is of the same run.
    store.begin_reconcile(vec![(app(), corp(2))], T0).await.unwrap();
    for person in [1, 2] {
        store.begin_reconcile(vec![(app(), corp(1))], T0).await.unwrap();
        store.page_read(&app(), &corp(1), vec![followed(person, 1, T0)], at_page(""), T0).await.unwrap();
        assert_eq!(unresolved(&store).await, 1);
        if person == 1 {
            store.end_task(&app(), &corp(1), false, T0).await.unwrap();
        }
    }
    let store = reopen(place, store).await;
    let mut work = store.lease(T0, 10, 10).await.unwrap();
    work.sort_by_key(|work| work.contact.clone());
    for (work, left) in work.into_iter().zip([1, 0]) {
        store.settle(vec![(work, Outcome::Missed)], T0).await.unwrap();
        assert_eq!(unresolved(&store).await, left);
    }
}

async fn followers_who_are_missing_leave_and_an_older_list_does_not_bring_them_back(place: &dyn Place) {
    let store = place.open().await;
    mint(&store, 1, 1, T0).await;
    store.append(added(1, 1)).await.unwrap();
    settle_next(&store, T0, Outcome::Resolved(pending(1))).await;
    let begun_at = T0.plus_ms(HOUR_MS);
    store.begin_reconcile(vec![(app(), corp(1))], begun_at).await.unwrap();
    let page = vec![followed(1, 2, T0.plus_ms(60_000))];
    store.page_read(&app(), &corp(1), page, at_page(""), begun_at).await.unwrap();
    let missing = store.missing_followers(&app(), &corp(1), begun_at).await.unwrap();
    assert_eq!(missing, (2, vec![(customer(1), UserId::new("member1").unwrap())]));
    store.remove_followers(&app(), &corp(1), missing.1, begun_at, begun_at).await.unwrap();
    let followers = async |store: &Tested| {
        let link = links_of(store, LinkBy::Unionid(fan_key(1).unionid)).await.pop().unwrap();
        link.followers.iter().map(|follower| follower.user_id.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(followers(&store).await, ["member2"], "the link stays");
    let changes: Vec<_> = store.feed(0, 10, T0).await.unwrap().iter().map(|entry| entry.change).collect();
    assert_eq!(changes, [ChangeType::Created, ChangeType::FollowerAdded, ChangeType::FollowerRemoved]);
    assert_eq!(store.missing_followers(&app(), &corp(1), begun_at).await.unwrap(), (1, vec![]));
    // An event from before does not bring the follower back, one from after does.
    store.append(arrival(event(1, 1, 1, ContactChange::HalfAdded, 9))).await.unwrap();
    settle_next(&store, begun_at, Outcome::Applied).await;
    assert_eq!(followers(&store).await, ["member2"]);
    store.append(arrival(event(1, 1, 1, ContactChange::Added, 7_200))).await.unwrap();
    settle_next(&store, begun_at, Outcome::Applied).await;
    assert_eq!(followers(&store).await.len(), 2);
}

async fn a_list_with_the_first_add_confirms_a_customer_who_was_erased_and_added_again(place: &dyn Place) {
    let store = place.open().await;
    let person = PersonId::ExternalUserid(customer(1));
    store.forget(&person, None, AuditBy::service(), T0.plus_ms(-60_000)).await.unwrap();
    store.append(added(1, 1)).await.unwrap();
    settle_next(&store, T0, Outcome::Missed).await;
    let begun_at = T0.plus_ms(HOUR_MS);
    store.begin_reconcile(vec![(app(), corp(1))], begun_at).await.unwrap();
    let long_ago = T0.plus_ms(-DAY_MS);
    let page = [1, 2].map(|member| followed(1, member, long_ago)).to_vec();
    store.page_read(&app(), &corp(1), page, at_page(""), begun_at).await.unwrap();
    let missing = store.missing_followers(&app(), &corp(1), begun_at).await;
    assert_eq!(missing, Ok((1, vec![])), "the other member's add was erased");
    // Also after a list that lacked the member by mistake.
    let member = vec![(customer(1), UserId::new("member1").unwrap())];
    let later = begun_at.plus_ms(HOUR_MS);
    store.remove_followers(&app(), &corp(1), member, later, later).await.unwrap();
    assert_eq!(store.missing_followers(&app(), &corp(1), later).await, Ok((0, vec![])));
    let even_later = later.plus_ms(HOUR_MS);
    store.page_read(&app(), &corp(1), vec![followed(1, 1, long_ago)], at_page(""), even_later).await.unwrap();
    assert_eq!(store.missing_followers(&app(), &corp(1), even_later).await, Ok((1, vec![])));
}

async fn a_removal_after_an_erasure_lets_no_list_bring_the_customer_back(place: &dyn Place) {
    let store = place.open().await;
    let person = PersonId::ExternalUserid(customer(1));
    store.forget(&person, None, AuditBy::service(), T0.plus_ms(-60_000)).await.unwrap();
    store.append(arrival(event(1, 1, 1, ContactChange::DeletedByCustomer, 0))).await.unwrap();
    settle_next(&store, T0, Outcome::Applied).await;
    store.begin_reconcile(vec![(app(), corp(1))], T0).await.unwrap();
    let page = vec![followed(1, 1, T0.plus_ms(-DAY_MS))];
    let found = store.page_read(&app(), &corp(1), page, at_page(""), T0).await.unwrap();
    assert_eq!(found, PageFound::default());
    assert_eq!(store.lease(T0, 10, 10).await.unwrap(), []);
}

async fn a_dealer_leaves_and_takes_up_where_it_was(place: &dyn Place) {
    let store = place.open().await;
    let dealer = |n: u8| Dealer::listed(corp(n), i64::from(n), format!("Dealer {n}"), T0);
    let put = async |store: &Tested, ns: &[u8]| {
        store.put_dealers(&app(), ns.iter().map(|n| dealer(*n)).collect()).await.unwrap()
    };
    assert_eq!(put(&store, &[1, 2]).await, [corp(1), corp(2)]);
    store.set_token_owner(&app(), &corp(1), TokenOwner::Upstream).await.unwrap();
    store.set_qualification(&app(), &corp(2), Qualification::Unverified).await.unwrap();
    assert_eq!(store.dealer_left(&app(), &corp(1), T0).await, Ok(true));
    assert_eq!(store.dealer_left(&app(), &corp(1), T0.plus_ms(1)).await, Ok(false));
    assert_eq!(store.dealer_left(&app(), &corp(3), T0).await, Ok(false));
    let store = reopen(place, store).await;
    let states = async |store: &Tested| {
        let rows = store.dealer_rows(&app()).await.unwrap();
        rows.iter().map(|row| row.dealer.state()).collect::<Vec<_>>()
    };
    assert_eq!(states(&store).await, [DealerState::Left, DealerState::Unverified]);
    assert_eq!(put(&store, &[1, 2]).await, [corp(1)]);
    assert_eq!(states(&store).await, [DealerState::Shared, DealerState::Unverified]);
    assert_eq!(store.dealer(&app(), &corp(1)).await.unwrap().unwrap().token, Some(TokenOwner::Upstream));

    let seen = EventsSeen { first_at: T0, last_at: T0.plus_ms(5), count: 3 };
    let seen = NewActivity { seen: Some(seen), trouble: None };
    let trouble = DealerTrouble { errcode: Some(60_011), text: "not visible".to_owned(), at: T0 };
    let with_trouble = NewActivity { trouble: Some(trouble.clone()), ..seen.clone() };
    let moment = Moment::on_the_wall(T0, None);
    let recorded = store.record_activity(vec![(app(), corp(1), with_trouble)], Some(moment)).await;
    assert_eq!(recorded, Ok(vec![]));
    store.set_silent(&app(), &corp(1), T0).await.unwrap();
    store.append(added(1, 1)).await.unwrap();
    settle_next(&store, T0, Outcome::Missed).await;
    let store = reopen(place, store).await;
    let row = store.dealer_rows(&app()).await.unwrap().remove(0);
    assert_eq!(row.counts, DealerCounts { customers: 1, links: 0 });
    assert_eq!((row.activity.days[0].events, row.activity.trouble), (3, Some(trouble)));
    assert_eq!(store.last_moment().await, Ok(Some(moment)));
    let other = DealerTrouble { errcode: Some(84_061), text: "not visible".to_owned(), at: T0 };
    store.set_trouble(&app(), &corp(1), other.clone()).await.unwrap();
    assert_eq!(store.record_activity(vec![(app(), corp(1), seen)], None).await, Ok(vec![corp(1)]));
    let row = store.dealer_rows(&app()).await.unwrap().remove(0);
    assert_eq!((row.activity.days[0].events, row.activity.trouble), (6, Some(other)));
    assert_eq!(store.last_moment().await, Ok(Some(moment)));
}

async fn an_alarm_lasts_until_its_end_whatever_the_order(place: &dyn Place) {
    let store = place.open().await;
    let alarm = |kind, secs: i64| {
        let created_at = T0.plus_ms(secs * SECOND_MS);
        let alarm = AppAlarm { corp_id: corp(1), kind, created_at, effect_at: None };
        let digest = MessageDigest::of(&app(), format!("{alarm:?}").as_bytes());
        Arrival { digest, payload: Payload::Alarm(alarm), ..added(1, 1) }
    };
    let kinds = async |store: &Tested| {
        store.alarms().await.unwrap().into_iter().map(|(_, alarm)| alarm.kind).collect::<Vec<_>>()
    };
    store.append(alarm(AppAlarmKind::LowActiveAlert, 1)).await.unwrap();
    store.append(alarm(AppAlarmKind::InactiveAlert, 2)).await.unwrap();
    let store = reopen(place, store).await;
    assert_eq!(kinds(&store).await, [AppAlarmKind::LowActiveAlert, AppAlarmKind::InactiveAlert]);
    store.append(alarm(AppAlarmKind::ActiveRestored, 9)).await.unwrap();
    store.append(alarm(AppAlarmKind::LowActive, 5)).await.unwrap();
    assert_eq!(kinds(&store).await, [AppAlarmKind::InactiveAlert]);
}

contract!(
    a_run_goes_on_where_it_was_and_counts_what_it_finds,
    a_lookup_that_has_to_wait_does_not_hold_up_the_run,
    a_comparison_waits_for_no_lookup_of_an_earlier_one,
    followers_who_are_missing_leave_and_an_older_list_does_not_bring_them_back,
    a_list_with_the_first_add_confirms_a_customer_who_was_erased_and_added_again,
    a_removal_after_an_erasure_lets_no_list_bring_the_customer_back,
    a_dealer_leaves_and_takes_up_where_it_was,
    an_alarm_lasts_until_its_end_whatever_the_order,
);
