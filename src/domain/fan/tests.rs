use proptest::prelude::*;

use super::*;

fn openid(text: &str) -> Openid {
    Openid::new(text).unwrap()
}

fn fan(ask_existing: bool) -> Fan {
    Fan::new(openid("oOPENID"), Timestamp::EPOCH, ask_existing, Priority::Live)
}

fn minted(id: &str, day: i64) -> Minted {
    Minted::new(PendingId::new(id).unwrap(), at(day))
}

const fn at(day: i64) -> Timestamp {
    Timestamp::from_millis(day * DAY_MS)
}

#[test]
fn minting_comes_before_the_lookup_of_existing_customers() {
    let mut fan = fan(true);
    assert_eq!(
        (fan.queued_for(FanStep::Mint), fan.queued_for(FanStep::AskExisting)),
        (Some(Priority::Live), None)
    );
    fan.minted(minted("p", 0), false);
    assert_eq!(
        (fan.queued_for(FanStep::Mint), fan.queued_for(FanStep::AskExisting)),
        (None, Some(Priority::Live))
    );
    fan.existing = Existing::Asked { at: at(0), found: 0 };
    assert_eq!(fan.queued_for(FanStep::AskExisting), None);
}

#[test]
fn another_pending_id_queues_the_lookup_of_existing_customers_again() {
    let asked = Existing::Asked { at: at(0), found: 0 };
    let asked_again = |id: &str, day: i64| {
        let mut fan = fan(true);
        fan.minted(minted("first", 0), false);
        fan.existing = asked;
        let mut adopting = fan.clone();
        fan.minted(minted(id, day), false);
        if adopting.adopt(minted(id, day), at(day)) {
            assert_eq!(adopting.existing, fan.existing);
        }
        fan.queued_for(FanStep::AskExisting)
    };
    assert_eq!(asked_again("first", 85), None, "the same one in time: no add was missed");
    assert_eq!(asked_again("second", 85), Some(Priority::Renew), "there may have been one between the two");
    assert_eq!(asked_again("first", 90), Some(Priority::Renew), "adds after its expiry were missed");
    assert_eq!(asked_again("second", 90), Some(Priority::Renew));
    let mut older = fan(true);
    older.minted(minted("first", 50), false);
    older.existing = asked;
    assert!(older.adopt(minted("older", 40), at(60)));
    assert_eq!(older.existing, asked, "the lookup was made after the newer one");
    let mut off = fan(false);
    off.minted(minted("first", 0), false);
    off.minted(minted("second", 400), false);
    assert_eq!(off.existing, Existing::Off);
}

#[test]
fn an_expired_fan_registered_again_is_queued_again() {
    for id in ["oOPENID", "oOTHER"] {
        let mut fan = fan(false);
        assert!(!fan.register_again(&openid("oOPENID"), Priority::Live, false));
        fan.mint = Mint::Expired;
        assert_eq!(fan.queued_for(FanStep::Mint), None);
        assert!(fan.register_again(&openid(id), Priority::Live, false));
        assert_eq!((fan.queued_for(FanStep::Mint), fan.openid), (Some(Priority::Live), openid(id)));
    }
}

#[test]
fn what_wecom_refused_is_queued_again_only_with_another_openid_or_on_request() {
    let mut rejected = fan(true);
    rejected.rejected(610_018, at(0));
    let mut refused = fan(true);
    refused.minted(minted("p", 0), false);
    refused.existing = Existing::Refused { errcode: 610_018, at: at(0) };
    for (step, before) in [(FanStep::Mint, rejected), (FanStep::AskExisting, refused)] {
        assert_eq!((before.queued_for(step), before.errcode()), (None, Some(610_018)));
        let registered_again = |id: &str, retry_rejected: bool| {
            let mut fan = before.clone();
            let changed = fan.register_again(&openid(id), Priority::Live, retry_rejected);
            assert_eq!(changed, fan != before);
            fan.queued_for(step)
        };
        assert_eq!(registered_again("oOPENID", false), None, "{step:?}");
        assert_eq!(registered_again("oOPENID", true), Some(Priority::Live), "{step:?}");
        assert_eq!(registered_again("oOTHER", false), Some(Priority::Live), "{step:?}");
    }
}

#[test]
fn an_imported_pending_id_joins_a_rejected_fan_without_a_call() {
    let mut fan = fan(true);
    fan.rejected(610_018, at(0));
    assert!(!fan.register_again(&openid("oOPENID"), Priority::Bulk, false));
    assert!(fan.adopt(minted("p", 0), at(1)));
    assert_eq!((fan.state(at(1)), fan.queued_for(FanStep::Mint)), (FanState::Minted, None));
}

#[test]
fn an_imported_fan_who_registers_live_moves_up_and_never_down() {
    let mut fan = Fan::new(openid("oOPENID"), at(0), true, Priority::Bulk);
    assert!(!fan.register_again(&openid("oOPENID"), Priority::Live, false));
    assert_eq!((fan.mint, fan.existing), (Mint::Queued(Priority::Live), Existing::Due(Priority::Live)));
    fan.register_again(&openid("oOPENID"), Priority::Bulk, false);
    assert_eq!(fan.mint, Mint::Queued(Priority::Live));
}

/// Simulates a fan's life: each review is made when it is due, each queued mint is answered `late_days` later
/// with the pending id that `answer` returns. Returns the days on which a pending id was obtained.
fn live(
    fan: &mut Fan,
    until_day: i64,
    late_days: i64,
    renew: Renew,
    answer: impl Fn(i64) -> String,
) -> Vec<i64> {
    let mut minted_on = vec![];
    let (mut now, end) = (at(0), at(until_day));
    while now < end {
        let due = [fan.review_at(), fan.queued_for(FanStep::Mint).map(|_| now.plus_ms(late_days * DAY_MS))];
        let Some(next) = due.into_iter().flatten().min().filter(|next| *next < end) else { break };
        now = now.max(next);
        if fan.review_at().is_some_and(|due| due <= now) {
            fan.review(now, false, renew);
            assert!(fan.review_at().is_none_or(|next| next > now), "a review is due again at once: {fan:?}");
        } else {
            let day = now.as_millis() / DAY_MS;
            fan.minted(minted(&answer(day), 0).at(now), false);
            minted_on.push(day);
        }
    }
    minted_on
}

impl Minted {
    fn at(mut self, minted_at: Timestamp) -> Self {
        self.minted_at = minted_at;
        self
    }
}

#[test]
fn a_fan_is_minted_again_from_day_85_and_the_old_id_joins_until_a_week_after_its_expiry() {
    let mut fan = fan(false);
    assert_eq!(live(&mut fan, 84, 0, Renew::All, |day| format!("p{day}")), [0]);
    assert_eq!((fan.state(at(84)), fan.review_at()), (FanState::Minted, Some(at(85))));
    fan.review(at(85), false, Renew::All);
    assert_eq!(fan.queued_for(FanStep::Mint), Some(Priority::RenewUnlinked));
    fan.minted(minted("p85", 85), false);
    let ids = |fan: &Fan| fan.ids.iter().map(|id| id.pending_id.as_str().to_owned()).collect::<Vec<_>>();
    assert_eq!((ids(&fan), fan.review_at()), (vec!["p0".to_owned(), "p85".to_owned()], Some(at(97))));
    fan.review(at(97), false, Renew::All);
    assert_eq!((ids(&fan), fan.review_at()), (vec!["p85".to_owned()], Some(at(170))));
}

#[test]
fn two_hundred_days_take_three_mints_and_leave_no_gap() {
    assert_eq!(live(&mut fan(false), 200, 0, Renew::All, |day| format!("p{day}")), [0, 85, 170]);
}

#[test]
fn a_fan_whose_id_did_not_change_is_minted_once_more_after_its_expiry() {
    // Whether WeCom extended it is not known, so both cases are covered.
    let mut fan = fan(false);
    assert_eq!(live(&mut fan, 200, 0, Renew::All, |_| "p".to_owned()), [0, 85, 90, 175, 180]);
    // If it is known, that call is saved.
    fan.review(at(265), false, Renew::All);
    assert_eq!(fan.queued_for(FanStep::Mint), Some(Priority::RenewUnlinked));
    fan.minted(minted("p", 265), true);
    assert_eq!((fan.mint, fan.review_at(), fan.ids.len()), (Mint::Idle, Some(at(350)), 1));
}

#[test]
fn a_pending_id_that_is_not_renewed_expires_and_leaves_the_join_a_week_later() {
    for (renew, linked) in [(Renew::Never, false), (Renew::Unlinked, true)] {
        let mut fan = fan(false);
        fan.minted(minted("p", 0), false);
        fan.review(at(85), linked, renew);
        assert_eq!((fan.state(at(85)), fan.queued_for(FanStep::Mint)), (FanState::Minted, None));
        fan.review(at(90), linked, renew);
        assert_eq!((fan.state(at(90)), fan.live, fan.ids.len()), (FanState::Expired, false, 1));
        fan.review(at(97), linked, renew);
        assert_eq!((fan.ids.len(), fan.review_at(), fan.state(at(97))), (0, None, FanState::Expired));
    }
}

#[test]
fn linked_fans_are_renewed_after_unlinked_ones() {
    let mut fan = fan(false);
    fan.minted(minted("p", 0), false);
    fan.review(at(85), true, Renew::All);
    assert_eq!(fan.queued_for(FanStep::Mint), Some(Priority::Renew));
}

#[test]
fn an_imported_id_joins_at_once_and_is_renewed_in_time() {
    let mut known = fan(true);
    assert!(known.adopt(Minted::imported(PendingId::new("p").unwrap(), Some(at(10)), at(40)), at(40)));
    assert_eq!((known.queued_for(FanStep::Mint), known.review_at()), (None, Some(at(95))));
    assert!(!known.adopt(minted("p", 10), at(40)), "the same row twice changes nothing");
    // Of unknown age: neither trusted for long nor renewed at once.
    let mut unknown = fan(true);
    assert!(unknown.adopt(Minted::imported(PendingId::new("p").unwrap(), None, at(100)), at(100)));
    assert_eq!((unknown.queued_for(FanStep::Mint), unknown.review_at()), (None, Some(at(105))));
    // Older than all of the maximum number of ids.
    for n in 1..IDS_MAX {
        assert!(known.adopt(minted(&format!("p{n}"), 10 + i64::try_from(n).unwrap()), at(40)));
    }
    assert!(!known.adopt(minted("older", 9), at(40)));
    // An expired one changes nothing.
    let mut expired = fan(true);
    assert!(!expired.adopt(minted("p", 10), at(100)));
    assert_eq!(expired.queued_for(FanStep::Mint), Some(Priority::Live));
}

proptest! {
    /// Whatever WeCom answers and however late, no review is due again at once, few ids are kept, and no gap
    /// is longer than WeCom's delay.
    #[test]
    fn a_fan_is_renewed_in_time_whatever_wecom_answers(
        late_days in 0_i64..5, distinct in 1_i64..5, days in 100_i64..1_000,
    ) {
        let mut fan = fan(false);
        let minted_on = live(&mut fan, days, late_days, Renew::All, |day| format!("p{}", day % distinct));
        prop_assert!(fan.ids.len() <= IDS_MAX);
        for pair in minted_on.windows(2) {
            prop_assert!(pair[1] - pair[0] <= 90 + late_days, "{minted_on:?}");
        }
        prop_assert!(i64::try_from(minted_on.len()).unwrap() >= days / (90 + late_days));
    }
}
