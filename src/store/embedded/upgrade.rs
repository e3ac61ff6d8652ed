//! Upgrades a store in place when it is opened.
//!
//! [`Record::of_version`] converts older records when they are read. This file builds the indexes that
//! older stores do not have.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::database::Database;
use super::engine::EngineError;
use super::wal::{AppendError, Log};
use crate::domain::contact::Contact;
use crate::domain::dealer_activity::DealerCounts;
use crate::store::StoreError;
use crate::store::rows::keys;
use crate::store::rows::records::{Record, decode, encode, readable};
use crate::store::rows::source::{Batch, Row};
use crate::store::rows::txn::Meta;

/// The layout of a store's keys. A store without this record has layout 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Layout(u32);

impl Record for Layout {}

/// The current layout: 2 added the index of contacts by corp, and their number; 3 the contacts of each group.
const LAYOUT: Layout = Layout(3);
/// The layout that no released version has.
const IN_DEVELOPMENT: Layout = Layout(2);

/// Rows that are written in one commit.
const ROWS_AT_ONCE: usize = 1_000;

/// Where an upgrade reads, and commits what it writes.
pub(super) struct Commits<'a> {
    pub(super) database: &'a Database,
    pub(super) log: &'a mut dyn Log,
}

impl Commits<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.database.snapshot().get(key).map_err(StoreError::from)
    }

    /// Up to `limit` rows from `from` on and before `to`.
    fn rows(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        self.database
            .snapshot()
            .range(from, to)
            .take(limit)
            .collect::<Result<_, EngineError>>()
            .map_err(StoreError::from)
    }

    fn commit(&mut self, batch: &mut Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        let (batch, seq) = (std::mem::take(batch), self.database.seq() + 1);
        self.database.wait_for_room(&|| {}).map_err(StoreError::from)?;
        match self.log.append(seq, &batch) {
            Ok(()) => self.database.publish(seq, batch),
            Err(AppendError::Full) => return Err(StoreError::NoSpace { min_mb: 1 }),
            Err(AppendError::Failed(error)) => return Err(StoreError::Failed(error.to_string())),
        }
        Ok(())
    }
}

/// Upgrades the store to the current layout, and writes the record of the counters in its current version. If
/// the process is killed meanwhile, the next start begins again.
///
/// # Errors
/// When the store cannot be read or written, or was written by a newer version.
pub(super) fn upgrade(commits: &mut Commits<'_>, meta: &Meta) -> Result<(), StoreError> {
    in_commits_of(ROWS_AT_ONCE, commits, meta)
}

fn in_commits_of(rows: usize, commits: &mut Commits<'_>, meta: &Meta) -> Result<(), StoreError> {
    let key = keys::layout();
    let stored = commits.get(&key)?;
    let layout = stored.map(|bytes| decode::<Layout>(&key, &bytes)).transpose()?;
    match layout {
        Some(LAYOUT) if is_closed_to_older_programs(commits)? => return Ok(()),
        Some(Layout(newer)) if newer > LAYOUT.0 => {
            let text = format!("layout {newer}, which a newer version of unionlink wrote; run that version");
            return Err(StoreError::Damaged(text));
        }
        // Only commits between 0.2.0 and the next version wrote it, with records that changed afterwards.
        Some(IN_DEVELOPMENT) => {
            let text = "layout 2, of a development version, which this version cannot read; start with a backup \
                        that 0.2.0 or a later version made, or with an empty folder";
            return Err(StoreError::Damaged(text.to_owned()));
        }
        Some(_) | None => {}
    }
    // What an interrupted upgrade built is out of date if an older program has run since.
    for kind in [b"o", b"b", b"M"] {
        clear(kind, rows, commits)?;
    }
    let contacts = build_indexes(rows, commits)?;
    // Together and last: from then on no older program opens the store and leaves the indexes out of date.
    let mut last = Batch::new();
    put(&mut last, key, &LAYOUT)?;
    put(&mut last, keys::meta(), meta)?;
    commits.commit(&mut last)?;
    if contacts > 0 {
        tracing::info!(contacts, "the store was upgraded to layout {}", LAYOUT.0);
    }
    Ok(())
}

/// Whether the record of the counters has a version that older programs do not read.
fn is_closed_to_older_programs(commits: &Commits<'_>) -> Result<bool, StoreError> {
    let meta = commits.get(&keys::meta())?;
    Ok(meta.is_some_and(|bytes| bytes.first() == Some(&Meta::VERSION)))
}

/// Deletes every record of a kind.
fn clear(kind: &[u8], rows: usize, commits: &mut Commits<'_>) -> Result<(), StoreError> {
    loop {
        let mut batch = Batch::new();
        for (key, _) in commits.rows(kind, &keys::after(kind), rows)? {
            batch.insert(key, None);
        }
        if batch.is_empty() {
            return Ok(());
        }
        commits.commit(&mut batch)?;
    }
}

/// Builds the indexes of contacts by corp and by group, and counts the contacts and links of each corp.
/// Returns the number of contacts.
fn build_indexes(rows: usize, commits: &mut Commits<'_>) -> Result<u64, StoreError> {
    let (mut counts, mut batch, mut contacts) =
        (BTreeMap::<Vec<u8>, DealerCounts>::new(), Batch::new(), 0_u64);
    let mut from = b"c".to_vec();
    loop {
        let page = commits.rows(&from, &keys::after(b"c"), rows)?;
        let Some((last, _)) = page.last() else { break };
        from = keys::next(last);
        for (key, value) in page {
            let contact_key = keys::Parts::of(&key).contact()?;
            let contact = readable(decode::<Contact>(&key, &value).map(Some))?;
            let of_corp =
                counts.entry(keys::of_corp(b'b', &contact_key.app, &contact_key.corp_id)).or_default();
            of_corp.customers += 1;
            of_corp.links += u64::from(contact.as_ref().is_some_and(|contact| contact.link.is_some()));
            contacts += 1;
            batch.insert(keys::contact_of_corp(&contact_key), Some(Vec::new()));
            for chat_id in contact.as_ref().map(Contact::chats).unwrap_or_default() {
                batch.insert(keys::chat_member(chat_id, &contact_key), Some(Vec::new()));
            }
            if batch.len() >= rows {
                commits.commit(&mut batch)?;
            }
        }
    }
    for (key, counts) in counts {
        put(&mut batch, key, &counts)?;
        if batch.len() >= rows {
            commits.commit(&mut batch)?;
        }
    }
    commits.commit(&mut batch)?;
    Ok(contacts)
}

fn put<R: Record>(batch: &mut Batch, key: Vec<u8>, record: &R) -> Result<(), StoreError> {
    let value = encode(&key, record)?;
    batch.insert(key, Some(value));
    Ok(())
}

#[cfg(test)]
mod tests;
