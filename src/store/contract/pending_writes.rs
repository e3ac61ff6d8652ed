//! The embedded store while transactions are submitted but not yet committed: these tests decide when the
//! writer commits.

use std::pin::pin;
use std::time::Duration;

use super::*;
use crate::store::embedded::ManualWriter;

fn manual_store() -> (Tested, ManualWriter) {
    let opened = EmbeddedStore::with_manual_writer(Memory::default(), Settings::default(), [7; 16]);
    let (store, writer) = opened.unwrap();
    (Arc::new(store), writer)
}

/// Commits whatever is submitted until `work` is done.
async fn committing<T>(writer: &mut ManualWriter, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            true = writer.has_work() => writer.commit(),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_submitted_outcome_keeps_its_lease_however_slow_the_disk_is() {
    let (store, mut writer) = manual_store();
    committing(&mut writer, store.put_fans(vec![new_fan(1)], T0)).await.unwrap();
    committing(&mut writer, store.append(added(2, 1))).await.unwrap();
    let fan = lease_fans(&store, FanStep::Mint, T0, 9).await.pop().unwrap();
    let event = store.lease(T0, 9, 9).await.unwrap().pop().unwrap();
    let minted = store.settle_fans(vec![(fan, minted(1, T0))], T0);
    let resolved = store.settle(vec![(event, Outcome::Resolved(pending(1)))], T0);
    let mut settled = pin!(async { tokio::join!(minted, resolved) });
    let an_hour = Duration::from_hours(1);
    assert!(tokio::time::timeout(an_hour, &mut settled).await.is_err(), "not committed, so not answered");
    assert_eq!(lease_fans(&store, FanStep::Mint, T0, 9).await, [], "a second lease would mint twice");
    assert_eq!(store.lease(T0, 9, 9).await.unwrap(), []);
    assert_eq!(committing(&mut writer, settled).await, (Ok(()), Ok(vec![T0])));
    assert_eq!(links_of(&store, LinkBy::Unionid(fan_key(1).unionid)).await.len(), 1);
}

#[tokio::test]
async fn a_fan_queued_again_at_a_position_while_it_is_cleaned_up_stays_queued() {
    let (store, mut writer) = manual_store();
    let bulk = |n| NewFan { priority: Priority::Bulk, ..new_fan(n) };
    let lease =
        async |priority: Priority| store.lease_fans(&app(), FanStep::Mint, &[priority], T0, 9).await.unwrap();
    committing(&mut writer, store.put_fans(vec![bulk(1), bulk(2)], T0)).await.unwrap();
    // The first fan moves to the live queue, which leaves a stale position in the bulk queue, and is rejected
    // there.
    committing(&mut writer, store.put_fans(vec![new_fan(1)], T0)).await.unwrap();
    let moved_up = lease(Priority::Live).await.pop().unwrap();
    let refused = store.settle_fans(vec![(moved_up, FanOutcome::Rejected { errcode: 610_018 })], T0);
    committing(&mut writer, refused).await.unwrap();
    // It is queued at the old position again while a lease finds the stale entry and wants to remove it.
    let retry = NewFan { retry_rejected: true, ..bulk(1) };
    let both = async { tokio::join!(store.put_fans(vec![retry], T0), lease(Priority::Bulk)) };
    let (back, leased) = committing(&mut writer, both).await;
    assert_eq!(
        (back, leased.len()),
        (Ok(vec![Registered::Changed]), 1),
        "the other fan is leased; the stale entry is not"
    );
    assert_eq!(lease(Priority::Bulk).await.first().map(|work| &work.key), Some(&fan_key(1)));
}
