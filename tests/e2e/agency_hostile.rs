//! Messages at a suite's and an app's URL that are genuine in part: sealed with keys of ours, and meant for
//! another URL, or another time. Each is counted, and has no effect.

use serde_json::Value;
use unionlink::simulator::{Api, Copies, Event, SealedCallback};

use crate::agency::{agency, own_keys};
use crate::harness::{Setup, World};

/// An app with keys of its own, next to a second template with an app that no brand has authorised.
async fn with_own_keys() -> (World, String, Event) {
    let app = own_keys() + "[[apps]]\nname = \"second\"\nsuite = \"agency2\"";
    let setup = Setup { app, templates: 2, ..agency(|_| {}) };
    let mut world = World::with(setup).await;
    let (brand, create_auth) = world.scan("Brand");
    world.add_dealers(&brand, 1);
    world.use_own_keys(&brand);
    world.ticket().await;
    world.deliver(&create_auth).await;
    world.knows_dealers(1).await;
    (world, brand, create_auth)
}

/// Posts a callback, which is acknowledged and has this outcome.
async fn counted(world: &World, what: &str, callback: &SealedCallback, outcome: &str) {
    let before = world.outcome(outcome).await;
    let delivery = world.wecom.post(callback).await;
    assert_eq!((delivery.status, delivery.answer.as_str()), (Some(200), "success"), "{what}");
    assert_eq!(world.outcome(outcome).await, before + 1, "{what} is not {outcome}");
}

/// What a message could change.
async fn state(world: &World) -> Value {
    let status = world.get("/v1/status").await;
    ["links", "contacts", "dealers", "paused"].map(|part| status[part].clone()).into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_for_another_url_or_time_are_counted_and_have_no_effect() {
    let (world, brand, create_auth) = with_own_keys().await;
    let (wecom, suite_id, second) = (&world.wecom, world.suite_id(), &world.templates[1].suite_id);
    let fan = &wecom.add_people(1)[0];
    world.register_at("brand", std::slice::from_ref(fan)).await;
    world.minted(std::slice::from_ref(fan)).await;
    let before = state(&world).await;
    let (calls, dealer) = (world.calls_of(Api::GetPermanentCode).len(), &world.dealers[0].corp_id);
    let sealed_as = |event: &Event, suite: Option<&String>, receive_id: &str| {
        let event = Event { suite_id: suite.cloned(), upstream_corp_id: brand.clone(), ..event.clone() };
        wecom.seal_with(&event, receive_id)
    };

    // Events of the suite, sealed with the key of the app, at the app's URL.
    let (stranger, strangers_auth) = world.scan("Stranger");
    let forged = [strangers_auth.clone(), wecom.ticket(suite_id), cancel_of(&world, &brand)];
    for event in &forged {
        for receive_id in [suite_id, &brand] {
            counted(&world, "at the app's URL", &sealed_as(event, None, receive_id), "ignored").await;
        }
        // The same bytes at the suite's URL.
        let mut at_suite = sealed_as(event, None, suite_id);
        at_suite.url = format!("{}/callback/agency", world.public);
        assert_eq!(wecom.post(&at_suite).await.status, Some(403));
        // At the other suite's URL, with that one's key.
        for receive_id in [suite_id, second, &brand] {
            counted(&world, "at the other suite", &sealed_as(event, Some(second), receive_id), "misplaced")
                .await;
        }
    }
    // Events of the app at the other suite's URL.
    for (n, receive_id) in [&brand, dealer, second].into_iter().enumerate() {
        let add = wecom.befriend(dealer, fan, &format!("member{n}"), None).event;
        counted(&world, "an app's event", &sealed_as(&add, Some(second), receive_id), "quarantined").await;
    }
    // A corp of which nothing is known.
    for event in [wecom.change_auth(&stranger), wecom.cancel(&stranger)] {
        counted(&world, "a stranger's", &wecom.seal(&event), "misplaced").await;
    }
    let theirs = wecom.add_dealer(&stranger, "Theirs");
    let add = wecom.befriend(&theirs.corp_id, fan, "zhangsan", None).event;
    counted(&world, "a stranger's customer", &wecom.seal(&add), "quarantined").await;
    // A message that may contain a secret and cannot be read is not stored.
    let broken = Event { inner: create_auth.inner.replace("</xml>", ""), ..create_auth.clone() };
    counted(&world, "a broken message", &wecom.seal(&broken), "misplaced").await;
    // Replays.
    for copies in [Copies::Identical, Copies::Resealed] {
        let duplicates = world.outcome("duplicate").await;
        let replayed = wecom.deliver_copies(&create_auth, 3, copies).await;
        assert!(replayed.iter().all(|delivery| delivery.answer == "success"), "{replayed:?}");
        assert_eq!(world.outcome("duplicate").await, duplicates + 3);
    }

    // Codes are exchanged in the order in which they came, so this one would be the last.
    world.install(0).await;
    world.succeeded(Api::GetPermanentCode, 2).await;
    assert_eq!(world.calls_of(Api::GetPermanentCode).len(), calls + 1);
    assert_eq!(state(&world).await, before);
    assert!(world.links(fan).await.is_empty());
    world.add(0, fan, "lisi").await;
    world.linked(fan, 1).await;
}

/// `cancel_auth` of a corp that goes on.
fn cancel_of(world: &World, brand: &str) -> Event {
    let event = world.wecom.change_auth(brand);
    Event { inner: event.inner.replace("change_auth", "cancel_auth"), ..event }
}
