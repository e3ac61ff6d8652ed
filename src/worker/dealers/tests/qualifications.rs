//! How far the dealers are verified.

use super::*;
use crate::domain::dealer::Qualification;

#[tokio::test]
async fn verification_is_asked_for_in_rounds_and_daily() {
    let mut worker = Worker::with(30);
    worker.script(|wecom| wecom.qualification = Some(Qualification::Certified));
    let asked = |worker: &Worker| ["chains", "qualification"].map(|call| worker.world.wecom.count(call));
    for expected in [20, 30, 30] {
        worker.look().await;
        worker.look().await;
        assert_eq!(asked(&worker), [1, expected]);
        worker.pass(MINUTE).await;
    }
    assert_eq!(worker.row(29).await.dealer.qualification, Some(Qualification::Certified));
    worker.pass(DAY).await;
    worker.look().await;
    assert_eq!(asked(&worker), [2, 50]);
}

#[tokio::test]
async fn an_app_that_may_not_read_chains_tries_again_in_a_day_and_nothing_is_paused() {
    let mut worker = Worker::with(1);
    worker.script(|wecom| wecom.refused.insert("chains", 48_002));
    for (wait, chains) in [(HOUR, 1), (DAY, 1), (HOUR, 2)] {
        worker.look().await;
        assert_eq!(worker.world.wecom.count("chains"), chains);
        assert!(worker.world.context.breakers.all(worker.now()).is_empty());
        worker.pass(wait).await;
    }
}

#[tokio::test]
async fn an_app_that_may_read_chains_again_does_so_when_an_operator_resumes() {
    let mut worker = Worker::with(1);
    worker.script(|wecom| wecom.refused.insert("chains", 48_002));
    worker.look().await;
    worker.script(|wecom| {
        wecom.refused.clear();
        wecom.qualification = Some(Qualification::Certified);
    });
    worker.look().await;
    assert_eq!(worker.row(0).await.dealer.qualification, None, "it waits");
    worker.world.context.optional_calls.forget(Some(&app()), None);
    worker.look().await;
    assert_eq!(worker.row(0).await.dealer.qualification, Some(Qualification::Certified));
}

#[tokio::test]
async fn a_dealer_that_is_not_verified_is_resumed_once_it_is() {
    let mut worker = Worker::with(1);
    worker.script(|wecom| wecom.qualification = Some(Qualification::Unverified));
    worker.look().await;
    assert_eq!(worker.states().await, [DealerState::Unverified]);
    assert!(worker.measures("unionlink_dealers{app=\"brand\",state=\"unverified\"} 1"));
    worker.add_deferred_customer(0).await;
    worker.script(|wecom| wecom.qualification = Some(Qualification::Verified));
    worker.pass(HOUR).await;
    worker.look().await;
    assert_eq!(worker.states().await, [DealerState::Shared]);
    assert!(worker.is_work_due().await);
}
