use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::domain::audit::AuditAction;
use crate::domain::dealer::{DealerState, TokenOwner};
use crate::domain::fan::{FanState, FanStep, Priority};
use crate::domain::ids::{AppName, CorpId, SinkName};
use crate::domain::link::ChangeType;
use crate::domain::time::Timestamp;
use crate::store::business::chat_members;
use crate::store::embedded::database::{Recovered, recover};
use crate::store::embedded::engine::{Engine as _, Memory, Write, records};
use crate::store::embedded::folder::Folder;
use crate::store::embedded::rig::copy;
use crate::store::embedded::wal::Limited;
use crate::store::embedded::{EmbeddedStore, Settings};
use crate::store::rows::records::checked;
use crate::store::{
    Counts, CursorState, CustomerGroups as _, Erased, EventId, EventState, FanFilter, Feed as _, LinkBy,
    LinkQuery, Outcome, People as _, Reconciling as _, Store as _, Trail as _,
};
use ids_of_0_2_0::{RECEIPT, chat_id, customer, dealer, pending_id, unionid};

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

/// The ids in the store of version 0.2.0.
mod ids_of_0_2_0 {
    use crate::domain::ids::{ChatId, CorpId, PendingId, Unionid};

    pub(super) fn unionid(fan: u32) -> Unionid {
        Unionid::new(format!("oFANunionlink{fan:015}")).unwrap()
    }

    pub(super) fn pending_id(fan: u32) -> PendingId {
        PendingId::new(format!("pVECTOR{fan:037}")).unwrap()
    }

    pub(super) fn customer(n: u32) -> String {
        format!("wmVECTORAAA{n:021}")
    }

    pub(super) fn dealer(n: u32) -> CorpId {
        CorpId::new(format!("wpVECTORAAA{n:021}")).unwrap()
    }

    pub(super) fn chat_id(n: u32) -> ChatId {
        ChatId::new(format!("wrVECTOR{n:024}")).unwrap()
    }

    pub(super) const RECEIPT: &str = "rcp_31e3566d3d552b99f2fb51e0";
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_version_0_2_0_that_was_killed_has_all_that_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/store-0.2.0");
    let data = folder.path().join("data");
    copy(&old.join("sled"), &data.join("sled"));
    copy(&old.join("journal"), &data.join("journal"));
    let settings = Settings { cache_mb: 8, free_mb_min: 1, ..Settings::default() };
    let now = Timestamp::from_secs(1_795_309_323 + 2 * 3_600);
    // Opened twice: the second time there is nothing left to replay or to upgrade.
    for _ in 0..2 {
        let store = EmbeddedStore::open(&data, settings).unwrap();
        store.backend().indexing.finished().await.unwrap();
        assert_eq!(store.audit(), Ok(vec![]));
        assert_links_and_feed_of_0_2_0(&store, now).await;
        assert_fans_and_dealers_of_0_2_0(&store, now).await;
        assert_messages_and_erasure_of_0_2_0(&store).await;
        let work = store.lease(now, 100, 100).await.unwrap();
        let mut due: Vec<_> = work.iter().map(|work| work.contact.external_userid.as_str()).collect();
        due.sort_unstable();
        assert_eq!(due, [9, 10, 11, 12, 13].map(customer));
        assert_eq!(store.damaged_records(), 0);
        store.close().await;
    }
    // An event that waits for its second attempt leads to a link.
    let store = EmbeddedStore::open(&data, settings).unwrap();
    let work = store.lease(now, 100, 0).await.unwrap();
    let work = work.into_iter().find(|work| work.event.is_some()).unwrap();
    store.settle(vec![(work, Outcome::Resolved(pending_id(9)))], now).await.unwrap();
    assert_eq!(customers_of(&store, 9, now).await, [customer(13)]);
    assert_eq!((store.counts().inbox, store.counts().links), (0, 9));
    assert_eq!(store.audit(), Ok(vec![]));
    store.close().await;
}

/// The customers that are linked to a fan of the store of version 0.2.0.
async fn customers_of(store: &EmbeddedStore, fan: u32, now: Timestamp) -> Vec<String> {
    let query = LinkQuery { by: LinkBy::Unionid(unionid(fan)), corp_id: None, app: None };
    let links = store.links(&query, now).await.unwrap();
    let mut customers: Vec<_> = links.iter().map(|link| link.external_userid.as_str().to_owned()).collect();
    customers.sort_unstable();
    customers
}

async fn assert_links_and_feed_of_0_2_0(store: &EmbeddedStore, now: Timestamp) {
    // The last event, number 20, was not acknowledged.
    let counts = Counts {
        inbox: 1,
        dead: 1,
        quarantined: 1,
        contacts: 12,
        waiting: 4,
        links: 8,
        feed_head: 10,
        event_head: 19,
        ..Counts::default()
    };
    assert_eq!(store.counts(), counts);
    assert_eq!(customers_of(store, 1, now).await, [1, 8].map(customer));
    for fan in 2..=7 {
        assert_eq!(customers_of(store, fan, now).await, [customer(fan)]);
    }
    let feed = store.feed(0, 100, now).await.unwrap();
    assert!(feed.iter().map(|entry| entry.seq).eq(1..=10));
    let erased = feed.iter().filter(|entry| entry.change == ChangeType::Erased);
    assert_eq!(erased.map(|entry| entry.seq).collect::<Vec<_>>(), [5, 10]);
    let [crm, archive] = ["crm", "archive"].map(|sink| SinkName::new(sink).unwrap());
    assert_eq!(store.cursor(&crm).await.unwrap().unwrap().after, 5);
    assert_ne!(store.cursor(&archive).await.unwrap().unwrap().state, CursorState::Running);
}

async fn assert_fans_and_dealers_of_0_2_0(store: &EmbeddedStore, now: Timestamp) {
    let app = AppName::new("brand").unwrap();
    let fans = store.list_fans(&FanFilter::default(), 0, 100, now).await.unwrap().fans;
    let in_state = |state| fans.iter().filter(|(_, fan)| fan.state(now) == state).count();
    let states = [FanState::Queued, FanState::Minted, FanState::Rejected].map(in_state);
    assert_eq!((fans.len(), states), (40, [28, 11, 1]));
    let to_mint = store.lease_fans(&app, FanStep::Mint, &Priority::ALL, now, 100).await.unwrap();
    assert_eq!(to_mint.len(), 28);

    let rows = store.dealer_rows(&app).await.unwrap();
    let rows = rows.iter().map(|row| (row.dealer.name.as_str(), row.dealer.token, row.counts));
    let counts = |customers, links| DealerCounts { customers, links };
    let expected = [
        ("第一店", Some(TokenOwner::Downstream), counts(7, 4)),
        ("第二店", Some(TokenOwner::Upstream), counts(5, 4)),
        ("第三店", None, counts(0, 0)),
    ];
    assert_eq!(rows.collect::<Vec<_>>(), expected);
    let members = chat_members::of_group(&store.view(), &app, &dealer(1), &chat_id(1)).unwrap();
    let members = members.iter().map(|contact| contact.external_userid.as_str());
    assert_eq!(members.collect::<Vec<_>>(), [2, 11, 12].map(customer));
    assert_eq!(store.due_chats(&BTreeSet::new(), now, 10).await.unwrap()[0].chat_id, chat_id(2));
    assert_eq!(store.alarms().await.unwrap()[0].1.corp_id, dealer(2));
    assert!(store.visibility_changes().await.unwrap().contains_key(&(app.clone(), dealer(2))));
    assert_eq!(store.reconcile_tasks(&app).await.unwrap()[0].0, dealer(3));
}

async fn assert_messages_and_erasure_of_0_2_0(store: &EmbeddedStore) {
    let dead = store.events(EventState::Dead, EventId(0), 9).await.unwrap();
    assert_eq!(dead.len(), 1);
    let quarantined = store.events(EventState::Quarantined, EventId(0), 9).await.unwrap();
    let message = store.quarantined_message(quarantined[0].id()).await.unwrap().unwrap();
    let expected = format!("<xml><Padding>{}</Padding></xml>", "p".repeat(3_500));
    assert_eq!(String::from_utf8(message).unwrap(), expected);

    let receipt = store.receipt(RECEIPT.parse().unwrap()).await.unwrap().unwrap();
    let erased = Erased { fans: 1, contacts: 1, links: 1, feed_entries: 1, ..Erased::default() };
    assert_eq!((receipt.request.as_deref(), receipt.erased), (Some("ticket 4711"), erased));
    let forgotten = store.person_data(unionid(41).as_str()).await.unwrap();
    assert!(forgotten.fans.is_empty() && forgotten.contacts.is_empty());
    assert_eq!(forgotten.forgotten_at, Some(receipt.forgotten_at));
    let trail = store.trail(0, 9).await.unwrap();
    let actions: Vec<_> = trail.iter().map(|(_, entry)| entry.action).collect();
    assert_eq!(actions, [AuditAction::Export, AuditAction::Erase]);
}

/// What the store of version 0.1.0 holds.
fn content_of_0_1_0() -> Vec<Write> {
    let folder = tempfile::tempdir().unwrap();
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/store-0.1.0"), folder.path());
    let folder = Folder::new(folder.path());
    let Recovered { engine, backlog, .. } = recover(&folder, 8 << 20, &mut |_, _| true).unwrap();
    for (_, batch) in backlog {
        engine.apply(&batch.into_iter().collect::<Vec<_>>()).unwrap();
    }
    records(&engine).map(Result::unwrap).map(|(key, value)| (key, Some(value))).collect()
}

fn value(memory: &Memory, key: &[u8]) -> Option<Vec<u8>> {
    memory.rows().into_iter().find(|(stored, _)| stored == key).map(|(_, value)| value)
}

#[tokio::test]
async fn an_upgrade_that_was_killed_at_any_point_is_repeated_whatever_an_older_program_did_since() {
    let content = content_of_0_1_0();
    let mut kills = 0;
    for after in 0.. {
        let memory = Memory::default();
        memory.overwrite(&content);
        let meta: Meta = decode(&keys::meta(), &value(&memory, &keys::meta()).unwrap()).unwrap();
        let mut log = Limited::new(&memory, after);
        let database = Database::of_memory(&memory).unwrap();
        let is_killed = in_commits_of(2, &mut Commits { database: &database, log: &mut log }, &meta).is_err();
        kills += usize::from(is_killed);
        let layout = value(&memory, &keys::only("layout"));
        let version = value(&memory, &keys::meta()).unwrap()[0];
        assert_eq!((layout.is_none(), version), (is_killed, if is_killed { 3 } else { Meta::VERSION }));
        if !is_killed {
            break;
        }
        // The older program deletes a customer who waits for nothing and has no link, and does not know
        // the indexes.
        let contacts = memory.rows().into_iter().filter(|(key, _)| key.starts_with(b"c"));
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
        let older = [vec![3], Meta { counts, ..meta }.as_before()].concat();
        let place = keys::lookup(lookup.haste, lookup.due_at.unwrap(), &contact_key);
        let meta = (keys::meta(), Some(checked(&keys::meta(), older)));
        memory.overwrite(&[(key, None), (place, None), meta]);
        let store = EmbeddedStore::in_memory(memory, Settings::default()).unwrap();
        store.backend().indexing.finished().await.unwrap();
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
    memory.overwrite(&[(layout, Some(value))]);
    let refused = EmbeddedStore::in_memory(memory, Settings::default()).err().unwrap().to_string();
    assert!(refused.contains("start with a backup"), "{refused}");
}

#[tokio::test]
async fn a_report_about_the_visible_range_that_was_stored_without_a_number_is_handled() {
    let (app, corp_id) = (AppName::new("brand").unwrap(), CorpId::new("wpDEALER").unwrap());
    let memory = Memory::default();
    memory.overwrite(&[(keys::of_corp(b'v', &app, &corp_id), Some(Vec::new()))]);
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
