//! Upgrades a store in place when it is opened.
//!
//! [`Record::of_version`] converts older records when they are read. This file builds the indexes that
//! older stores do not have.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::StoreError;
use super::engine::{Batch, Engine};
use super::failed;
use super::records::{Record, decode, encode, readable};
use super::rows::keys;
use super::rows::txn::Meta;
use crate::domain::contact::Contact;
use crate::domain::dealer_activity::DealerCounts;

/// The layout of a store's keys. A store without this record has layout 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Layout(u32);

impl Record for Layout {}

/// The current layout: 2 added the index of contacts by corp, and their number; 3 the contacts of each group.
const LAYOUT: Layout = Layout(3);
/// The layout that no released version has.
const IN_DEVELOPMENT: Layout = Layout(2);

/// Rows that are written in one commit: sled's memory grows with larger ones.
const ROWS_AT_ONCE: usize = 90;

/// Upgrades the store to the current layout, and writes the record of the counters in its current version. If
/// the process is killed meanwhile, the next start begins again.
///
/// # Errors
/// When the store cannot be read or written, or was written by a newer version.
pub(super) fn upgrade(engine: &dyn Engine, meta: &Meta) -> Result<(), StoreError> {
    in_commits_of(ROWS_AT_ONCE, engine, meta)
}

fn in_commits_of(rows: usize, engine: &dyn Engine, meta: &Meta) -> Result<(), StoreError> {
    let key = keys::only("layout");
    let stored = engine.get(&key).map_err(failed)?;
    let layout = stored.map(|bytes| decode::<Layout>(&key, &bytes)).transpose()?;
    match layout {
        Some(LAYOUT) if is_closed_to_older_programs(engine)? => return Ok(()),
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
        clear(kind, rows, engine)?;
    }
    let contacts = build_indexes(rows, engine)?;
    // Together and last: from then on no older program opens the store and leaves the indexes out of date.
    let mut last = Batch::new();
    put(&mut last, key, &LAYOUT)?;
    put(&mut last, keys::meta(), meta)?;
    commit(engine, &mut last)?;
    if contacts > 0 {
        tracing::info!(contacts, "the store was upgraded to layout {}", LAYOUT.0);
    }
    Ok(())
}

/// Whether the record of the counters has a version that older programs do not read.
fn is_closed_to_older_programs(engine: &dyn Engine) -> Result<bool, StoreError> {
    let meta = engine.get(&keys::meta()).map_err(failed)?;
    Ok(meta.is_some_and(|bytes| bytes.first() == Some(&Meta::VERSION)))
}

/// Deletes every record of a kind.
fn clear(kind: &[u8], rows: usize, engine: &dyn Engine) -> Result<(), StoreError> {
    loop {
        let mut batch = Batch::new();
        for row in engine.range(kind, &keys::after(kind)).take(rows) {
            let (key, _) = row.map_err(failed)?;
            batch.insert(key, None);
        }
        if batch.is_empty() {
            return Ok(());
        }
        commit(engine, &mut batch)?;
    }
}

/// Builds the indexes of contacts by corp and by group, and counts the contacts and links of each corp.
/// Returns the number of contacts.
fn build_indexes(rows: usize, engine: &dyn Engine) -> Result<u64, StoreError> {
    let (mut counts, mut batch, mut contacts) =
        (BTreeMap::<Vec<u8>, DealerCounts>::new(), Batch::new(), 0_u64);
    for row in engine.range(b"c", &keys::after(b"c")) {
        let (key, value) = row.map_err(failed)?;
        let contact_key = keys::Parts::of(&key).contact()?;
        let contact = readable(decode::<Contact>(&key, &value).map(Some))?;
        let of_corp = counts.entry(keys::of_corp(b'b', &contact_key.app, &contact_key.corp_id)).or_default();
        of_corp.customers += 1;
        of_corp.links += u64::from(contact.as_ref().is_some_and(|contact| contact.link.is_some()));
        contacts += 1;
        batch.insert(keys::contact_of_corp(&contact_key), Some(Vec::new()));
        for chat_id in contact.as_ref().map(Contact::chats).unwrap_or_default() {
            batch.insert(keys::chat_member(chat_id, &contact_key), Some(Vec::new()));
        }
        if batch.len() >= rows {
            commit(engine, &mut batch)?;
        }
    }
    for (key, counts) in counts {
        put(&mut batch, key, &counts)?;
        if batch.len() >= rows {
            commit(engine, &mut batch)?;
        }
    }
    commit(engine, &mut batch)?;
    Ok(contacts)
}

fn put<R: Record>(batch: &mut Batch, key: Vec<u8>, record: &R) -> Result<(), StoreError> {
    let value = encode(&key, record)?;
    batch.insert(key, Some(value));
    Ok(())
}

fn commit(engine: &dyn Engine, batch: &mut Batch) -> Result<(), StoreError> {
    if batch.is_empty() {
        return Ok(());
    }
    engine.commit(std::mem::take(batch).into_iter().collect()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::engine::sled::SledEngine;
    use super::super::engine::{Memory, Write};
    use super::super::journal::{Journaled, PRIVATE};
    use super::super::limited::Limited;
    use super::super::records::checked;
    use super::super::{EmbeddedStore, Settings, journal_in};
    use super::*;
    use crate::domain::dealer::{DealerState, TokenOwner};
    use crate::domain::ids::{AppName, CorpId};
    use crate::domain::time::Timestamp;
    use crate::store::{Counts, EventId, Feed as _, LinkBy, LinkQuery, Reconciling as _, Store as _};

    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy(&entry.path(), &to);
            } else {
                std::fs::copy(entry.path(), to).unwrap();
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_store_of_version_0_1_0_is_upgraded_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/store-0.1.0");
        let data = folder.path().join("data");
        copy(&old.join("sled"), &data.join("sled"));
        copy(&old.join("journal"), &data.join("journal"));
        let settings = Settings { cache_mb: 8, free_mb_min: 1, ..Settings::default() };
        let (app, now) = (AppName::new("brand").unwrap(), Timestamp::from_secs(1_795_940_020));
        // Opened twice: the second time there is nothing left to upgrade.
        for _ in 0..2 {
            let store = EmbeddedStore::open(&data, settings).unwrap();
            store.put_fans(Vec::new(), now).await.unwrap();
            assert_eq!(store.audit(), Ok(vec![]));
            let counts = store.counts();
            assert_eq!((counts.links, counts.contacts, counts.waiting, counts.inbox), (8, 11, 3, 1));
            let feed = store.feed(0, 100, now).await.unwrap();
            assert_eq!(feed.len() as u64, counts.feed_head);
            let link = feed[0].data.link().unwrap();
            let query = LinkQuery { by: LinkBy::Unionid(link.unionid.clone()), corp_id: None, app: None };
            assert_eq!(store.links(&query, now).await.unwrap()[0].link_id, link.link_id);
            let rows = store.dealer_rows(&app).await.unwrap();
            let busy = rows.iter().find(|row| row.counts.customers > 0).unwrap();
            assert_eq!(busy.counts, DealerCounts { customers: 11, links: 8 });
            assert_eq!(busy.dealer.token, Some(TokenOwner::Downstream));
            assert!(rows.len() == 3 && rows.iter().all(|row| row.dealer.state() == DealerState::Shared));
            assert_eq!(store.damaged_records(), 0);
            store.close().await;
        }
        // Work that waited still waits, and is done.
        let store = EmbeddedStore::open(&data, settings).unwrap();
        assert_eq!(store.look_up_again(&app, &busy_dealer(&store, &app).await, true, now).await, Ok(3));
        assert_eq!(store.lease(now, 10, 10).await.unwrap().len(), 4);
    }

    /// What the store of version 0.1.0 holds.
    fn content_of_0_1_0() -> Vec<Write> {
        let folder = tempfile::tempdir().unwrap();
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/store-0.1.0"), folder.path());
        let engine = SledEngine::open(folder.path(), 8 << 20).unwrap();
        let engine = Journaled::open(engine, &journal_in(folder.path()), 0).unwrap();
        let rows = engine.range(&[PRIVATE + 1], &[u8::MAX]).map(Result::unwrap);
        let content = rows.map(|(key, value)| (key, Some(value))).collect();
        engine.close().unwrap();
        content
    }

    #[tokio::test]
    async fn an_upgrade_that_was_killed_at_any_point_is_repeated_whatever_an_older_program_did_since() {
        let content = content_of_0_1_0();
        let mut kills = 0;
        for after in 0.. {
            let memory = Memory::default();
            memory.commit(content.clone()).unwrap();
            let meta: Meta = decode(&keys::meta(), &memory.get(&keys::meta()).unwrap().unwrap()).unwrap();
            let engine = Limited::new(&memory, after);
            let is_killed = in_commits_of(2, &engine, &meta).is_err();
            kills += usize::from(is_killed);
            let layout = memory.get(&keys::only("layout")).unwrap();
            let version = memory.get(&keys::meta()).unwrap().unwrap()[0];
            assert_eq!((layout.is_none(), version), (is_killed, if is_killed { 3 } else { 4 }));
            if !is_killed {
                break;
            }
            // The older program deletes a customer who waits for nothing and has no link, and does not know
            // the indexes.
            let contacts = memory.range(b"c", &keys::after(b"c")).map(Result::unwrap);
            let (key, contact) = contacts
                .map(|(key, value)| (key.clone(), decode::<Contact>(&key, &value).unwrap()))
                .find(|(_, contact)| contact.link.is_none())
                .unwrap();
            let contact_key = keys::Parts::of(&key).contact().unwrap();
            let lookup = contact.lookup.unwrap();
            let counts = Counts {
                contacts: meta.counts.contacts - 1,
                waiting: meta.counts.waiting - u64::from(lookup.is_waiting()),
                ..meta.counts
            };
            let older = encode(&keys::meta(), &Meta { counts, ..meta }).unwrap();
            let mut older = older[..older.len() - 4].to_vec();
            older[0] = 3;
            let place = keys::lookup(lookup.haste, lookup.due_at.unwrap(), &contact_key);
            let meta = (keys::meta(), Some(checked(&keys::meta(), older)));
            memory.commit(vec![(key, None), (place, None), meta]).unwrap();
            let store = EmbeddedStore::in_memory(memory, Settings::default()).unwrap();
            store.indexed().await.unwrap();
            assert_eq!(store.audit(), Ok(vec![]), "killed after {after} commits");
            store.close().await;
        }
        assert!(kills > 5, "{kills}");
    }

    #[tokio::test]
    async fn a_store_of_a_development_version_is_refused_with_what_to_do() {
        let memory = Memory::default();
        EmbeddedStore::in_memory(memory.clone(), Settings::default()).unwrap().close().await;
        let layout = keys::only("layout");
        let value = encode(&layout, &IN_DEVELOPMENT).unwrap();
        memory.commit(vec![(layout, Some(value))]).unwrap();
        let refused = EmbeddedStore::in_memory(memory, Settings::default()).err().unwrap().to_string();
        assert!(refused.contains("start with a backup"), "{refused}");
    }

    #[tokio::test]
    async fn a_report_about_the_visible_range_that_was_stored_without_a_number_is_handled() {
        let (app, corp_id) = (AppName::new("brand").unwrap(), CorpId::new("wpDEALER").unwrap());
        let memory = Memory::default();
        memory.commit(vec![(keys::of_corp(b'v', &app, &corp_id), Some(Vec::new()))]).unwrap();
        let store = EmbeddedStore::in_memory(memory, Settings::default()).unwrap();
        let report = EventId(0);
        let expected = BTreeMap::from([((app.clone(), corp_id.clone()), report)]);
        assert_eq!(store.visibility_changes().await, Ok(expected));
        store.visibility_seen(&app, &corp_id, report).await.unwrap();
        assert_eq!(store.visibility_changes().await, Ok(BTreeMap::new()));
        assert_eq!(store.damaged_records(), 0);
    }

    async fn busy_dealer(store: &EmbeddedStore, app: &AppName) -> CorpId {
        let rows = store.dealer_rows(app).await.unwrap();
        rows.into_iter().find(|row| row.counts.customers > 0).unwrap().dealer.corp_id
    }
}
