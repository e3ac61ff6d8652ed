//! The calls for one batch, and their outcomes, against a scripted platform.

use std::time::Duration;

use super::super::tests::{Scripted, T0, app, context, corp, lookup, one_call_at_a_time, work};
use super::*;
use crate::domain::event::ContactChange;
use crate::domain::ids::{ChatId, CorpId, ExternalUserid, PendingId};
use crate::domain::lookup::Haste;
use crate::domain::time::Timestamp;
use crate::wecom::{TokenOf, Unavailable};
use crate::worker::apps::ConversionToken;
use crate::worker::parallelism::Purpose;

const DEALER: &str = "wpDEALER";

fn lane(owner: &str, chat_id: Option<ChatId>, class: LaneClass) -> LaneKey {
    LaneKey { app: app(), owner: corp(owner), chat_id, class }
}

fn adds(count: usize) -> Vec<Work> {
    let add = |n| work(u64::try_from(n).unwrap(), n, ContactChange::Added);
    (0..count).map(add).collect()
}

async fn run(context: &Context, lane: &LaneKey, work: Vec<Work>) -> Outcomes {
    let mut permit = context.parallelism.try_acquire(&lane.app, &lane.owner, Purpose::Live).unwrap();
    resolve(context, lane, work, &mut permit, context.breakers.generation()).await
}

fn failures(context: &Context, corp_id: &CorpId) -> u32 {
    context.breakers.failures(&Scope::Corp(app(), corp_id.clone()))
}

/// When each outcome retries, none of them as a spent attempt.
fn deferred_until(outcomes: &[(Work, Outcome)]) -> Vec<Timestamp> {
    let due_at = |(_, outcome): &(Work, Outcome)| match outcome {
        Outcome::Retry { due_at, spent: false, .. } => *due_at,
        other => panic!("{other:?}"),
    };
    outcomes.iter().map(due_at).collect()
}

#[tokio::test]
async fn a_wholly_refused_batch_of_events_costs_four_calls_and_pauses_the_dealer() {
    let platform = Scripted::new(|_, _| Err(60_011));
    let context = context(platform.clone(), ConversionToken::Downstream).await;
    let outcomes = run(&context, &lane(DEALER, None, LaneClass::Live), adds(100)).await;
    assert_eq!(platform.counts(), [0, 4]);
    assert_eq!(outcomes.len(), 100);
    assert!(outcomes.iter().all(|(_, outcome)| *outcome == Outcome::NotVisible(60_011)));
    let breaker = context.breakers.open(&[&Scope::Corp(app(), corp(DEALER))], T0).unwrap();
    assert_eq!((breaker.failures, breaker.reason.errcode), (1, Some(60_011)));
}

#[tokio::test]
async fn one_refused_event_is_one_call_and_pauses_nobody() {
    let platform = Scripted::new(|_, _| Err(60_011));
    let context = context(platform.clone(), ConversionToken::Downstream).await;
    let outcomes = run(&context, &lane(DEALER, None, LaneClass::Live), adds(1)).await;
    assert_eq!((platform.counts(), &outcomes[0].1), ([0, 1], &Outcome::NotVisible(60_011)));
    assert_eq!(failures(&context, &corp(DEALER)), 0);
}

#[tokio::test]
async fn other_lookups_and_those_in_a_group_are_refused_without_pausing_the_dealer() {
    let chat_id = ChatId::new("wrGROUP").unwrap();
    for (chat_id, class) in
        [(None, LaneClass::Background), (None, LaneClass::Suspect), (Some(chat_id), LaneClass::Live)]
    {
        let platform = Scripted::new(|_, _| Err(84_061));
        let context = context(platform.clone(), ConversionToken::Downstream).await;
        let lookups = (0..50).map(|n| lookup(n, Haste::Live, None, chat_id.as_ref())).collect();
        let outcomes = run(&context, &lane(DEALER, chat_id.clone(), class), lookups).await;
        assert_eq!((platform.counts(), outcomes.len()), ([0, 4], 50));
        assert!(outcomes.iter().all(|(_, outcome)| *outcome == Outcome::NotVisible(84_061)));
        assert_eq!(failures(&context, &corp(DEALER)), 0);
    }
}

#[tokio::test]
async fn auto_adds_one_call_with_the_other_token_to_a_search() {
    // The dealer's token sees nobody: the brand's is tried once. It is of the wrong kind: the search goes on
    // with the brand's.
    for (of_dealer, calls) in [(60_011, [1, 4]), (301_002, [4, 1])] {
        let platform = Scripted::new(move |token: &TokenOf, _: &[ExternalUserid]| match token {
            TokenOf::Upstream => Err(60_011),
            TokenOf::Dealer { .. } => Err(of_dealer),
        });
        let context = context(platform.clone(), ConversionToken::Auto).await;
        run(&context, &lane(DEALER, None, LaneClass::Live), adds(100)).await;
        assert_eq!((platform.counts(), failures(&context, &corp(DEALER))), (calls, 1));
    }
}

#[tokio::test]
async fn an_empty_answer_of_the_other_token_is_no_answer_for_refused_customers() {
    let platform = Scripted::new(|token: &TokenOf, _: &[ExternalUserid]| match token {
        TokenOf::Upstream => Ok(Vec::new()),
        TokenOf::Dealer { .. } => Err(60_011),
    });
    let context = context(platform.clone(), ConversionToken::Auto).await;
    let outcomes = run(&context, &lane(DEALER, None, LaneClass::Live), adds(1)).await;
    assert_eq!((platform.counts(), &outcomes[0].1), ([1, 1], &Outcome::NotVisible(60_011)));
}

#[tokio::test]
async fn an_empty_answer_pauses_nobody_whatever_the_other_token_is_answered() {
    let platform = Scripted::new(|token: &TokenOf, _: &[ExternalUserid]| match token {
        TokenOf::Upstream => Err(60_011),
        TokenOf::Dealer { .. } => Ok(Vec::new()),
    });
    let context = context(platform.clone(), ConversionToken::Auto).await;
    for calls in [[1, 1], [1, 2]] {
        let outcomes = run(&context, &lane(DEALER, None, LaneClass::Live), adds(100)).await;
        assert!(outcomes.iter().all(|(_, outcome)| *outcome == Outcome::Missed));
        assert_eq!(platform.counts(), calls, "the other token is not tried again");
        assert_eq!(failures(&context, &corp(DEALER)), 0);
    }
}

#[tokio::test]
async fn one_refused_id_among_a_hundred_is_found_while_the_others_are_converted() {
    let bad = adds(100)[42].contact.external_userid.clone();
    let of_bad = bad.clone();
    let platform = Scripted::new(move |_: &TokenOf, ids: &[ExternalUserid]| {
        if ids.contains(&of_bad) {
            return Err(40_058);
        }
        let row = |id: &ExternalUserid| (id.clone(), PendingId::new(format!("P{}", id.as_str())).unwrap());
        Ok(ids.iter().map(row).collect())
    });
    let context = context(platform.clone(), ConversionToken::Downstream).await;
    // Only the outcomes of the last call are not stored yet.
    let outcomes = run(&context, &lane(DEALER, None, LaneClass::Live), adds(100)).await;
    assert!(platform.counts()[1] <= 15, "{:?}", platform.counts());
    for (work, outcome) in &outcomes {
        let is_bad = work.contact.external_userid == bad;
        assert_eq!(is_bad, matches!(outcome, Outcome::Dead(_)), "{outcome:?}");
    }
    assert_eq!(failures(&context, &corp(DEALER)), 0);
}

#[tokio::test]
async fn a_group_that_no_longer_exists_costs_one_call_and_pauses_nobody() {
    let chat_id = ChatId::new("wrGROUP").unwrap();
    let platform = Scripted::new(|_, _| Err(49_008));
    let context = context(platform.clone(), ConversionToken::Auto).await;
    let lookups = (0..30).map(|n| lookup(n, Haste::Live, None, Some(&chat_id))).collect();
    let outcomes = run(&context, &lane(DEALER, Some(chat_id.clone()), LaneClass::Live), lookups).await;
    assert_eq!((platform.counts(), outcomes.len()), ([0, 1], 30));
    assert!(outcomes.iter().all(|(_, outcome)| *outcome == Outcome::NotInChat(chat_id.clone())));
    assert_eq!(failures(&context, &corp(DEALER)), 0);
}

#[tokio::test]
async fn a_wholly_refused_batch_of_two_dealers_pauses_one_and_calls_the_other_again() {
    let platform = Scripted::new(|_, _| Err(60_011));
    let context = context(platform.clone(), ConversionToken::Upstream).await;
    let dealers = [corp("wpONE"), corp("wpTWO")];
    let mut both = adds(80);
    for (work, dealer) in both.iter_mut().zip(dealers.iter().cycle()) {
        work.contact.corp_id = dealer.clone();
    }
    let outcomes = run(&context, &lane("wwBRAND", None, LaneClass::Live), both.clone()).await;
    assert_eq!((platform.counts(), outcomes.len()), ([4, 0], 80));
    let paused: Vec<_> = dealers.iter().filter(|dealer| failures(&context, dealer) == 1).collect();
    assert_eq!(paused.len(), 1);
    let (of_paused, of_other): (Outcomes, Outcomes) =
        outcomes.into_iter().partition(|(work, _)| work.contact.corp_id == *paused[0]);
    assert!(of_paused.iter().all(|(_, outcome)| *outcome == Outcome::NotVisible(60_011)));
    assert_eq!(deferred_until(&of_other), [T0; 40]);
    // Work of the paused dealer that waited in the lane costs no call.
    both.retain(|work| work.contact.corp_id == *paused[0]);
    let outcomes = run(&context, &lane("wwBRAND", None, LaneClass::Live), both).await;
    assert_eq!((platform.counts(), deferred_until(&outcomes).len()), ([4, 0], 40));
}

#[tokio::test]
async fn too_many_concurrent_calls_lower_their_number_before_they_pause_the_dealer() {
    let platform = Scripted::new(|_, _| Err(45_033));
    let context = context(platform.clone(), ConversionToken::Upstream).await;
    // The clock of the limit of calls.
    tokio::time::pause();
    for is_lowered in [true, true, false] {
        tokio::time::advance(Duration::from_millis(5)).await;
        let outcomes = run(&context, &lane("wwBRAND", None, LaneClass::Live), adds(10)).await;
        let waits: Vec<_> =
            deferred_until(&outcomes).into_iter().map(|due_at| due_at.millis_since(T0)).collect();
        assert_eq!(failures(&context, &corp("wwBRAND")), u32::from(!is_lowered));
        let bounds = if is_lowered { 1_000..=2_000 } else { 250..=500 };
        assert!(waits.len() == 10 && waits.iter().all(|wait| bounds.contains(wait)), "{waits:?}");
    }
    assert_eq!(platform.counts(), [3, 0], "nobody is searched for");
}

/// The calls before live work got the only permit, and the outcomes of a search among fifty other lookups,
/// whose first call is refused. `meanwhile` happens while the search waits for live work, which keeps the
/// permit for some seconds.
async fn search_that_yields(
    context: &Context,
    platform: &Scripted,
    live_secs: u64,
    meanwhile: impl FnOnce(),
) -> ([usize; 2], Outcomes) {
    let (parallelism, dealer) = (&context.parallelism, corp(DEALER));
    one_call_at_a_time(context, &dealer).await;
    let lane = lane(DEALER, None, LaneClass::Suspect);
    let lookups = (0..50).map(|n| lookup(n, Haste::Background, Some(84_061), None)).collect();
    let mut permit = parallelism.try_acquire(&app(), &dealer, Purpose::Lookup).unwrap();
    let live = async {
        let permit = loop {
            match parallelism.try_acquire(&app(), &dealer, Purpose::Live) {
                Some(permit) => break permit,
                None => parallelism.returned_to_lanes().await,
            }
        };
        let calls_before = platform.counts();
        meanwhile();
        tokio::time::sleep(Duration::from_secs(live_secs)).await;
        drop(permit);
        calls_before
    };
    let search = resolve(context, &lane, lookups, &mut permit, context.breakers.generation());
    tokio::join!(live, search)
}

#[tokio::test]
async fn live_work_goes_before_the_next_call_of_a_search_among_other_lookups() {
    let platform = Scripted::new(|_, _| Err(84_061));
    let context = context(platform.clone(), ConversionToken::Downstream).await;
    let (calls_before, outcomes) = search_that_yields(&context, &platform, 0, || {}).await;
    assert_eq!((calls_before, platform.counts(), outcomes.len()), ([0, 1], [0, 4], 50));
}

#[tokio::test]
async fn a_search_that_waits_in_vain_for_its_next_call_is_put_back() {
    let platform = Scripted::new(|_, _| Err(84_061));
    let context = context(platform.clone(), ConversionToken::Downstream).await;
    let began = tokio::time::Instant::now();
    let (_, outcomes) = search_that_yields(&context, &platform, 60, || {}).await;
    assert_eq!((began.elapsed().as_secs(), platform.counts()), (60, [0, 1]));
    let waits = deferred_until(&outcomes).into_iter().map(|due_at| due_at.millis_since(T0));
    assert!(waits.len() == 50 && waits.clone().all(|wait| (1_000..=2_000).contains(&wait)), "{outcomes:?}");
}

#[tokio::test]
async fn a_breaker_that_opens_while_a_search_waits_for_live_work_ends_it() {
    let platform = Scripted::new(|_, _| Err(84_061));
    let context = context(platform.clone(), ConversionToken::Downstream).await;
    let (scope, until) = (Scope::Corp(app(), corp(DEALER)), T0.plus_ms(3_600_000));
    let opens = || {
        let reason = FailureReason { errcode: Some(45_009), text: String::new() };
        context.breakers.hold(scope, reason, T0, until);
    };
    let (_, outcomes) = search_that_yields(&context, &platform, 0, opens).await;
    assert_eq!((platform.counts(), deferred_until(&outcomes)), ([0, 1], vec![until; 50]));
}

#[tokio::test]
async fn without_an_authorisation_the_app_is_paused_and_no_try_is_spent() {
    // As a dealer that is known, with its own token and the brand's, and as one that has to be looked up.
    for (owner, token) in [
        (DEALER, ConversionToken::Auto),
        (DEALER, ConversionToken::Upstream),
        ("wwBRAND", ConversionToken::Upstream),
        ("wpUNKNOWN", ConversionToken::Auto),
    ] {
        let platform = Scripted::new(|_, _| Ok(Vec::new()));
        let context = context(platform.clone(), token).await;
        if owner == "wpUNKNOWN" {
            // Not listed a moment ago, so only the brand's token is tried.
            assert_eq!(context.directory.find(&app(), &corp(owner)).await.unwrap(), None);
        }
        platform.script().unavailable = Some(Unavailable::Cancelled);
        let outcomes = run(&context, &lane(owner, None, LaneClass::Live), adds(3)).await;
        let breaker = context.breakers.open(&[&Scope::App(app())], T0).unwrap();
        assert_eq!(deferred_until(&outcomes), [breaker.probe_at; 3], "{owner}");
        assert_eq!((failures(&context, &corp(DEALER)), failures(&context, &corp(owner))), (0, 0), "{owner}");
    }
}
