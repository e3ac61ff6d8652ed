//! Batches of ids for one call, and bisection to find the one id for which WeCom rejects a batch.

/// Maximum number of ids in one `external_userid_to_pending_id` call (document 97357).
pub const IDS_PER_CALL_MAX: usize = 100;

/// The two halves of a rejected batch. Repeated, it isolates the bad id of a full batch after at most seven
/// splits.
///
/// `None` when the batch has a single id: that one is bad.
#[must_use]
pub fn bisect<T>(mut batch: Vec<T>) -> Option<(Vec<T>, Vec<T>)> {
    if batch.len() < 2 {
        return None;
    }
    let tail = batch.split_off(batch.len() / 2);
    Some((batch, tail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn one_bad_id_is_isolated_and_nothing_else_is_lost(len in 1_usize..=IDS_PER_CALL_MAX, seed: usize) {
            let bad = seed % len;
            let mut todo = vec![(0..len).collect::<Vec<_>>()];
            let (mut good, mut blamed, mut calls) = (vec![], vec![], 0);
            while let Some(batch) = todo.pop() {
                calls += 1;
                if !batch.contains(&bad) {
                    good.extend(batch);
                } else if let [only] = batch[..] {
                    blamed.push(only);
                } else if let Some((head, tail)) = bisect(batch) {
                    todo.extend([head, tail]);
                }
            }
            good.sort_unstable();
            prop_assert_eq!(blamed, vec![bad]);
            prop_assert_eq!(good, (0..len).filter(|n| *n != bad).collect::<Vec<_>>());
            prop_assert!(calls <= 15, "{} calls", calls);
        }
    }
}
