//! Forecasts for known numbers of fans, checked against the quota's arithmetic.

use proptest::prelude::*;

use super::*;
use crate::domain::fan::{Fan, Minted, Renew};
use crate::domain::ids::{Openid, PendingId};
use crate::domain::quota::{Grant, reserve};

const NOW: Timestamp = Timestamp::from_secs(1_795_309_323);

fn moment(at: Timestamp) -> Moment {
    Moment::on_the_wall(at, None)
}

fn fan() -> Fan {
    Fan::new(Openid::new("oOPENID").unwrap(), NOW, false, Priority::Bulk)
}

/// The counters of `count` equal fans, added up by doubling.
fn many(fan: &Fan, count: u64) -> Tally {
    let mut all = Tally::default();
    let mut doubled = Tally::default();
    doubled.replace(None, Some(fan));
    for bit in 0..u64::BITS {
        if count >> bit & 1 == 1 {
            all += &doubled;
        }
        let same = doubled.clone();
        doubled += &same;
        if count >> bit <= 1 {
            break;
        }
    }
    all
}

fn days_until(at: Option<Timestamp>) -> i64 {
    at.expect("it is forecast").millis_since(NOW) / DAY_MS
}

/// Reserves `count` calls, each as soon as the ledger grants it. Returns when the last was granted.
fn reserve_all(ledger: &mut Ledger, count: u32, share: Share, from: Timestamp) -> Timestamp {
    let (mut at, mut left) = (from, count);
    loop {
        let mut accounts = [(&mut *ledger, Budget::Conversion(Limits::DOCUMENTED))];
        match reserve(&mut accounts, moment(at), left, share) {
            Grant::Permits(granted) => left -= granted,
            Grant::Exhausted { wait_ms } => at = at.plus_ms(wait_ms),
        }
        if left == 0 {
            return at;
        }
    }
}

fn import_done_at(count: u32, ledger: &Ledger, share: Share) -> Option<Timestamp> {
    let tally = many(&fan(), count.into());
    forecast(&tally, ledger, Limits::DOCUMENTED, share, Renew::All, moment(NOW)).import_done_at
}

fn minutes_for(count: u32, ledger: &Ledger) -> i64 {
    let done_at = import_done_at(count, ledger, Share::Whole).expect("it is forecast");
    assert_eq!(done_at.millis_since(NOW) % MINUTE_MS, 0);
    done_at.millis_since(NOW) / MINUTE_MS
}

#[test]
fn an_import_takes_as_long_as_the_tightest_window_requires() {
    let unused = Ledger::default();
    assert_eq!(import_done_at(0, &unused, Share::Whole), None);
    // 10,000 calls at a time, each counted in the minute's window for up to 76 seconds; 100,000 an hour;
    // 480,000 a day.
    for (count, minutes) in [
        (1, 1),
        (200, 1),
        (10_000, 1),
        (10_001, 2),
        (15_000, 2),
        (90_000, 11),
        (99_999, 12),
        (100_000, 12),
        (100_001, 61),
        (250_000, 126),
        (480_000, 251),
        (480_001, 24 * 60 + 5),
    ] {
        assert_eq!(minutes_for(count, &unused), minutes, "{count}");
    }
    let days_for = |count| days_until(import_done_at(count, &unused, Share::Whole));
    assert_eq!(days_for(1_000_000), 2);
    assert_eq!(days_for(7_500_000), 15);
    // The month's quota is used up after 15 days; the first calls leave the window 30 days after they were
    // made.
    assert_eq!(days_for(10_000_000), 35);
}

#[test]
fn an_import_waits_until_earlier_calls_leave_the_window() {
    let mut hour_used = Ledger::default();
    reserve_all(&mut hour_used, 100_000, Share::Whole, NOW.plus_ms(-50 * MINUTE_MS));
    assert_eq!(minutes_for(200, &hour_used), 11);
    assert_eq!(minutes_for(15_000, &hour_used), 12);
    let mut day_used = Ledger::default();
    reserve_all(&mut day_used, 480_000, Share::Whole, NOW.plus_ms(-20 * HOUR_MS));
    let minutes = minutes_for(200, &day_used);
    assert!((4 * 60 + 1..=4 * 60 + 6).contains(&minutes), "{minutes}");
    // WeCom refuses all calls for an hour.
    let mut blocked = Ledger::default();
    assert_eq!(blocked.rate_limited(moment(NOW), Budget::Conversion(Limits::DOCUMENTED)), HOUR_MS);
    assert_eq!(minutes_for(200, &blocked), 61);
}

proptest! {
    #[test]
    fn an_import_is_done_in_the_minute_in_which_the_ledger_grants_its_last_call(
        used in proptest::collection::vec((1_u32..20_000, 0_i64..10 * MINUTE_MS), 0..30),
        count in prop_oneof![1_u32..20_000, 1_u32..400_000],
        more in 0_u32..20_000,
        reserve_percent in 0_u8..=10,
    ) {
        let share = Share::Without { reserve_percent, month_kept: 0 };
        let mut ledger = Ledger::default();
        let mut at = NOW.plus_ms(-used.iter().map(|(_, pause_ms)| pause_ms).sum::<i64>());
        for (want, pause_ms) in used {
            let mut accounts = [(&mut ledger, Budget::Conversion(Limits::DOCUMENTED))];
            // Refused while the quota is used up.
            let _ = reserve(&mut accounts, moment(at), want, Share::Whole);
            at = at.plus_ms(pause_ms);
        }
        let done_at = import_done_at(count, &ledger, share).unwrap();
        let granted_at = reserve_all(&mut ledger.clone(), count, share, NOW);
        // Rounded up to the minute. The forecast lets a call count for as long as it may, the ledger for some
        // seconds less: within an hour that adds up to at most 15 seconds.
        let late_ms = done_at.millis_since(granted_at);
        let late_ms_max = MINUTE_MS + FINE_STEP_MS + granted_at.millis_since(NOW) / 240;
        prop_assert!(late_ms > 0 && late_ms <= late_ms_max, "{late_ms} ms after {granted_at}");
        prop_assert!(import_done_at(count + more, &ledger, share).unwrap() >= done_at);
    }
}

#[test]
fn renewals_go_first_and_it_is_forecast_when_they_will_be_late() {
    let limits = Limits { per_hour: 100, per_day: 480, per_month: 7_500 };
    let mut minted = fan();
    minted.minted(Minted::new(PendingId::new("p").unwrap(), NOW), false);
    // As many fans as the quota renews in time can be kept valid for ever.
    let unused = Ledger::default();
    let with = |tally: &Tally, renew| forecast(tally, &unused, limits, Share::Whole, renew, moment(NOW));
    let of = |tally: &Tally| with(tally, Renew::All);
    assert_eq!(of(&many(&minted, 2_000)).renewals_late_from, None);
    assert_eq!(with(&many(&minted, 3_000), Renew::Never).renewals_late_from, None);
    // All of them are due on one day, and five days of the daily quota are not enough.
    let late = of(&many(&minted, 3_000)).renewals_late_from;
    assert_eq!(days_until(late), 90);
    // An import leaves the calls that renewals will need within the next month.
    let mut soon = fan();
    soon.minted(Minted::new(PendingId::new("p").unwrap(), NOW.plus_ms(-65 * DAY_MS)), false);
    let mut both = many(&soon, 7_400);
    both += &many(&fan(), 100);
    assert_eq!(days_until(of(&both).import_done_at), 0);
    both += &many(&fan(), 100);
    assert!(days_until(of(&both).import_done_at) >= 30);
    // And it waits for the renewals that are due.
    minted.review(NOW.plus_ms(85 * DAY_MS), false, Renew::All);
    let mut both = many(&minted, 1_000);
    both += &many(&fan(), 100);
    assert_eq!(days_until(of(&both).import_done_at), 2);
}
