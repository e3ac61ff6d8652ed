//! The dealers' side: the inbox (deduplication, leases, retries, dead letters, quarantine), links between
//! customers and fans, and followers.

use super::*;

async fn a_repeated_message_is_stored_once(place: &dyn Place) {
    let store = place.open().await;
    assert!(matches!(store.append(added(1, 1)).await, Ok(Appended::New(_))));
    assert_eq!(store.append(added(1, 1)).await, Ok(Appended::Duplicate));
    let store = reopen(place, store).await;
    assert_eq!(store.append(added(1, 1)).await, Ok(Appended::Duplicate));
    // Two customers added within one second are two events.
    assert!(matches!(store.append(added(2, 1)).await, Ok(Appended::New(_))));
    assert_eq!(store.counts().inbox, 2);
    assert_eq!(store.lease(T0, 10, 10).await.unwrap().len(), 2);
}

async fn leased_work_is_not_leased_again_until_a_restart(place: &dyn Place) {
    let store = place.open().await;
    store.append(added(1, 1)).await.unwrap();
    assert_eq!(store.next_due().await, Ok(Some(T0)));
    assert_eq!(store.lease(T0, 10, 10).await.unwrap().len(), 1);
    assert_eq!(store.lease(T0, 10, 10).await.unwrap().len(), 0);
    assert_eq!(store.next_due().await, Ok(None));
    assert_eq!(store.events(EventState::Leased, EventId(0), 10).await.unwrap().len(), 1);
    assert_eq!(store.events(EventState::Waiting, EventId(0), 10).await.unwrap().len(), 0);
    let store = reopen(place, store).await;
    assert_eq!(store.lease(T0, 10, 10).await.unwrap().len(), 1);
}

async fn work_that_was_put_off_waits_until_it_is_taken_up_or_a_restart(place: &dyn Place) {
    let store = place.open().await;
    for n in [1, 2] {
        store.append(added(n, 1)).await.unwrap();
    }
    let ids: Vec<_> = store.lease(T0, 10, 10).await.unwrap().into_iter().map(|work| work.id).collect();
    store.put_off(&ids).await;
    assert_eq!(store.lease(T0, 10, 10).await, Ok(Vec::new()));
    assert_eq!(store.next_due().await, Ok(None));
    assert_eq!(store.events(EventState::Leased, EventId(0), 10).await, Ok(Vec::new()));
    assert_eq!(store.events(EventState::Waiting, EventId(0), 10).await.unwrap().len(), 2);
    store.take_up(&ids[..1]).await;
    assert_eq!(store.next_due().await, Ok(Some(T0)));
    let again = store.lease(T0, 10, 10).await.unwrap();
    assert_eq!(again.iter().map(|work| &work.id).collect::<Vec<_>>(), [&ids[0]]);
    // Taking up what is settled, or was never put off, has no effect.
    store.settle(again.into_iter().map(|work| (work, Outcome::Missed)).collect(), T0).await.unwrap();
    store.take_up(&ids[..1]).await;
    assert_eq!(store.lease(T0, 10, 10).await, Ok(Vec::new()));
    let store = reopen(place, store).await;
    assert_eq!(store.lease(T0, 10, 10).await.unwrap().len(), 1);
}

async fn customer_and_fan_are_linked_in_either_order(place: &dyn Place) {
    let store = place.open().await;
    mint(&store, 1, 1, T0).await;
    store.append(added(1, 1)).await.unwrap();
    settle_next(&store, T0, Outcome::Resolved(pending(1))).await;
    // The other way round, with a restart between.
    store.append(added(2, 1)).await.unwrap();
    settle_next(&store, T0, Outcome::Resolved(pending(2))).await;
    let store = reopen(place, store).await;
    mint(&store, 2, 2, T0).await;

    for n in [1, 2] {
        for by in [
            LinkBy::Unionid(fan_key(n).unionid),
            LinkBy::ExternalUserid(customer(n)),
            LinkBy::PendingId(pending(n)),
        ] {
            let links = links_of(&store, by).await;
            assert_eq!(links.len(), 1);
            assert_eq!(links[0].unionid, fan_key(n).unionid);
            assert_eq!(links[0].external_userid, customer(n));
            assert_eq!(links[0].corp_id, corp(1));
            assert_eq!(links[0].pending_id, Some(pending(n)));
            assert_eq!(links[0].followers.len(), 1);
            assert_eq!(links[0].followers[0].state.as_deref(), Some("spring"));
        }
    }
    let feed = store.feed(0, 10, T0).await.unwrap();
    assert_eq!(
        feed.iter().map(|e| (e.seq, e.change)).collect::<Vec<_>>(),
        [(1, ChangeType::Created), (2, ChangeType::Created)]
    );
    let welcome_code = |entry: &FeedEntry| entry.data.link().and_then(|link| link.welcome_code.clone());
    assert_eq!(welcome_code(&feed[0]).as_deref(), Some("WELCOME"));
    assert_eq!(feed[0].id, feed[0].data.link_id());
    assert_ne!(feed[0].id, feed[1].id);
    assert_eq!(*store.feed_head().borrow(), 2);
    assert_eq!(welcome_code(&store.feed(1, 10, T0.plus_ms(20_000)).await.unwrap()[0]), None);
    let Counts { links, contacts, inbox, feed_head, .. } = store.counts();
    assert_eq!((links, contacts, inbox, tally(&store).await.minted, feed_head), (2, 2, 0, 2, 2));
}

async fn one_person_at_two_dealers_is_two_links(place: &dyn Place) {
    let store = place.open().await;
    for dealer in [1, 2] {
        store.append(added(dealer, dealer)).await.unwrap();
        settle_next(&store, T0, Outcome::Resolved(pending(7))).await;
    }
    mint(&store, 7, 7, T0).await;
    let links = links_of(&store, LinkBy::Unionid(fan_key(7).unionid)).await;
    assert_eq!(links.iter().map(|l| &l.corp_id).collect::<Vec<_>>(), [&corp(1), &corp(2)]);
    let by_dealer = LinkQuery { by: LinkBy::PendingId(pending(7)), corp_id: Some(corp(2)), app: Some(app()) };
    assert_eq!(store.links(&by_dealer, T0).await.unwrap().len(), 1);
    let elsewhere = LinkQuery { app: Some(AppName::new("other").unwrap()), ..by_dealer };
    assert_eq!(store.links(&elsewhere, T0).await.unwrap().len(), 0);
}

async fn work_settled_twice_is_applied_once(place: &dyn Place) {
    let store = place.open().await;
    mint(&store, 1, 1, T0).await;
    store.append(added(1, 1)).await.unwrap();
    let work = store.lease(T0, 1, 1).await.unwrap().pop().unwrap();
    let outcome = (work, Outcome::Resolved(pending(1)));
    store.settle(vec![outcome.clone()], T0).await.unwrap();
    let store = reopen(place, store).await;
    store.settle(vec![outcome.clone(), outcome], T0).await.unwrap();
    assert_eq!((store.counts().links, store.counts().inbox, store.counts().feed_head), (1, 0, 1));
}

async fn a_customer_without_a_pending_id_is_asked_about_again_on_schedule(place: &dyn Place) {
    let store = place.open().await;
    mint(&store, 1, 1, T0).await;
    store.append(added(1, 1)).await.unwrap();
    settle_next(&store, T0, Outcome::Missed).await;
    assert_eq!((store.counts().inbox, store.counts().waiting), (0, 1));
    let mut now = T0;
    for wait in crate::domain::backoff::REASK_AFTER_MS {
        assert_eq!(store.lease(now.plus_ms(wait - 1), 1, 1).await.unwrap().len(), 0);
        now = now.plus_ms(wait);
        assert_eq!(store.next_due().await, Ok(Some(now)));
        let work = store.lease(now, 1, 1).await.unwrap().pop().unwrap();
        assert!(work.event.is_none() && work.known.is_some());
        store.settle(vec![(work, Outcome::Missed)], now).await.unwrap();
    }
    assert_eq!((store.counts().waiting, store.next_due().await), (0, Ok(None)));
    // A new event about the customer restarts the schedule; this time WeCom returns a pending id.
    store.append(arrival(event(1, 1, 2, ContactChange::Added, 9))).await.unwrap();
    settle_next(&store, now, Outcome::Missed).await;
    assert_eq!(store.counts().waiting, 1);
    settle_next(&store, now.plus_ms(MINUTE_MS), Outcome::Resolved(pending(1))).await;
    assert_eq!((store.counts().waiting, store.counts().links), (0, 1));
    assert_eq!(links_of(&store, LinkBy::ExternalUserid(customer(1))).await[0].followers.len(), 2);
}

async fn added_and_removed_followers_of_a_link_are_on_the_feed(place: &dyn Place) {
    let store = place.open().await;
    mint(&store, 1, 1, T0).await;
    store.append(added(1, 1)).await.unwrap();
    settle_next(&store, T0, Outcome::Resolved(pending(1))).await;
    for (member, change, at) in [
        (2, ContactChange::HalfAdded, 5),
        (2, ContactChange::Added, 6),
        (1, ContactChange::DeletedByCustomer, 7),
        (1, ContactChange::Added, 3), // older than the deletion
    ] {
        store.append(arrival(event(1, 1, member, change, at))).await.unwrap();
        settle_next(&store, T0, Outcome::Applied).await;
    }
    let store = reopen(place, store).await;
    let changes: Vec<_> = store.feed(0, 10, T0).await.unwrap().iter().map(|e| e.change).collect();
    assert_eq!(changes, [ChangeType::Created, ChangeType::FollowerAdded, ChangeType::FollowerRemoved]);
    let links = links_of(&store, LinkBy::Unionid(fan_key(1).unionid)).await;
    assert_eq!(links[0].followers.iter().map(|f| f.user_id.as_str()).collect::<Vec<_>>(), ["member2"]);
}

async fn a_retry_is_leased_when_due_with_its_reason(place: &dyn Place) {
    let store = place.open().await;
    store.append(added(1, 1)).await.unwrap();
    let reason = FailureReason { errcode: Some(-1), text: "busy".to_owned() };
    let later = T0.plus_ms(HOUR_MS);
    settle_next(&store, T0, Outcome::Retry { due_at: later, reason: reason.clone(), spent: true }).await;
    let store = reopen(place, store).await;
    assert_eq!(store.lease(T0, 1, 1).await.unwrap().len(), 0);
    assert_eq!(store.next_due().await, Ok(Some(later)));
    let work = store.lease(later, 1, 1).await.unwrap().pop().unwrap();
    let event = work.event.clone().unwrap();
    assert_eq!((event.attempts, event.failure.as_ref()), (1, Some(&reason)));
    let unspent = Outcome::Retry { due_at: later, reason, spent: false };
    store.settle(vec![(work, unspent)], later).await.unwrap();
    let work = store.lease(later, 1, 1).await.unwrap().pop().unwrap();
    assert_eq!(work.event.unwrap().attempts, 1);
    assert_eq!(store.counts().inbox, 1);
}

async fn work_deferred_until_an_instant_can_be_brought_forward(place: &dyn Place) {
    let store = place.open().await;
    let reason = FailureReason { errcode: Some(60_020), text: "not trusted".to_owned() };
    let (probe, later) = (T0.plus_ms(HOUR_MS), T0.plus_ms(2 * HOUR_MS));
    let until = |due_at| Outcome::Retry { due_at, reason: reason.clone(), spent: false };
    for (person, outcome) in [(1, until(probe)), (2, until(later)), (3, Outcome::Missed)] {
        store.append(added(person, 1)).await.unwrap();
        settle_next(&store, T0, outcome).await;
    }
    // The third customer waits to be looked up again.
    settle_next(&store, T0.plus_ms(MINUTE_MS), until(probe)).await;
    let now = T0.plus_ms(2 * MINUTE_MS);
    assert_eq!(store.lease(now, 9, 9).await.unwrap(), []);
    assert_eq!(store.bring_forward(probe, now).await, Ok(2));
    assert_eq!(store.bring_forward(probe, now).await, Ok(0));
    let store = reopen(place, store).await;
    assert_eq!((store.counts().inbox, store.counts().waiting), (2, 1));
    let due = store.lease(now, 9, 9).await.unwrap();
    assert_eq!(
        due.iter().map(|work| &work.contact).collect::<Vec<_>>(),
        [&contact_key(1, 1), &contact_key(3, 1)]
    );
    let event = due[0].event.as_ref().unwrap();
    assert_eq!((event.attempts, event.failure.as_ref()), (0, Some(&reason)));
    // Leased work stays as it is.
    assert_eq!(store.bring_forward(now, later).await, Ok(0));
    let settled = due.into_iter().map(|work| (work, Outcome::Resolved(pending(9)))).collect();
    store.settle(settled, now).await.unwrap();
    assert_eq!((store.counts().inbox, store.counts().waiting), (1, 0));
}

async fn settling_returns_when_the_events_that_led_to_a_link_were_received(place: &dyn Place) {
    let store = place.open().await;
    mint(&store, 1, 1, T0).await;
    let received = |seconds| T0.plus_ms(seconds * SECOND_MS);
    for (person, seconds) in [(1, 5), (2, 6)] {
        store.append(Arrival { received_at: received(seconds), ..added(person, 1) }).await.unwrap();
    }
    let now = T0.plus_ms(HOUR_MS);
    let resolved: Vec<_> = store
        .lease(now, 9, 9)
        .await
        .unwrap()
        .into_iter()
        .zip([pending(1), pending(2)])
        .map(|(work, pending_id)| (work, Outcome::Resolved(pending_id)))
        .collect();
    assert_eq!(store.settle(resolved.clone(), now).await, Ok(vec![received(5)]));
    assert_eq!(store.settle(resolved, now).await, Ok(Vec::new()), "settled before");
    // The second customer is linked when the fan arrives, and the first has another follower: neither is new.
    mint(&store, 2, 2, now).await;
    store.append(arrival(event(1, 1, 2, ContactChange::Added, 9))).await.unwrap();
    let work = store.lease(now, 1, 1).await.unwrap().pop().unwrap();
    assert_eq!(store.settle(vec![(work, Outcome::Applied)], now).await, Ok(Vec::new()));
    assert_eq!(store.counts().links, 2);
}

async fn a_dead_letter_is_kept_and_can_be_redriven(place: &dyn Place) {
    let store = place.open().await;
    store.append(added(1, 1)).await.unwrap();
    let reason = FailureReason { errcode: Some(40_096), text: "not a customer".to_owned() };
    settle_next(&store, T0, Outcome::Dead(reason)).await;
    let store = reopen(place, store).await;
    assert_eq!((store.counts().dead, store.counts().inbox), (1, 0));
    let rows = store.events(EventState::Dead, EventId(0), 10).await.unwrap();
    let EventRow::Dead { event, .. } = &rows[0] else { panic!("{rows:?}") };
    assert_eq!(event.failure.as_ref().and_then(|p| p.errcode), Some(40_096));
    assert!(store.redrive(event.id, None, T0).await.unwrap());
    assert!(!store.redrive(event.id, None, T0).await.unwrap(), "redriving is idempotent");
    assert_eq!((store.counts().dead, store.counts().inbox), (0, 1));
    settle_next(&store, T0, Outcome::Resolved(pending(1))).await;
}

async fn a_quarantined_message_is_kept_whole_and_can_be_redriven(place: &dyn Place) {
    let store = place.open().await;
    let message: Vec<u8> = (0..60_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let quarantine = Arrival {
        app: app(),
        digest: MessageDigest::of(&app(), &message),
        received_at: T0,
        payload: Payload::Quarantine {
            reason: QuarantineReason::NotUnderstood("a text ".repeat(1_000)),
            receive_id: "wwOTHER".to_owned(),
            created_at: None,
            message: message.clone(),
            event: None,
        },
    };
    let Ok(Appended::New(id)) = store.append(quarantine.clone()).await else { panic!("not stored") };
    assert_eq!(store.append(quarantine).await, Ok(Appended::Duplicate));
    let store = reopen(place, store).await;
    assert_eq!(store.quarantined_message(id).await.unwrap(), Some(message));
    let rows = store.events(EventState::Quarantined, EventId(0), 10).await.unwrap();
    let EventRow::Quarantined(row) = &rows[0] else { panic!("{rows:?}") };
    assert_eq!((row.message_bytes, row.receive_id.as_str()), (60_000, "wwOTHER"));
    assert!(
        store.redrive(id, Some(Payload::Event(event(1, 1, 1, ContactChange::Added, 0))), T0).await.unwrap()
    );
    assert_eq!(store.quarantined_message(id).await.unwrap(), None);
    assert_eq!((store.counts().quarantined, store.counts().inbox), (0, 1));
    assert_eq!(store.lease(T0, 1, 1).await.unwrap()[0].event.as_ref().unwrap().id, id);
}

async fn discarded_events_are_gone_for_good_and_those_in_the_inbox_are_not_discarded(place: &dyn Place) {
    let store = place.open().await;
    store.append(added(1, 1)).await.unwrap();
    settle_next(&store, T0, Outcome::Dead(FailureReason { errcode: None, text: String::new() })).await;
    let quarantine = Arrival {
        app: app(),
        digest: MessageDigest([7; 16]),
        received_at: T0,
        payload: Payload::Quarantine {
            reason: QuarantineReason::ReceiveId,
            receive_id: "wwOTHER".to_owned(),
            created_at: None,
            message: vec![7; 9_000],
            event: None,
        },
    };
    store.append(quarantine.clone()).await.unwrap();
    store.append(added(2, 1)).await.unwrap();
    let ids = || (1..=4).map(EventId).collect();
    let expected = [Ok(Some(EventState::Dead)), Ok(Some(EventState::Quarantined)), Ok(None), Ok(None)];
    assert_eq!(store.discard(ids()).await, expected);
    let store = reopen(place, store).await;
    assert_eq!(store.discard(ids()).await, [Ok(None), Ok(None), Ok(None), Ok(None)]);
    let Counts { inbox, dead, quarantined, .. } = store.counts();
    assert_eq!((inbox, dead, quarantined), (1, 0, 0));
    assert_eq!(store.append(quarantine).await, Ok(Appended::Duplicate), "WeCom repeats it");
    for id in 1..=2 {
        assert_eq!(store.redrive(EventId(id), None, T0).await, Ok(false));
    }
}

async fn a_full_inbox_refuses_events_until_there_is_room(place: &dyn Place) {
    let settings = Settings { inbox_events_max: 2, cache_mb: 8, free_mb_min: 1, ..Settings::default() };
    let store = place.open_with(settings).await;
    store.append(added(1, 1)).await.unwrap();
    store.append(added(2, 1)).await.unwrap();
    assert_eq!(store.append(added(3, 1)).await, Err(StoreError::InboxFull { limit: 2 }));
    assert_eq!(store.ready(), Err(StoreError::InboxFull { limit: 2 }));
    assert_eq!(
        store.append(added(1, 1)).await,
        Ok(Appended::Duplicate),
        "a stored message may be acknowledged"
    );
    settle_next(&store, T0, Outcome::Missed).await;
    assert!(
        matches!(store.append(added(3, 1)).await, Ok(Appended::New(_))),
        "the refused message was not recorded as seen"
    );
    settle_next(&store, T0, Outcome::Missed).await;
    assert_eq!(store.ready(), Ok(()));
}

async fn messages_of_unserved_corps_leave_half_of_the_quarantine_to_others(place: &dyn Place) {
    let settings = Settings { inbox_events_max: 4, cache_mb: 8, free_mb_min: 1, ..Settings::default() };
    let store = place.open_with(settings).await;
    let quarantine = |n: u8, reason| {
        let payload = Payload::Quarantine {
            reason,
            receive_id: String::new(),
            created_at: None,
            message: vec![n],
            event: None,
        };
        store.append(Arrival { app: app(), digest: MessageDigest([n; 16]), received_at: T0, payload })
    };
    let unrouted = || QuarantineReason::Unrouted { corp_id: corp(1) };
    for n in 1..=2 {
        assert!(matches!(quarantine(n, unrouted()).await, Ok(Appended::New(_))));
    }
    assert_eq!(quarantine(3, unrouted()).await, Err(StoreError::InboxFull { limit: 2 }));
    for n in 4..=5 {
        assert!(matches!(quarantine(n, QuarantineReason::ReceiveId).await, Ok(Appended::New(_))));
    }
    assert_eq!(quarantine(6, QuarantineReason::ReceiveId).await, Err(StoreError::InboxFull { limit: 4 }));
}

contract!(
    a_repeated_message_is_stored_once,
    leased_work_is_not_leased_again_until_a_restart,
    work_that_was_put_off_waits_until_it_is_taken_up_or_a_restart,
    customer_and_fan_are_linked_in_either_order,
    one_person_at_two_dealers_is_two_links,
    work_settled_twice_is_applied_once,
    a_customer_without_a_pending_id_is_asked_about_again_on_schedule,
    added_and_removed_followers_of_a_link_are_on_the_feed,
    a_retry_is_leased_when_due_with_its_reason,
    work_deferred_until_an_instant_can_be_brought_forward,
    settling_returns_when_the_events_that_led_to_a_link_were_received,
    a_dead_letter_is_kept_and_can_be_redriven,
    a_quarantined_message_is_kept_whole_and_can_be_redriven,
    discarded_events_are_gone_for_good_and_those_in_the_inbox_are_not_discarded,
    a_full_inbox_refuses_events_until_there_is_room,
    messages_of_unserved_corps_leave_half_of_the_quarantine_to_others,
);
