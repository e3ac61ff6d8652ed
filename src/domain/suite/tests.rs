//! Tickets in any order, and exchanges from the auth code to each of their ends.

use super::super::time::{DAY_MS, SECOND_MS};
use super::*;
use proptest::prelude::*;

const SENT: Timestamp = Timestamp::from_secs(1_795_309_323);
/// Our clock, two hours ahead of WeCom's.
const RECEIVED: Timestamp = SENT.plus_ms(2 * HOUR_MS);

fn sealed(n: u8) -> Sealed {
    Sealed { key: [n; 8], nonce: [n; 12], text: vec![n] }
}

fn ticket(sent: i64, received: i64) -> Ticket {
    let n = u8::try_from(sent).unwrap();
    Ticket { sealed: sealed(n), sent_at: SENT.plus_ms(sent), received_at: RECEIVED.plus_ms(received) }
}

fn exchange() -> Exchange {
    Exchange::new(CodeKind::Create, sealed(1), SENT, RECEIVED)
}

fn in_seconds(secs: i64) -> Timestamp {
    RECEIVED.plus_ms(secs * SECOND_MS)
}

/// A try that fails so, this long after the code was received.
fn attempt(exchange: &mut Exchange, failure: ExchangeFailure, secs: i64) -> ExchangeNext {
    exchange.ask();
    exchange.failed(failure, 1.0, in_seconds(secs))
}

const BUSY: ExchangeFailure = ExchangeFailure::Refused { errcode: -1, is_permanent: false };
const INVALID: ExchangeFailure = ExchangeFailure::Refused { errcode: 40078, is_permanent: true };

#[test]
fn the_ticket_that_was_sent_last_is_kept() {
    let (older, newer) = (ticket(1, 9), ticket(2, 3));
    for [first, second] in [[&older, &newer], [&newer, &older]] {
        let kept = Ticket::newest(Some(Ticket::newest(None, first.clone())), second.clone());
        assert_eq!(kept, newer);
    }
    assert_eq!(newer.expires_at().millis_since(newer.received_at), 30 * MINUTE_MS);
}

#[test]
fn a_code_from_long_before_the_newest_ticket_is_a_replay() {
    let newest = ticket(0, 0);
    assert!(!newest.outdates_code(SENT.plus_ms(-70 * MINUTE_MS)));
    assert!(newest.outdates_code(SENT.plus_ms(-70 * MINUTE_MS - 1)));
    assert!(!newest.outdates_code(SENT.plus_ms(DAY_MS)));
}

#[test]
fn a_code_is_identified_within_its_suite() {
    let [agency, other] = ["agency", "other"].map(|name| AppName::new(name).unwrap());
    let id = CodeId::of(&agency, "AUTHCODE");
    assert_eq!(id, CodeId::of(&agency, "AUTHCODE"));
    assert_ne!(id, CodeId::of(&other, "AUTHCODE"));
    assert_ne!(id, CodeId::of(&agency, "AUTHCODF"));
    assert_eq!(id.to_string(), "c9be7e07ec4a0ece4d136e53644ab32d", "ids are stored: the derivation is fixed");
}

#[test]
fn a_new_code_is_exchanged_at_once() {
    assert_eq!(exchange().next(RECEIVED), ExchangeNext::Ask);
    assert_eq!(exchange().deadline, in_seconds(600), "by our clock, whatever WeCom's says");
}

#[test]
fn a_try_without_an_answer_is_repeated_soon() {
    let mut exchange = exchange();
    let next = attempt(&mut exchange, ExchangeFailure::NoAnswer, 10);
    let due_at = in_seconds(10).plus_ms(500);
    assert_eq!(next, ExchangeNext::Wait(due_at));
    assert_eq!(exchange.next(due_at), ExchangeNext::Ask);
    let waits = (0..7).map(|_| {
        attempt(&mut exchange, BUSY, 20);
        exchange.due_at.millis_since(in_seconds(20))
    });
    assert_eq!(waits.collect::<Vec<_>>(), [1_000, 2_000, 4_000, 8_000, 15_000, 15_000, 15_000]);
}

#[test]
fn an_invalid_code_was_lost_if_an_earlier_try_had_no_answer() {
    let at = in_seconds(2);
    let lost = ExchangeNext::End(ExchangeEnd::Lost { at });
    let mut unanswered = exchange();
    attempt(&mut unanswered, ExchangeFailure::NoAnswer, 0);
    attempt(&mut unanswered, BUSY, 1);
    assert_eq!(attempt(&mut unanswered, INVALID, 2), lost);
    let mut crashed = exchange();
    crashed.ask();
    assert_eq!(attempt(&mut crashed, INVALID, 2), lost);
    assert_eq!(crashed.end, Some(ExchangeEnd::Lost { at }));
}

#[test]
fn an_invalid_code_was_refused_if_every_earlier_try_is_accounted_for() {
    let early = |at| Exchange { sent_at: RECEIVED, ..exchange() }.failed_with(INVALID, at);
    let refused = |at| ExchangeNext::End(ExchangeEnd::Refused { errcode: 40078, at });
    assert_eq!(early(2), refused(in_seconds(2)));
    let mut exchange = Exchange { sent_at: RECEIVED, ..exchange() };
    attempt(&mut exchange, ExchangeFailure::NotSent, 0);
    attempt(&mut exchange, BUSY, 1);
    assert_eq!(attempt(&mut exchange, INVALID, 2), refused(in_seconds(2)));
}

impl Exchange {
    fn failed_with(mut self, failure: ExchangeFailure, secs: i64) -> ExchangeNext {
        attempt(&mut self, failure, secs)
    }
}

#[test]
fn an_invalid_code_that_was_sent_long_ago_had_expired() {
    let late = |age_ms: i64| Exchange { sent_at: RECEIVED.plus_ms(-age_ms), ..exchange() };
    let at = in_seconds(0);
    let expired = ExchangeNext::End(ExchangeEnd::Expired { at });
    assert_eq!(late(AUTH_CODE_LIFE_MS).failed_with(INVALID, 0), expired);
    assert_ne!(late(AUTH_CODE_LIFE_MS - 1).failed_with(INVALID, 0), expired);
}

#[test]
fn another_permanent_refusal_ends_the_exchange() {
    let failure = ExchangeFailure::Refused { errcode: 842_002, is_permanent: true };
    let end = ExchangeEnd::Refused { errcode: 842_002, at: in_seconds(0) };
    let mut exchange = exchange();
    assert_eq!(attempt(&mut exchange, failure, 0), ExchangeNext::End(end));
    assert_eq!(exchange.next(in_seconds(9_999)), ExchangeNext::End(end), "it stays so");
}

#[test]
fn a_code_is_given_up_at_its_deadline() {
    let at = in_seconds(600);
    let mut untried = exchange();
    assert_eq!(untried.next(at), ExchangeNext::Ask, "whether it has expired is for WeCom to say");
    // The wait before another try ends with the deadline at the latest.
    assert_eq!(attempt(&mut untried, BUSY, 600 - 1), ExchangeNext::Wait(in_seconds(599).plus_ms(500)));
    for _ in 0..9 {
        attempt(&mut untried, BUSY, 599);
    }
    assert_eq!(untried.next(in_seconds(599)), ExchangeNext::Wait(at));
    assert_eq!(untried.next(at), ExchangeNext::End(ExchangeEnd::Expired { at }));
    attempt(&mut untried, ExchangeFailure::NoAnswer, 600);
    assert_eq!(untried.end, Some(ExchangeEnd::Lost { at }), "it may have been used up");
    attempt(&mut untried, INVALID, 601);
    assert_eq!(untried.end, Some(ExchangeEnd::Lost { at }), "the first end remains");
}

#[test]
fn what_is_decided_about_an_exchange_is_recorded_with_it() {
    let (at, end) = (in_seconds(600), ExchangeEnd::Expired { at: in_seconds(600) });
    let mut untried = exchange();
    assert_eq!(untried.begin(false, in_seconds(599)), ExchangeNext::Wait(at), "there is no ticket");
    assert_eq!((untried.asked, untried.end), (0, None));
    let mut tried = untried.clone();
    assert_eq!(untried.begin(false, at), ExchangeNext::End(end));
    assert_eq!((untried.asked, untried.end), (0, Some(end)));
    assert_eq!(tried.begin(true, at), ExchangeNext::Ask, "whether it has expired is for WeCom to say");
    tried.failed(BUSY, 1.0, in_seconds(1));
    assert_eq!(tried.begin(true, in_seconds(1)), ExchangeNext::Wait(in_seconds(1).plus_ms(500)));
    assert_eq!((tried.asked, tried.end), (1, None));
    assert_eq!(tried.begin(true, at), ExchangeNext::End(end));
    assert_eq!((tried.asked, tried.end), (1, Some(end)));
}

#[test]
fn waits_move_with_the_wall_clock() {
    let (mut unmoved, mut moved) = (exchange(), exchange());
    attempt(&mut unmoved, BUSY, 1);
    attempt(&mut moved, BUSY, 1);
    moved.shift(HOUR_MS);
    for secs in [0, 1, 2, 599, 600] {
        let shifted = match unmoved.next(in_seconds(secs)) {
            ExchangeNext::Wait(until) => ExchangeNext::Wait(until.plus_ms(HOUR_MS)),
            ExchangeNext::End(ExchangeEnd::Expired { at }) => {
                ExchangeNext::End(ExchangeEnd::Expired { at: at.plus_ms(HOUR_MS) })
            }
            other => other,
        };
        assert_eq!(moved.next(in_seconds(secs).plus_ms(HOUR_MS)), shifted);
    }
}

#[test]
fn a_code_that_came_after_the_clock_was_set_back_keeps_its_ten_minutes() {
    let set_back_at = RECEIVED;
    let before = Exchange::new(CodeKind::Create, sealed(1), SENT, RECEIVED.plus_ms(HOUR_MS));
    let since = Exchange::new(CodeKind::Create, sealed(1), SENT, RECEIVED.plus_ms(-1));
    assert!(before.is_to_be_moved(-HOUR_MS, set_back_at));
    assert!(!since.is_to_be_moved(-HOUR_MS, set_back_at));
    assert!(since.is_to_be_moved(HOUR_MS, set_back_at));
    assert!(!since.is_to_be_moved(HOUR_MS, since.deadline), "past its deadline");
    assert!(!Exchange { end: Some(ExchangeEnd::Lost { at: RECEIVED }), ..since }.is_to_be_moved(1, RECEIVED));
}

proptest! {
    #[test]
    fn tickets_end_the_same_in_any_order(
        tickets in proptest::collection::vec((0_i64..9, 0_i64..9), 1..9).prop_shuffle(),
    ) {
        let newest = |order: &mut dyn Iterator<Item = &(i64, i64)>| {
            order.fold(None, |known, (sent, received)| Some(Ticket::newest(known, ticket(*sent, *received))))
        };
        let mut sorted = tickets.clone();
        sorted.sort_unstable();
        prop_assert_eq!(newest(&mut tickets.iter()), newest(&mut sorted.iter().chain(&tickets)));
    }

    #[test]
    fn an_exchange_ends_by_its_deadline_and_only_once(
        failures in proptest::collection::vec((0_u8..5, 0.0_f64..1.0), 0..80),
    ) {
        let (mut exchange, mut now) = (exchange(), RECEIVED);
        for (failure, jitter) in failures {
            match exchange.next(now) {
                ExchangeNext::Ask => exchange.ask(),
                ExchangeNext::Wait(until) => {
                    prop_assert!(until > now && until <= exchange.deadline);
                    now = until;
                    continue;
                }
                ExchangeNext::End(_) => break,
            }
            now = now.plus_ms(1);
            let failure = match failure {
                0 => ExchangeFailure::NotSent,
                1 => ExchangeFailure::NoAnswer,
                2 => continue, // killed during the call
                3 => INVALID,
                _ => BUSY,
            };
            exchange.failed(failure, jitter, now);
            prop_assert!(exchange.answered <= exchange.asked);
        }
        if exchange.next(exchange.deadline) == ExchangeNext::Ask {
            prop_assert_eq!(exchange.asked, 0);
            exchange.ask();
            exchange.failed(BUSY, 1.0, exchange.deadline);
        }
        let ended = exchange.next(exchange.deadline);
        prop_assert!(matches!(ended, ExchangeNext::End(_)));
        if let Some(end) = exchange.end {
            prop_assert_eq!(exchange.next(exchange.deadline.plus_ms(DAY_MS)), ExchangeNext::End(end));
        }
    }
}
