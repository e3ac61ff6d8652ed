//! Reading events in each state (waiting, leased, dead, quarantined) and the text of quarantined messages.
//!
//! Deliberately absent: the transactions that change the state of an event (see `inbox` and `arrivals`).

use std::collections::HashSet;

use super::inbox::{MessagePart, SetAside};
use crate::domain::time::Timestamp;
use crate::store::rows::keys;
use crate::store::rows::records::decode;
use crate::store::rows::view::View;
use crate::store::{EventId, EventRow, EventState, InboxEvent, StoreError};

/// Up to `limit` events in `state`, as [`Store::events`](crate::store::Store::events) returns them. `leased`
/// are the keys of the leased rows.
pub(crate) fn list(
    view: &View<'_>,
    leased: &HashSet<Vec<u8>>,
    state: EventState,
    after: EventId,
    limit: usize,
) -> Result<Vec<EventRow>, StoreError> {
    match state {
        EventState::Waiting => view.rows(b"i", &keys::after(b"i"), limit, |key, value| {
            if leased.contains(key) {
                return Ok(None);
            }
            Ok(view.undamaged(key, decode(key, value))?.map(EventRow::Inbox))
        }),
        EventState::Leased => {
            let mut leased: Vec<_> = leased.iter().filter(|key| key.starts_with(b"i")).collect();
            leased.sort_unstable();
            let mut events = Vec::new();
            for key in leased {
                if events.len() >= limit {
                    break;
                }
                events.extend(view.read_undamaged(key)?.map(EventRow::Inbox));
            }
            Ok(events)
        }
        EventState::Dead | EventState::Quarantined => {
            let from = keys::set_aside(EventId(after.0.saturating_add(1)));
            view.rows(&from, &keys::after(b"x"), limit, |key, value| {
                let Some(aside) = view.undamaged(key, decode::<SetAside>(key, value))? else {
                    return Ok(None);
                };
                let row = EventRow::from(aside);
                let is_wanted = matches!(row, EventRow::Dead { .. }) == (state == EventState::Dead);
                Ok(is_wanted.then_some(row))
            })
        }
    }
}

/// The dead letter or quarantined message with this number.
pub(crate) fn set_aside(view: &View<'_>, id: EventId) -> Result<Option<SetAside>, StoreError> {
    view.read(&keys::set_aside(id))
}

/// The decrypted text of a quarantined message; `None` if there is none with this number.
pub(crate) fn message(view: &View<'_>, id: EventId) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(SetAside::Quarantined(_)) = set_aside(view, id)? else { return Ok(None) };
    let prefix = keys::message_parts(id);
    let part = |key: &[u8], value: &[u8]| Ok(Some(decode::<MessagePart>(key, value)?.0));
    Ok(Some(view.rows(&prefix, &keys::after(&prefix), usize::MAX, part)?.concat()))
}

/// What can be read of the text of a quarantined message; empty if there is none with this number.
pub(crate) fn readable_text(view: &View<'_>, id: EventId) -> Result<Vec<u8>, StoreError> {
    let part = |key: &[u8], value: &[u8]| decode(key, value).map(|MessagePart(text)| text);
    Ok(view.undamaged_under(&keys::message_parts(id), usize::MAX, part)?.concat())
}

/// When the oldest of the first events in the inbox was received.
pub(crate) fn oldest(view: &View<'_>) -> Result<Option<Timestamp>, StoreError> {
    const EVENTS_LOOKED_AT: usize = 1_000;
    let received = |key: &[u8], value: &[u8]| decode::<InboxEvent>(key, value).map(|event| event.received_at);
    // The queue is ordered by due instant, so a retried event is behind younger ones.
    Ok(view.undamaged_under(b"i", EVENTS_LOOKED_AT, received)?.into_iter().min())
}
