//! Messages that come before an app serves their corp.

use tokio::time::Instant;

use super::*;
use crate::http::scene::{NOW, SUITE_ID, Scene, added, corp, name};
use crate::http::unserved::MESSAGES_MAX;
use crate::store::Store as _;

async fn redriven(scene: &Scene) -> u64 {
    scene.state.redrive_routed().await.unwrap().values().sum()
}

#[tokio::test]
async fn what_came_before_the_authorisation_goes_on_with_the_time_it_was_received() {
    let scene = Scene::new();
    scene.receive("agency", "wpA", &added("wpA", 1)).await;
    scene.receive("agency", SUITE_ID, &added("wpD1", 2)).await;
    scene.receive("agency", SUITE_ID, &added("wpN", 3)).await;
    scene.clock.advance_ms(9_000);
    assert_eq!(redriven(&scene).await, 0);
    scene.authorize(&[("agency", "wpA", None), ("agency", "wpD1", Some("wpA"))]);
    assert_eq!(redriven(&scene).await, 2);
    let expected = [("brand", "wpA"), ("brand", "wpD1")];
    assert_eq!(scene.inbox().await, expected.map(|(app, id)| (app.to_owned(), id.to_owned())));
    for row in scene.store.events(EventState::Waiting, EventId(0), 9).await.unwrap() {
        let EventRow::Inbox(event) = row else { panic!("{row:?}") };
        assert_eq!(event.received_at, NOW);
    }
    assert_eq!(scene.quarantine().await, [("agency".to_owned(), "unrouted")]);
    // What WeCom sends again by then is a duplicate.
    scene.receive("agency", "wpA", &added("wpA", 1)).await;
    assert_eq!(scene.inbox().await.len(), 2);
}

#[tokio::test]
async fn what_was_received_before_the_clock_was_set_back_is_not_from_the_future() {
    let scene = Scene::new();
    scene.receive("agency", SUITE_ID, &added("wpD1", 1)).await;
    scene.receive("second", "wpB", &added("wpB", 2)).await;
    scene.clock.advance_ms(-86_400_000);
    scene.authorize(&[("agency", "wpA", None), ("agency", "wpB", None), ("agency", "wpD1", Some("wpA"))]);
    assert_eq!(redriven(&scene).await, 2);
    for row in scene.store.events(EventState::Waiting, EventId(0), 9).await.unwrap() {
        let EventRow::Inbox(event) = row else { panic!("{row:?}") };
        assert_eq!(event.received_at, NOW.plus_ms(-86_400_000));
    }
}

#[tokio::test]
async fn a_dealer_that_two_brands_list_reaches_both_once_and_only_unrouted_messages_are_redriven() {
    let scene = Scene::new();
    scene.authorize(&[("agency", "wpA", None), ("agency", "wpB", None)]);
    scene.receive("agency", SUITE_ID, &added("wpN", 1)).await;
    scene.receive("agency", "stranger", &added("wpD9", 1)).await;
    scene.receive("agency", SUITE_ID, "not an event at all").await;
    // WeCom sends it again after the first app's copy was appended.
    scene.list_dealer("brand", "wpN").await;
    scene.receive("agency", SUITE_ID, &added("wpN", 1)).await;
    scene.list_dealer("second", "wpN").await;
    assert_eq!(redriven(&scene).await, 1);
    let both = [("brand", "wpN"), ("second", "wpN")].map(|(app, id)| (app.to_owned(), id.to_owned()));
    assert_eq!(scene.inbox().await, both);
    assert_eq!(redriven(&scene).await, 0);
    let left = [("agency", "receive_id"), ("agency", "not_understood")];
    assert_eq!(scene.quarantine().await, left.map(|(name, reason)| (name.to_owned(), reason)));
}

#[tokio::test]
async fn what_comes_to_the_url_of_an_app_without_a_brand_waits_for_its_brand() {
    let scene = Scene::new();
    scene.receive("second", "wpB", &added("wpB", 1)).await;
    scene.receive("second", SUITE_ID, &added("wpD2", 2)).await;
    scene.receive("second", "wpA", &added("wpA", 3)).await;
    scene.receive("second", "wpB", &added("wpB", 4).replace("<MsgType>event", "<MsgType>text")).await;
    assert_eq!(
        scene.quarantine().await,
        [
            ("second".to_owned(), "unrouted"),
            ("second".to_owned(), "unrouted"),
            ("second".to_owned(), "unrouted")
        ]
    );
    scene.authorize(&[("agency", "wpA", None)]);
    assert_eq!(redriven(&scene).await, 0);
    scene.authorize(&[("agency", "wpA", None), ("agency", "wpB", None)]);
    assert_eq!(redriven(&scene).await, 2);
    let own = [("second", "wpB"), ("second", "wpD2")].map(|(app, id)| (app.to_owned(), id.to_owned()));
    assert_eq!(scene.inbox().await, own);
    // Another brand's stays, and an operator learns why.
    let left = scene.quarantined().await;
    assert_eq!(left.len(), 1);
    assert_eq!(by_operator(&scene, left[0].id).await, Err(RedriveError::ReceiveId));
    scene.receive("second", "wpB", &added("wpB", 1)).await;
    assert_eq!(scene.inbox().await, own, "it is known");
}

#[tokio::test]
async fn a_brand_without_an_app_is_not_taken_for_a_dealer_of_another() {
    let scene = Scene::new();
    scene.authorize(&[("agency", "wpX", None)]);
    scene.receive("second", "wpX", &added("wpX", 1)).await;
    assert_eq!(scene.quarantine().await, [("second".to_owned(), "unrouted")], "it may become its brand");
    scene.authorize(&[("agency", "wpX", None), ("agency", "wpB", None)]);
    assert_eq!(redriven(&scene).await, 0);
    scene.receive("second", SUITE_ID, &added("wpX", 2)).await;
    let refused = [("second", "unrouted"), ("second", "receive_id")];
    assert_eq!(scene.quarantine().await, refused.map(|(app, reason)| (app.to_owned(), reason)));
    assert!(scene.inbox().await.is_empty());
}

#[tokio::test]
async fn a_corp_that_is_never_served_keeps_out_no_other() {
    let scene = Scene::new();
    let flood = ((name("agency"), corp("wpN")), MESSAGES_MAX);
    scene.state.unserved.counted(BTreeMap::from([flood]));
    let refused = (503, String::new());
    assert_eq!(scene.post("agency", "agency", SUITE_ID, &added("wpN", 1)).await, refused);
    scene.receive("agency", SUITE_ID, &added("wpA", 1)).await;
    // They are counted again.
    assert_eq!(redriven(&scene).await, 0);
    scene.receive("agency", SUITE_ID, &added("wpN", 1)).await;
    assert_eq!(scene.quarantined().await.len(), 2);
}

#[tokio::test]
async fn messages_of_an_unserved_corp_do_not_hold_up_others() {
    let scene = Scene::new();
    for n in 0..2 * PAGE {
        scene.receive("agency", SUITE_ID, &added("wpN", n)).await;
    }
    scene.receive("agency", SUITE_ID, &added("wpA", 1)).await;
    scene.authorize(&[("agency", "wpA", None)]);
    assert_eq!(redriven(&scene).await, 1);
    assert_eq!(scene.inbox().await, [("brand".to_owned(), "wpA".to_owned())]);
}

#[tokio::test]
async fn an_event_that_was_too_old_on_arrival_is_not_made_younger_by_waiting() {
    let scene = Scene::new();
    let old = added("wpA", 1).replace("1403610513", "1402610513");
    scene.receive("agency", "wpA", &old).await;
    scene.authorize(&[("agency", "wpA", None)]);
    assert_eq!(redriven(&scene).await, 1);
    assert!(scene.inbox().await.is_empty());
    assert_eq!(scene.quarantine().await, [("brand".to_owned(), "far_off")]);
    // An operator can still have it processed, under the name of an app without a URL.
    let id = scene.quarantined().await[0].id;
    assert_eq!(by_operator(&scene, id).await, Ok(true));
    assert_eq!(scene.inbox().await, [("brand".to_owned(), "wpA".to_owned())]);
}

async fn by_operator(scene: &Scene, id: EventId) -> Result<bool, RedriveError> {
    let Scene { state, store, .. } = scene;
    let doors = state.doors.current();
    let redrive = Redrive { store: &**store, doors: &doors, apps: &state.apps, wake: &state.wake };
    redrive.event(id, NOW).await
}

#[tokio::test]
async fn an_operator_learns_why_a_message_at_a_suites_url_stays() {
    let scene = Scene::new();
    for (receive_id, text) in
        [(SUITE_ID, added("wpA", 1)), ("stranger", added("wpA", 2)), (SUITE_ID, "no event".to_owned())]
    {
        scene.receive("agency", receive_id, &text).await;
    }
    let ids: Vec<_> = scene.quarantined().await.into_iter().map(|row| row.id).collect();
    assert_eq!(by_operator(&scene, ids[0]).await, Err(RedriveError::Unrouted));
    assert_eq!(by_operator(&scene, ids[1]).await, Err(RedriveError::ReceiveId));
    assert!(matches!(by_operator(&scene, ids[2]).await, Err(RedriveError::NotUnderstood(_))));
    scene.authorize(&[("agency", "wpA", None)]);
    assert_eq!(by_operator(&scene, ids[0]).await, Ok(true));
    assert_eq!(by_operator(&scene, ids[0]).await, Ok(false));
    assert_eq!(scene.inbox().await, [("brand".to_owned(), "wpA".to_owned())]);
}

#[tokio::test]
async fn the_task_looks_when_woken_and_each_minute() {
    let scene = Scene::new();
    let stop = CancellationToken::new();
    let task = tokio::spawn(run(scene.state.clone(), stop.clone()));
    for (corp_id, n) in [("wpA", 1), ("wpB", 2)] {
        scene.receive("agency", corp_id, &added(corp_id, n)).await;
    }
    scene.authorize(&[("agency", "wpA", None)]);
    let begun = Instant::now();
    scene.state.wake.unrouted.notify_one();
    while scene.store.counts().inbox < 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(begun.elapsed() < LOOK_EVERY);
    scene.authorize(&[("agency", "wpB", None)]);
    // Only now, because a store that is slower than a clock that leaps is taken for stalled, and asked again
    // a minute later.
    tokio::time::pause();
    while scene.store.counts().inbox < 2 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    stop.cancel();
    task.await.unwrap();
}
