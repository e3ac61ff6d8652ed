//! What is counted by hour, and what is remembered of callback URLs and sinks.

use super::*;
use crate::domain::history::{
    FAILURES_KEPT, HOURS_KEPT, LastRefusal, SinkFailure, Tallies, UrlMarks, hour_of,
};
use crate::domain::ids::SinkName;
use crate::store::Noted;

fn counted(count: u64) -> Noted {
    let mut counts = Tallies::default();
    counts.add("callbacks", "accepted", count);
    Noted { counts, ..Noted::default() }
}

async fn counts_are_sums_by_hour_through_restarts_and_old_hours_go(place: &dyn Place) {
    let store = place.open().await;
    let hour = hour_of(T0);
    mint(&store, 1, 1, T0).await;
    store.append(added(1, 1)).await.unwrap();
    settle_next(&store, T0, Outcome::Resolved(pending(1))).await;
    store.append(added(2, 2)).await.unwrap();
    let of = |hours: &[(Timestamp, Tallies)], nth: usize| {
        let (at, counts) = &hours[nth];
        (
            *at,
            counts.get("callbacks", "accepted"),
            counts.get("links", "callback"),
            counts.get("made", "minted"),
        )
    };
    // What the store has made counts before it is recorded.
    let hours = store.hours(hour, T0).await.unwrap();
    assert_eq!((hours.len(), of(&hours, 0)), (1, (hour, 0, 1, 1)));
    store.record_noted(counted(2), T0).await.unwrap();
    store.record_noted(counted(3), T0).await.unwrap();
    let store = reopen(place, store).await;
    store.record_noted(counted(1), T0).await.unwrap();
    let later = hour.plus_ms(2 * HOUR_MS);
    settle_next(&store, later, Outcome::Dead(FailureReason { errcode: None, text: "no".to_owned() })).await;
    store.record_noted(counted(7), later).await.unwrap();
    let hours = store.hours(hour, later).await.unwrap();
    assert_eq!((hours.len(), of(&hours, 0), of(&hours, 1)), (2, (hour, 6, 1, 1), (later, 7, 0, 0)));
    assert_eq!(hours[1].1.get("made", "dead"), 1);
    assert_eq!(store.hours(hour.plus_ms(HOUR_MS), later).await.unwrap().len(), 1);
    // After 31 days the first is deleted.
    let month_later = hour.plus_ms((HOURS_KEPT + 1) * HOUR_MS);
    store.record_noted(counted(1), month_later).await.unwrap();
    let hours = store.hours(hour, month_later).await.unwrap();
    assert_eq!(hours.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [later, month_later]);
}

async fn the_last_marks_of_a_url_and_failures_of_a_sink_are_remembered(place: &dyn Place) {
    let store = place.open().await;
    let (name, sink) = (AppName::new("brand").unwrap(), SinkName::new("crm").unwrap());
    let refused = |at| Some(LastRefusal::one(at, "signature"));
    let later = T0.plus_ms(9);
    let marks = |verified_at, callback_at, refused| UrlMarks { verified_at, callback_at, refused };
    let failures = |at: Timestamp, count: i64| {
        (0..count).map(|nth| SinkFailure::new(at.plus_ms(nth), "503")).collect::<Vec<_>>()
    };
    let mut seen = Tallies::default();
    seen.add("conversion", "dealer token: 0", 2);
    let noted = |marks, failures| Noted {
        counts: Tallies::default(),
        observed: seen.clone(),
        urls: vec![(name.clone(), marks)],
        failures: vec![(sink.clone(), failures)],
    };
    let first = noted(marks(Some(later), None, refused(T0)), failures(later, 3));
    store.record_noted(first, T0).await.unwrap();
    let store = reopen(place, store).await;
    // Another replica records later what it has seen before.
    let second = noted(marks(Some(T0), Some(T0), None), failures(T0, 20));
    store.record_noted(second, T0).await.unwrap();
    let expected = marks(Some(later), Some(T0), refused(T0));
    assert_eq!(store.url_marks().await.unwrap(), [(name, expected)]);
    let known = store.sink_failures(&sink).await.unwrap();
    assert_eq!((known.len(), known.last().unwrap().at), (FAILURES_KEPT, T0.plus_ms(19)));
    assert_eq!(
        known.iter().filter(|failure| failure.at >= later && failure.at <= later.plus_ms(2)).count(),
        6
    );
    assert_eq!(store.observed().await.unwrap().get("conversion", "dealer token: 0"), 4);
    assert_eq!(store.sink_failures(&SinkName::new("cdp").unwrap()).await.unwrap(), []);
    assert!(store.audit().await.unwrap().is_empty());
}

contract!(
    counts_are_sums_by_hour_through_restarts_and_old_hours_go,
    the_last_marks_of_a_url_and_failures_of_a_sink_are_remembered,
);
