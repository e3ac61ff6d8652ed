//! The feed: its entries, the cursors of the sinks, and pruning.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::corp_names::CorpNames;
use crate::domain::contact::Contact;
use crate::domain::ids::{AppName, ChatId, ContactKey, CorpId, ExternalUserid, PendingId, SinkName, Unionid};
use crate::domain::link::{ChangeType, EntryData, ErasedLink, FeedEntry, FollowerData, LinkData, Source};
use crate::domain::time::Timestamp;
use crate::store::embedded::records::{Record, decode};
use crate::store::embedded::rows::keys;
use crate::store::embedded::rows::txn::Txn;
use crate::store::embedded::{EmbeddedStore, snapshot};
use crate::store::{Cursor, CursorState, Feed, LinksSnapshot, Seek, Start, StoreError};

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
fn prune(txn: &mut Txn<'_>, cutoff: Timestamp, sinks: &[SinkName], limit: u64) -> Result<u64, StoreError> {
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

fn open_cursor(txn: &mut Txn<'_>, sink: &SinkName, start: Start) -> Result<(Cursor, u64), StoreError> {
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

#[async_trait]
impl Feed for EmbeddedStore {
    async fn feed(&self, after: u64, limit: usize, now: Timestamp) -> Result<Vec<FeedEntry>, StoreError> {
        let head = *self.writer.shared.feed_head().borrow();
        let (from, to) = (keys::feed(after.saturating_add(1)), keys::feed(head.saturating_add(1)));
        let (mut entries, mut expected) = (Vec::new(), after.saturating_add(1));
        let view = self.view();
        let mut names = CorpNames::new(&view);
        for row in self.engine.range(&from, &to) {
            if entries.len() >= limit {
                return Ok(entries);
            }
            let (key, value) = row.map_err(crate::store::embedded::failed)?;
            let seq = keys::feed_seq(&key)?;
            // A gap means that entries were pruned, perhaps at this moment.
            if seq != expected {
                return Err(StoreError::Gone { oldest: seq });
            }
            expected = seq + 1;
            let stored = self.undamaged(&key, decode::<StoredEntry>(&key, &value))?;
            let Some(mut entry) = stored.map(|stored| stored.into_entry(seq, now)) else { continue };
            if let EntryData::Link(link) = &mut entry.data {
                names.fill(link)?;
            }
            entries.push(entry);
        }
        if expected <= head {
            return Err(StoreError::Gone { oldest: head + 1 });
        }
        Ok(entries)
    }

    fn feed_head(&self) -> watch::Receiver<u64> {
        self.writer.shared.feed_head()
    }

    async fn prune_feed(&self, cutoff: Timestamp, sinks: &[SinkName]) -> Result<u64, StoreError> {
        const DELETED_AT_ONCE: u64 = 80;
        let sinks = sinks.to_vec();
        self.writer.run(move |txn| prune(txn, cutoff, &sinks, DELETED_AT_ONCE)).await
    }

    async fn open_cursor(&self, sink: &SinkName, start: Start) -> Result<(Cursor, u64), StoreError> {
        let sink = sink.clone();
        self.writer.run(move |txn| open_cursor(txn, &sink, start)).await
    }

    async fn cursor(&self, sink: &SinkName) -> Result<Option<Cursor>, StoreError> {
        self.read(&keys::cursor(sink))
    }

    async fn advance(&self, sink: &SinkName, epoch: u64, after: u64) -> Result<bool, StoreError> {
        let sink = sink.clone();
        let moved = self.writer.run(move |txn| {
            let mut moved = false;
            change_cursor(txn, &sink, |cursor| {
                moved = cursor.epoch == epoch && cursor.after <= after;
                if moved {
                    cursor.after = after;
                }
                Ok(())
            })?;
            Ok(moved)
        });
        moved.await
    }

    async fn seek(&self, sink: &SinkName, to: Seek) -> Result<Option<Cursor>, StoreError> {
        let sink = sink.clone();
        let sought = self.writer.run(move |txn| {
            let (head, pruned) = (txn.counts().feed_head, txn.counts().feed_pruned);
            change_cursor(txn, &sink, |cursor| {
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
        });
        sought.await
    }

    async fn set_state(&self, sink: &SinkName, state: CursorState) -> Result<Option<Cursor>, StoreError> {
        let sink = sink.clone();
        let set = self.writer.run(move |txn| {
            change_cursor(txn, &sink, |cursor| {
                cursor.state = cursor.state.changed_to(state);
                Ok(())
            })
        });
        set.await
    }

    async fn snapshot(&self) -> Result<Box<dyn LinksSnapshot>, StoreError> {
        snapshot::take(self).await
    }
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
