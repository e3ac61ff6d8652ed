//! Silence, errors, reports about the visible range, alarms.

use super::super::super::until;
use super::*;
use crate::domain::event::{AppAlarm, AppAlarmKind};
use crate::domain::time::HOUR_MS;

#[tokio::test]
async fn a_dealer_without_callbacks_falls_silent_and_comes_back() {
    let mut worker = Worker::with(2);
    worker.look().await;
    let silent = |n| format!("unionlink_dealers_silent{{app=\"brand\"}} {n}");
    let week_ago = T0.plus_ms(-7 * DAY_MS);
    worker.world.context.activity.seen(&app(), &corp(0), week_ago);
    worker.pass(RECORD_EVERY).await;
    worker.look().await;
    assert_eq!(worker.row(0).await.activity.last_event_at, Some(week_ago));
    worker.pass(MINUTE).await;
    worker.report_change().await;
    assert!(worker.measures(&silent(0)), "callbacks may have been missed before the start");
    worker.pass(HOUR).await;
    worker.look().await;
    assert_eq!(worker.row(0).await.activity.silent_since, Some(worker.now()));
    assert_eq!(worker.row(1).await.activity.silent_since, None, "it never had any");
    assert!(worker.measures(&silent(1)));
    worker.world.context.activity.seen(&app(), &corp(0), worker.now());
    worker.pass(RECORD_EVERY).await;
    worker.look().await;
    assert_eq!(worker.row(0).await.activity.silent_since, None);
    assert!(worker.measures(&silent(0)));
}

#[tokio::test]
async fn failures_that_open_a_dealers_breaker_are_recorded_once_each() {
    let mut worker = Worker::with(2);
    worker.look().await;
    worker.world.context.breakers.hold(scope(1), reason(), T0, T0.plus_ms(HOUR_MS));
    // The second failure is that of the first probe.
    for _ in 0..2 {
        let failed_at = worker.now();
        let breakers = &worker.world.context.breakers;
        let probe_at = breakers.failed(&scope(0), reason(), Backoff::CONFIGURATION, failed_at);
        worker.look().await;
        for _ in 0..2 {
            worker.pass(RECORD_EVERY).await;
            worker.look().await;
            let trouble = worker.row(0).await.activity.trouble.unwrap();
            assert_eq!((trouble.errcode, trouble.at), (Some(84_074), failed_at));
        }
        worker.pass(until(worker.now(), probe_at)).await;
    }
    assert_eq!(worker.row(1).await.activity.trouble, None, "a call limit is no error");
}

/// The dealers with reports after which not all lookups were repeated yet.
async fn marked(worker: &Worker) -> Vec<(AppName, CorpId)> {
    worker.world.context.store.visibility_changes().await.unwrap().into_keys().collect()
}

/// Receives a report about the visible range.
async fn report(world: &World) {
    world.append(Payload::Visibility(corp(0))).await;
    world.context.wake.visibility_changed(&app(), &corp(0));
}

/// Looks the customer up, who is not visible.
async fn answer(worker: &Worker) {
    let work = worker.lease().await.expect("the lookup is due");
    worker.settle(work, Outcome::NotVisible(60_011)).await;
}

#[tokio::test]
async fn after_reports_from_a_dealer_lookups_are_repeated_in_bounded_numbers() {
    let mut worker = Worker::with(1);
    worker.look().await;
    worker.add_customer(0, Outcome::NotVisible(60_011)).await;
    assert!(!worker.is_work_due().await);
    report(&worker.world).await;
    worker.look().await;
    answer(&worker).await;
    assert!(marked(&worker).await.is_empty(), "all were looked up");
    for _ in 0..3 {
        report(&worker.world).await;
        worker.look().await;
        assert!(!worker.is_work_due().await);
    }
    worker.pass(MINUTE).await;
    worker.look().await;
    answer(&worker).await;
    worker.pass(MINUTE).await;
    worker.look().await;
    assert!(!worker.is_work_due().await, "no report since");
    assert_eq!(marked(&worker).await, [(app(), corp(0))]);
    worker.pass(HOUR).await;
    worker.look().await;
    assert!(worker.is_work_due().await);
    assert!(marked(&worker).await.is_empty());
}

#[tokio::test]
async fn a_report_that_arrives_while_lookups_are_repeated_causes_another_repeat() {
    let mut worker = Worker::with(1);
    worker.look().await;
    worker.add_customer(0, Outcome::NotVisible(60_011)).await;
    report(&worker.world).await;
    let mut look = Box::pin(worker.watch.look());
    tokio::select! {
        biased;
        () = look.as_mut() => panic!("it yields after it has read the customers"),
        () = std::future::ready(()) => {}
    }
    report(&worker.world).await;
    look.await;
    answer(&worker).await;
    assert_eq!(marked(&worker).await, [(app(), corp(0))]);
    for time in [MINUTE, HOUR] {
        worker.pass(time).await;
        worker.look().await;
        answer(&worker).await;
    }
    assert!(marked(&worker).await.is_empty());
}

#[tokio::test]
async fn a_report_whose_mark_was_not_read_causes_a_repeat_too() {
    let mut worker = Worker::with(1);
    worker.look().await;
    worker.add_customer(0, Outcome::NotVisible(60_011)).await;
    worker.world.context.wake.visibility_changed(&app(), &corp(0));
    worker.look().await;
    answer(&worker).await;
    worker.pass(MINUTE).await;
    worker.look().await;
    assert!(!worker.is_work_due().await, "once only");
}

#[tokio::test]
async fn an_alarm_is_counted_until_it_ends() {
    let mut worker = Worker::with(1);
    let alarm = |kind| AppAlarm { corp_id: corp(0), kind, created_at: T0, effect_at: None };
    for (kind, count) in [(AppAlarmKind::LowActive, 1), (AppAlarmKind::ActiveRestored, 0)] {
        worker.world.append(Payload::Alarm(alarm(kind))).await;
        worker.look().await;
        let line = format!("unionlink_app_alarms{{app=\"brand\",kind=\"low_active\"}} {count}");
        assert!(worker.measures(&line));
    }
}
