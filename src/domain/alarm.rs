//! When somebody is told about findings: once when one has failed for a while, and once when it has not any more.

use std::collections::BTreeMap;

use super::finding::{Finding, FindingCode, FindingState};
use super::time::Timestamp;

/// How long a finding has to fail, or not to fail, before somebody is told: a restart or a hiccup is none.
pub const SETTLED_MS: i64 = 30_000;
/// The least time between two messages.
pub const BETWEEN_MS: i64 = 60_000;

/// What a finding is about: its code, and its subject in words.
type Key = (FindingCode, String);

/// What somebody has been told, and what is to be told.
#[derive(Debug, Default)]
pub struct Alarm {
    /// What was told to fail, with what was seen then.
    told: BTreeMap<Key, Finding>,
    /// Since when what is seen differs from what was told.
    differs_since: BTreeMap<Key, Timestamp>,
    last_message_at: Option<Timestamp>,
}

/// A message that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What fails now and did not.
    pub failed: Vec<Finding>,
    /// What failed and does not any more.
    pub ended: Vec<Finding>,
    /// How many other findings fail.
    pub others: usize,
}

fn key(finding: &Finding) -> Key {
    let subject = &finding.subject;
    let parts = [
        subject.suite.as_ref().map(ToString::to_string),
        subject.app.as_ref().map(ToString::to_string),
        subject.corp_id.as_ref().map(ToString::to_string),
        subject.sink.as_ref().map(ToString::to_string),
    ];
    (finding.code, parts.into_iter().flatten().collect::<Vec<_>>().join(" "))
}

impl Alarm {
    /// Takes note of all findings as of `now`. Returns a message if one is due; it counts as sent only
    /// [then](Self::sent).
    pub fn observe(&mut self, findings: &[Finding], now: Timestamp) -> Option<Message> {
        let failing: BTreeMap<Key, &Finding> = findings
            .iter()
            .filter(|finding| finding.state == FindingState::Fail)
            .map(|finding| (key(finding), finding))
            .collect();
        // What could not be looked at has not ended.
        let is_open = |key: &Key| {
            let was_not_seen = |finding: &Finding| {
                let is_it = self::key(finding) == *key;
                // Without a subject it is said of all.
                let is_of_all = finding.code == key.0 && self::key(finding).1.is_empty();
                (is_it || is_of_all) && matches!(finding.state, FindingState::Skip | FindingState::Unknown)
            };
            failing.contains_key(key) || findings.iter().any(was_not_seen)
        };
        let begun: Vec<_> = failing.keys().filter(|key| !self.told.contains_key(key)).cloned().collect();
        let ended: Vec<_> = self.told.keys().filter(|key| !is_open(key)).cloned().collect();
        self.differs_since.retain(|key, _| begun.contains(key) || ended.contains(key));
        for key in begun.iter().chain(&ended) {
            self.differs_since.entry(key.clone()).or_insert(now);
        }
        if self.last_message_at.is_some_and(|at| now.millis_since(at) < BETWEEN_MS) {
            return None;
        }
        let is_settled = |key: &&Key| {
            self.differs_since.get(*key).is_some_and(|since| now.millis_since(*since) >= SETTLED_MS)
        };
        let failed: Vec<_> = begun.iter().filter(is_settled).map(|key| failing[key].clone()).collect();
        let ended: Vec<_> = ended.iter().filter(is_settled).map(|key| self.told[key].clone()).collect();
        let others = self.told.len() - ended.len();
        (!failed.is_empty() || !ended.is_empty()).then_some(Message { failed, ended, others })
    }

    /// Notes that a message was sent, or that it was tried to send it.
    pub fn sent(&mut self, message: Message, was_accepted: bool, now: Timestamp) {
        self.last_message_at = Some(now);
        if was_accepted {
            for finding in message.ended {
                self.told.remove(&key(&finding));
            }
            for finding in message.failed {
                self.told.insert(key(&finding), finding);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::finding::Subject;
    use crate::domain::text::text;

    fn finding(code: FindingCode, state: FindingState) -> Finding {
        Finding::trouble(code, state, Subject::default(), text!("seen", "看到"))
    }

    const CODES: [FindingCode; 3] =
        [FindingCode::StoreReady, FindingCode::WecomToken, FindingCode::SinkReachable];

    #[test]
    fn a_failure_is_told_once_it_has_lasted_and_so_is_its_end() {
        let (mut alarm, fails) = (Alarm::default(), [finding(CODES[0], FindingState::Fail)]);
        let at = Timestamp::from_secs;
        assert_eq!(alarm.observe(&fails, at(0)), None);
        // A hiccup begins anew.
        assert_eq!(alarm.observe(&[finding(CODES[0], FindingState::Ok)], at(15)), None);
        assert_eq!(alarm.observe(&fails, at(30)), None);
        assert_eq!(alarm.observe(&fails, at(45)), None);
        let message = alarm.observe(&fails, at(60)).unwrap();
        assert_eq!((message.failed.len(), message.ended.len(), message.others), (1, 0, 0));
        // One that was not accepted is sent again after a minute.
        alarm.sent(message, false, at(60));
        assert_eq!(alarm.observe(&fails, at(75)), None);
        let message = alarm.observe(&fails, at(120)).unwrap();
        alarm.sent(message, true, at(120));
        assert_eq!(alarm.observe(&fails, at(300)), None, "told once");
        assert_eq!(alarm.observe(&[finding(CODES[0], FindingState::Skip)], at(400)), None);
        assert_eq!(
            alarm.observe(&[finding(CODES[0], FindingState::Skip)], at(500)),
            None,
            "not known to end"
        );
        let unknown = Finding::skipped(CODES[0], Subject::default(), FindingCode::StoreReady);
        assert_eq!(alarm.observe(&[unknown], at(550)), None, "the store cannot be read");
        assert_eq!(alarm.observe(&[], at(600)), None);
        let message = alarm.observe(&[], at(630)).unwrap();
        assert_eq!((message.failed.len(), message.ended.len(), message.others), (0, 1, 0));
    }

    proptest! {
        #[test]
        fn messages_are_a_minute_apart_and_in_the_end_say_what_is(
            history in prop::collection::vec((prop::array::uniform3(any::<bool>()), any::<bool>()), 1..60),
        ) {
            let (mut alarm, mut told) = (Alarm::default(), [false; 3]);
            let (mut now, mut last) = (Timestamp::EPOCH, None::<Timestamp>);
            let mut observe = |states: &[bool; 3], is_accepted: bool| {
                now = now.plus_ms(15_000);
                let state = |fails| if fails { FindingState::Fail } else { FindingState::Ok };
                let findings: Vec<_> =
                    CODES.iter().zip(states).map(|(code, fails)| finding(*code, state(*fails))).collect();
                let Some(message) = alarm.observe(&findings, now) else { return told };
                assert!(last.is_none_or(|last| now.millis_since(last) >= BETWEEN_MS));
                last = Some(now);
                if is_accepted {
                    for (place, code) in CODES.iter().enumerate() {
                        let is_in = |list: &[Finding]| list.iter().any(|finding| finding.code == *code);
                        assert!(!(is_in(&message.failed) && told[place]), "told twice");
                        assert!(!is_in(&message.ended) || told[place], "the end of nothing");
                        told[place] = (told[place] || is_in(&message.failed)) && !is_in(&message.ended);
                    }
                }
                alarm.sent(message, is_accepted, now);
                told
            };
            for (states, is_accepted) in &history {
                observe(states, *is_accepted);
            }
            let last = history[history.len() - 1].0;
            let mut known = [false; 3];
            for _ in 0..10 {
                known = observe(&last, true);
            }
            prop_assert_eq!(known, last);
        }
    }
}
