//! [`People`] over rows: the search for everything about a person, and the
//! transaction that erases it.
//!
//! Deliberately absent: what is about a person, and what an erasure changes (see `business/forget.rs`).

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::super::{People, PersonData, PersonId, Receipt, ReceiptId, StoreError};
use super::{Backend, RowStore};
use crate::domain::audit::AuditBy;
use crate::domain::ids::Unionid;
use crate::domain::time::Timestamp;
use crate::store::business::forget::{self, Found, INDEXES_OF_CONTACTS, Ids};
use crate::store::business::people::{self, EventsAbout, EventsFound};
use crate::store::business::trail;
use crate::store::rows::keys;
use crate::store::rows::txn::Txn;
use crate::store::rows::view::View;
use crate::store::rows::watch::Watch;

/// Attempts of an erasure: the set of a person's ids can change during the search, but hardly ever twice.
const TRIES_MAX: usize = 10;

/// How often a receipt is looked for after a time-out: the transaction is still committed unless the writer
/// has failed.
const LATE_LOOKS_MAX: u32 = 20;
const LATE_LOOK_EVERY: Duration = Duration::from_millis(500);

/// A search for what is about a person: who they are, what was found, and what is written about them since it
/// began.
struct Searched {
    ids: Arc<Ids>,
    found: Found,
    watch: Arc<Watch>,
}

impl<B: Backend> RowStore<B> {
    /// Finds what is about a person and not indexed by their ids, by reading all of it.
    async fn search(&self, person: &PersonId) -> Result<Searched, StoreError> {
        let ids = Arc::new(self.backend.read(|view| Ids::of(view, person)).await?);
        let of_watch = ids.clone();
        let watch = self.backend.watches().begin(move |batch| forget::written_about(&of_watch, batch));
        // What was being applied when the watch began can be read after this.
        self.backend.run(|_| Ok(())).await?;
        let mut about = Vec::new();
        for kind in [b"i", b"x", b"f"] {
            let look = |view: &View<'_>, key: &[u8], value: &[u8]| {
                Ok(forget::is_about(view, &ids, key, value)?.then(|| key.to_vec()))
            };
            let add = |key| {
                about.extend(key);
                ControlFlow::Continue(())
            };
            self.in_slices(kind, &keys::after(kind), look, add).await?;
        }
        let mut found = Found::default();
        about.iter().try_for_each(|key| found.add(key))?;
        let damaged = self.backend.read(|view| forget::damaged_contacts(view, &ids)).await?;
        if !damaged.is_empty() {
            for kind in INDEXES_OF_CONTACTS {
                let look = |_: &View<'_>, key: &[u8], _: &[u8]| {
                    Ok(forget::leads_to(&damaged, key).then(|| key.to_vec()))
                };
                let add = |key: Option<_>| {
                    found.add_leftovers(key);
                    ControlFlow::Continue(())
                };
                self.in_slices(kind, &keys::after(kind), look, add).await?;
            }
        }
        Ok(Searched { ids, found, watch })
    }

    /// Erases a person, if that is still wanted when the transaction runs; `None` otherwise.
    async fn erase(
        &self,
        person: &PersonId,
        (request, by): (Option<String>, AuditBy),
        is_wanted: impl Fn(&Txn<'_>) -> Result<bool, StoreError> + Clone + Send + 'static,
        now: Timestamp,
    ) -> Result<Option<Receipt>, StoreError> {
        enum Attempt {
            Done(Receipt),
            IdsChanged,
            Unwanted,
        }
        self.backend.indexed().await?;
        let id = ReceiptId(rand::random());
        for _ in 0..TRIES_MAX {
            let Searched { ids, found, watch } = self.search(person).await?;
            let (person, request, by) = (person.clone(), request.clone(), by.clone());
            let is_wanted = is_wanted.clone();
            let erase = move |txn: &mut Txn<'_>| {
                if !is_wanted(txn)? {
                    return Ok(Attempt::Unwanted);
                }
                let receipt = forget::forget(txn, &person, &ids, (found, &watch), (id, request), now)?;
                let Some(receipt) = receipt else { return Ok(Attempt::IdsChanged) };
                trail::record(txn, &people::audit_entry(&receipt, by))?;
                Ok(Attempt::Done(receipt))
            };
            match self.backend.run(erase).await {
                Ok(Attempt::IdsChanged) => {}
                Ok(Attempt::Done(receipt)) => return Ok(Some(receipt)),
                Ok(Attempt::Unwanted) => return Ok(None),
                // It may still be committed, and the caller needs the receipt.
                Err(StoreError::Stalled) => return self.late_receipt(id).await.map(Some),
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Stalled)
    }

    async fn late_receipt(&self, id: ReceiptId) -> Result<Receipt, StoreError> {
        for _ in 0..LATE_LOOKS_MAX {
            tokio::time::sleep(LATE_LOOK_EVERY).await;
            if let Some(receipt) = self.backend.read(|view| people::receipt(view, id)).await? {
                return Ok(receipt);
            }
        }
        Err(StoreError::Stalled)
    }
}

#[async_trait]
impl<B: Backend> People for RowStore<B> {
    async fn person_data(&self, id: &str) -> Result<PersonData, StoreError> {
        self.backend.indexed().await?;
        let mut data = self.backend.read(|view| people::data(view, self.backend.salt(), id)).await?;
        let (about, mut events) = (EventsAbout::new(id, &data), EventsFound::default());
        for kind in [b"i", b"x"] {
            if events.begin() {
                let look = |view: &View<'_>, key: &[u8], value: &[u8]| about.look_at(view, key, value);
                self.in_slices(kind, &keys::after(kind), look, |row| events.add(row)).await?;
            }
        }
        data.events = events.found;
        Ok(data)
    }

    async fn forget(
        &self,
        person: &PersonId,
        request: Option<String>,
        by: AuditBy,
        now: Timestamp,
    ) -> Result<Receipt, StoreError> {
        self.erase(person, (request, by), |_| Ok(true), now).await?.ok_or(StoreError::Stalled)
    }

    async fn finish_forgetting(&self, now: Timestamp) -> Result<u64, StoreError> {
        const AT_ONCE: usize = 100;
        let to_forget = |view: &View<'_>| {
            view.rows(b"k", &keys::after(b"k"), AT_ONCE, |key, _| {
                Ok(keys::Parts::of(key).id().ok().and_then(|id| Unionid::new(id).ok()))
            })
        };
        let unionids = self.backend.read(to_forget).await?;
        let mut forgotten = 0;
        for unionid in unionids {
            let request = Some("found to be a customer who was forgotten before".to_owned());
            // Registered again meanwhile, the person is a fan again.
            let to_forget = keys::to_forget(&unionid);
            let key = to_forget.clone();
            let is_wanted = move |txn: &Txn<'_>| txn.has(&to_forget);
            let person = PersonId::Unionid(unionid);
            let why = (request, AuditBy::service());
            // One that damage prevents delays no other.
            let erased = self.backend.damaged().skip(&key, self.erase(&person, why, is_wanted, now).await)?;
            if let Some(receipt) = erased.flatten() {
                tracing::info!(receipt = %receipt.id, "a person was forgotten");
                forgotten += 1;
            }
        }
        Ok(forgotten)
    }

    async fn receipt(&self, id: ReceiptId) -> Result<Option<Receipt>, StoreError> {
        self.backend.read(|view| people::receipt(view, id)).await
    }
}

#[cfg(test)]
mod tests;
