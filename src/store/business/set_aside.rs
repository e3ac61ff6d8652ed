//! Removing what is kept for an operator: dead letters and quarantined messages that are redriven, discarded
//! or erased, and quarantined messages after `quarantine_days`.
//!
//! Deliberately absent: how they come to be kept, what a redriven one becomes (see `arrivals`), and when
//! expired ones are looked for (see `sweeping`).

use super::inbox::SetAside;
use crate::domain::time::Timestamp;
use crate::store::rows::keys;
use crate::store::rows::records::decode;
use crate::store::rows::txn::Txn;
use crate::store::rows::view::View;
use crate::store::{EventId, EventState, Quarantined, StoreError};

/// Removes a dead letter, or a quarantined message with its text. `None` if there is none with this number.
pub(crate) fn remove(txn: &mut Txn<'_>, id: EventId) -> Result<Option<SetAside>, StoreError> {
    let key = keys::set_aside(id);
    let Some(aside) = txn.get::<SetAside>(&key)? else { return Ok(None) };
    txn.delete(key);
    match &aside {
        SetAside::Dead { .. } => txn.discount(|counts| &mut counts.dead),
        SetAside::Quarantined(_) => {
            txn.discount(|counts| &mut counts.quarantined);
            for part in txn.keys(&keys::message_parts(id), usize::MAX >> 1)? {
                txn.delete(part);
            }
        }
    }
    Ok(Some(aside))
}

/// Removes a dead letter or quarantined message for good. Returns the state that it was in.
pub(crate) fn discard(txn: &mut Txn<'_>, id: EventId) -> Result<Option<EventState>, StoreError> {
    Ok(remove(txn, id)?.map(|aside| match aside {
        SetAside::Dead { .. } => EventState::Dead,
        SetAside::Quarantined(_) => EventState::Quarantined,
    }))
}

/// Whether this is a quarantined message that was received before `cutoff`.
fn is_expired(aside: Option<&SetAside>, cutoff: Timestamp) -> bool {
    matches!(aside, Some(SetAside::Quarantined(quarantined)) if quarantined.received_at < cutoff)
}

/// Removes a quarantined message that has expired. Returns false if it has become something else since, such
/// as a dead letter with the same number.
pub(crate) fn expire(txn: &mut Txn<'_>, id: EventId, cutoff: Timestamp) -> Result<bool, StoreError> {
    let aside = txn.get::<SetAside>(&keys::set_aside(id))?;
    Ok(is_expired(aside.as_ref(), cutoff) && remove(txn, id)?.is_some())
}

/// Rows of the quarantine and the dead letters, for a sweep.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct SweptPage {
    /// The messages that have expired.
    pub(crate) expired: Vec<EventId>,
    /// When the oldest of the other messages was received.
    pub(crate) oldest_kept: Option<Timestamp>,
    /// The number of the last row; `None` if there are no more rows.
    pub(crate) last: Option<EventId>,
}

/// The next `limit` rows after `after`, in a sweep of the messages received before `cutoff`.
pub(crate) fn swept_page(
    view: &View<'_>,
    after: EventId,
    cutoff: Timestamp,
    limit: usize,
) -> Result<SweptPage, StoreError> {
    let from = keys::set_aside(EventId(after.0.saturating_add(1)));
    let mut page = SweptPage::default();
    for row in view.range(&from, &keys::after(b"x")).take(limit) {
        let (key, value) = row?;
        let id = EventId(keys::number(&key)?);
        page.last = Some(id);
        match view.undamaged(&key, decode::<SetAside>(&key, &value))? {
            aside if is_expired(aside.as_ref(), cutoff) => page.expired.push(id),
            Some(SetAside::Quarantined(Quarantined { received_at, .. })) => {
                page.oldest_kept = page.oldest_kept.into_iter().chain([received_at]).min();
            }
            Some(SetAside::Dead { .. }) | None => {}
        }
    }
    Ok(page)
}
