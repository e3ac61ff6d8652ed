//! Reads of many rows, in slices: each in a view of its own, and other tasks run after it. What is written
//! meanwhile may be read or missed.

use std::ops::ControlFlow;

use super::{EmbeddedStore, StoreError};
use crate::store::rows::keys;
use crate::store::rows::view::View;

/// Rows of one slice.
const SLICE_ROWS: usize = 256;

impl EmbeddedStore {
    /// Calls `each` with every row from `from` on and before `to`, in the order of the keys, until it breaks.
    pub(super) async fn in_slices(
        &self,
        from: &[u8],
        to: &[u8],
        mut each: impl FnMut(&View<'_>, &[u8], &[u8]) -> Result<ControlFlow<()>, StoreError> + Send,
    ) -> Result<(), StoreError> {
        let mut from = from.to_vec();
        loop {
            let next = self.slice(&from, to, &mut each)?;
            tokio::task::yield_now().await;
            let Some(next) = next else { return Ok(()) };
            from = next;
        }
    }

    /// One slice. Returns where the next one begins; `None` at the end.
    fn slice(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut impl FnMut(&View<'_>, &[u8], &[u8]) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let view = self.view();
        for (row, number) in view.range(from, to).zip(1..) {
            let (key, value) = row?;
            if each(&view, &key, &value)?.is_break() {
                return Ok(None);
            }
            if number == SLICE_ROWS {
                return Ok(Some(keys::next(&key)));
            }
        }
        Ok(None)
    }
}
