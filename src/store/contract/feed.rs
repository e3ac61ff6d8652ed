//! How links leave the store: the feed and its pruning, cursors, scans of all links.

use proptest::prelude::*;

use super::*;
use crate::domain::audit::AuditBy;
use crate::domain::ids::SinkName;

fn sink(name: &str) -> SinkName {
    SinkName::new(name).unwrap()
}

/// Creates a link, and with it a feed entry, at `now`.
async fn link(store: &Tested, person: u8, now: Timestamp) {
    mint(store, person, person, now).await;
    let arrival = Arrival { received_at: now, ..added(person, 1) };
    store.append(arrival).await.unwrap();
    settle_next(store, now, Outcome::Resolved(pending(person))).await;
}

async fn seqs(store: &Tested, after: u64) -> Result<Vec<u64>, StoreError> {
    Ok(store.feed(after, 1_000, T0).await?.iter().map(|entry| entry.seq).collect())
}

async fn the_feed_is_pruned_by_age_up_to_the_slowest_cursor(place: &dyn Place) {
    let store = place.open().await;
    for person in 1..=6 {
        link(&store, person, T0.plus_ms(i64::from(person) * DAY_MS)).await;
    }
    let (fast, slow) = (sink("fast"), sink("slow"));
    for name in [&fast, &slow] {
        store.open_cursor(name, Start::Beginning).await.unwrap();
    }
    assert!(store.advance(&fast, 0, 6).await.unwrap() && store.advance(&slow, 0, 3).await.unwrap());
    let both = [fast.clone(), slow.clone()];
    let cutoff = |days: i64| T0.plus_ms(days * DAY_MS);
    assert_eq!(
        store.prune_feed(cutoff(3), &both).await,
        Ok(2),
        "entries 1 and 2 are older than the third day"
    );
    assert_eq!(store.prune_feed(cutoff(9), &both).await, Ok(1), "the slow one still needs entry 4");
    let store = reopen(place, store).await;
    assert_eq!(seqs(&store, 3).await, Ok(vec![4, 5, 6]));
    for after in [0, 2] {
        assert_eq!(seqs(&store, after).await, Err(StoreError::Gone { oldest: 4 }));
    }
    assert_eq!(store.prune_feed(cutoff(9), &[sink("never-opened")]).await, Ok(0));
    // A sink that is no longer configured does not delay pruning; if it returns, it gets the number of missed
    // entries.
    assert_eq!(store.prune_feed(cutoff(9), &[fast]).await, Ok(3));
    assert_eq!(seqs(&store, 6).await, Ok(vec![]));
    assert_eq!(seqs(&store, 3).await, Err(StoreError::Gone { oldest: 7 }));
    let (cursor, missed) = store.open_cursor(&slow, Start::Beginning).await.unwrap();
    assert_eq!((cursor.after, missed), (6, 3));
    link(&store, 7, T0).await;
    assert_eq!(seqs(&store, 6).await, Ok(vec![7]));
}

async fn a_cursor_is_durable_and_a_seek_fences_off_older_deliveries(place: &dyn Place) {
    let store = place.open().await;
    for person in 1..=4 {
        link(&store, person, T0).await;
    }
    let crm = sink("crm");
    assert_eq!(store.cursor(&crm).await, Ok(None));
    let (late, _) = store.open_cursor(&sink("late"), Start::Now).await.unwrap();
    assert_eq!(late.after, 4);
    let (cursor, missed) = store.open_cursor(&crm, Start::Beginning).await.unwrap();
    assert_eq!((cursor.after, cursor.epoch, missed), (0, 0, 0));
    assert_eq!(store.advance(&crm, 0, 3).await, Ok(true));
    assert_eq!(store.advance(&crm, 0, 2).await, Ok(false), "an advance only goes forward");
    let store = reopen(place, store).await;
    assert_eq!(store.open_cursor(&crm, Start::Now).await.unwrap().0.after, 3, "the cursor exists already");
    let sought = store.seek(&crm, Seek::After(1)).await.unwrap().unwrap();
    assert_eq!((sought.after, sought.epoch), (1, 1));
    assert_eq!(
        store.advance(&crm, 0, 4).await,
        Ok(false),
        "a delivery under an older epoch must not undo the seek"
    );
    assert_eq!(store.cursor(&crm).await.unwrap().unwrap().after, 1);
    assert_eq!(store.seek(&crm, Seek::Now).await.unwrap().unwrap().after, 4);
    assert_eq!(store.seek(&crm, Seek::After(4)).await.unwrap().unwrap().after, 4);
    assert_eq!(store.seek(&crm, Seek::Beginning).await.unwrap().unwrap().after, 0);
    assert_eq!(store.seek(&sink("nobody"), Seek::Now).await, Ok(None));
    let reason = "410 Gone".to_owned();
    let state = CursorState::Disabled { since: T0, reason };
    store.set_state(&crm, state.clone()).await.unwrap();
    let store = reopen(place, store).await;
    assert_eq!(store.cursor(&crm).await.unwrap().unwrap().state, state);
    store.prune_feed(T0.plus_ms(DAY_MS), &[sink("late")]).await.unwrap();
    assert_eq!(store.seek(&crm, Seek::After(2)).await, Err(StoreError::Gone { oldest: 5 }));
}

async fn a_seek_beyond_the_newest_entry_is_refused_and_changes_nothing(place: &dyn Place) {
    let (store, crm) = (place.open().await, sink("crm"));
    let (before, _) = store.open_cursor(&crm, Start::Beginning).await.unwrap();
    assert_eq!(store.seek(&crm, Seek::After(1)).await, Err(StoreError::BeyondHead { head: 0 }));
    link(&store, 1, T0).await;
    link(&store, 2, T0).await;
    for after in [3, u64::MAX] {
        assert_eq!(store.seek(&crm, Seek::After(after)).await, Err(StoreError::BeyondHead { head: 2 }));
    }
    assert_eq!(store.cursor(&crm).await, Ok(Some(before)));
}

async fn a_sink_that_is_paused_again_stays_paused_since_the_first_time(place: &dyn Place) {
    let (store, crm) = (place.open().await, sink("crm"));
    store.open_cursor(&crm, Start::Beginning).await.unwrap();
    let at = |minute: i64| T0.plus_ms(minute * MINUTE_MS);
    let paused = |minute| CursorState::Paused { since: at(minute) };
    let disabled =
        |minute, reason: &str| CursorState::Disabled { since: at(minute), reason: reason.to_owned() };
    for (set, expected) in [
        (paused(1), paused(1)),
        (paused(2), paused(1)),
        (disabled(3, "410"), disabled(3, "410")),
        (disabled(4, "404"), disabled(3, "404")),
        (paused(5), paused(5)),
        (CursorState::Running, CursorState::Running),
        (paused(6), paused(6)),
    ] {
        assert_eq!(store.set_state(&crm, set).await.unwrap().unwrap().state, expected);
    }
    let store = reopen(place, store).await;
    assert_eq!(store.cursor(&crm).await.unwrap().unwrap().state, paused(6));
}

async fn a_damaged_feed_entry_is_skipped(place: &dyn Place) {
    let store = place.open().await;
    for person in 1..=3 {
        link(&store, person, T0).await;
    }
    store.corrupt(&crate::store::embedded::row_keys::feed(2)).await;
    assert_eq!(seqs(&store, 0).await, Ok(vec![1, 3]));
    assert_eq!(store.damaged_records(), 1);
    assert_eq!(store.prune_feed(T0.plus_ms(DAY_MS), &[]).await, Ok(3));
}

async fn a_missing_feed_entry_is_damaged_and_only_what_was_pruned_is_gone(place: &dyn Place) {
    let store = place.open().await;
    for person in 1..=6 {
        link(&store, person, T0.plus_ms(i64::from(person) * DAY_MS)).await;
    }
    assert_eq!(store.prune_feed(T0.plus_ms(2 * DAY_MS), &[]).await, Ok(1));
    // The first entry that is kept, one in the middle and the newest.
    for seq in [2, 4, 6] {
        store.lose(&crate::store::embedded::row_keys::feed(seq)).await;
    }
    for _ in 0..2 {
        assert_eq!(seqs(&store, 1).await, Ok(vec![3, 5]));
        assert_eq!(store.damaged_records(), 3);
    }
    assert_eq!(store.feed(1, 1, T0).await.unwrap()[0].seq, 3, "a page is as long as it can be");
    assert_eq!(seqs(&store, 5).await, Ok(vec![]));
    assert_eq!(seqs(&store, 0).await, Err(StoreError::Gone { oldest: 2 }));
    let store = reopen(place, store).await;
    assert_eq!(seqs(&store, 1).await, Ok(vec![3, 5]));
    assert_eq!(seqs(&store, 0).await, Err(StoreError::Gone { oldest: 2 }));
    assert_eq!(store.prune_feed(T0.plus_ms(4 * DAY_MS), &[]).await, Ok(3), "entries 2 to 4");
    assert_eq!(seqs(&store, 3).await, Err(StoreError::Gone { oldest: 5 }));
    assert_eq!(seqs(&store, 4).await, Ok(vec![5]));
    link(&store, 7, T0).await;
    assert_eq!(seqs(&store, 5).await, Ok(vec![7]));
}

async fn a_sink_that_reads_while_entries_are_pruned_is_told_so_and_counts_no_damage(place: &dyn Place) {
    let store = std::sync::Arc::new(place.open().await);
    for person in 0..200 {
        link(&store, person, T0).await;
    }
    let pruned = store.clone();
    let pruning =
        tokio::spawn(async move { while pruned.prune_feed(T0.plus_ms(DAY_MS), &[]).await.unwrap() > 0 {} });
    loop {
        match seqs(&store, 0).await {
            Ok(all) => assert_eq!(all.len(), 200),
            Err(StoreError::Gone { oldest: 201 }) => break,
            Err(gone) => assert!(matches!(gone, StoreError::Gone { .. }), "{gone}"),
        }
        tokio::task::yield_now().await;
    }
    pruning.await.unwrap();
    assert_eq!(store.damaged_records(), 0);
}

async fn links_are_read_with_the_name_the_dealer_has_now(place: &dyn Place) {
    let mut store = place.open().await;
    link(&store, 1, T0).await;
    let names = async |store: &Tested| {
        let entry = store.feed(0, 9, T0).await.unwrap().pop().unwrap();
        let found = links_of(store, LinkBy::Unionid(fan_key(1).unionid)).await.pop().unwrap();
        let exported = store.scan_links().await.unwrap().next(T0).await.unwrap().unwrap().pop().unwrap();
        [entry.data.link().unwrap().corp_name.clone(), found.corp_name, exported.corp_name]
    };
    assert_eq!(names(&store).await, [None, None, None], "no dealer is known");
    for name in ["上海一店", "上海二店"] {
        let dealer = Dealer::listed(corp(1), 7, name.to_owned(), T0);
        store.put_dealers(&app(), vec![dealer]).await.unwrap();
        store = reopen(place, store).await;
        assert_eq!(names(&store).await, [(); 3].map(|()| Some(name.to_owned())));
    }
}

/// What a reader holds, by link id.
type Held = std::collections::BTreeMap<String, LinkData>;

/// Reads the rest of a scan.
async fn read_to_the_end(scan: &mut Box<dyn LinksScan>, held: &mut Held) {
    while let Some(page) = scan.next(T0).await.unwrap() {
        hold(page, held);
    }
}

fn hold(page: Vec<LinkData>, held: &mut Held) {
    held.extend(page.into_iter().map(|link| (link.link_id.clone(), link)));
}

/// Applies the feed's entries after `after`.
async fn follow(store: &Tested, after: u64, held: &mut Held) {
    for entry in store.feed(after, usize::MAX, T0).await.unwrap() {
        match entry.data.link() {
            Some(link) => hold(vec![link.clone()], held),
            None => drop(held.remove(entry.data.link_id())),
        }
    }
}

/// Everything there is, read while nothing changes.
async fn links_now(store: &Tested) -> Held {
    let mut held = Held::new();
    read_to_the_end(&mut store.scan_links().await.unwrap(), &mut held).await;
    assert_eq!(held.len() as u64, store.counts().links);
    held
}

/// Whose link this is, without what the feed need not repeat.
fn people(held: &Held) -> Vec<(&str, &str, &str)> {
    held.iter()
        .map(|(id, link)| (id.as_str(), link.unionid.as_str(), link.external_userid.as_str()))
        .collect()
}

async fn a_reader_of_a_scan_who_follows_the_feed_ends_with_the_links_there_are(place: &dyn Place) {
    let store = place.open().await;
    for person in 10..50 {
        link(&store, person, T0).await;
    }
    let (mut scan, mut held) = (store.scan_links().await.unwrap(), Held::new());
    assert_eq!((scan.links(), scan.feed_head()), (40, 40));
    hold(scan.next(T0).await.unwrap().unwrap(), &mut held);
    let was_read = |held: &Held, n: u8| held.values().any(|link| link.external_userid == customer(n));
    assert!(was_read(&held, 10) && !was_read(&held, 40), "the scan is between the two");
    // Meanwhile links are made before and behind the scan's place, two are erased, and two customers turn out
    // to be another fan.
    for person in [1, 2, 60, 61] {
        link(&store, person, T0).await;
    }
    for person in [11, 41] {
        let erased = PersonId::Unionid(fan_key(person).unionid);
        store.forget(&erased, None, AuditBy::service(), T0).await.unwrap();
    }
    for (person, fan) in [(10, 1), (40, 2)] {
        store.append(arrival(event(person, 1, 2, ContactChange::Added, 9))).await.unwrap();
        settle_next(&store, T0, Outcome::Resolved(pending(fan))).await;
    }
    // One of the erased customers comes back.
    let again = arrival(event(41, 1, 3, ContactChange::Added, 10));
    store.append(Arrival { received_at: T0.plus_ms(1), ..again }).await.unwrap();
    settle_next(&store, T0.plus_ms(1), Outcome::Missed).await;
    let begun_at = scan.feed_head();
    read_to_the_end(&mut scan, &mut held).await;
    assert!(!was_read(&held, 41) && was_read(&held, 40), "erased before it was read");
    follow(&store, begun_at, &mut held).await;
    let wanted = links_now(&store).await;
    assert_eq!(people(&held), people(&wanted));
    assert_eq!(held.len(), 42);
}

contract!(
    the_feed_is_pruned_by_age_up_to_the_slowest_cursor,
    a_cursor_is_durable_and_a_seek_fences_off_older_deliveries,
    a_seek_beyond_the_newest_entry_is_refused_and_changes_nothing,
    a_sink_that_is_paused_again_stays_paused_since_the_first_time,
    a_damaged_feed_entry_is_skipped,
    a_missing_feed_entry_is_damaged_and_only_what_was_pruned_is_gone,
    a_sink_that_reads_while_entries_are_pruned_is_told_so_and_counts_no_damage,
    links_are_read_with_the_name_the_dealer_has_now,
    a_reader_of_a_scan_who_follows_the_feed_ends_with_the_links_there_are,
);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Links are made, changed and erased between any two pages of a scan.
    #[test]
    fn a_scan_and_the_feed_after_it_lead_to_the_links_whatever_changes_between_its_pages(
        first in 1_u8..60,
        pages in proptest::collection::vec(proptest::collection::vec((0_u8..80, 0_u8..80, 0_u8..4), 0..4), 0..9)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = Memory::default().open().await;
            for person in 0..first {
                link(&store, person, T0).await;
            }
            let (mut scan, mut held) = (store.scan_links().await.unwrap(), Held::new());
            for (n, changes) in pages.into_iter().enumerate() {
                for (person, fan, what) in changes {
                    let now = T0.plus_ms(i64::try_from(n).unwrap() * SECOND_MS);
                    if what == 0 {
                        let erased = PersonId::ExternalUserid(customer(person));
                        store.forget(&erased, None, AuditBy::service(), now).await.unwrap();
                        continue;
                    }
                    let at = i64::try_from(n).unwrap();
                    let added = arrival(event(person, 1, 3, ContactChange::Added, at));
                    store.append(Arrival { received_at: now, ..added }).await.unwrap();
                    let pending_id = pending(if what == 1 { fan } else { person });
                    for work in store.lease(now, 9, 9).await.unwrap() {
                        store.settle(vec![(work, Outcome::Resolved(pending_id.clone()))], now).await.unwrap();
                    }
                }
                hold(scan.next(T0).await.unwrap().unwrap_or_default(), &mut held);
            }
            let head = scan.feed_head();
            read_to_the_end(&mut scan, &mut held).await;
            follow(&store, head, &mut held).await;
            let wanted = links_now(&store).await;
            assert_eq!(people(&held), people(&wanted));
        });
    }
}
