//! The feed: its entries, the cursors of the sinks, and pruning.

use serde::{Deserialize, Serialize};

use super::corp_names::CorpNames;
use crate::domain::contact::Contact;
use crate::domain::ids::{AppName, ChatId, ContactKey, CorpId, ExternalUserid, PendingId, SinkName, Unionid};
use crate::domain::link::{ChangeType, EntryData, ErasedLink, FeedEntry, FollowerData, LinkData, Source};
use crate::domain::time::Timestamp;
use crate::store::rows::keys;
use crate::store::rows::records::{Record, decode};
use crate::store::rows::txn::{Meta, Txn};
use crate::store::rows::view::View;
use crate::store::{Cursor, CursorState, Seek, Start, StoreError};

/// A feed entry as stored; its sequence number is in the key.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredEntry {
    id: String,
    change: ChangeType,
    occurred_at: Timestamp,
    /// Until when the data's welcome code can be used.
    welcome_until: Option<Timestamp>,
    app: AppName,
    data: StoredData,
}

#[derive(Debug, Serialize, Deserialize)]
enum StoredData {
    Link(#[serde(with = "StoredLink")] LinkData),
    Erased {
        link_id: String,
    },
    /// A link of a customer who became known through a group.
    LinkInChat(#[serde(with = "StoredLink")] LinkData, ChatId),
}

impl From<LinkData> for StoredData {
    fn from(mut link: LinkData) -> Self {
        match link.chat_id.take() {
            Some(chat_id) => Self::LinkInChat(link, chat_id),
            None => Self::Link(link),
        }
    }
}

/// A link as stored in a feed entry: the dealer's name is looked up when the entry is read.
#[derive(Serialize, Deserialize)]
#[serde(remote = "LinkData")]
struct StoredLink {
    link_id: String,
    app: AppName,
    unionid: Unionid,
    external_userid: ExternalUserid,
    corp_id: CorpId,
    #[serde(skip)]
    corp_name: Option<String>,
    pending_id: Option<PendingId>,
    source: Source,
    #[serde(skip)]
    chat_id: Option<ChatId>,
    followers: Vec<FollowerData>,
    welcome_code: Option<String>,
    linked_at: Timestamp,
}

impl Record for StoredEntry {}

impl Record for Cursor {}

impl StoredEntry {
    /// The entry as a reader gets it at `now`: without a welcome code that can no longer be used.
    fn into_entry(self, seq: u64, now: Timestamp) -> FeedEntry {
        let Self { id, change, occurred_at, welcome_until, app, data } = self;
        let link = |mut link: LinkData, chat_id| {
            link.welcome_code = link.welcome_code.filter(|_| welcome_until > Some(now));
            EntryData::Link(LinkData { chat_id, ..link })
        };
        let data = match data {
            StoredData::Link(data) => link(data, None),
            StoredData::LinkInChat(data, chat_id) => link(data, Some(chat_id)),
            StoredData::Erased { link_id } => EntryData::Erased(ErasedLink { link_id }),
        };
        FeedEntry { seq, id, change, occurred_at, app, data }
    }

    /// The link, unless its person was forgotten.
    pub(crate) const fn link(&self) -> Option<&LinkData> {
        match &self.data {
            StoredData::Link(link) | StoredData::LinkInChat(link, _) => Some(link),
            StoredData::Erased { .. } => None,
        }
    }

    /// The same entry without the data of the person.
    pub(crate) fn erased(self) -> Self {
        let link_id = match self.data {
            StoredData::Link(LinkData { link_id, .. })
            | StoredData::LinkInChat(LinkData { link_id, .. }, _)
            | StoredData::Erased { link_id } => link_id,
        };
        let data = StoredData::Erased { link_id };
        Self { change: ChangeType::Erased, welcome_until: None, data, ..self }
    }
}

/// Appends a change of a contact, if it is linked.
pub(crate) fn append_change(
    txn: &mut Txn<'_>,
    key: &ContactKey,
    contact: &Contact,
    change: ChangeType,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Some(data) = contact.link_data(key, now) else {
        return Ok(());
    };
    append(txn, key.app.clone(), change, contact.welcome_until(), data.into(), now)
}

/// Appends that a link was erased.
pub(crate) fn append_erased(
    txn: &mut Txn<'_>,
    app: AppName,
    link_id: String,
    now: Timestamp,
) -> Result<(), StoreError> {
    append(txn, app, ChangeType::Erased, None, StoredData::Erased { link_id }, now)
}

fn append(
    txn: &mut Txn<'_>,
    app: AppName,
    change: ChangeType,
    welcome_until: Option<Timestamp>,
    data: StoredData,
    now: Timestamp,
) -> Result<(), StoreError> {
    let (seq, id) = txn.next_feed_id();
    txn.put(keys::feed(seq), &StoredEntry { id, change, occurred_at: now, welcome_until, app, data })?;
    txn.counts().feed_head = seq;
    Ok(())
}

/// Deletes up to `limit` of the oldest entries: those written before `cutoff` that the cursors of all `sinks`
/// have passed. Returns their number. A damaged entry counts as old as the one after it.
pub(crate) fn prune(
    txn: &mut Txn<'_>,
    cutoff: Timestamp,
    sinks: &[SinkName],
    limit: u64,
) -> Result<u64, StoreError> {
    let pruned = txn.counts().feed_pruned;
    let mut until = txn.counts().feed_head.min(pruned.saturating_add(limit));
    for sink in sinks {
        // Read in this transaction, so that no entry is deleted after a cursor that is moved back at this
        // moment.
        let cursor = txn.get::<Cursor>(&keys::cursor(sink))?;
        until = until.min(cursor.map_or(0, |cursor| cursor.after));
    }
    let mut last = pruned;
    for seq in pruned + 1..=until {
        match txn.get::<StoredEntry>(&keys::feed(seq)) {
            Ok(Some(entry)) if entry.occurred_at >= cutoff => break,
            Ok(_) | Err(StoreError::Damaged(_)) => {}
            Err(other) => return Err(other),
        }
        txn.delete(keys::feed(seq));
        last = seq;
    }
    txn.counts().feed_pruned = last;
    Ok(last - pruned)
}

/// Changes a cursor. Returns it as changed; `None` if there is none.
fn change_cursor(
    txn: &mut Txn<'_>,
    sink: &SinkName,
    change: impl FnOnce(&mut Cursor) -> Result<(), StoreError>,
) -> Result<Option<Cursor>, StoreError> {
    let key = keys::cursor(sink);
    let Some(mut cursor) = txn.get::<Cursor>(&key)? else { return Ok(None) };
    change(&mut cursor)?;
    txn.put(key, &cursor)?;
    Ok(Some(cursor))
}

/// Opens the cursor of a sink, as [`Feed::open_cursor`](crate::store::Feed::open_cursor) does.
pub(crate) fn open_cursor(
    txn: &mut Txn<'_>,
    sink: &SinkName,
    start: Start,
) -> Result<(Cursor, u64), StoreError> {
    let key = keys::cursor(sink);
    let (head, pruned) = (txn.counts().feed_head, txn.counts().feed_pruned);
    let known = match txn.get::<Cursor>(&key) {
        Err(StoreError::Damaged(reason)) => {
            tracing::error!(%sink, reason, "a cursor is lost; its sink gets everything that is kept again");
            Some(Cursor { after: pruned, epoch: rand::random(), state: CursorState::Running })
        }
        known => known?,
    };
    let after = if start == Start::Now { head } else { pruned };
    let mut cursor = known.unwrap_or(Cursor { after, epoch: 0, state: CursorState::Running });
    let missed = pruned.saturating_sub(cursor.after);
    cursor.after = cursor.after.clamp(pruned, head);
    txn.put(key, &cursor)?;
    Ok((cursor, missed))
}

/// Moves a cursor forward to `after`, if `epoch` is still its epoch and the feed reaches that far. Returns whether it moved.
pub(crate) fn advance(
    txn: &mut Txn<'_>,
    sink: &SinkName,
    epoch: u64,
    after: u64,
) -> Result<bool, StoreError> {
    let (mut moved, head) = (false, txn.counts().feed_head);
    change_cursor(txn, sink, |cursor| {
        moved = cursor.epoch == epoch && cursor.after <= after && after <= head;
        if moved {
            cursor.after = after;
        }
        Ok(())
    })?;
    Ok(moved)
}

/// Moves a cursor for an operator, and fences off older deliveries.
pub(crate) fn seek(txn: &mut Txn<'_>, sink: &SinkName, to: Seek) -> Result<Option<Cursor>, StoreError> {
    let (head, pruned) = (txn.counts().feed_head, txn.counts().feed_pruned);
    change_cursor(txn, sink, |cursor| {
        cursor.after = match to {
            Seek::After(after) if after < pruned => {
                return Err(StoreError::Gone { oldest: pruned + 1 });
            }
            Seek::After(after) if after > head => return Err(StoreError::BeyondHead { head }),
            Seek::After(after) => after,
            Seek::Beginning => pruned,
            Seek::Now => head,
        };
        cursor.epoch = cursor.epoch.wrapping_add(1);
        Ok(())
    })
}

/// Pauses, disables or resumes the deliveries to a sink.
pub(crate) fn set_state(
    txn: &mut Txn<'_>,
    sink: &SinkName,
    state: CursorState,
) -> Result<Option<Cursor>, StoreError> {
    change_cursor(txn, sink, |cursor| {
        cursor.state = cursor.state.changed_to(state);
        Ok(())
    })
}

/// Missing entries that one page notes at most.
const MISSING_NOTED_MAX: usize = 1_000;

/// Up to `limit` entries after `after` and up to `head`, as of `now`. An entry that is missing but was not
/// pruned is a damaged record.
pub(crate) fn page(
    view: &View<'_>,
    after: u64,
    head: u64,
    limit: usize,
    now: Timestamp,
) -> Result<Vec<FeedEntry>, StoreError> {
    let (from, to) = (keys::feed(after.saturating_add(1)), keys::feed(head.saturating_add(1)));
    let (mut entries, mut missing, mut expected) = (Vec::new(), Vec::new(), after.saturating_add(1));
    let mut names = CorpNames::new(view);
    let mut rows = view.range(&from, &to);
    while entries.len() < limit {
        let Some(row) = rows.next() else {
            missing.push(expected..head.saturating_add(1));
            break;
        };
        let (key, value) = row?;
        let seq = keys::number(&key)?;
        missing.push(expected..seq);
        expected = seq + 1;
        let stored = view.undamaged(&key, decode::<StoredEntry>(&key, &value))?;
        let Some(mut entry) = stored.map(|stored| stored.into_entry(seq, now)) else { continue };
        if let EntryData::Link(link) = &mut entry.data {
            names.fill(link)?;
        }
        entries.push(entry);
    }
    missing.retain(|gap| !gap.is_empty());
    if let Some(first) = missing.first() {
        // Read after the entries: what was pruned while they were read is counted by now, because the entries
        // and this record change in one commit.
        let pruned = view.read::<Meta>(&keys::meta())?.map_or(0, |meta| meta.counts.feed_pruned);
        if first.start <= pruned {
            return Err(StoreError::Gone { oldest: pruned + 1 });
        }
    }
    for seq in missing.into_iter().flatten().take(MISSING_NOTED_MAX) {
        let lost = StoreError::Damaged(format!("feed entry {seq} is missing"));
        view.undamaged(&keys::feed(seq), Err::<(), _>(lost))?;
    }
    Ok(entries)
}

/// The cursor of a sink.
pub(crate) fn cursor(view: &View<'_>, sink: &SinkName) -> Result<Option<Cursor>, StoreError> {
    view.read(&keys::cursor(sink))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_stored_as_it_was_before_it_had_the_dealers_name() {
        let link = LinkData {
            link_id: "lnk_1".to_owned(),
            app: AppName::new("brand").unwrap(),
            unionid: Unionid::new("oFAN").unwrap(),
            external_userid: ExternalUserid::new("wmCUSTOMER").unwrap(),
            corp_id: CorpId::new("wpDEALER").unwrap(),
            corp_name: Some("上海一店".to_owned()),
            pending_id: Some(PendingId::new("pPENDING").unwrap()),
            source: Source::Callback,
            chat_id: None,
            followers: Vec::new(),
            welcome_code: Some("CODE".to_owned()),
            linked_at: Timestamp::from_secs(1_795_309_323),
        };
        let fields = (
            &link.link_id,
            &link.app,
            &link.unionid,
            &link.external_userid,
            &link.corp_id,
            &link.pending_id,
            link.source,
            &link.followers,
            &link.welcome_code,
            link.linked_at,
        );
        let before = [vec![0], postcard::to_stdvec(&fields).unwrap()].concat();
        assert_eq!(postcard::to_stdvec(&StoredData::Link(link.clone())).unwrap(), before);
        let StoredData::Link(read) = postcard::from_bytes(&before).unwrap() else { panic!("not a link") };
        assert_eq!(read, LinkData { corp_name: None, ..link });
    }
}
