//! Where a message goes, by URL, receive id and the corp that it is about.

use super::*;
use crate::http::scene::{FURTHER_ID, SUITE_ID, Scene, added, corp, name, own};

fn door(scene: &Scene, url: &str) -> Arc<Door> {
    scene.state.doors.current()[&name(url)].clone()
}

async fn placed(scene: &Scene, suite: &str, receive_id: &str, text: &str) -> Place {
    let message = VerifiedMessage::from_quarantine(receive_id, text.as_bytes().to_vec());
    let Door::Suite(door) = &*door(scene, suite) else { panic!("it is a suite's") };
    door.place(&*scene.store, &scene.state.apps, &message).await.unwrap()
}

/// Where an event goes: to these apps, or why to none.
async fn target(scene: &Scene, suite: &str, receive_id: &str, about: &str) -> String {
    match placed(scene, suite, receive_id, &added(about, 1)).await {
        Place::Apps(apps) => apps.iter().map(AppName::as_str).collect::<Vec<_>>().join(" "),
        Place::Unrouted(corp_id) => format!("unrouted {corp_id}"),
        Place::Quarantine(reason) => <&str>::from(&reason).to_owned(),
        Place::Misplaced(why) => format!("misplaced {why:?}"),
        Place::Suite(own) => panic!("{own:?}"),
    }
}

#[tokio::test]
async fn at_a_suites_url_an_event_goes_to_the_apps_whose_brand_or_dealer_it_is_about() {
    let scene = Scene::authorized().await;
    let refused = "receive_id";
    for (receive_ids, targets) in [
        // Encrypted for a brand: its app's, whatever dealer it is about.
        (vec!["wpA"], ["brand"; 5]),
        (vec!["wpB"], ["second"; 5]),
        (
            vec![SUITE_ID, "wwPROVIDER", "WWprovider", FURTHER_ID, "wpD1"],
            ["brand", "second", "brand", "brand second", "unrouted wpN"],
        ),
        // Of a corp that has not authorised itself, only what is about it.
        (vec!["wpD2"], [refused, refused, refused, "brand second", refused]),
        (vec!["wpN"], [refused, refused, refused, refused, "unrouted wpN"]),
        (vec!["", "dkOTHER", "dksuite", "wpa", "wpC", "wwOWN", "\u{0}"], [refused; 5]),
    ] {
        for receive_id in receive_ids {
            for (about, expected) in ["wpA", "wpB", "wpD1", "wpD2", "wpN"].into_iter().zip(targets) {
                let found = target(&scene, "agency", receive_id, about).await;
                assert_eq!(found, expected, "for {receive_id:?} about {about}");
            }
        }
    }
}

#[tokio::test]
async fn the_apps_of_another_suite_are_out_of_reach() {
    let scene = Scene::authorized().await;
    for (receive_id, about, expected) in [
        ("wpC", "wpC", "third"),
        ("dkOTHER", "wpA", "unrouted wpA"),
        ("dkOTHER", "wpD2", "unrouted wpD2"),
        ("wpA", "wpA", "unrouted wpA"),
        ("wpA", "wpD1", "receive_id"),
        (SUITE_ID, "wpC", "receive_id"),
    ] {
        assert_eq!(target(&scene, "other", receive_id, about).await, expected, "{receive_id} {about}");
    }
}

#[tokio::test]
async fn before_anybody_has_authorised_everything_waits_or_is_refused() {
    let scene = Scene::new();
    for (receive_id, expected) in [(SUITE_ID, "unrouted wpA"), ("wpA", "unrouted wpA"), ("wpB", "receive_id")]
    {
        assert_eq!(target(&scene, "agency", receive_id, "wpA").await, expected, "{receive_id}");
    }
}

#[tokio::test]
async fn a_suites_message_counts_only_if_encrypted_for_the_suite_and_naming_it() {
    let scene = Scene::authorized().await;
    let ticket = "<SuiteTicket>CANARY</SuiteTicket>";
    let right = own(SUITE_ID, "suite_ticket", ticket);
    assert!(matches!(placed(&scene, "agency", SUITE_ID, &right).await, Place::Suite(_)));
    for receive_id in ["wpA", "wwPROVIDER", FURTHER_ID, "dkOTHER", "dksuite", ""] {
        let place = placed(&scene, "agency", receive_id, &right).await;
        assert!(matches!(place, Place::Misplaced(Misplaced::ReceiveId)), "{receive_id}: {place:?}");
    }
    let foreign = own("dkOTHER", "suite_ticket", ticket);
    let place = placed(&scene, "agency", SUITE_ID, &foreign).await;
    assert!(matches!(place, Place::Misplaced(Misplaced::SuiteId)), "{place:?}");
    for text in [
        right.replace("SuiteId>", "Id>"),
        right.replace("<SuiteTicket>CANARY</SuiteTicket>", ""),
        right.replace("</xml>", ""),
        right.replace("InfoType", "Info"),
        format!("{ticket} and no XML"),
    ] {
        let place = placed(&scene, "agency", SUITE_ID, &text).await;
        assert!(matches!(place, Place::Misplaced(Misplaced::NotUnderstood(_))), "{text}: {place:?}");
        assert!(!format!("{place:?}").contains("CANARY"), "{place:?}");
        let place = placed(&scene, "agency", "stranger", &text).await;
        assert!(matches!(place, Place::Misplaced(_)), "{text}: {place:?}");
    }
    // What cannot be read and holds no secret is for an operator.
    for (receive_id, reason) in [(SUITE_ID, "not_understood"), ("stranger", "receive_id")] {
        let place = placed(&scene, "agency", receive_id, "not an event at all").await;
        let Place::Quarantine(quarantined) = place else { panic!("{place:?}") };
        assert_eq!(<&str>::from(&quarantined), reason);
    }
}

#[tokio::test]
async fn an_apps_own_url_accepts_what_is_of_its_suite_and_of_no_other_brand() {
    let scene = Scene::authorized().await;
    let Door::App(door) = &*door(&scene, "second") else { panic!("it is an app's") };
    for (receive_ids, abouts, accepted) in [
        (vec!["wpB"], vec!["wpA", "wpB", "wpD1", "wpD2", "wpN"], true),
        (vec![SUITE_ID, "wwPROVIDER", FURTHER_ID, "wpD1"], vec!["wpB", "wpD1", "wpD2", "wpN"], true),
        // A dealer in the app's list.
        (vec!["wpD2"], vec!["wpB", "wpD2", "wpN"], true),
        (vec!["wpN"], vec!["wpN"], true),
        (vec![SUITE_ID, "wwPROVIDER", "wpA", "wpD1", "wpD2"], vec!["wpA"], false),
        (vec!["wpA"], vec!["wpB", "wpD2", "wpN"], false),
        (vec!["wpN", "wpC", "", "dkOTHER"], vec!["wpB", "wpD1"], false),
    ] {
        for (receive_id, about) in
            receive_ids.iter().flat_map(|receive_id| abouts.iter().map(move |about| (receive_id, about)))
        {
            let message = VerifiedMessage::from_quarantine(receive_id, added(about, 1).into_bytes());
            let classified = door.classify(&*scene.store, &scene.state.apps, &message, None).await.unwrap();
            let is_event = classified.corp_id() == Some(&corp(about));
            assert_eq!(is_event, accepted, "for {receive_id:?} about {about}: {classified:?}");
        }
    }
}

#[test]
fn a_door_prints_no_secret() {
    let printed = format!("{:?}", Scene::new().state.doors);
    assert!(printed.contains("agency") && printed.contains(SUITE_ID), "{printed}");
    assert!(!printed.contains("token of") && !printed.contains("CANARY"), "{printed}");
}
