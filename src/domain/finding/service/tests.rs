//! One case for each finding about the service, and a healthy one that has none.

use std::collections::BTreeMap;
use std::time::Duration;

use strum::VariantArray as _;

use super::*;
use crate::domain::finding::code::FindingCode as Code;
use crate::domain::finding::{FindingCode, FindingState, FindingView, Verdict};
use crate::domain::history::LastRefusal;
use crate::domain::sync_times::SyncTimes;
use crate::domain::time::DAY_MS;

const NOW: Timestamp = Timestamp::from_secs(1_795_309_323);

fn corp(id: &str) -> CorpId {
    CorpId::new(id).unwrap()
}

/// What the service knows; parts of it are spoilt.
struct Known {
    app: AppName,
    dealers: Vec<(CorpId, Option<Timestamp>)>,
    list_read: bool,
    left_lately: usize,
    held_back: Vec<HeldBackCalls>,
    used_up: Vec<(&'static str, Timestamp)>,
    facts: ServiceFacts<'static>,
}

impl Known {
    /// All is well.
    fn healthy() -> Self {
        let sink =
            SinkFacts { name: SinkName::new("crm").unwrap(), failing: None, is_disabled: false, lag: (0, 0) };
        let facts = ServiceFacts {
            checkpoints: Some(None),
            calls: 7,
            unaccepted: Some(Vec::new()),
            accepted: 3,
            urls: vec![(AppName::new("brand").unwrap(), arrived())],
            config: Some(None),
            host: Some(HostFacts { clock_synced: Some(true), ..HostFacts::default() }),
            disk: Some(healthy_disk()),
            skew_ms: Some(-900),
            sinks: vec![sink],
            feed_kept_secs: 1_000,
            ..ServiceFacts::default()
        };
        Self {
            app: AppName::new("brand").unwrap(),
            dealers: vec![(corp("wpA"), None), (corp("wpB"), None)],
            list_read: true,
            left_lately: 0,
            held_back: Vec::new(),
            used_up: Vec::new(),
            facts,
        }
    }

    fn with(spoil: impl FnOnce(&mut Self)) -> Self {
        let mut known = Self::healthy();
        spoil(&mut known);
        known
    }

    fn refused(errcode: Option<i64>, of: Option<&str>) -> Self {
        let calls = HeldBackCalls {
            corp: of.map(|id| (corp(id), Some("上海一店".to_owned()))),
            errcode,
            is_setting: errcode == Some(50_003),
            reason: "it was refused".to_owned(),
            since: NOW,
            remedy: None,
        };
        Self::with(|known| known.held_back.push(calls))
    }

    fn failing_sink(reason: &str, is_disabled: bool) -> Self {
        Self::with(|known| {
            known.facts.sinks[0].failing = Some((reason.to_owned(), Some(NOW)));
            known.facts.sinks[0].is_disabled = is_disabled;
        })
    }

    fn findings(&self) -> Vec<Finding> {
        let Self { app, dealers, list_read, left_lately, held_back, used_up, facts } = self;
        let dealer =
            |(corp_id, silent_since): &'_ (CorpId, Option<Timestamp>)| (corp_id.clone(), *silent_since);
        let owned: Vec<_> = dealers.iter().map(dealer).collect();
        let dealers = owned.iter().map(|(corp_id, silent_since)| ServedDealer {
            corp_id,
            name: "上海一店",
            silent_since: *silent_since,
        });
        let served = ServedApp {
            app,
            is_agency: false,
            has_brand: true,
            held_back: held_back.clone(),
            dealers: dealers.collect(),
            list_read: *list_read,
            left_lately: *left_lately,
            used_up: used_up.clone(),
        };
        service_findings(&ServiceFacts { apps: vec![served], ..facts.clone() }, NOW)
    }

    /// Those that are not well, by code.
    fn trouble(&self) -> Vec<(FindingCode, FindingState)> {
        let findings = self.findings();
        findings.iter().filter(|one| one.is_trouble()).map(|one| (one.code, one.state)).collect()
    }

    fn state_of(&self, code: FindingCode) -> FindingState {
        self.findings().iter().find(|finding| finding.code == code).unwrap().state
    }
}

/// A URL at which a callback has arrived.
fn arrived() -> UrlMarks {
    UrlMarks { verified_at: Some(NOW), callback_at: Some(NOW), refused: None }
}

fn refused_at(at: Timestamp) -> LastRefusal {
    LastRefusal { count: 3, ..LastRefusal::one(at, "signature") }
}

fn syncs(took: Duration) -> SyncTimes {
    let mut syncs = SyncTimes::default();
    (0..100).for_each(|_| syncs.add(took));
    syncs
}

fn healthy_disk() -> DiskFacts {
    DiskFacts {
        filesystem: Some(Filesystem::Local),
        free_bytes: Some(100 << 30),
        free_bytes_min: 1 << 30,
        taken_a_day: 1 << 30,
        free_inodes: Some(9),
        syncs: syncs(Duration::from_millis(4)),
        backup: Some(BackupFacts { at: NOW, bytes: 1 << 30, same_device: false }),
    }
}

fn with_disk(spoil: impl FnOnce(&mut DiskFacts)) -> Known {
    Known::with(|known| spoil(known.facts.disk.as_mut().unwrap()))
}

fn with_host(spoil: impl FnOnce(&mut HostFacts)) -> Known {
    Known::with(|known| spoil(known.facts.host.as_mut().unwrap()))
}

/// A service that has accepted nothing since its start, and whose URL has seen this.
fn with_marks(marks: UrlMarks, refused: u64) -> Known {
    Known::with(|known| {
        known.facts.urls[0].1 = marks;
        (known.facts.accepted, known.facts.refused) = (0, refused);
    })
}

fn unanswered(count: u64) -> Known {
    Known::with(|known| known.facts.unanswered = Some(("no answer in time".to_owned(), count)))
}

#[test]
fn each_cause_is_named_and_says_in_both_languages_what_it_means_and_what_to_do() {
    use FindingState::{Fail, Warn};
    let cases = vec![
        (Known::with(|known| known.facts.not_ready = Some("it is full".to_owned())), Code::StoreReady, Fail),
        (Known::with(|known| known.facts.damaged_records = 2), Code::StoreDamaged, Fail),
        (
            Known::with(|known| known.facts.checkpoints = Some(Some("it is full".to_owned()))),
            Code::StoreLog,
            Warn,
        ),
        (unanswered(3), Code::Reachable, Fail),
        (unanswered(1), Code::Reachable, Warn),
        (Known::refused(None, Some("wpA")), Code::WecomCalls, Warn),
        (Known::refused(Some(50_003), None), Code::WecomCalls, Fail),
        (Known::refused(Some(60_020), None), Code::WecomTrustedIp, Fail),
        (Known::refused(Some(40_001), None), Code::WecomToken, Fail),
        (Known::refused(Some(48_002), None), Code::WecomPermission, Fail),
        (Known::refused(Some(301_002), Some("wpA")), Code::WecomPermission, Warn),
        (Known::refused(Some(99_999), None), Code::WecomCalls, Warn),
        (Known::with(|known| known.dealers.clear()), Code::ShareList, Fail),
        (Known::with(|known| known.left_lately = 1), Code::ShareList, Warn),
        (Known::with(|known| known.dealers[0].1 = Some(NOW)), Code::DealerSilence, Warn),
        (Known::with(|known| known.used_up.push(("unionid_to_pending_id", NOW))), Code::WecomQuota, Warn),
        (
            with_marks(UrlMarks { refused: Some(refused_at(NOW.plus_ms(9))), ..arrived() }, 3),
            Code::CallbackSeen,
            Warn,
        ),
        (
            with_marks(UrlMarks { refused: Some(refused_at(NOW)), ..UrlMarks::default() }, 3),
            Code::CallbackSeen,
            Fail,
        ),
        (with_marks(UrlMarks { verified_at: Some(NOW), ..UrlMarks::default() }, 0), Code::CallbackSeen, Warn),
        (with_marks(UrlMarks::default(), 0), Code::CallbackSeen, Warn),
        (
            Known::with(|known| {
                known.facts.unaccepted = Some(vec![(known.app.clone(), "wwX".to_owned(), 3)]);
            }),
            Code::CallbackReceiveIds,
            Warn,
        ),
        (
            Known::with(|known| known.facts.certificate = Some(("callback.example.com".to_owned(), 13))),
            Code::CallbackCertificate,
            Warn,
        ),
        (
            Known::with(|known| known.facts.certificate = Some(("callback.example.com".to_owned(), 2))),
            Code::CallbackCertificate,
            Fail,
        ),
        (
            Known::with(|known| {
                known.facts.config = Some(Some(ConfigDifference::Keys(vec!["log.filter".to_owned()])));
            }),
            Code::ConfigChanged,
            Warn,
        ),
        (
            Known::with(|known| {
                known.facts.config = Some(Some(ConfigDifference::Invalid("no such key".to_owned())));
            }),
            Code::ConfigChanged,
            Fail,
        ),
        (with_host(|host| host.files = (Some(9), 10)), Code::ProcessLimits, Warn),
        (with_host(|host| host.memory = (Some(9), 10)), Code::ProcessLimits, Warn),
        (with_host(|host| host.clock_synced = Some(false)), Code::ClockSynced, Warn),
        (Known::with(|known| known.facts.skew_ms = Some(6_000)), Code::ClockSkew, Warn),
        (Known::with(|known| known.facts.skew_ms = Some(-61_000)), Code::ClockSkew, Fail),
        (with_disk(|disk| disk.filesystem = Some(Filesystem::Network("NFS"))), Code::StoreFilesystem, Fail),
        (with_disk(|disk| disk.filesystem = Some(Filesystem::Memory("tmpfs"))), Code::StoreFilesystem, Fail),
        (with_disk(|disk| disk.filesystem = Some(Filesystem::Overlay)), Code::StoreFilesystem, Warn),
        (with_disk(|disk| disk.syncs = syncs(Duration::from_millis(150))), Code::StoreFsync, Warn),
        (with_disk(|disk| disk.syncs = syncs(Duration::from_millis(1_001))), Code::StoreFsync, Fail),
        (with_disk(|disk| disk.syncs = syncs(Duration::from_secs(4))), Code::StoreFsync, Fail),
        (with_disk(|disk| disk.free_bytes = Some(7)), Code::StoreSpace, Fail),
        (with_disk(|disk| disk.free_inodes = Some(0)), Code::StoreSpace, Fail),
        (with_disk(|disk| disk.taken_a_day = 20 << 30), Code::StoreSpace, Warn),
        (with_disk(|disk| disk.backup = None), Code::BackupAge, Warn),
        (with_disk(|disk| disk.backup.as_mut().unwrap().same_device = true), Code::BackupAge, Warn),
        (
            with_disk(|disk| disk.backup.as_mut().unwrap().at = NOW.plus_ms(-7 * DAY_MS)),
            Code::BackupAge,
            Warn,
        ),
        (Known::failing_sink("no answer in time", false), Code::SinkReachable, Fail),
        (Known::failing_sink("it answered 410", true), Code::SinkReachable, Fail),
        (Known::failing_sink("it answered 401", false), Code::SinkVerifies, Fail),
        (Known::with(|known| known.facts.sinks[0].lag = (9, 501)), Code::SinkLag, Warn),
    ];
    for (known, code, state) in cases {
        assert_eq!(known.trouble(), [(code, state)]);
        let finding = known.findings().into_iter().find(Finding::is_trouble).unwrap();
        for Text { en, zh } in [&finding.seen, &finding.means, &finding.todo.text] {
            assert!(!en.is_empty() && !en.contains("  ") && !zh.is_ascii(), "{en} {zh}");
        }
    }
}

#[test]
fn a_healthy_service_has_no_finding_and_one_that_has_just_started_does_not_know_yet() {
    let healthy = Known::healthy();
    assert!(healthy.findings().iter().all(|finding| finding.state == FindingState::Ok));
    assert_eq!(Verdict::of(&healthy.findings()), Verdict::Ok);
    let unread = Known::with(|known| {
        known.list_read = false;
        known.dealers.clear();
    });
    assert_eq!(unread.state_of(Code::ShareList), FindingState::Unknown);
    let started = Known::with(|known| known.facts.calls = 0);
    for code in [Code::Reachable, Code::WecomTrustedIp, Code::WecomToken, Code::WecomPermission] {
        assert_eq!(started.state_of(code), FindingState::Unknown, "{code:?}");
    }
}

#[test]
fn what_depends_on_a_cause_that_fails_is_skipped_and_names_it() {
    for (known, cause, skipped) in [
        (unanswered(3), Code::Reachable, [Code::WecomTrustedIp, Code::WecomToken].as_slice()),
        (
            Known::refused(Some(60_020), None),
            Code::WecomTrustedIp,
            &[Code::WecomToken, Code::WecomPermission],
        ),
        (Known::refused(Some(40_013), None), Code::WecomToken, &[Code::WecomPermission]),
        (Known::failing_sink("no answer", false), Code::SinkReachable, &[Code::SinkVerifies]),
    ] {
        let name: &str = cause.into();
        for code in skipped {
            let findings = known.findings();
            let finding = findings.iter().find(|finding| finding.code == *code).unwrap();
            assert_eq!(finding.state, FindingState::Skip, "{code:?}");
            assert!(finding.seen.en.contains(name) && finding.seen.zh.contains(name), "{finding:?}");
        }
    }
    let no_dealer = |known: &mut Known| known.dealers.clear();
    let mut refused = Known::refused(Some(60_020), None);
    no_dealer(&mut refused);
    assert_eq!(refused.state_of(Code::ShareList), FindingState::Skip);
    // A dealer's refusal hides nothing.
    let of_dealer = Known::refused(Some(60_020), Some("wpA"));
    assert_eq!(of_dealer.state_of(Code::WecomToken), FindingState::Ok);
}

#[test]
fn causes_come_before_what_depends_on_them_and_every_code_says_what_is_looked_at() {
    let places: BTreeMap<_, _> =
        FindingCode::VARIANTS.iter().enumerate().map(|(n, code)| (*code, n)).collect();
    for code in FindingCode::VARIANTS {
        assert!(code.depends_on().iter().all(|cause| places[cause] < places[code]), "{code:?}");
        let Text { en, zh } = code.checked();
        assert!(!en.is_empty() && !zh.is_empty(), "{code:?}");
    }
    let mut findings = Known::refused(Some(60_020), None).findings();
    findings.retain(|finding| finding.code == Code::WecomTrustedIp);
    let view = FindingView::from(findings.remove(0));
    let json = serde_json::to_value(view).unwrap();
    for key in ["code", "state", "subject", "since", "checked", "seen", "means", "todo", "depends_on", "raw"]
    {
        assert!(json.get(key).is_some(), "{key}: {json:#}");
    }
    assert_eq!((&json["code"], &json["raw"]["errcode"]), (&"wecom.trusted_ip".into(), &60_020.into()));
    assert_eq!(json["todo"]["link"], "docs/troubleshooting.md#wecomtrusted_ip");
}
