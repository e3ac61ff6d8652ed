//! How WeCom behaves where its documents are silent, counted without any id: for the settings that cannot be decided
//! before somebody has seen it (`observed` in `/v1/status`).

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::domain::history::Tallies;
use crate::domain::time::Timestamp;

/// Messages that are remembered to recognise their repetitions.
const REMEMBERED: usize = 1_024;

/// The upper bounds of counted durations, each with its name.
const BOUNDS: [(&str, i64); 12] = [
    ("le_50ms", 50),
    ("le_100ms", 100),
    ("le_200ms", 200),
    ("le_500ms", 500),
    ("le_1s", 1_000),
    ("le_2s", 2_000),
    ("le_5s", 5_000),
    ("le_10s", 10_000),
    ("le_1m", 60_000),
    ("le_10m", 600_000),
    ("le_1h", 3_600_000),
    ("le_1d", 86_400_000),
];

/// The name of a duration in milliseconds.
fn bucket(ms: i64) -> &'static str {
    BOUNDS.iter().find(|(_, bound)| ms <= *bound).map_or("over_1d", |(name, _)| name)
}

/// For whom a callback was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealedFor {
    /// The brand, the suite or its provider.
    Owner,
    /// Another corp, which the message names.
    Named,
    /// Nobody: the receive id is empty.
    Nobody,
    /// Somebody else.
    Other,
}

/// The names of [`SealedFor`], in its order.
const SEALED_FOR: [&str; 4] =
    ["the brand, suite or provider", "another corp, which the message names", "nobody", "somebody else"];

/// What was seen, and how often.
#[derive(Default)]
pub struct Observed {
    counts: Mutex<Tallies>,
    received: Mutex<Received>,
    sealed_for: [AtomicU64; SEALED_FOR.len()],
}

/// The last messages that were received.
#[derive(Default)]
struct Received {
    by_text: HashMap<u64, Seal>,
    in_order: VecDeque<u64>,
}

/// When a message was received last, and how it was sealed.
#[derive(Clone, Copy)]
struct Seal {
    at: Timestamp,
    seal: u64,
}

impl Observed {
    /// Counts that something was seen.
    pub fn note(&self, what: &'static str, how: &str) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).add(what, how, 1);
    }

    /// Counts how long something took.
    pub fn took(&self, what: &'static str, duration: Duration) {
        self.note(what, bucket(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)));
    }

    /// Counts how much time was between two instants.
    pub fn between(&self, what: &'static str, from: Timestamp, to: Timestamp) {
        self.note(what, bucket(to.millis_since(from)));
    }

    /// Counts for whom a callback was sealed.
    pub fn sealed_for(&self, whom: SealedFor) {
        self.sealed_for[whom as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Takes note of a genuine message and its seal (signature, nonce). If it was received before, counts after how long it is
    /// repeated, and whether it was sealed anew.
    pub fn received(&self, text: &[u8], seal: &[u8], at: Timestamp) {
        // Cheap, as every callback pays for it; two of the last thousand that seem one would be counted wrongly, no more.
        let (text, seal) = (checksum(text), checksum(seal));
        let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        let before = received.by_text.insert(text, Seal { at, seal });
        if before.is_none() {
            received.in_order.push_back(text);
            if received.in_order.len() > REMEMBERED
                && let Some(oldest) = received.in_order.pop_front()
            {
                received.by_text.remove(&oldest);
            }
        }
        drop(received);
        if let Some(before) = before {
            self.between("repeated_after", before.at, at);
            self.note("repeated", if before.seal == seal { "with_the_same_seal" } else { "sealed_anew" });
        }
    }

    /// Everything that was counted since the start.
    #[must_use]
    pub fn counted(&self) -> Tallies {
        let mut counted = self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (name, count) in SEALED_FOR.iter().zip(&self.sealed_for) {
            counted.add("sealed_for", name, count.load(Ordering::Relaxed));
        }
        counted
    }
}

fn checksum(bytes: &[u8]) -> u64 {
    (bytes.len() as u64) << 32 | u64::from(crc32fast::hash(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_recognised_among_the_last_messages() {
        let (observed, at) = (Observed::default(), Timestamp::from_secs);
        observed.received(b"first", b"seal", at(0));
        observed.received(b"second", b"seal", at(1));
        observed.received(b"first", b"seal", at(4));
        observed.received(b"first", b"another", at(40));
        let counted = observed.counted();
        assert_eq!(
            (counted.get("repeated", "with_the_same_seal"), counted.get("repeated", "sealed_anew")),
            (1, 1)
        );
        assert_eq!((counted.get("repeated_after", "le_5s"), counted.get("repeated_after", "le_1m")), (1, 1));
        for nth in 0..REMEMBERED {
            observed.received(format!("{nth}").as_bytes(), b"seal", at(50));
        }
        observed.received(b"first", b"seal", at(60));
        assert_eq!(observed.counted(), counted, "it was forgotten");
        assert_eq!(observed.received.lock().unwrap().by_text.len(), REMEMBERED);
        observed.took("latency", Duration::from_secs(99_999_999));
        assert_eq!(observed.counted().get("latency", "over_1d"), 1);
    }
}
