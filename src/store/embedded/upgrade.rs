//! Upgrades a store in place when it is opened.
//!
//! [`Record::of_version`] converts older records when they are read. This file builds the indexes that
//! older stores do not have.

use serde::{Deserialize, Serialize};

use super::super::StoreError;
use super::engine::{Batch, Engine};
use super::records::{Record, decode, encode, readable};
use super::{failed, keys};
use crate::domain::contact::Contact;
use crate::domain::dealer_activity::DealerCounts;
use std::collections::BTreeMap;

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

/// Upgrades the store to the current layout. If the process is killed meanwhile, the next start begins again.
///
/// # Errors
/// When the store cannot be read or written, or was written by a newer version.
pub(super) fn upgrade(engine: &dyn Engine) -> Result<(), StoreError> {
    let key = keys::only("layout");
    let stored = engine.get(&key).map_err(failed)?;
    let layout = stored.map(|bytes| decode::<Layout>(&key, &bytes)).transpose()?;
    match layout {
        Some(LAYOUT) => return Ok(()),
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
        if batch.len() >= ROWS_AT_ONCE {
            commit(engine, &mut batch)?;
        }
    }
    for (key, counts) in counts {
        let value = encode(&key, &counts)?;
        batch.insert(key, Some(value));
        if batch.len() >= ROWS_AT_ONCE {
            commit(engine, &mut batch)?;
        }
    }
    let value = encode(&key, &LAYOUT)?;
    batch.insert(key, Some(value));
    commit(engine, &mut batch)?;
    if contacts > 0 {
        tracing::info!(contacts, "the store was upgraded to layout {}", LAYOUT.0);
    }
    Ok(())
}

fn commit(engine: &dyn Engine, batch: &mut Batch) -> Result<(), StoreError> {
    engine.commit(std::mem::take(batch).into_iter().collect()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::super::{EventId, Feed as _, LinkBy, LinkQuery, Reconciling as _, Store as _};
    use super::super::engine::Memory;
    use super::super::{EmbeddedStore, Settings};
    use super::*;
    use crate::domain::dealer::{DealerState, TokenOwner};
    use crate::domain::ids::{AppName, CorpId};
    use crate::domain::time::Timestamp;

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
