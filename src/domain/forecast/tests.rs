//! Forecasts for known numbers of fans, checked against the quota's arithmetic.

use super::*;
use crate::domain::fan::{Fan, Minted, Renew};
use crate::domain::ids::{Openid, PendingId};

const NOW: Timestamp = Timestamp::from_secs(1_795_309_323);

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

#[test]
fn an_import_takes_as_long_as_the_tightest_window_requires() {
    let done = |count, history: &[(i64, u32)]| {
        forecast(&many(&fan(), count), history, Limits::DOCUMENTED, Share::Whole, Renew::All, NOW)
            .import_done_at
    };
    assert_eq!(done(0, &[]), None);
    assert_eq!(done(90_000, &[]), Some(NOW.plus_ms(HOUR_MS)));
    assert_eq!(done(250_000, &[]), Some(NOW.plus_ms(3 * HOUR_MS)));
    assert_eq!(days_until(done(1_000_000, &[])), 2);
    assert_eq!(days_until(done(7_500_000, &[])), 15);
    // The month's quota is used up after 15 days; the first calls leave the window 30 days after they were
    // made.
    assert_eq!(days_until(done(10_000_000, &[])), 35);
    // Calls made an hour ago count for the rest of the day.
    assert_eq!(days_until(done(90_000, &[(HOUR_MS, 480_000)])), 0);
    assert!(done(90_000, &[(HOUR_MS, 480_000)]) > Some(NOW.plus_ms(22 * HOUR_MS)));
}

#[test]
fn renewals_go_first_and_it_is_forecast_when_they_will_be_late() {
    let limits = Limits { per_hour: 100, per_day: 480, per_month: 7_500 };
    let mut minted = fan();
    minted.minted(Minted::new(PendingId::new("p").unwrap(), NOW), false);
    // As many fans as the quota renews in time can be kept valid for ever.
    let of = |tally: &Tally| forecast(tally, &[], limits, Share::Whole, Renew::All, NOW);
    assert_eq!(of(&many(&minted, 2_000)).renewals_late_from, None);
    assert_eq!(
        forecast(&many(&minted, 3_000), &[], limits, Share::Whole, Renew::Never, NOW).renewals_late_from,
        None
    );
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
