use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;
use crate::domain::audit::AuditBy;
use crate::domain::ids::Unionid;
use crate::domain::time::Timestamp;
use crate::store::embedded::compact;
use crate::store::embedded::rig::{copy, files};
use crate::store::{People as _, PersonId, Store as _};

const SETTINGS: Settings =
    Settings { cache_mb: 8, free_mb_min: 1, inbox_events_max: 1_000, dedupe_days: 7, quarantine_days: 30 };

/// The ids that can be found in the files of a folder, as they are or packed.
fn found_in(folder: &Path, ids: &[String]) -> Vec<String> {
    let files: Vec<_> = files(folder).iter().filter_map(|path| std::fs::read(path).ok()).collect();
    let is_in_one = |bytes: &[u8]| files.iter().any(|file| memchr::memmem::find(file, bytes).is_some());
    let forms = |id: &String| [Some(id.as_bytes().to_vec()), URL_SAFE_NO_PAD.decode(id).ok()];
    ids.iter().filter(|id| forms(id).into_iter().flatten().any(|form| is_in_one(&form))).cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_person_leaves_log_and_checkpoint_of_a_running_store_and_the_index_when_it_is_compacted()
{
    let place = tempfile::tempdir().unwrap();
    let vector = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/store-0.2.0");
    copy(&vector.join("sled"), &place.path().join("sled"));
    copy(&vector.join("journal"), &place.path().join("journal"));
    // An index that was replaced because it was damaged.
    let aside = place.path().join("index.set-aside");
    copy(&vector.join("sled"), &aside);
    let store = EmbeddedStore::open(place.path(), SETTINGS).unwrap();
    store.backend().indexing.finished().await.unwrap();
    let unionid = Unionid::new("oFANunionlink000000000000001").unwrap();
    let person = store.person_data(unionid.as_str()).await.unwrap();
    let (_, fan) = &person.fans[0];
    let customers = person.contacts.iter().map(|(key, _)| key.external_userid.as_str().to_owned());
    let mut ids: Vec<String> = customers.collect();
    ids.extend([unionid.as_str().to_owned(), fan.openid.as_str().to_owned()]);
    ids.extend(fan.ids.iter().map(|minted| minted.pending_id.as_str().to_owned()));
    // Fan 41 and customer 15 were forgotten by the version before.
    let forgotten =
        ["oFANunionlink000000000000041".to_owned(), "wmVECTORAAA000000000000000000015".to_owned()];
    assert_eq!((ids.len(), found_in(place.path(), &ids)), (5, ids.clone()));
    let now = Timestamp::from_secs(1_795_309_323 + 2 * 3_600);
    store.forget(&PersonId::Unionid(unionid), None, AuditBy::service(), now).await.unwrap();
    ids.extend(forgotten);
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let left =
            [place.path().join("wal"), place.path().join("checkpoint")].map(|part| found_in(&part, &ids));
        if left.iter().all(Vec::is_empty) && !aside.exists() {
            break;
        }
        assert!(Instant::now() < until, "log and checkpoint still have {left:?}");
        tokio::task::yield_now().await;
    }
    store.close().await;
    drop(store);
    compact(place.path(), 8 << 20, |_| {}).unwrap();
    assert_eq!(found_in(place.path(), &ids), [] as [String; 0]);
    let store = EmbeddedStore::open(place.path(), SETTINGS).unwrap();
    store.backend().indexing.finished().await.unwrap();
    assert_eq!(store.audit(), Ok(vec![]));
    store.close().await;
}
