//! Transactions on the inbox: the durable queue of received events.

use serde::{Deserialize, Serialize};

use super::super::{
    Appended, Arrival, EventId, EventRow, FailureReason, InboxEvent, Payload, Quarantined, StoreError,
};
use super::records::Record;
use super::txn::Txn;
use super::{chats, dealers, forget, keys};
use crate::domain::event::QuarantineReason;
use crate::domain::time::Timestamp;

/// sled wants small values; a quarantined message may have 64 KiB.
const PART_BYTES: usize = 3 * 1024;

impl Record for InboxEvent {}

/// When a message was seen first.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Seen(pub(super) Timestamp);

impl Record for Seen {}

/// An event set aside for an operator.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum SetAside {
    Dead { event: InboxEvent, died_at: Timestamp },
    Quarantined(Quarantined),
}

impl Record for SetAside {}

/// A part of a quarantined message.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct MessagePart(pub(super) Vec<u8>);

impl Record for MessagePart {}

impl From<SetAside> for EventRow {
    fn from(aside: SetAside) -> Self {
        match aside {
            SetAside::Dead { event, died_at } => Self::Dead { event, died_at },
            SetAside::Quarantined(quarantined) => Self::Quarantined(quarantined),
        }
    }
}

pub(super) fn append(txn: &mut Txn<'_>, arrival: Arrival, events_max: u64) -> Result<Appended, StoreError> {
    let Arrival { app, digest, received_at, payload } = arrival;
    let created_at = payload.event().map_or(Timestamp::EPOCH, |event| event.created_at);
    let seen = keys::seen(created_at, &digest);
    if txn.has(&seen)? {
        return Ok(Appended::Duplicate);
    }
    if let Some(event) = payload.event()
        && forget::brings_back(txn, event, received_at)?
    {
        return Ok(Appended::Forgotten);
    }
    // Each has its own room: messages nobody understands must not crowd out those that are. What is applied at
    // once takes none.
    let held = match &payload {
        Payload::Event(_) => txn.counts().inbox,
        Payload::Quarantine { .. } => txn.counts().quarantined,
        Payload::Chat(_) | Payload::Visibility(_) | Payload::Alarm(_) => 0,
    };
    if held >= events_max {
        return Err(StoreError::InboxFull { limit: events_max });
    }
    let id = next_id(txn);
    txn.put(seen, &Seen(received_at))?;
    match payload {
        Payload::Event(event) => {
            let event =
                InboxEvent { id, app, received_at, due_at: received_at, attempts: 0, failure: None, event };
            enqueue(txn, &event)?;
        }
        Payload::Quarantine { reason, receive_id, message, event: _ } => {
            let message_bytes = u32::try_from(message.len()).unwrap_or(u32::MAX);
            for (part, bytes) in message.chunks(PART_BYTES).enumerate() {
                txn.put(keys::message_part(id, part as u64), &MessagePart(bytes.to_vec()))?;
            }
            let reason = bounded(reason);
            let quarantined = Quarantined { id, app, received_at, reason, receive_id, message_bytes };
            txn.put(keys::set_aside(id), &SetAside::Quarantined(quarantined))?;
            txn.counts().quarantined += 1;
        }
        Payload::Chat(event) => chats::apply(txn, &app, &event, received_at)?,
        Payload::Visibility(corp_id) => txn.mark(keys::of_corp(b'v', &app, &corp_id)),
        Payload::Alarm(alarm) => dealers::alarm(txn, &app, alarm)?,
    }
    Ok(Appended::New(id))
}

/// A parser's complaint may quote its input.
fn bounded(reason: QuarantineReason) -> QuarantineReason {
    match reason {
        QuarantineReason::NotUnderstood(text) => {
            QuarantineReason::NotUnderstood(text.chars().take(200).collect())
        }
        short @ (QuarantineReason::ReceiveId | QuarantineReason::FarOff { .. }) => short,
    }
}

fn next_id(txn: &mut Txn<'_>) -> EventId {
    txn.counts().event_head += 1;
    EventId(txn.counts().event_head)
}

fn enqueue(txn: &mut Txn<'_>, event: &InboxEvent) -> Result<(), StoreError> {
    txn.counts().inbox += 1;
    txn.put(keys::inbox(event.due_at, event.id), event)
}

/// Takes the event out of the queue. Whether it was still there.
pub(super) fn take(txn: &mut Txn<'_>, event: &InboxEvent) -> Result<bool, StoreError> {
    let key = keys::inbox(event.due_at, event.id);
    if !txn.has(&key)? {
        return Ok(false);
    }
    txn.delete(key);
    txn.discount(|counts| &mut counts.inbox);
    Ok(true)
}

/// Puts an event that was taken back, for later.
pub(super) fn reschedule(
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
pub(super) fn reschedule_to(
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

/// Sets an event that was taken aside, for an operator.
pub(super) fn bury(
    txn: &mut Txn<'_>,
    event: &InboxEvent,
    reason: FailureReason,
    now: Timestamp,
) -> Result<(), StoreError> {
    let event = InboxEvent { failure: Some(reason), attempts: event.attempts + 1, ..event.clone() };
    txn.counts().dead += 1;
    txn.put(keys::set_aside(event.id), &SetAside::Dead { event, died_at: now })
}

pub(super) fn redrive(
    txn: &mut Txn<'_>,
    id: EventId,
    becomes: Option<Payload>,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let Some(aside) = txn.get::<SetAside>(&keys::set_aside(id))? else {
        return Ok(false);
    };
    txn.delete(keys::set_aside(id));
    match aside {
        SetAside::Dead { event, .. } => {
            txn.discount(|counts| &mut counts.dead);
            enqueue(txn, &InboxEvent { due_at: now, attempts: 0, failure: None, ..event })?;
        }
        SetAside::Quarantined(Quarantined { app, received_at, .. }) => {
            txn.discount(|counts| &mut counts.quarantined);
            for key in txn.keys(&keys::message_parts(id), usize::MAX >> 1)? {
                txn.delete(key);
            }
            match becomes {
                Some(Payload::Event(event)) => {
                    let event =
                        InboxEvent { id, app, received_at, due_at: now, attempts: 0, failure: None, event };
                    enqueue(txn, &event)?;
                }
                Some(Payload::Chat(event)) => chats::apply(txn, &app, &event, now)?,
                Some(Payload::Visibility(corp_id)) => txn.mark(keys::of_corp(b'v', &app, &corp_id)),
                Some(Payload::Alarm(alarm)) => dealers::alarm(txn, &app, alarm)?,
                Some(Payload::Quarantine { .. }) | None => {}
            }
        }
    }
    Ok(true)
}
