//! Reads of many rows, in slices: each as of an instant of its own, and other tasks run after it. What is written
//! meanwhile may be read or missed.

use std::ops::ControlFlow;

use super::{Backend, RowStore, StoreError};
use crate::store::rows::keys;
use crate::store::rows::view::View;

/// Rows of one slice.
const SLICE_ROWS: usize = 256;

impl<B: Backend> RowStore<B> {
    /// Has `row` read every row from `from` on and before `to`, in the order of the keys, and calls `each` with the
    /// results until it breaks.
    pub(super) async fn in_slices<T: Send>(
        &self,
        from: &[u8],
        to: &[u8],
        row: impl Fn(&View<'_>, &[u8], &[u8]) -> Result<T, StoreError> + Send + Sync,
        mut each: impl FnMut(T) -> ControlFlow<()> + Send,
    ) -> Result<(), StoreError> {
        let mut from = from.to_vec();
        loop {
            let (results, next) = self.backend.read(|view| slice(view, &from, to, &row)).await?;
            let is_enough = results.into_iter().any(|result| each(result).is_break());
            tokio::task::yield_now().await;
            let Some(next) = next.filter(|_| !is_enough) else { return Ok(()) };
            from = next;
        }
    }
}

/// One slice, and where the next one begins; `None` at the end.
fn slice<T>(
    view: &View<'_>,
    from: &[u8],
    to: &[u8],
    read: impl Fn(&View<'_>, &[u8], &[u8]) -> Result<T, StoreError>,
) -> Result<(Vec<T>, Option<Vec<u8>>), StoreError> {
    let mut results = Vec::new();
    for row in view.range(from, to) {
        let (key, value) = row?;
        results.push(read(view, &key, &value)?);
        if results.len() == SLICE_ROWS {
            return Ok((results, Some(keys::next(&key))));
        }
    }
    Ok((results, None))
}
