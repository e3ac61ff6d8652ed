//! The whole way of an agency-developed app (代开发应用), from an empty store and the QR code to links, once for
//! each behaviour of WeCom's that its documents leave open.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use unionlink::simulator::{
    Api, AppUrlCheck, Change, EventUrl, Options, Permission, ReceiveId, ShareChange, SharedFrom, TicketRule,
};

use crate::agency::{agency, own_keys};
use crate::harness::{Setup, World};

const REFUSED: Permission = Permission::Refused(48_002);

/// How WeCom behaves, and what follows.
#[derive(Clone, Copy)]
struct Variant {
    what: &'static str,
    set: fn(&mut Options),
    /// Lines of the app's section.
    app: &'static str,
    /// The app has a callback URL, a token and a key of its own.
    has_own_url: bool,
    /// The only way to a dealer's token is the dealer's own permanent code.
    needs_own_codes: bool,
}

const DOCUMENTED: Variant =
    Variant { what: "as documented", set: |_| {}, app: "", has_own_url: false, needs_own_codes: false };

const VARIANTS: [Variant; 9] = [
    DOCUMENTED,
    Variant {
        what: "dealers install; the list of dealers and corp/gettoken are refused",
        set: |options| {
            options.agency.dealers_install = true;
            options.agency.list_app_share_info = REFUSED;
            options.agency.corp_gettoken = REFUSED;
        },
        needs_own_codes: true,
        ..DOCUMENTED
    },
    Variant {
        what: "dealers install; corp/gettoken is refused, the list is not; shared_from is no id we know",
        set: |options| {
            options.agency.dealers_install = true;
            options.agency.corp_gettoken = REFUSED;
            options.agency.shared_from = SharedFrom::Plain;
        },
        needs_own_codes: true,
        ..DOCUMENTED
    },
    Variant {
        what: "dealers install; their events arrive at their own URL, encrypted for them",
        set: |options| {
            options.agency.dealers_install = true;
            options.agency.event_url = EventUrl::Dealer;
            options.sender.receive_id = ReceiveId::Dealer;
        },
        ..DOCUMENTED
    },
    Variant {
        what: "dealers install; the list is refused; events are encrypted for the dealer",
        set: |options| {
            options.agency.dealers_install = true;
            options.agency.list_app_share_info = REFUSED;
            options.sender.receive_id = ReceiveId::Dealer;
        },
        ..DOCUMENTED
    },
    Variant {
        what: "dealers do not install; events are encrypted for the dealer",
        set: |options| {
            options.sender.receive_id = ReceiveId::Dealer;
            options.agency.app_url_check = AppUrlCheck::Suite;
        },
        ..DOCUMENTED
    },
    Variant {
        what: "change_auth comes before create_auth, suite tokens have an errcode, old tickets do not count",
        set: |options| {
            options.agency.change_auth_first = true;
            options.agency.suite_token_errcode = true;
            options.agency.ticket_rule = TicketRule::Newest;
            options.agency.share_change = ShareChange::TemplateUrl;
            options.agency.app_url_check = AppUrlCheck::Provider;
        },
        ..DOCUMENTED
    },
    Variant {
        what: "the app has its own URL and keys, and no event reports a new dealer",
        set: |options| options.agency.share_change = ShareChange::Never,
        has_own_url: true,
        ..DOCUMENTED
    },
    Variant {
        what: "the app's URL is checked without a receive id",
        set: |options| options.agency.app_url_check = AppUrlCheck::Empty,
        app: "accept_receive_ids = [\"\"]",
        ..DOCUMENTED
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn from_the_qr_code_to_links_whichever_way_wecom_behaves() {
    for three in VARIANTS.chunks(3) {
        join_all(three.iter().map(|variant| Box::pin(story(*variant)))).await;
    }
}

async fn story(variant: Variant) {
    let own_keys = if variant.has_own_url { own_keys() } else { String::new() };
    let setup = Setup { app: own_keys + variant.app, ..agency(variant.set) };
    let mut world = World::with(setup).await;
    let brand = authorise(&mut world, variant).await;
    // The mini-program registers fans as ever; with a person who is a customer of a dealer already.
    let fans = world.wecom.add_people(7);
    world.befriend(0, &fans[6], "zhangsan");
    world.register(&fans).await;
    world.minted(&fans).await;
    let mints = world.calls_of(Api::UnionidToPendingId);
    assert!(mints.iter().all(|call| call.corp_id.as_ref() == Some(&brand)), "{mints:?}");
    assert_eq!(world.linked(&fans[6], 1).await[0]["source"], "existing");

    let customer = world.add(0, &fans[0], "zhangsan").await;
    let link = &world.linked(&fans[0], 1).await[0];
    assert_eq!(
        (&link["corp_id"], &link["external_userid"]),
        (&json!(world.dealers[0].corp_id), &json!(customer))
    );
    assert!(customer.starts_with("wm"), "{customer}");
    let chat_id = world.wecom.add_chat(&world.dealers[1].corp_id);
    world.deliver(&world.wecom.join_chat(&chat_id, &fans[1..4])).await;
    for fan in &fans[1..4] {
        assert_eq!(world.linked(fan, 1).await[0]["chat_id"], json!(chat_id));
    }
    // A callback is lost, and the comparison finds the customer.
    world.befriend(1, &fans[4], "lisi");
    assert_eq!(world.post("/v1/reconcile", &json!({})).await.0, 202);
    world.until("/v1/reconcile", |run| run["running"] == false).await;
    assert_eq!(world.linked(&fans[4], 1).await[0]["source"], "reconcile");
    assert_eq!(world.wecom.counters().calls_of(Api::ContactList), 0, "no agency-developed app may call it");

    another_dealer_joins(&mut world, &brand, variant).await;
    world.add(2, &fans[5], "wangwu").await;
    world.linked(&fans[5], 1).await;
    world.check_links(&fans).await;
    check_tokens(&world, &brand, variant);
    assert_eq!(world.wecom.counters().callbacks.not_success, 0, "{}", variant.what);
    world.stop().await.unwrap();
}

/// From the template's URL that is saved in the provider's console to the authorised brand and its dealers.
async fn authorise(world: &mut World, variant: Variant) -> String {
    let (wecom, template) = (world.wecom.clone(), world.templates[0].clone());
    let suite_id = &template.suite_id;
    assert!(wecom.verify_template_url(suite_id, &template.provider_corp_id).await);
    assert!(!wecom.verify_template_url(suite_id, "ww00000000stranger").await);
    // A fan may be registered before any brand has authorised.
    let early = wecom.add_people(1);
    world.register(&early).await;
    // Tickets that arrive in the wrong order. WeCom dates them in whole seconds.
    let old_ticket = wecom.ticket(suite_id);
    world.clock.skip(Duration::from_secs(1));
    world.ticket().await;
    world.deliver(&old_ticket).await;
    let (brand, create_auth) = world.scan("甲品牌");
    world.add_dealers(&brand, 2);
    if variant.has_own_url {
        world.use_own_keys(&brand);
    }
    if world.setup.options.agency.change_auth_first {
        world.deliver(&wecom.change_auth(&brand)).await;
    }
    world.deliver(&create_auth).await;
    world.minted(&early).await;
    assert!(wecom.verify_url(&brand).await, "{}", variant.what);
    if world.setup.options.agency.dealers_install {
        world.install_and_list(0).await;
        world.install_and_list(1).await;
    }
    world.knows_dealers(2).await;
    let dealers = world.get("/v1/dealers").await;
    let mut names: Vec<_> =
        dealers["dealers"].as_array().unwrap().iter().map(|dealer| dealer["corp_name"].clone()).collect();
    names.sort_by_key(ToString::to_string);
    assert_eq!(names, ["Dealer 0", "Dealer 1"], "{}: {dealers:#}", variant.what);
    brand
}

/// A third dealer gets the app, and WeCom reports it in its way, if at all.
async fn another_dealer_joins(world: &mut World, brand: &str, variant: Variant) {
    world.add_dealers(brand, 1);
    if world.setup.options.agency.dealers_install {
        world.install_and_list(2).await;
    }
    world.clock.skip(Duration::from_mins(1));
    let agent_id = world.wecom.agent_id(brand);
    let event = world.wecom.event(brand, &Change::ShareChainChange { agent_id });
    let delivery = world.wecom.deliver(&event).await;
    let is_reported = world.setup.options.agency.share_change != ShareChange::Never;
    assert_eq!(delivery.acknowledged, is_reported, "{}: {delivery:?}", variant.what);
    // Otherwise its first event shows that it is one.
    if is_reported {
        world.knows_dealers(3).await;
    }
}

/// Asserts that every token was obtained in the way that WeCom allows, and that nothing else was refused.
fn check_tokens(world: &World, brand: &str, variant: Variant) {
    let calls = world.wecom.calls();
    let of_dealers = calls
        .iter()
        .filter(|call| call.api == Api::GetToken && call.corp_id.as_deref() != Some(brand))
        .count();
    let swapped = world.successes_of(Api::CorpGetToken);
    assert_eq!((of_dealers > 0, swapped > 0), (variant.needs_own_codes, !variant.needs_own_codes));
    let exchanged = world.successes_of(Api::GetPermanentCode);
    let installed = if world.setup.options.agency.dealers_install { 3 } else { 0 };
    assert_eq!((exchanged, world.calls_of(Api::GetPermanentCode).len()), (1 + installed, 1 + installed));
    let may_be_refused = [Api::CorpGetToken, Api::ListAppShareInfo];
    for call in calls {
        let is_expected =
            call.errcode == Some(0) || call.errcode == Some(48_002) && may_be_refused.contains(&call.api);
        assert!(is_expected, "{}: {call:?}", variant.what);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_a_dealer_whose_authorisation_is_not_read_yet_is_linked_by_itself() {
    let setup = agency(|options| {
        options.agency.dealers_install = true;
        options.agency.list_app_share_info = REFUSED;
        options.sender.receive_id = ReceiveId::Dealer;
    });
    let mut world = World::with(setup).await;
    world.brand(1).await;
    let fans = world.mint(1).await;
    let create_auth = world.wecom.install(&world.dealers[0].corp_id);
    world.add(0, &fans[0], "zhangsan").await;
    assert_eq!(world.get("/v1/status").await["inbox"]["quarantined"], 1);
    world.deliver(&create_auth).await;
    world.linked(&fans[0], 1).await;
    world.until("/v1/status", |status| status["inbox"]["quarantined"] == 0).await;
    world.check_links(&fans).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_encrypted_for_the_suite_or_the_provider_is_that_of_the_corp_in_it() {
    let mut world = World::with(agency(|_| {})).await;
    world.brand(1).await;
    let fans = world.mint(2).await;
    world.knows_dealers(1).await;
    let template = &world.templates[0];
    for (receive_id, fan) in [&template.suite_id, &template.provider_corp_id].into_iter().zip(&fans) {
        let (_, event) = world.befriend(0, fan, "zhangsan");
        let sealed = world.wecom.seal_with(&event, receive_id);
        assert!(world.wecom.post(&sealed).await.acknowledged);
        world.linked(fan, 1).await;
    }
    world.check_links(&fans).await;
}
