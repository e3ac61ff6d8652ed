//! Removing what is kept for an operator: dead letters and quarantined messages that are redriven, discarded
//! or erased, and quarantined messages after `quarantine_days`.
//!
//! Deliberately absent: how they come to be kept, what a redriven one becomes (see `arrivals`), and the sweep
//! of deduplication records, which is there too.

use super::inbox::SetAside;
use crate::domain::time::{DAY_MS, Timestamp};
use crate::store::embedded::records::decode;
use crate::store::embedded::rows::keys;
use crate::store::embedded::rows::txn::Txn;
use crate::store::embedded::writer::Patience;
use crate::store::embedded::{AHEAD_IN_BACKGROUND, EmbeddedStore};
use crate::store::{EventId, EventState, StoreError};

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
fn expire(txn: &mut Txn<'_>, id: EventId, cutoff: Timestamp) -> Result<bool, StoreError> {
    let aside = txn.get::<SetAside>(&keys::set_aside(id))?;
    Ok(is_expired(aside.as_ref(), cutoff) && remove(txn, id)?.is_some())
}

impl EmbeddedStore {
    /// Deletes a batch of the quarantined messages that have expired at `now`, one transaction each: a long
    /// message has many records. Returns how many, also after an error.
    pub(crate) async fn delete_expired_messages(&self, now: Timestamp) -> (u64, Result<(), StoreError>) {
        const BATCH_MESSAGES: u64 = 1_000;
        let cutoff = now.plus_ms(-DAY_MS * i64::from(self.settings.quarantine_days));
        let (mut after, mut deleted) = (EventId(0), 0);
        while deleted < BATCH_MESSAGES {
            let (expired, last) = match self.expired_messages(after, cutoff) {
                Ok(page) => page,
                Err(error) => return (deleted, Err(error)),
            };
            let transactions = expired.into_iter().map(|id| move |txn: &mut Txn<'_>| expire(txn, id, cutoff));
            let results = self.run_ahead(transactions, Patience::UntilDecided, AHEAD_IN_BACKGROUND).await;
            deleted += results.iter().filter(|result| matches!(result, Ok(true))).count() as u64;
            if let Some(error) = results.into_iter().find_map(Result::err) {
                return (deleted, Err(error));
            }
            let Some(last) = last else { break };
            after = last;
            tokio::task::yield_now().await;
        }
        (deleted, Ok(()))
    }

    /// Those of the next rows after `after` that are messages received before `cutoff`, and the number of the
    /// last row; `None` if there are no more rows.
    fn expired_messages(
        &self,
        after: EventId,
        cutoff: Timestamp,
    ) -> Result<(Vec<EventId>, Option<EventId>), StoreError> {
        const ROWS_AT_ONCE: usize = 80;
        let from = keys::set_aside(EventId(after.0.saturating_add(1)));
        let rows = self.rows(&from, &keys::after(b"x"), ROWS_AT_ONCE, |key, value| {
            let id = EventId(keys::Parts::of(key).number()?);
            let aside = self.undamaged(key, decode::<SetAside>(key, value))?;
            Ok(Some((id, is_expired(aside.as_ref(), cutoff))))
        })?;
        let last = rows.last().map(|(id, _)| *id);
        Ok((rows.into_iter().filter(|(_, expired)| *expired).map(|(id, _)| id).collect(), last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::{ContactChange, ContactEvent, Event, QuarantineReason};
    use crate::domain::ids::{AppName, CorpId, ExternalUserid, UserId};
    use crate::store::embedded::Settings;
    use crate::store::embedded::engine::Memory;
    use crate::store::{Appended, Arrival, FailureReason, MessageDigest, Outcome, Payload, Store};

    const T0: Timestamp = Timestamp::from_secs(1_795_309_323);

    /// A store with one quarantined message of several records.
    async fn with_message() -> (EmbeddedStore, EventId) {
        let store = EmbeddedStore::in_memory(Memory::default(), Settings::default()).unwrap();
        let payload = Payload::Quarantine {
            reason: QuarantineReason::ReceiveId,
            receive_id: "wwOTHER".to_owned(),
            created_at: None,
            message: vec![7; 9_000],
            event: None,
        };
        let app = AppName::new("brand").unwrap();
        let arrival = Arrival { app, digest: MessageDigest([7; 16]), received_at: T0, payload };
        let Ok(Appended::New(id)) = store.append(arrival).await else { panic!("not quarantined") };
        (store, id)
    }

    /// The records of dead letters, quarantined messages and their texts.
    fn records(store: &EmbeddedStore) -> usize {
        [b"x", b"z"].map(|kind| store.engine.range(kind, &keys::after(kind)).count()).iter().sum()
    }

    #[tokio::test]
    async fn an_expired_or_discarded_message_leaves_no_record() {
        for is_discarded in [false, true] {
            let (store, id) = with_message().await;
            assert_eq!(records(&store), 4);
            if is_discarded {
                assert_eq!(store.discard(vec![id]).await, [Ok(Some(EventState::Quarantined))]);
            } else {
                let later = T0.plus_ms(30 * DAY_MS + 1);
                assert_eq!(store.sweep_quarantine(later).await, (1, Ok(())));
            }
            assert_eq!((records(&store), store.counts().quarantined), (0, 0));
        }
    }

    #[tokio::test]
    async fn a_message_that_has_become_a_dead_letter_before_it_is_deleted_is_kept() {
        let (store, id) = with_message().await;
        let (expired, _) = store.expired_messages(EventId(0), T0.plus_ms(1)).unwrap();
        assert_eq!(expired, [id]);
        let contact = ContactEvent {
            change: ContactChange::Added,
            user_id: UserId::new("member").unwrap(),
            external_userid: ExternalUserid::new("wmCUSTOMER").unwrap(),
            state: None,
            welcome_code: None,
        };
        let event = Event { corp_id: CorpId::new("wpDEALER").unwrap(), created_at: T0, contact };
        assert_eq!(store.redrive(id, Some(Payload::Event(event)), T0).await, Ok(true));
        let work = store.lease(T0, 1, 1).await.unwrap().remove(0);
        let reason = FailureReason { errcode: None, text: String::new() };
        store.settle(vec![(work, Outcome::Dead(reason))], T0).await.unwrap();
        let cutoff = T0.plus_ms(1);
        assert_eq!(store.writer.run(move |txn| expire(txn, id, cutoff)).await, Ok(false));
        assert_eq!((store.counts().dead, store.counts().quarantined), (1, 0));
    }
}
