//! Reading events in each state (waiting, leased, dead, quarantined) and the text of quarantined messages.
//!
//! Deliberately absent: the transactions that change the state of an event (see `inbox` and `arrivals`).

use super::inbox::{MessagePart, SetAside};
use crate::store::embedded::EmbeddedStore;
use crate::store::embedded::records::decode;
use crate::store::embedded::rows::keys;
use crate::store::{EventId, EventRow, EventState, InboxEvent, StoreError};

impl EmbeddedStore {
    /// Up to `limit` events in `state`, as [`Store::events`](crate::store::Store::events) returns them.
    pub(crate) fn event_rows(
        &self,
        state: EventState,
        after: EventId,
        limit: usize,
    ) -> Result<Vec<EventRow>, StoreError> {
        match state {
            EventState::Waiting => {
                let leased = self.leases().clone();
                self.rows(b"i", &keys::after(b"i"), limit, |key, value| {
                    if leased.contains(key) {
                        return Ok(None);
                    }
                    Ok(self.undamaged(key, decode(key, value))?.map(EventRow::Inbox))
                })
            }
            EventState::Leased => {
                let mut leased: Vec<_> =
                    self.leases().iter().filter(|key| key.starts_with(b"i")).cloned().collect();
                leased.sort_unstable();
                let events = leased.iter().take(limit).map(|key| self.read::<InboxEvent>(key));
                events.filter_map(|event| event.map(|e| e.map(EventRow::Inbox)).transpose()).collect()
            }
            EventState::Dead | EventState::Quarantined => {
                let from = keys::set_aside(EventId(after.0.saturating_add(1)));
                self.rows(&from, &keys::after(b"x"), limit, |key, value| {
                    let row = EventRow::from(decode::<SetAside>(key, value)?);
                    let is_wanted = matches!(row, EventRow::Dead { .. }) == (state == EventState::Dead);
                    Ok(is_wanted.then_some(row))
                })
            }
        }
    }

    /// The decrypted text of a quarantined message; `None` if there is none with this number.
    pub(crate) fn message(&self, id: EventId) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(SetAside::Quarantined(_)) = self.read(&keys::set_aside(id))? else {
            return Ok(None);
        };
        let prefix = keys::message_parts(id);
        let part = |key: &[u8], value: &[u8]| Ok(Some(decode::<MessagePart>(key, value)?.0));
        Ok(Some(self.rows(&prefix, &keys::after(&prefix), usize::MAX, part)?.concat()))
    }
}
