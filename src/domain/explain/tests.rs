//! One case for each verdict, in the order of precedence.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use strum::VariantArray as _;

use super::*;
use crate::domain::contact::Contact;
use crate::domain::dealer::{Dealer, Qualification};
use crate::domain::fan::{Priority, Renew};
use crate::domain::ids::{
    AppName, ChatId, CorpId, ExternalUserid, FanKey, Openid, PendingId, SinkName, Unionid,
};
use crate::domain::link::{Link, Source};
use crate::domain::lookup::{Haste, Lookup};
use crate::domain::sighting::{Sighting, SightingPlace};
use crate::domain::time::{DAY_MS, HOUR_MS};

const NOW: Timestamp = Timestamp::from_secs(1_795_309_323);

fn pending_id() -> PendingId {
    PendingId::new("pINVENTED").unwrap()
}

fn remedy() -> Text {
    Text { en: "do this".to_owned(), zh: "请这样做".to_owned() }
}

fn trouble(errcode: i64) -> Trouble {
    Trouble { errcode: Some(errcode), remedy: remedy(), retry_at: Some(NOW.plus_ms(HOUR_MS)) }
}

fn fan(state: FanState) -> Fan {
    let mut fan = Fan::new(Openid::new("oOPENID").unwrap(), NOW.plus_ms(-DAY_MS), false, Priority::Live);
    let minted = |ago_ms: i64| Minted::new(pending_id(), NOW.plus_ms(-ago_ms));
    match state {
        FanState::Queued => {}
        FanState::Minted => fan.minted(minted(HOUR_MS), false),
        FanState::Expired => {
            fan.minted(minted(91 * DAY_MS), false);
            fan.review(NOW, false, Renew::Never);
        }
        FanState::Rejected => fan.rejected(610_014, NOW),
    }
    assert_eq!(fan.state(NOW), state);
    fan
}

fn contact(pending: bool, linked: bool) -> Contact {
    let mut contact = Contact::new(Source::Callback, NOW.plus_ms(-HOUR_MS));
    contact.pending_id = pending.then(pending_id);
    contact.link = linked.then(|| Link {
        link_id: "lnk_1".to_owned(),
        unionid: Unionid::new("oFAN").unwrap(),
        pending_id: Some(pending_id()),
        source: Source::Callback,
        linked_at: NOW.plus_ms(-HOUR_MS),
        evidence_at: NOW.plus_ms(-HOUR_MS),
        chat_id: None,
    });
    contact
}

/// A customer without a pending id, after these lookups.
fn looked_up(asked: u32, refused: Option<i64>, due_at: Option<Timestamp>) -> Contact {
    let lookup = Lookup { asked, due_at, refused, ..Lookup::first(Haste::Background, NOW) };
    let mut contact = contact(false, false);
    contact.lookup = Some(lookup);
    contact
}

fn of_dealer(change: impl FnOnce(&mut Dealer)) -> HashMap<(AppName, CorpId), Dealer> {
    let corp_id = CorpId::new("wpDEALER").unwrap();
    let mut dealer = Dealer::listed(corp_id.clone(), 7, "Shop".to_owned(), NOW);
    change(&mut dealer);
    HashMap::from([((AppName::new("brand").unwrap(), corp_id), dealer)])
}

fn left(dealer: &mut Dealer) {
    dealer.left_at = Some(NOW.plus_ms(-DAY_MS));
}

fn unverified(dealer: &mut Dealer) {
    dealer.qualification = Some(Qualification::Unverified);
}

fn sink(oldest_ms_ago: i64) -> SinkLag {
    SinkLag {
        name: SinkName::new("crm").unwrap(),
        entries: 3,
        oldest_at: Some(NOW.plus_ms(-oldest_ms_ago)),
        is_stopped: false,
        reason: None,
    }
}

fn of_fan(state: FanState, trouble: Option<Trouble>) -> Facts {
    let key = FanKey { app: AppName::new("brand").unwrap(), unionid: Unionid::new("oFAN").unwrap() };
    Facts { fans: vec![(key, fan(state), trouble)], ..Facts::default() }
}

fn of_contacts(contacts: impl IntoIterator<Item = Contact>) -> Facts {
    let key = ContactKey {
        app: AppName::new("brand").unwrap(),
        corp_id: CorpId::new("wpDEALER").unwrap(),
        external_userid: ExternalUserid::new("wmINVENTED").unwrap(),
    };
    let contacts = contacts.into_iter().map(|contact| (key.clone(), contact, None));
    Facts { contacts: contacts.collect(), ..Facts::default() }
}

fn of_event(place: Place) -> Facts {
    let corp = Some((AppName::new("brand").unwrap(), CorpId::new("wpDEALER").unwrap()));
    let event = HeldEvent { id: "evt_7".to_owned(), corp, received_at: NOW, place };
    Facts { events: vec![event], ..Facts::default() }
}

/// The app has no authorisation that can be used.
fn unauthorized(why: NoAuthorization, facts: Facts) -> Facts {
    let unauthorized = Unauthorized { why, remedy: remedy() };
    Facts { unauthorized: BTreeMap::from([(AppName::new("brand").unwrap(), unauthorized)]), ..facts }
}

fn cancelled() -> NoAuthorization {
    NoAuthorization::Cancelled { at: NOW.plus_ms(-HOUR_MS) }
}

fn cases() -> Vec<(Code, Facts)> {
    let linked = || Facts { fans: of_fan(FanState::Minted, None).fans, ..of_contacts([contact(true, true)]) };
    let forgotten_before = Some(NOW.plus_ms(-2 * DAY_MS));
    vec![
        (Code::NeverRegistered, Facts::default()),
        (Code::WaitingForQuota, Facts { turn_at: Some(NOW), ..of_fan(FanState::Queued, None) }),
        (Code::MintingParked, of_fan(FanState::Queued, Some(trouble(48_002)))),
        (Code::RejectedByWecom, of_fan(FanState::Rejected, Some(trouble(610_014)))),
        (Code::NotAdded, of_fan(FanState::Minted, None)),
        (Code::Expired, of_fan(FanState::Expired, None)),
        (Code::NoPendingId, of_contacts([contact(false, false)])),
        (Code::NoPendingId, of_contacts([looked_up(6, None, None)])),
        (Code::LookupWaiting, of_contacts([looked_up(0, None, Some(NOW))])),
        (Code::NotVisible, of_contacts([looked_up(1, Some(60_011), Some(NOW))])),
        (Code::NotVisible, of_contacts([looked_up(99, Some(60_011), None)])),
        (
            Code::DealerLeft,
            Facts { dealers: of_dealer(left), ..of_contacts([looked_up(1, None, Some(NOW))]) },
        ),
        (Code::DealerLeft, Facts { dealers: of_dealer(left), ..of_event(Place::Inbox(NOW, None)) }),
        (
            Code::DealerUnverified,
            Facts { dealers: of_dealer(unverified), ..of_event(Place::Inbox(NOW, Some(trouble(84_074)))) },
        ),
        // The dealer is not the reason.
        (Code::NoPendingId, Facts { dealers: of_dealer(left), ..of_contacts([looked_up(6, None, None)]) }),
        (Code::PendingIdUnknown, Facts { dealers: of_dealer(left), ..of_contacts([contact(true, false)]) }),
        (Code::EventDead, Facts { dealers: of_dealer(left), ..of_event(Place::Dead(trouble(40_096))) }),
        (Code::PendingIdUnknown, of_contacts([contact(true, false)])),
        (Code::DealerParked, of_event(Place::Inbox(NOW, Some(trouble(84_074))))),
        (Code::EventQuarantined, of_event(Place::Quarantined(remedy()))),
        (Code::EventDead, of_event(Place::Dead(trouble(40_096)))),
        (Code::EventWaiting, of_event(Place::Inbox(NOW, None))),
        (Code::Linked, linked()),
        // The sink's backlog is younger than the link, or older.
        (Code::Linked, Facts { sinks: vec![sink(1_000)], ..linked() }),
        (Code::SinkBehind, Facts { sinks: vec![sink(2 * HOUR_MS)], ..linked() }),
        (
            Code::AppNotAuthorized,
            unauthorized(NoAuthorization::Waiting, of_fan(FanState::Queued, Some(trouble(48_002)))),
        ),
        (Code::AppCancelled, unauthorized(cancelled(), of_contacts([looked_up(1, Some(60_011), None)]))),
        (
            Code::AppCancelled,
            unauthorized(
                cancelled(),
                Facts { dealers: of_dealer(left), ..of_event(Place::Inbox(NOW, None)) },
            ),
        ),
        // A link needs no call, a dead letter an operator.
        (Code::Linked, unauthorized(cancelled(), linked())),
        (Code::EventDead, unauthorized(cancelled(), of_event(Place::Dead(trouble(40_096))))),
        (Code::Forgotten, Facts { forgotten_at: Some(NOW), ..Facts::default() }),
        (Code::Forgotten, Facts { forgotten_at: Some(NOW), ..of_fan(FanState::Minted, None) }),
        // The fan was registered again since.
        (Code::NotAdded, Facts { forgotten_at: forgotten_before, ..of_fan(FanState::Minted, None) }),
        (Code::Linked, Facts { forgotten_at: forgotten_before, ..linked() }),
    ]
}

#[test]
fn every_situation_has_its_verdict_in_both_languages() {
    let mut seen = BTreeSet::new();
    for (wanted, facts) in cases() {
        let answer = explain("oFAN".to_owned(), &facts, NOW);
        assert_eq!(answer.code, wanted, "{facts:?}");
        seen.insert(answer.code);
        let evidence = answer.evidence.into_iter().map(|item| item.text);
        for text in [Some(answer.text), answer.hint].into_iter().flatten().chain(evidence) {
            assert!(!text.en.is_empty() && text.en.is_ascii(), "{text:?}");
            assert!(!text.zh.is_ascii(), "{text:?}");
        }
    }
    assert_eq!(seen, Code::VARIANTS.iter().copied().collect::<BTreeSet<_>>());
}

#[test]
fn an_app_that_several_brands_have_authorised_names_them_and_another_app_that_can_call_decides() {
    let brand = |id: &str| (CorpId::new(id).unwrap(), "Brand".to_owned());
    let several = NoAuthorization::Ambiguous(vec![brand("wpA"), brand("wpB")]);
    let mut facts = unauthorized(several, of_fan(FanState::Queued, None));
    let answer = explain("oFAN".to_owned(), &facts, NOW);
    assert_eq!(answer.code, Code::AppNotAuthorized);
    let Text { en, zh } = answer.text;
    assert!(en.ends_with("serves none of them: Brand (wpA), Brand (wpB)"), "{en}");
    assert!(zh.ends_with("：Brand (wpA)、Brand (wpB)"), "{zh}");
    let (mut key, fan, _) = of_fan(FanState::Minted, None).fans.remove(0);
    key.app = AppName::new("own").unwrap();
    facts.fans.push((key, fan, None));
    assert_eq!(explain("oFAN".to_owned(), &facts, NOW).code, Code::NotAdded);
}

#[test]
fn a_customer_to_be_looked_up_again_waits_for_the_dealers_circuit_breaker() {
    let mut facts = of_contacts([contact(false, false)]);
    facts.contacts[0].2 = Some(trouble(84_074));
    assert_eq!(explain("wmINVENTED".to_owned(), &facts, NOW).code, Code::NoPendingId);
    facts.contacts[0].1.lookup = Some(Lookup { asked: 1, ..Lookup::first(Haste::Background, NOW) });
    assert_eq!(explain("wmINVENTED".to_owned(), &facts, NOW).code, Code::DealerParked);
}

#[test]
fn texts_name_instants_in_china_time_and_evidence_carries_utc() {
    let answer = explain("oFAN".to_owned(), &of_fan(FanState::Minted, None), NOW);
    let end = "2027-02-20 08:02:03 +08:00";
    assert!(answer.text.en.contains(end) && answer.text.zh.contains(end), "{:?}", answer.text);
    let minted = serde_json::to_value(&answer.evidence[1]).unwrap();
    assert_eq!(minted["at"], "2026-11-22T00:02:03.000Z");
}

#[test]
fn the_hint_for_a_rejected_fan_says_how_to_have_wecom_asked_again() {
    let facts = of_fan(FanState::Rejected, Some(trouble(610_014)));
    let Text { en, zh } = explain("oFAN".to_owned(), &facts, NOW).hint.unwrap();
    assert!(en.starts_with("do this; register the fan again with the correct openid or"), "{en}");
    assert!(zh.starts_with("请这样做；请用正确的 openid 重新登记"), "{zh}");
    for text in [en, zh] {
        assert!(text.contains("?retry=rejected") && text.contains("--retry-rejected"), "{text}");
    }
}

#[test]
fn a_dealer_is_named_with_its_id_behind_it() {
    let dealers = of_dealer(|dealer| dealer.name = "上海一店".to_owned());
    let linked = Facts { dealers: dealers.clone(), ..of_contacts([contact(true, true)]) };
    let answer = explain("wmINVENTED".to_owned(), &linked, NOW);
    let texts = [answer.text].into_iter().chain(answer.evidence.into_iter().map(|item| item.text));
    for Text { en, zh } in texts {
        assert!(en.contains("dealer 上海一店 (wpDEALER)"), "{en}");
        assert!(zh.contains("经销商 上海一店 (wpDEALER) "), "{zh}");
    }
    let parked = Facts { dealers, ..of_event(Place::Inbox(NOW, Some(trouble(84_074)))) };
    let text = explain("wmINVENTED".to_owned(), &parked, NOW).text;
    assert!(text.en.starts_with("dealer 上海一店 (wpDEALER) added this customer"), "{text:?}");
    assert!(text.zh.starts_with("经销商 上海一店 (wpDEALER) 已添加此客户"), "{text:?}");
    let of_brand = explain("wmINVENTED".to_owned(), &of_contacts([contact(true, true)]), NOW).text;
    assert!(of_brand.en.ends_with("as a customer of corp wpDEALER"), "{of_brand:?}");
}

#[test]
fn evidence_is_listed_earliest_first() {
    let (_, facts) = cases().into_iter().find(|(code, _)| *code == Code::SinkBehind).unwrap();
    let answer = explain("oFAN".to_owned(), &facts, NOW);
    let codes: Vec<_> = answer.evidence.iter().map(|item| item.code).collect();
    assert_eq!(codes, ["fan_registered", "fan_minted", "contact_seen", "linked", "contact_resolved"]);
}

#[test]
fn a_link_decides_before_anything_else_and_a_failure_before_a_pending_lookup() {
    let all = Facts {
        fans: of_fan(FanState::Minted, None).fans,
        events: of_event(Place::Dead(trouble(1))).events,
        ..of_contacts([contact(false, false), contact(true, true)])
    };
    assert_eq!(explain("oFAN".to_owned(), &all, NOW).code, Code::Linked);
    let unlinked = Facts { contacts: of_contacts([contact(false, false)]).contacts, ..all };
    assert_eq!(explain("oFAN".to_owned(), &unlinked, NOW).code, Code::EventDead);
}

#[test]
fn a_stopped_sink_does_not_catch_up_by_itself() {
    let behind = |is_stopped| {
        let sinks = vec![SinkLag { is_stopped, ..sink(HOUR_MS) }];
        let facts = Facts { sinks, ..of_contacts([contact(true, true)]) };
        explain("wmINVENTED".to_owned(), &facts, NOW).hint.unwrap()
    };
    assert!(behind(false).en.contains("by itself"));
    let Text { en, zh } = behind(true);
    assert!(en.contains("/v1/sinks/crm/resume") && zh.contains("/v1/sinks/crm/resume"), "{en} {zh}");
}

fn hint(facts: &Facts) -> Text {
    explain("wmINVENTED".to_owned(), facts, NOW).hint.unwrap()
}

#[test]
fn the_hint_without_a_pending_id_says_for_which_fans_there_is_still_a_way() {
    let at = "2026-11-22 10:02:03 +08:00";
    let mut facts = of_contacts([looked_up(2, None, Some(NOW.plus_ms(HOUR_MS)))]);
    let on = hint(&facts);
    assert!(
        on.en.contains(&format!(
            "registered before this person became a customer: WeCom is asked again at {at}"
        ))
    );
    assert!(on.en.contains("asked once which dealers") && on.zh.contains("查询一次"), "{on:?}");
    facts.without_existing = BTreeSet::from([AppName::new("brand").unwrap()]);
    let off = hint(&facts);
    assert!(
        off.en.ends_with("a fan registered later cannot be found: existing_customers = false"),
        "{off:?}"
    );
    assert!(off.zh.contains(at) && off.zh.ends_with("则无法找到：existing_customers = false"), "{off:?}");
    let over = hint(&of_contacts([looked_up(6, None, None)]));
    assert!(over.en.contains("after POST /v1/resume") && over.zh.contains("POST /v1/resume"), "{over:?}");
}

#[test]
fn the_hint_for_a_customer_who_is_not_visible_has_the_remedy_and_says_when_wecom_is_asked_again() {
    let remedies = HashMap::from([((AppName::new("brand").unwrap(), 60_011), remedy())]);
    let due = Facts { remedies, ..of_contacts([looked_up(2, Some(60_011), Some(NOW.plus_ms(HOUR_MS)))]) };
    let Text { en, zh } = hint(&due);
    assert!(
        en.starts_with("do this; WeCom is asked again at 2026-11-22 10:02:03 +08:00, or at once"),
        "{en}"
    );
    assert!(zh.starts_with("请这样做；将于 2026-11-22 10:02:03 +08:00 再次查询"), "{zh}");
    let Text { en, zh } =
        hint(&Facts { remedies: due.remedies, ..of_contacts([looked_up(99, Some(60_011), None)]) });
    assert!(
        en.ends_with("when the dealer's visible range or sharing changes, or after POST /v1/resume"),
        "{en}"
    );
    assert!(zh.starts_with("请这样做；该经销商的可见范围或应用共享变化后"), "{zh}");
}

#[test]
fn a_customer_found_in_a_group_or_in_a_list_was_not_added_and_the_evidence_names_the_group() {
    let sighting = Sighting {
        external_userid: ExternalUserid::new("wmINVENTED").unwrap(),
        place: SightingPlace::Chat(ChatId::new("wrGROUP").unwrap()),
        since: None,
    };
    let mut member = looked_up(1, None, Some(NOW));
    member.source = Source::Chat;
    member.see(&sighting, NOW);
    let answer = explain("wmINVENTED".to_owned(), &of_contacts([member]), NOW);
    let Text { en, zh } = &answer.text;
    assert!(en.starts_with("this customer joined a customer group of corp wpDEALER, but"), "{en}");
    assert!(zh.starts_with("此客户加入了企业 wpDEALER 的客户群，但"), "{zh}");
    let joined = answer.evidence.iter().find(|item| item.code == "group_joined").unwrap();
    assert!(joined.text.en.contains("wrGROUP") && joined.text.zh.contains("wrGROUP"), "{joined:?}");
    let mut listed = looked_up(0, None, Some(NOW));
    listed.source = Source::Reconcile;
    let Text { en, .. } = explain("wmINVENTED".to_owned(), &of_contacts([listed]), NOW).text;
    assert!(en.starts_with("this person is a customer of corp wpDEALER; the lookup is queued"), "{en}");
}

#[test]
fn a_fan_whose_existing_customers_are_not_looked_up_is_not_found_at_earlier_dealers() {
    let mut facts = of_fan(FanState::Minted, None);
    let Text { en, zh } = hint(&facts);
    assert!(
        en.ends_with("are not found: existing_customers = false")
            && zh.ends_with("existing_customers = false")
    );
    facts.fans[0].1.existing = Existing::Asked { at: NOW, found: 0 };
    assert!(!hint(&facts).en.contains("existing_customers"));
}
