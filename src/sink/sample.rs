//! Invented entries, for the tests of the sinks.

use crate::domain::link::{ChangeType, EntryData, ErasedLink, FeedEntry, FollowerData, LinkData, Source};
use crate::domain::time::Timestamp;

/// The entries with the sequence numbers `first` to `last`.
pub(crate) fn entries(first: u64, last: u64) -> Vec<FeedEntry> {
    (first..=last).map(entry).collect()
}

fn entry(seq: u64) -> FeedEntry {
    let at = Timestamp::from_millis(1_795_309_323_456).plus_ms(i64::try_from(seq).unwrap());
    let id = format!("lnk_{seq:016x}");
    let app = "brand".to_owned().try_into().unwrap();
    if seq.is_multiple_of(7) {
        let data = EntryData::Erased(ErasedLink { link_id: id.clone() });
        return FeedEntry { seq, id, change: ChangeType::Erased, occurred_at: at, app, data };
    }
    let follower = FollowerData {
        user_id: "member-1".to_owned().try_into().unwrap(),
        state: Some("门店\n\"1\"\u{2028}".to_owned()),
        added_at: at,
    };
    let data = EntryData::Link(LinkData {
        link_id: id.clone(),
        app: "brand".to_owned().try_into().unwrap(),
        unionid: format!("oINVENTED{seq}").try_into().unwrap(),
        external_userid: format!("wmINVENTED{seq}").try_into().unwrap(),
        corp_id: "wpINVENTED".to_owned().try_into().unwrap(),
        corp_name: Some("上海一店".to_owned()),
        pending_id: Some(format!("pending{seq}").try_into().unwrap()),
        source: Source::Callback,
        chat_id: None,
        followers: vec![follower],
        welcome_code: None,
        linked_at: at,
    });
    FeedEntry { seq, id, change: ChangeType::Created, occurred_at: at, app, data }
}
