//! Transactions on the inbox: the durable queue of received events.

use serde::{Deserialize, Serialize};

use crate::domain::time::Timestamp;
use crate::store::rows::keys;
use crate::store::rows::records::Record;
use crate::store::rows::txn::Txn;
use crate::store::{EventId, EventRow, FailureReason, InboxEvent, Quarantined, StoreError};

impl Record for InboxEvent {}

/// The deduplication record of a message: when it was received first.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Seen(pub(crate) Timestamp);

impl Record for Seen {}

/// An event or message that is kept for an operator.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum SetAside {
    Dead { event: InboxEvent, died_at: Timestamp },
    Quarantined(Quarantined),
}

impl Record for SetAside {}

/// A part of a quarantined message.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct MessagePart(pub(crate) Vec<u8>);

impl Record for MessagePart {}

impl From<SetAside> for EventRow {
    fn from(aside: SetAside) -> Self {
        match aside {
            SetAside::Dead { event, died_at } => Self::Dead { event, died_at },
            SetAside::Quarantined(quarantined) => Self::Quarantined(quarantined),
        }
    }
}

pub(crate) fn next_id(txn: &mut Txn<'_>) -> EventId {
    txn.counts().event_head += 1;
    EventId(txn.counts().event_head)
}

pub(crate) fn enqueue(txn: &mut Txn<'_>, event: &InboxEvent) -> Result<(), StoreError> {
    txn.counts().inbox += 1;
    txn.put(keys::inbox(event.due_at, event.id), event)
}

/// Removes an event from the queue. Returns whether it was still there.
pub(crate) fn take(txn: &mut Txn<'_>, event: &InboxEvent) -> Result<bool, StoreError> {
    let key = keys::inbox(event.due_at, event.id);
    if !txn.has(&key)? {
        return Ok(false);
    }
    txn.delete(key);
    txn.discount(|counts| &mut counts.inbox);
    Ok(true)
}

/// Puts an event that was removed with [`take`] back, due at `due_at`.
pub(crate) fn reschedule(
    txn: &mut Txn<'_>,
    event: &InboxEvent,
    due_at: Timestamp,
    reason: FailureReason,
    spent: bool,
) -> Result<(), StoreError> {
    let attempts = event.attempts + u32::from(spent);
    enqueue(txn, &InboxEvent { due_at, attempts, failure: Some(reason), ..event.clone() })
}

/// Makes a waiting event due at another instant. Returns whether it was still waiting.
pub(crate) fn reschedule_to(
    txn: &mut Txn<'_>,
    event: &InboxEvent,
    due_at: Timestamp,
) -> Result<bool, StoreError> {
    if !take(txn, event)? {
        return Ok(false);
    }
    enqueue(txn, &InboxEvent { due_at, ..event.clone() })?;
    Ok(true)
}

/// Makes an event that was removed with [`take`] a dead letter.
pub(crate) fn bury(
    txn: &mut Txn<'_>,
    event: &InboxEvent,
    reason: FailureReason,
    now: Timestamp,
) -> Result<(), StoreError> {
    let event = InboxEvent { failure: Some(reason), attempts: event.attempts + 1, ..event.clone() };
    txn.counts().dead += 1;
    txn.counts().made.dead += 1;
    txn.put(keys::set_aside(event.id), &SetAside::Dead { event, died_at: now })
}
