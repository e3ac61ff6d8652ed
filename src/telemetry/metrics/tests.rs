//! Series with WeCom's error codes as labels: bounded in number, and set to 0 when their cause is gone; those
//! of a sink are removed with it.

use super::*;
use crate::domain::tally::Tally;
use crate::store::Counts;

#[test]
fn paused_counts_breakers_by_cause_and_goes_to_0_afterwards() {
    let metrics = Metrics::default();
    let app = AppName::new("brand").unwrap();
    let lines = || {
        let text = metrics.scrape(&Counts::default(), Some(&Tally::default()), 0);
        let mut lines: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("unionlink_paused{app=\"brand\",scope="))
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    };
    let corp = |errcode| (&app, "corp", errcode);
    let breakers = [Some(84_074), Some(84_074), Some(987_654), Some(987_655), None].map(corp);
    metrics.paused(breakers.into_iter());
    let expected =
        ["\"corp\",errcode=\"84074\"} 2", "\"corp\",errcode=\"none\"} 1", "\"corp\",errcode=\"other\"} 2"];
    assert_eq!(lines(), expected);
    metrics.paused([(&app, "app", Some(60_020))].into_iter());
    let expected = [
        "\"app\",errcode=\"60020\"} 1",
        "\"corp\",errcode=\"84074\"} 0",
        "\"corp\",errcode=\"none\"} 0",
        "\"corp\",errcode=\"other\"} 0",
    ];
    assert_eq!(lines(), expected);
}

#[test]
fn errcodes_that_are_not_known_share_one_series() {
    let (metrics, app) = (Metrics::default(), AppName::new("brand").unwrap());
    for errcode in [610_014, 99_998, 99_999, i64::MAX] {
        metrics.fan_rejected(&app, errcode);
    }
    let count = |errcode: &str| {
        let labels = [("app", app.to_string()), ("errcode", errcode.to_owned())];
        metrics.fans_rejected.get(&labels).map(|count| count.get())
    };
    assert_eq!(["610014", "other", "99999"].map(count), [Some(1), Some(3), None]);
}

#[test]
fn a_sink_that_is_removed_leaves_no_series() {
    let metrics = Metrics::default();
    let [crm, cdp] = ["crm", "cdp"].map(|name| SinkName::new(name).unwrap());
    for sink in [&crm, &cdp] {
        metrics.sink_configured(sink);
        metrics.delivery(sink, true, 1);
        metrics.sink(sink.as_str(), (2, 3), "failing", &["running", "failing"]);
    }
    metrics.sink_removed(&crm);
    let text = metrics.scrape(&Counts::default(), Some(&Tally::default()), 0);
    assert!(!text.contains("sink=\"crm\""), "{text}");
    assert_eq!(text.matches("sink=\"cdp\"").count(), 7, "{text}");
}
