//! Transactions on arriving messages: an event is appended to the inbox, a message that was not accepted to
//! quarantine, and everything else is applied at once. Their deduplication records, and redriving.

use super::inbox::{MessagePart, Seen, SetAside, enqueue, next_id};
use super::{chats, dealers, forgotten, set_aside, suites};
use crate::domain::event::QuarantineReason;
use crate::domain::time::Timestamp;
use crate::store::rows::keys;
use crate::store::rows::records::decode;
use crate::store::rows::txn::Txn;
use crate::store::rows::view::View;
use crate::store::{Appended, Arrival, EventId, InboxEvent, Payload, Quarantined, StoreError};

/// Maximum bytes of a quarantined message in one record: sled wants small values, and a message may have 64
/// KiB.
const PART_BYTES: usize = 3 * 1024;

/// The key of the deduplication record of a message.
pub(crate) fn seen_key(arrival: &Arrival) -> Vec<u8> {
    let created_at = arrival.payload.event().map_or(Timestamp::EPOCH, |event| event.created_at);
    keys::seen(created_at, &arrival.digest)
}

pub(crate) fn append(txn: &mut Txn<'_>, arrival: Arrival, events_max: u64) -> Result<Appended, StoreError> {
    let seen = seen_key(&arrival);
    let Arrival { app, digest: _, received_at, payload } = arrival;
    if txn.has(&seen)? {
        return Ok(Appended::Duplicate);
    }
    if let Some(event) = payload.event()
        && forgotten::brings_back(txn, event, received_at)?
    {
        return Ok(Appended::Forgotten);
    }
    if let Payload::Quarantine { message, created_at, .. } = &payload
        && forgotten::is_named(txn, message, *created_at)?
    {
        return Ok(Appended::Forgotten);
    }
    // Inbox and quarantine have limits of their own, so that quarantined messages cannot keep out events.
    // Messages that are applied at once take no room.
    let (held, limit) = match &payload {
        Payload::Event(_) => (txn.counts().inbox, events_max),
        // Nor can messages of corps that no app ever serves keep out those that are for an operator.
        Payload::Quarantine { reason: QuarantineReason::Unrouted { .. }, .. } => {
            (txn.counts().quarantined, events_max.div_ceil(2))
        }
        Payload::Quarantine { .. } => (txn.counts().quarantined, events_max),
        Payload::Chat(_) | Payload::Visibility(_) | Payload::Alarm(_) | Payload::Suite(_) => (0, events_max),
    };
    if held >= limit {
        return Err(StoreError::InboxFull { limit });
    }
    let id = next_id(txn);
    txn.put(seen, &Seen(received_at))?;
    match payload {
        Payload::Event(event) => {
            let event =
                InboxEvent { id, app, received_at, due_at: received_at, attempts: 0, failure: None, event };
            enqueue(txn, &event)?;
        }
        Payload::Quarantine { reason, receive_id, message, created_at: _, event: _ } => {
            let message_bytes = u32::try_from(message.len()).unwrap_or(u32::MAX);
            for (part, bytes) in message.chunks(PART_BYTES).enumerate() {
                txn.put(keys::message_part(id, part as u64), &MessagePart(bytes.to_vec()))?;
            }
            let reason = bounded(reason);
            let quarantined = Quarantined { id, app, received_at, reason, receive_id, message_bytes };
            txn.put(keys::set_aside(id), &SetAside::Quarantined(quarantined))?;
            txn.counts().quarantined += 1;
            txn.counts().made.quarantined += 1;
        }
        Payload::Chat(event) => chats::apply(txn, &app, &event, received_at)?,
        Payload::Visibility(corp_id) => dealers::report_visibility(txn, &app, &corp_id, id)?,
        Payload::Alarm(alarm) => dealers::alarm(txn, &app, alarm)?,
        Payload::Suite(event) => {
            if !suites::apply(txn, &app, event, received_at)? {
                return Ok(Appended::Stale);
            }
        }
    }
    Ok(Appended::New(id))
}

/// The reason with its text cut off: a parser's error may quote its input.
fn bounded(reason: QuarantineReason) -> QuarantineReason {
    match reason {
        QuarantineReason::NotUnderstood(text) => {
            QuarantineReason::NotUnderstood(text.chars().take(200).collect())
        }
        short @ (QuarantineReason::ReceiveId
        | QuarantineReason::FarOff { .. }
        | QuarantineReason::Unrouted { .. }) => short,
    }
}

pub(crate) fn redrive(
    txn: &mut Txn<'_>,
    id: EventId,
    becomes: Option<Payload>,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let Some(aside) = set_aside::remove(txn, id)? else { return Ok(false) };
    match aside {
        SetAside::Dead { event, .. } => {
            enqueue(txn, &InboxEvent { due_at: now, attempts: 0, failure: None, ..event })?;
        }
        SetAside::Quarantined(Quarantined { app, received_at, .. }) => match becomes {
            Some(Payload::Event(event)) => {
                let received_at = received_at.min(now);
                let event =
                    InboxEvent { id, app, received_at, due_at: now, attempts: 0, failure: None, event };
                enqueue(txn, &event)?;
            }
            Some(Payload::Chat(event)) => chats::apply(txn, &app, &event, now)?,
            Some(Payload::Visibility(corp_id)) => dealers::report_visibility(txn, &app, &corp_id, id)?,
            Some(Payload::Alarm(alarm)) => dealers::alarm(txn, &app, alarm)?,
            Some(Payload::Suite(event)) => drop(suites::apply(txn, &app, event, now)?),
            Some(Payload::Quarantine { .. }) | None => {}
        },
    }
    Ok(true)
}

/// The key of a deduplication record, and when its message was received; `None` if the record is damaged.
pub(crate) type ReceivedAt = (Vec<u8>, Option<Timestamp>);

/// Up to `limit` deduplication records from `from` on and before `to`.
pub(crate) fn seen_page(
    view: &View<'_>,
    from: &[u8],
    to: &[u8],
    limit: usize,
) -> Result<Vec<ReceivedAt>, StoreError> {
    view.rows(from, to, limit, |key, value| {
        let seen = view.undamaged(key, decode(key, value))?;
        Ok(Some((key.to_vec(), seen.map(|Seen(received_at)| received_at))))
    })
}

/// The end of the hour of the first deduplication record from `from` on; `None` if there is none.
pub(crate) fn next_seen_hour(view: &View<'_>, from: &[u8]) -> Result<Option<Timestamp>, StoreError> {
    let hours = view.rows(from, &keys::after(b"d"), 1, |key, _| keys::end_of_seen_hour(key).map(Some))?;
    Ok(hours.into_iter().next())
}
