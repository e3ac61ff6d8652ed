//! Two brands at one template: not their fans, links, dealers, quotas or tokens mix.

use serde_json::{Value, json};
use unionlink::simulator::{Api, Person};

use crate::agency::agency;
use crate::harness::World;

/// Two brands that have authorised, with an app and a dealer each: `brand`, with a small quota, and `other`.
async fn two_brands() -> (World, [String; 2]) {
    let mut world = World::with(agency(|_| {})).await;
    world.stop().await.unwrap();
    let ((a, scanned_a), (b, scanned_b)) = (world.scan("甲品牌"), world.scan("乙品牌"));
    let both = "existing_customers = false\nconversion_token = \"downstream\"\nreconcile_hours = 0";
    world.setup.app = format!(
        "corp_id = \"{a}\"\n{both}\nquota = {{ per_hour = 10, per_day = 100, per_month = 100 }}\n\
         [[apps]]\nname = \"other\"\nsuite = \"agency\"\ncorp_id = \"{b}\"\n{both}"
    );
    world.start().await;
    world.add_dealers(&a, 1);
    world.add_dealers(&b, 1);
    world.ticket().await;
    world.deliver(&scanned_b).await;
    world.deliver(&scanned_a).await;
    (world, [a, b])
}

/// The hour of the quota for minting of an app.
fn hour_of(status: &Value, app: &str) -> Value {
    let quotas = status["quotas"].as_array().unwrap().iter();
    let mut of_app = quotas.filter(|quota| quota["app"] == app && quota["api"] == "unionid_to_pending_id");
    of_app.next().map_or(Value::Null, |quota| quota["hour"]["used"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fans_links_dealers_quotas_and_tokens_of_two_brands_do_not_mix() {
    let (world, [a, b]) = two_brands().await;
    let (wecom, dealers) = (&world.wecom, [&world.dealers[0].corp_id, &world.dealers[1].corp_id]);
    let (fans_a, fans_b) = (wecom.add_people(15), wecom.add_people(15));
    world.register_at("brand", &fans_a).await;
    world.register_at("other", &fans_b).await;
    world.minted(&fans_b).await;
    let status = world.until("/v1/status", |status| hour_of(status, "brand") == 10).await;
    assert_eq!(hour_of(&status, "other"), 15);
    let used = [&a, &b].map(|brand| wecom.quota_use(brand, Api::UnionidToPendingId).hour);
    assert_eq!(used, [10, 15], "one brand's quota is used up, which is not the other's");
    let is_minted = |brand: &str, person: &&Person| !wecom.pending_ids(brand, person).is_empty();
    let minted_a: Vec<_> = fans_a.iter().filter(|person| is_minted(&a, person)).collect();
    assert_eq!(minted_a.len(), 10);
    assert!(!fans_a.iter().any(|person| is_minted(&b, &person)));
    assert!(!fans_b.iter().any(|person| is_minted(&a, &person)));

    // A fan of each brand adds members of both dealers. Only the one of the same brand counts.
    for person in [minted_a[0], &fans_b[0]] {
        world.add(0, person, "zhangsan").await;
        world.add(1, person, "lisi").await;
    }
    for (person, app, dealer) in [(minted_a[0], "brand", dealers[0]), (&fans_b[0], "other", dealers[1])] {
        let link = &world.linked(person, 1).await[0];
        assert_eq!((&link["app"], &link["corp_id"]), (&json!(app), &json!(dealer)));
    }
    let status = world.settle().await;
    assert_eq!((&status["links"], &status["contacts"]["known"]), (&json!(2), &json!(4)));
    let shown = world.get("/v1/dealers").await;
    let mut shown: Vec<_> = shown["dealers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| (d["app"].clone(), d["corp_id"].clone()))
        .collect();
    shown.sort_by_key(|(app, _)| app.to_string());
    assert_eq!(shown, [(json!("brand"), json!(dealers[0])), (json!("other"), json!(dealers[1]))]);

    // Every call was made with the token of its corp, or WeCom would have refused it.
    let calls = wecom.calls();
    assert!(calls.iter().all(|call| call.errcode == Some(0)), "{calls:#?}");
    for brand in [&a, &b] {
        let swaps = calls.iter().filter(|call| call.api == Api::CorpGetToken);
        assert_eq!(swaps.filter(|call| call.corp_id.as_ref() == Some(brand)).count(), 1);
    }

    // One brand's end is not the other's.
    world.deliver(&wecom.cancel(&a)).await;
    world.add(0, minted_a[1], "zhangsan").await;
    world.parked().await;
    world.add(1, &fans_b[1], "lisi").await;
    world.linked(&fans_b[1], 1).await;
    assert!(world.links(minted_a[1]).await.is_empty());
    world.deliver(&wecom.authorize_again(&a)).await;
    world.linked(minted_a[1], 1).await;
    assert_eq!(world.get("/v1/status").await["links"], 4);
}
