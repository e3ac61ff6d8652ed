//! One case for each verdict, in the order of precedence.

use std::collections::BTreeSet;

use super::*;
use crate::domain::time::{DAY_MS, HOUR_MS};

const NOW: Timestamp = Timestamp::from_secs(1_795_309_323);

fn trouble(errcode: i64) -> Trouble {
    let until = Some(NOW.plus_ms(HOUR_MS));
    Trouble { errcode: Some(errcode), en: "do this".to_owned(), zh: "请这样做".to_owned(), until }
}

fn fan(state: FanIs) -> FanFacts {
    FanFacts {
        app: AppName::new("brand").unwrap(),
        registered_at: NOW.plus_ms(-DAY_MS),
        state,
        minted: Some((NOW.plus_ms(-HOUR_MS), NOW.plus_ms(DAY_MS))),
        existing: None,
        paused: None,
    }
}

fn contact(linked: bool) -> ContactFacts {
    ContactFacts {
        corp_id: CorpId::new("wpDEALER").unwrap(),
        first_seen_at: NOW.plus_ms(-HOUR_MS),
        has_pending_id: linked,
        asked: None,
        linked: linked.then_some((NOW.plus_ms(-HOUR_MS), Source::Callback)),
        paused: None,
    }
}

fn event(place: EventIs) -> EventFacts {
    EventFacts { id: "evt_7".to_owned(), received_at: NOW, place, paused: None }
}

fn sink(oldest_ms_ago: i64) -> SinkFacts {
    SinkFacts {
        name: SinkName::new("crm").unwrap(),
        entries: 3,
        oldest_at: Some(NOW.plus_ms(-oldest_ms_ago)),
        reason: None,
    }
}

fn cases() -> Vec<(Code, Facts)> {
    let nothing = Facts::default;
    let of_fan = |state| Facts { fans: vec![fan(state)], ..nothing() };
    let of_event = |place| Facts { events: vec![event(place)], ..nothing() };
    let linked = || Facts { contacts: vec![contact(true)], ..of_fan(FanIs::Minted) };
    let waits = EventIs::Waiting(NOW);
    let parked = EventFacts { paused: Some(trouble(84_074)), ..event(waits.clone()) };
    let stopped = FanFacts { paused: Some(trouble(48_002)), ..fan(FanIs::Waiting(None)) };
    let known = ContactFacts { has_pending_id: true, ..contact(false) };
    vec![
        (Code::NeverRegistered, nothing()),
        (Code::WaitingForQuota, of_fan(FanIs::Waiting(Some(NOW)))),
        (Code::MintingParked, Facts { fans: vec![stopped], ..nothing() }),
        (Code::RejectedByWecom, of_fan(FanIs::Rejected { at: NOW, trouble: trouble(610_014) })),
        (Code::NotAdded, of_fan(FanIs::Minted)),
        (Code::Expired, of_fan(FanIs::Expired)),
        (Code::NoPendingId, Facts { contacts: vec![contact(false)], ..nothing() }),
        (Code::PendingIdUnknown, Facts { contacts: vec![known], ..nothing() }),
        (Code::DealerParked, Facts { events: vec![parked], ..nothing() }),
        (Code::EventQuarantined, of_event(EventIs::Quarantined(trouble(0)))),
        (Code::EventDead, of_event(EventIs::Dead(trouble(40_096)))),
        (Code::EventWaiting, of_event(waits)),
        (Code::Linked, linked()),
        // What it still has to get is younger than the link, or older.
        (Code::Linked, Facts { sinks: vec![sink(1_000)], ..linked() }),
        (Code::SinkBehind, Facts { sinks: vec![sink(2 * HOUR_MS)], ..linked() }),
        (Code::Forgotten, Facts { forgotten_at: Some(NOW), ..nothing() }),
        (Code::Forgotten, Facts { forgotten_at: Some(NOW), ..of_fan(FanIs::Minted) }),
        // Registered anew since.
        (Code::NotAdded, Facts { forgotten_at: Some(NOW.plus_ms(-2 * DAY_MS)), ..of_fan(FanIs::Minted) }),
        (Code::Linked, Facts { forgotten_at: Some(NOW.plus_ms(-2 * DAY_MS)), ..linked() }),
    ]
}

#[test]
fn every_situation_has_its_verdict_in_both_languages() {
    let mut seen = BTreeSet::new();
    for (wanted, facts) in cases() {
        let (verdict, evidence) = explain(&facts, NOW);
        assert_eq!(verdict.code, wanted, "{facts:?}");
        seen.insert(verdict.code);
        let texts = [Some(verdict.text), verdict.hint];
        let evidence = evidence.into_iter().map(|item| item.text);
        for text in texts.into_iter().flatten().chain(evidence) {
            assert!(!text.en.is_empty() && text.en.is_ascii(), "{text:?}");
            assert!(!text.zh.is_ascii(), "{text:?}");
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), {
        let mut all = Code::ALL.to_vec();
        all.sort();
        all
    });
}

#[test]
fn evidence_is_told_from_the_earliest_on() {
    let (_, facts) = cases().into_iter().find(|(code, _)| *code == Code::SinkBehind).unwrap();
    let (_, evidence) = explain(&facts, NOW);
    let codes: Vec<_> = evidence.iter().map(|item| item.code).collect();
    assert_eq!(codes, ["fan_registered", "fan_minted", "contact_seen", "linked", "contact_resolved"]);
}

#[test]
fn a_link_goes_before_everything_else_and_trouble_before_waiting() {
    let all = Facts {
        fans: vec![fan(FanIs::Minted)],
        contacts: vec![contact(false), contact(true)],
        events: vec![event(EventIs::Dead(trouble(1)))],
        forgotten_at: None,
        sinks: Vec::new(),
    };
    assert_eq!(explain(&all, NOW).0.code, Code::Linked);
    let unlinked = Facts { contacts: vec![contact(false)], ..all };
    assert_eq!(explain(&unlinked, NOW).0.code, Code::EventDead);
}
