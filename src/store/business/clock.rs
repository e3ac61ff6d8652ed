//! The reading of the clocks that was stored last.

use crate::domain::time::Moment;
use crate::store::StoreError;
use crate::store::rows::keys;
use crate::store::rows::records::Record;
use crate::store::rows::txn::Txn;
use crate::store::rows::view::View;

impl Record for Moment {}

fn key() -> Vec<u8> {
    keys::only("moment")
}

/// The reading that was stored last; `None` if its record is damaged.
pub(crate) fn last_moment(view: &View<'_>) -> Result<Option<Moment>, StoreError> {
    view.read_undamaged(&key())
}

/// Stores a reading.
pub(crate) fn put(txn: &mut Txn<'_>, now: &Moment) -> Result<(), StoreError> {
    txn.put(key(), now)
}
