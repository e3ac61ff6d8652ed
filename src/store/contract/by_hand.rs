//! What must hold while transactions wait: the writer writes when it is told to.

use std::pin::pin;
use std::time::Duration;

use super::*;
use crate::store::embedded::Hand;

fn store_by_hand() -> (EmbeddedStore, Hand) {
    EmbeddedStore::by_hand(Memory::default(), Settings::default(), [7; 16]).unwrap()
}

/// Writes whenever there is something to write, until `work` is done.
async fn writing<T>(hand: &mut Hand, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            true = hand.wanted() => hand.write(),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_outcome_on_its_way_keeps_its_lease_however_slow_the_disk_is() {
    let (store, mut hand) = store_by_hand();
    writing(&mut hand, store.put_fans(vec![new_fan(1)], T0)).await.unwrap();
    writing(&mut hand, store.append(added(2, 1))).await.unwrap();
    let fan = lease_fans(&store, FanStep::Mint, T0, 9).await.pop().unwrap();
    let event = store.lease(T0, 9).await.unwrap().pop().unwrap();
    let minted = store.settle_fans(vec![(fan, minted(1, T0))], T0);
    let resolved = store.settle(vec![(event, Outcome::Resolved(pending(1)))], T0);
    let mut settled = pin!(async { tokio::join!(minted, resolved) });
    let an_hour = Duration::from_hours(1);
    assert!(
        tokio::time::timeout(an_hour, &mut settled).await.is_err(),
        "nobody knows yet whether it is written"
    );
    assert_eq!(lease_fans(&store, FanStep::Mint, T0, 9).await, [], "it would be minted twice");
    assert_eq!(store.lease(T0, 9).await.unwrap(), []);
    assert_eq!(writing(&mut hand, settled).await, (Ok(()), Ok(())));
    assert_eq!(links_of(&store, LinkBy::Unionid(fan_key(1).unionid)).await.len(), 1);
}

#[tokio::test]
async fn who_comes_back_to_a_place_while_it_is_cleared_away_stays_in_it() {
    let (store, mut hand) = store_by_hand();
    let bulk = |n| NewFan { priority: Priority::Bulk, ..new_fan(n) };
    let lease =
        async |priority: Priority| store.lease_fans(&app(), FanStep::Mint, &[priority], T0, 9).await.unwrap();
    writing(&mut hand, store.put_fans(vec![bulk(1), bulk(2)], T0)).await.unwrap();
    // Moves up, leaves its old place behind, and is refused.
    writing(&mut hand, store.put_fans(vec![new_fan(1)], T0)).await.unwrap();
    let moved_up = lease(Priority::Live).await.pop().unwrap();
    let refused = store.settle_fans(vec![(moved_up, FanOutcome::Rejected { errcode: 610_018 })], T0);
    writing(&mut hand, refused).await.unwrap();
    // Comes back to that place while it is found there as a stray.
    let both = async { tokio::join!(store.put_fans(vec![bulk(1)], T0), lease(Priority::Bulk)) };
    let (back, leased) = writing(&mut hand, both).await;
    assert_eq!((back, leased.len()), (Ok(vec![Registered::Changed]), 1), "one that waits, and a stray");
    assert_eq!(lease(Priority::Bulk).await.first().map(|work| &work.key), Some(&fan_key(1)));
}
