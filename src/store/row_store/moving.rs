//! [`Movable`] over rows.
//!
//! A store into which another one is being copied has a mark, which is a row, and does not open.

use async_trait::async_trait;

use super::{Backend, Patience, RowStore};
use crate::store::business::roll::Clues;
use crate::store::moving::{Movable, Row};
use crate::store::rows::keys;
use crate::store::rows::records::{decode, encode};
use crate::store::rows::txn::{Meta, Txn};
use crate::store::rows::view::View;
use crate::store::{Store as _, StoreError};

/// Rows that are read at a time.
const PAGE_ROWS: usize = 4_096;
/// Rows of one transaction.
const ROWS_PER_TRANSACTION: usize = 1_024;

#[async_trait]
impl<B: Backend> Movable for RowStore<B> {
    async fn page(&self, from: Vec<u8>) -> Result<(Vec<Row>, Option<Vec<u8>>), StoreError> {
        let own = [keys::meta(), keys::moving(), keys::layout()];
        let first = from.first().copied().unwrap_or_default();
        for kind in keys::KINDS.iter().filter(|kind| **kind >= first) {
            let (begin, end) = (from.clone().max(vec![*kind]), keys::after(&[*kind]));
            let page = |view: &View<'_>| {
                let mut rows = Vec::new();
                for row in view.range(&begin, &end) {
                    let row = row?;
                    if rows.len() == PAGE_ROWS {
                        return Ok((rows, Some(row.0)));
                    }
                    if !own.contains(&row.0) {
                        rows.push(row);
                    }
                }
                Ok((rows, None))
            };
            let (rows, next) = self.backend.read(page).await?;
            if !rows.is_empty() {
                return Ok((rows, next.or(Some(end))));
            }
        }
        Ok((Vec::new(), None))
    }

    async fn meta(&self) -> Result<Vec<u8>, StoreError> {
        let meta = self.backend.read(|view| view.get(&keys::meta())).await?;
        // A store in which nothing was ever written has none yet.
        if let Some(meta) = meta {
            return Ok(meta);
        }
        let counts = self.counts();
        let none_yet = Meta { store_id: self.backend.salt(), counts, sheets: 0, forgotten_at: None };
        encode(&keys::meta(), &none_yet)
    }

    async fn take_in(&self, rows: Vec<Row>, meta: &[u8]) -> Result<(), StoreError> {
        let salt = decode::<Meta>(&keys::meta(), meta)?.store_id;
        let mut entries = Vec::new();
        for (key, value) in rows.iter().filter(|(key, _)| key.first() == Some(&b'n')) {
            let read = keys::sheet_number(key).and_then(|number| Ok((number, Clues::read(key, value)?)));
            match read {
                Ok((number, clues)) => clues.for_each(number, |clue, fan| {
                    entries.extend(B::index_entry(clue.print(salt), fan).map(|key| (key, Vec::new())));
                }),
                // It is as damaged there as it was here, and its fans cannot be found here either.
                Err(error) => tracing::warn!(%error, "a damaged record is copied as it is"),
            }
        }
        let all = [rows, entries].concat();
        let transactions = all.chunks(ROWS_PER_TRANSACTION).map(|rows| {
            let rows = rows.to_vec();
            move |txn: &mut Txn<'_>| {
                for (key, value) in rows {
                    txn.put_row(key, value);
                }
                Ok(())
            }
        });
        self.run_all(transactions, Patience::UntilDecided).await.into_iter().collect()
    }

    async fn mark(&self, complete: Option<Vec<u8>>) -> Result<(), StoreError> {
        let meta = complete.map(|meta| decode::<Meta>(&keys::meta(), &meta)).transpose()?;
        let mark = move |txn: &mut Txn<'_>| {
            match meta {
                Some(meta) => {
                    txn.delete(keys::moving());
                    txn.meta = meta;
                }
                None => txn.put_row(keys::moving(), Vec::new()),
            }
            Ok(())
        };
        self.backend.run(mark).await
    }
}
