//! Refused checks of callback URLs as findings.
//!
//! Deliberately absent: what is a finding (see [`crate::domain::finding`]).

use super::super::state::AdminState;
use crate::domain::finding::{CheckedUrl, Finding, UrlCheckFacts, url_check_findings};
use crate::http::doors::{AppDoor, AppRecipients, Door};

/// The findings about the current callback URLs.
pub(super) fn findings(state: &AdminState) -> Vec<Finding> {
    let (doors, checks) = (state.doors.current(), state.url_checks.all());
    let facts: Vec<_> = checks
        .iter()
        .filter_map(|(name, check)| {
            let url = url_of(doors.get(name)?);
            Some(UrlCheckFacts { url, receive_id: &check.receive_id, at: check.at })
        })
        .collect();
    url_check_findings(&facts)
}

fn url_of(door: &Door) -> CheckedUrl<'_> {
    match door {
        Door::App(AppDoor { name: app, recipients, .. }) => match recipients {
            AppRecipients::SelfBuilt(own) => CheckedUrl::SelfBuilt { app, corp_id: &own.corp_id },
            AppRecipients::Agency(agency) => CheckedUrl::Agency { app, suite: &agency.suite },
        },
        Door::Suite(door) => CheckedUrl::Suite(&door.recipients.suite),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::callback::{AesKey, Keys};
    use crate::http::api::scene::{NOW, Scene, corp, name};
    use crate::http::doors::Doors;
    use crate::intake::Recipients;

    /// The findings and the number of them in the metrics, where only those about URLs are failures.
    async fn findings(scene: &Scene) -> (Vec<Value>, u8) {
        let status = scene.read("/v1/status").await;
        let findings = status["findings"].as_array().unwrap().iter();
        let failures: Vec<_> = findings.filter(|finding| finding["state"] == "fail").cloned().collect();
        let metrics = scene.read("/metrics").await;
        let line = "unionlink_finding{code=\"app.receive_id\",state=\"fail\"} ";
        let (_, count) = metrics.as_str().unwrap().split_once(line).unwrap();
        (failures, count[..1].parse().unwrap())
    }

    #[tokio::test]
    async fn a_refused_check_of_a_url_is_a_finding_until_one_is_answered() {
        let scene = Scene::new();
        let recipients = Recipients { corp_id: corp("wwOWN"), accept_receive_ids: Vec::new() };
        let door = AppDoor {
            name: name("own"),
            keys: Keys::new("token".into(), AesKey::decode(&"a".repeat(43)).unwrap()),
            recipients: AppRecipients::SelfBuilt(recipients),
            customer_groups: true,
        };
        scene.state.doors.replace(Doors::from([(name("own"), Arc::new(Door::App(door)))]));
        assert_eq!(findings(&scene).await, (vec![], 0));
        scene.state.url_checks.refused(&name("own"), "wwOTHER", NOW);
        scene.state.url_checks.refused(&name("gone"), "wwOTHER", NOW);
        let (found, counted) = findings(&scene).await;
        let [finding] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((&finding["code"], counted), (&json!("app.receive_id"), 1));
        assert_eq!(finding["subject"], json!({"app": "own", "corp_id": "wwOWN"}));
        assert_eq!(finding["since"], json!(NOW));
        for language in ["en", "zh"] {
            let seen = finding["seen"][language].as_str().unwrap();
            assert!(["own", "\"wwOTHER\"", "wwOWN"].iter().all(|text| seen.contains(text)), "{seen}");
        }
        scene.state.url_checks.answered(&name("own"));
        assert_eq!(findings(&scene).await, (vec![], 0));
    }
}
