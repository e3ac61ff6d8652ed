//! What several stores on one database have in common: leases, a clock, what they tell each other, and erasures.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_duty_is_one_replicas_until_it_expires_or_is_released_and_each_term_has_its_number() {
    let Some(place) = Place::new() else { return };
    let (one, other) = (place.open().await, place.open().await);
    let term = |number: i64| duties(SHORT).into_keys().map(|duty| (duty, number)).collect::<BTreeMap<_, _>>();
    assert_eq!(beat(&one, SHORT).await.held, term(1));
    let heartbeat = beat(&other, SHORT).await;
    assert_eq!((heartbeat.held, heartbeat.replicas), (BTreeMap::new(), 2));
    assert_eq!(beat(&one, SHORT).await.held, term(1), "renewed");
    one.replicas().unwrap().release(&[Duty::Work]).await.unwrap();
    assert_eq!(beat(&other, SHORT).await.held, [(Duty::Work, 2)].into());
    let holds = other.replicas().unwrap().replicas().await.unwrap().into_iter().map(|replica| replica.holds);
    let mut holds: Vec<_> = holds.collect();
    holds.sort();
    assert_eq!(holds, [["sink/crm"], ["work"]]);
    // A replica that is killed: its leases expire on the clock of the database.
    beat(&other, Duration::ZERO).await;
    while beat(&one, SHORT).await.held.len() < 2 {}
    assert_eq!(beat(&one, SHORT).await.held[&Duty::Work], 3);
    one.close().await;
    let heartbeat = beat(&other, SHORT).await;
    assert_eq!((heartbeat.held.len(), heartbeat.replicas), (2, 1), "one that stops takes leave");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clocks_of_two_replicas_are_that_of_the_database() {
    let Some(place) = Place::new() else { return };
    let (one, other) = (place.open().await, place.open().await);
    let now = |store: &PostgresStore| store.replicas().unwrap().clock().now();
    for store in [&one, &other] {
        beat(store, SHORT).await;
    }
    assert!(now(&one).millis_since(now(&other)).abs() < 1_000);
    let moment = |store: &PostgresStore| store.replicas().unwrap().clock().moment();
    let first = moment(&one);
    assert!(moment(&other).millis_since(first) < 1_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_finds_at_once_the_work_and_the_feed_of_another_and_hears_what_it_tells() {
    for notify in [Notify::Listen, Notify::Poll] {
        let Some(mut place) = Place::new() else { return };
        place.settings.notify = notify;
        let (one, other) = (place.open().await, place.open().await);
        for store in [&one, &other, &one] {
            beat(store, SHORT).await;
        }
        assert_eq!(one.lease(T0, 10, 0).await.unwrap().len(), 0, "the queue is read to its end");
        let mut heard = one.replicas().unwrap().heard();
        other.append(added(1)).await.unwrap();
        while heard.recv().await.unwrap() != Heard::Work {}
        let work = one.lease(T0, 10, 0).await.unwrap();
        assert_eq!(work.len(), 1);
        assert_eq!(one.counts().inbox, 1);
        one.settle(vec![(work[0].clone(), Outcome::Resolved(pending("1")))], T0).await.unwrap();
        let mut newest = other.feed_head();
        let fan = NewFan { minted: Some(Minted::new(pending("1"), T0)), ..new_fan(1) };
        one.put_fans(vec![fan], T0).await.unwrap();
        newest.wait_for(|newest| *newest == 1).await.unwrap();
        let signal = Signal::DealersChanged { app: app() };
        other.replicas().unwrap().tell(signal.clone()).await.unwrap();
        while heard.recv().await.unwrap() != Heard::Signal(signal.clone()) {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_told_too_little_reads_the_queues_again() {
    let Some(place) = Place::new() else { return };
    let (one, other) = (place.open().await, place.open().await);
    assert_eq!(one.lease(T0, 10, 0).await.unwrap().len(), 0, "the queue is read to its end");
    let mut heard = one.replicas().unwrap().heard();
    // It does not know yet that it is not alone.
    other.append(added(1)).await.unwrap();
    while heard.recv().await.unwrap() != Heard::Missed {}
    assert_eq!(one.lease(T0, 10, 0).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erasure_finds_what_another_replica_stores_about_the_person_meanwhile() {
    const PEOPLE: usize = 20;
    let Some(place) = Place::new() else { return };
    let (one, other) = (place.open().await, place.open().await);
    for store in [&one, &other, &one] {
        beat(store, SHORT).await;
    }
    for n in 0..PEOPLE {
        let (mut created, person) =
            (0, PersonId::ExternalUserid(ExternalUserid::new(format!("wm{n}")).unwrap()));
        let mut erasing = pin!(one.forget(&person, None, AuditBy::service(), T0));
        loop {
            let (store, arrival) = (&other, added_at(n, T0.plus_ms(created)));
            tokio::select! {
                biased;
                receipt = &mut erasing => {
                    receipt.unwrap();
                    break;
                }
                appended = store.append(arrival) => drop(appended.unwrap()),
            }
            created += 1;
        }
    }
    // What was in flight is committed, and both know of it.
    for store in [&other, &one] {
        bring_up_to_date(store).await;
    }
    // Those that came after the erasure, one or two until it is known here, are ignored when they are settled. Without
    // what the other replica tells, all that came while one was searched for would be left.
    let left = one.events(EventState::Waiting, EventId(0), 1_000).await.unwrap();
    assert!(left.len() <= 2 * PEOPLE, "{} events are left", left.len());
    assert_eq!(disagreements(&one).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erasure_finds_a_quarantined_message_that_another_replica_stores_meanwhile() {
    let Some(place) = Place::new() else { return };
    let (one, other) = (place.open().await, place.open().await);
    for store in [&one, &other, &one] {
        beat(store, SHORT).await;
    }
    let (mut sent, mut receipts) = (0_u64, 0);
    for n in 0..20 {
        let id = format!("wmPERSON{n}");
        let person = PersonId::ExternalUserid(ExternalUserid::new(id.clone()).unwrap());
        let mut erasing = pin!(one.forget(&person, None, AuditBy::service(), T0));
        loop {
            sent += 1;
            let payload = Payload::Quarantine {
                reason: QuarantineReason::ReceiveId,
                receive_id: String::new(),
                created_at: None,
                message: format!("<xml><ExternalUserID>{id}</ExternalUserID></xml>").into_bytes(),
                event: None,
            };
            let digest = MessageDigest::of(&app(), &sent.to_be_bytes());
            let arrival = Arrival { app: app(), digest, received_at: T0, payload };
            tokio::select! {
                biased;
                receipt = &mut erasing => {
                    receipt.unwrap();
                    receipts += 1;
                    break;
                }
                appended = other.append(arrival) => drop(appended.unwrap()),
            }
        }
    }
    for store in [&other, &one] {
        bring_up_to_date(store).await;
    }
    let left = one.events(EventState::Quarantined, EventId(0), 1_000).await.unwrap();
    assert!(left.len() <= 2 * receipts, "{} of {sent} messages are left", left.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_has_no_ids_of_people_and_lookups_of_others_are_found() {
    let Some(place) = Place::new() else { return };
    let (one, other) = (place.open().await, place.open().await);
    for store in [&one, &other, &one] {
        beat(store, SHORT).await;
    }
    assert_eq!(one.lease(T0, 9, 9).await.unwrap().len(), 0, "the queues are read to their ends");
    other.append(added(1)).await.unwrap();
    let work = other.lease(T0, 9, 9).await.unwrap().remove(0);
    other.settle(vec![(work, Outcome::Missed)], T0).await.unwrap();
    let mut later = T0;
    let found = loop {
        later = later.plus_ms(60_000);
        if let Some(found) = one.lease(later, 9, 9).await.unwrap().pop() {
            break found;
        }
        assert!(later.millis_since(T0) < 86_400_000, "the lookup is not found");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(found.contact.external_userid.as_str(), "wm1");
    let select = format!(
        "SELECT COALESCE(string_agg(encode(k, 'escape'), ' '), '') FROM {}.told, unnest(keys) AS k",
        place.settings.schema
    );
    let told = ask(&select).await;
    assert!(!told.contains("wm1") && !told.is_empty(), "{told}");
}
