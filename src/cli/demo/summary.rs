//! The result of the demo, as text and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::simulator::{Api, Counters};

/// What the demo measured.
pub(super) struct Summary {
    pub(super) status: Value,
    pub(super) links_by_source: BTreeMap<String, usize>,
    /// Number of fans that were customers before they were registered.
    pub(super) long_standing: usize,
    pub(super) counters: Counters,
    pub(super) latencies: Vec<Duration>,
    /// The round trip of a call to the simulated WeCom.
    pub(super) round_trip_ms: u64,
    /// Links: what each is an example of, the API path that returns it, the link.
    pub(super) examples: Vec<(&'static str, String, Value)>,
    /// With an agency-developed app.
    pub(super) agency: Option<AgencySummary>,
    pub(super) api: String,
    pub(super) took: Duration,
}

/// What an agency-developed app did besides.
#[derive(Debug, Serialize)]
pub(super) struct AgencySummary {
    pub(super) tickets: usize,
    /// Auth codes exchanged for permanent codes.
    pub(super) auth_codes: usize,
    /// Number of dealers that installed the app.
    pub(super) installed: usize,
    /// From the brand's `create_auth` to its first pending id.
    pub(super) first_pending_id_ms: i64,
}

impl Summary {
    /// The quantile `fraction` of the latencies, in milliseconds.
    fn quantile_ms(&self, fraction: f64) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a few hundred samples"
        )]
        let index = ((sorted.len() as f64 * fraction).ceil() as usize).saturating_sub(1);
        sorted.get(index).map_or(0.0, |latency| latency.as_secs_f64() * 1_000.0)
    }

    fn received(&self) -> u64 {
        let door = &self.status["callbacks"];
        ["accepted", "duplicates", "ignored", "quarantined", "refused"]
            .iter()
            .filter_map(|k| door[k].as_u64())
            .sum()
    }

    pub(super) fn json(&self) -> Value {
        let calls = |api| json!({"calls": self.counters.calls_of(api), "ids": self.counters.ids_of(api)});
        let mut summary = json!({
            "fans_minted": self.status["fans"]["minted"],
            "callbacks": {
                "received": self.received(),
                "duplicates_dropped": self.status["callbacks"]["duplicates"],
                "forgeries_refused": self.status["callbacks"]["refused"],
            },
            "calls": {
                "external_userid_to_pending_id": calls(Api::ExternalUseridToPendingId),
                "unionid_to_pending_id": calls(Api::UnionidToPendingId),
                "unionid_to_external_userid": calls(Api::UnionidToExternalUserid),
            },
            "links": self.status["links"],
            "links_by_source": self.links_by_source,
            "callback_to_link_ms": {"median": self.quantile_ms(0.5), "p99": self.quantile_ms(0.99), "api_round_trip": self.round_trip_ms},
            "examples": self.examples.iter().map(|(what, path, link)| json!({"what": what, "path": path, "link": link}))
                .collect::<Vec<_>>(),
            "seconds": self.took.as_secs_f64(),
        });
        if let Some(agency) = &self.agency {
            summary["agency"] = json!(agency);
        }
        summary
    }

    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        let status = &self.status;
        let (resolve, mint) = (Api::ExternalUseridToPendingId, Api::UnionidToPendingId);
        let existing = Api::UnionidToExternalUserid;
        let links_from = |source: &str| self.links_by_source.get(source).copied().unwrap_or_default();
        let mut rows = vec![
            ("fans minted", status["fans"]["minted"].to_string(), String::new()),
            (
                "callbacks received",
                self.received().to_string(),
                format!(
                    "{} duplicates dropped, {} forgeries refused",
                    status["callbacks"]["duplicates"], status["callbacks"]["refused"]
                ),
            ),
            (
                "conversion calls",
                self.counters.calls_of(resolve).to_string(),
                format!("for {} customers", self.counters.ids_of(resolve)),
            ),
            (
                "calls for fans",
                (self.counters.calls_of(mint) + self.counters.calls_of(existing)).to_string(),
                format!(
                    "{} to mint pending ids, {} to find existing customers",
                    self.counters.calls_of(mint),
                    self.counters.calls_of(existing)
                ),
            ),
            ("links made", status["links"].to_string(), "all match the platform's own records".to_owned()),
            (
                "  of them",
                String::new(),
                format!(
                    "{} through a group, {} found by comparison, {} long-standing",
                    links_from("chat"),
                    links_from("reconcile"),
                    self.long_standing
                ),
            ),
            (
                "callback to link",
                format!("{:.0} ms", self.quantile_ms(0.5)),
                format!(
                    "median; p99 {:.0} ms; one call to WeCom takes {} ms here",
                    self.quantile_ms(0.99),
                    self.round_trip_ms
                ),
            ),
        ];
        if let Some(agency) = &self.agency {
            rows.extend(agency.rows());
        }
        // Writing to a String does not fail.
        let _ = writeln!(out);
        for (name, value, note) in rows {
            let row = format!("  {name:<20}{value:>8}   {note}");
            let _ = writeln!(out, "{}", row.trim_end());
        }
        let _ = writeln!(out, "\n  five links, as the API returns them:");
        for (what, path, link) in &self.examples {
            let text = |name: &str| link[name].as_str().unwrap_or("-").to_owned();
            let _ = writeln!(out, "\n  · {what}");
            let _ =
                writeln!(out, "    {} ⇔ {} at {}", text("unionid"), text("external_userid"), text("corp_id"));
            let _ = writeln!(out, "    curl '{}{path}'", self.api);
        }
        let _ = write!(
            out,
            "\n  {:.1} s in all; with --stay it keeps running, and the commands above work",
            self.took.as_secs_f64()
        );
        out
    }
}

impl AgencySummary {
    fn rows(&self) -> [(&'static str, String, String); 3] {
        let of_dealers = self.installed;
        [
            (
                "suite tickets",
                self.tickets.to_string(),
                "WeCom sends one every ten minutes, valid for thirty".to_owned(),
            ),
            (
                "auth codes exchanged",
                self.auth_codes.to_string(),
                format!("brand, {of_dealers} dealers, a reset, and the brand again after it had cancelled"),
            ),
            (
                "create_auth to mint",
                format!("{} ms", self.first_pending_id_ms),
                "from the scanned QR code to the first pending id".to_owned(),
            ),
        ]
    }
}
