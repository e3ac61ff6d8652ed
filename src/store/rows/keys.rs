//! The layout of the single tree. A key is a kind byte, then parts; each id ends with NUL, which ids do not
//! contain.
//!
//! | kind | key | value |
//! | --- | --- | --- |
//! | `m` | name | [`Meta`](super::txn::Meta): counters, format; the clock; the reconcile run; the audit trail's head |
//! | `i` | due · event number | an event in the inbox |
//! | `x` | event number | a dead letter or a quarantined message |
//! | `z` | event number · part | a part of a quarantined message |
//! | `d` | hour of `CreateTime` · digest | a received message, for deduplication |
//! | `c` | `external_userid` · app · corp | a contact and its link |
//! | `y` | due · contact | a contact to be looked up, live |
//! | `w` | due · contact | a contact to be looked up in the background |
//! | `o` | app · corp · `external_userid` | a contact of this corp |
//! | `b` | app · corp | the numbers of its customers and links |
//! | `a` | app · corp | its activity |
//! | `v` | app · corp | the last report about the visible range, until it is handled |
//! | `A` | app · corp | alarms about the app there |
//! | `G` | app · corp · chat | a customer group |
//! | `j` | due · app · corp · chat | a group whose member list is to be read |
//! | `M` | chat · contact | a contact that is held to be in this group |
//! | `T` | app · corp | the comparison of its customers |
//! | `S` | suite | its ticket |
//! | `E` | suite · code id | the exchange of an auth code |
//! | `P` | suite · corp | an authorisation |
//! | `B` | app | the corp that an agency-developed app serves |
//! | `n` | sheet number | sixteen [fans](crate::store::business::roll) |
//! | `t` | app · step · priority · due · number | fans to make a call for |
//! | `r` | app · due · number | fans to be reviewed then |
//! | `l` | app | the counters of its fans; the ends of the queues |
//! | `q` | `pending_id` · app · contact | a contact with this pending id |
//! | `u` | unionid · app · contact | a contact linked to this fan |
//! | `f` | sequence | a feed entry |
//! | `g` | account · api | a quota ledger |
//! | `h` | app · corp | a dealer |
//! | `s` | sink | a cursor |
//! | `e` | hash of an id | when the person with it was forgotten |
//! | `p` | receipt id | the receipt of an erasure |
//! | `D` | number | an entry of the audit trail |
//! | `H` | hour | what was counted in this hour |
//! | `U` | app or suite | what is remembered of its callback URL |
//! | `F` | sink | its last failures |
//! | `k` | unionid | a person whose erasure is to be completed |
//!
//! Queues and the feed are in the order of time: sled keeps such ranges small, however many rows pass through
//! them. An id comes before the app where it is looked up without an app. [`roll`](crate::store::business::roll) explains why
//! fans are stored in the order of their registration.

use crate::domain::fan::{FanStep, Priority};
use crate::domain::ids::{AppName, ChatId, ContactKey, CorpId, ExternalUserid, PendingId, SinkName, Unionid};
use crate::domain::lookup::Haste;
use crate::domain::suite::CodeId;
use crate::domain::time::{HOUR_MS, Timestamp};
use crate::store::{EventId, MessageDigest, QueuePosition, ReceiptId, StoreError};

mod parts;

pub(crate) use parts::Parts;
use parts::damaged;

/// The kinds of all keys, in order.
pub(crate) const KINDS: &[u8] = b"ABDEFGHMPSTUabcdefghijklmnopqrstuvwxyz";

/// Room for the keys that every event has.
const KEY_BYTES: usize = 24;

/// Builds a key part by part.
#[derive(Debug, Clone)]
pub(crate) struct Key(Vec<u8>);

impl Key {
    fn kind(kind: u8) -> Self {
        let mut bytes = Vec::with_capacity(KEY_BYTES);
        bytes.push(kind);
        Self(bytes)
    }

    fn id(mut self, id: &str) -> Self {
        self.0.extend(id.as_bytes());
        self.0.push(0);
        self
    }

    fn sheet(mut self, number: u32) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    fn number(mut self, number: u64) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    /// Instants before the epoch sort as the epoch; they exist only in hostile input.
    fn instant(self, at: Timestamp) -> Self {
        self.number(u64::try_from(at.as_millis()).unwrap_or(0))
    }

    fn contact(self, key: &ContactKey) -> Self {
        self.id(key.external_userid.as_str()).id(key.app.as_str()).id(key.corp_id.as_str())
    }

    fn done(self) -> Vec<u8> {
        self.0
    }
}

/// The first key after all that begin with `prefix`.
pub(crate) fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![u8::MAX; 9]
}

/// The smallest key after `key`.
pub(crate) fn next(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

pub(crate) fn meta() -> Vec<u8> {
    b"mcounters".to_vec()
}

/// The version of the layout of an embedded store.
pub(crate) fn layout() -> Vec<u8> {
    only("layout")
}

/// There while a store is being copied into this one.
pub(crate) fn moving() -> Vec<u8> {
    b"mmoving".to_vec()
}

/// What is wrong with a store that has the row [`moving`].
pub(crate) const UNFINISHED_MOVE: &str =
    "a store move to this store was not finished: empty it, and move again";

pub(crate) fn inbox(due_at: Timestamp, id: EventId) -> Vec<u8> {
    Key::kind(b'i').instant(due_at).number(id.0).done()
}

pub(crate) fn inbox_until(due_at: Timestamp) -> Vec<u8> {
    Key::kind(b'i').instant(due_at.plus_ms(1)).done()
}

pub(crate) fn set_aside(id: EventId) -> Vec<u8> {
    Key::kind(b'x').number(id.0).done()
}

pub(crate) fn message_part(id: EventId, part: u64) -> Vec<u8> {
    Key::kind(b'z').number(id.0).number(part).done()
}

pub(crate) fn message_parts(id: EventId) -> Vec<u8> {
    Key::kind(b'z').number(id.0).done()
}

/// Begins with the hour of `CreateTime`, which every copy of a message has in common, so that old records
/// form a range.
pub(crate) fn seen(created_at: Timestamp, digest: &MessageDigest) -> Vec<u8> {
    let mut key = seen_from(created_at);
    key.extend(digest.0);
    key
}

pub(crate) fn seen_from(created_at: Timestamp) -> Vec<u8> {
    let hour = u32::try_from(created_at.as_millis().div_euclid(HOUR_MS)).unwrap_or(0);
    // With room for a digest.
    let mut key = Vec::with_capacity(KEY_BYTES);
    key.push(b'd');
    key.extend(hour.to_be_bytes());
    key
}

/// The records of messages without a `CreateTime`, which count as of the epoch: from the first of these keys
/// on and before the second.
pub(crate) fn seen_undated() -> (Vec<u8>, Vec<u8>) {
    (b"d".to_vec(), seen_from(Timestamp::from_millis(HOUR_MS)))
}

/// The end of the hour in the key of such a record.
pub(crate) fn end_of_seen_hour(key: &[u8]) -> Result<Timestamp, StoreError> {
    let hour = key.get(1..5).and_then(|hour| hour.try_into().ok()).map(u32::from_be_bytes);
    Ok(Timestamp::from_millis((i64::from(hour.ok_or_else(damaged)?) + 1) * HOUR_MS))
}

pub(crate) fn contact(key: &ContactKey) -> Vec<u8> {
    Key::kind(b'c').contact(key).done()
}

pub(crate) fn contacts_of(external_userid: &ExternalUserid) -> Vec<u8> {
    Key::kind(b'c').id(external_userid.as_str()).done()
}

pub(crate) fn lookup(haste: Haste, due_at: Timestamp, key: &ContactKey) -> Vec<u8> {
    Key::kind(lookups(haste)).instant(due_at).contact(key).done()
}

pub(crate) fn lookups_until(haste: Haste, due_at: Timestamp) -> Vec<u8> {
    Key::kind(lookups(haste)).instant(due_at.plus_ms(1)).done()
}

/// The kind of the keys of a queue of lookups.
pub(crate) const fn lookups(haste: Haste) -> u8 {
    match haste {
        Haste::Live => b'y',
        Haste::Background => b'w',
    }
}

/// A contact under its corp.
pub(crate) fn contact_of_corp(key: &ContactKey) -> Vec<u8> {
    Key(of_corp(b'o', &key.app, &key.corp_id)).id(key.external_userid.as_str()).done()
}

/// The key of the record of this kind about one corp.
pub(crate) fn of_corp(kind: u8, app: &AppName, corp: &CorpId) -> Vec<u8> {
    Key::kind(kind).id(app.as_str()).id(corp.as_str()).done()
}

/// The prefix of the keys of this kind about the corps of an app.
pub(crate) fn of_app(kind: u8, app: &AppName) -> Vec<u8> {
    Key::kind(kind).id(app.as_str()).done()
}

pub(crate) fn chat(app: &AppName, corp: &CorpId, chat_id: &ChatId) -> Vec<u8> {
    Key(of_corp(b'G', app, corp)).id(chat_id.as_str()).done()
}

pub(crate) fn reading(due_at: Timestamp, app: &AppName, corp: &CorpId, chat_id: &ChatId) -> Vec<u8> {
    Key::kind(b'j').instant(due_at).id(app.as_str()).id(corp.as_str()).id(chat_id.as_str()).done()
}

pub(crate) fn readings_until(due_at: Timestamp) -> Vec<u8> {
    Key::kind(b'j').instant(due_at.plus_ms(1)).done()
}

/// The key of a contact under a group.
pub(crate) fn chat_member(chat_id: &ChatId, key: &ContactKey) -> Vec<u8> {
    Key(chat_members(chat_id)).contact(key).done()
}

/// The prefix of the keys of the contacts in a group, for every app that sees it.
pub(crate) fn chat_members(chat_id: &ChatId) -> Vec<u8> {
    Key::kind(b'M').id(chat_id.as_str()).done()
}

/// The key of a record that exists once.
pub(crate) fn only(name: &str) -> Vec<u8> {
    [b"m", name.as_bytes()].concat()
}

pub(crate) fn contact_at(pending_id: &PendingId, key: &ContactKey) -> Vec<u8> {
    Key::kind(b'q').id(pending_id.as_str()).id(key.app.as_str()).contact(key).done()
}

pub(crate) fn contacts_at(pending_id: &PendingId, app: Option<&AppName>) -> Vec<u8> {
    let key = Key::kind(b'q').id(pending_id.as_str());
    app.map_or(key.clone(), |app| key.id(app.as_str())).done()
}

pub(crate) fn linked(unionid: &Unionid, key: &ContactKey) -> Vec<u8> {
    Key::kind(b'u').id(unionid.as_str()).id(key.app.as_str()).contact(key).done()
}

pub(crate) fn linked_in(unionid: &Unionid, app: &AppName) -> Vec<u8> {
    Key::kind(b'u').id(unionid.as_str()).id(app.as_str()).done()
}

pub(crate) fn linked_to(unionid: &Unionid) -> Vec<u8> {
    Key::kind(b'u').id(unionid.as_str()).done()
}

pub(crate) fn sheet(number: u32) -> Vec<u8> {
    Key::kind(b'n').sheet(number).done()
}

/// The number in the key of a sheet.
pub(crate) fn sheet_number(key: &[u8]) -> Result<u32, StoreError> {
    let number = key.get(1..).and_then(|number| number.try_into().ok());
    number.map(u32::from_be_bytes).ok_or_else(damaged)
}

pub(crate) fn fan_place(app: &AppName, step: FanStep, priority: Priority, place: QueuePosition) -> Vec<u8> {
    Key(fan_queue(app, step, priority)).instant(place.due_at).number(place.number).done()
}

pub(crate) fn fan_queue(app: &AppName, step: FanStep, priority: Priority) -> Vec<u8> {
    let mut key = Key::kind(b't').id(app.as_str());
    key.0.extend([step as u8, priority as u8]);
    key.done()
}

pub(crate) fn fan_queue_until(
    app: &AppName,
    step: FanStep,
    priority: Priority,
    due_at: Timestamp,
) -> Vec<u8> {
    Key(fan_queue(app, step, priority)).instant(due_at.plus_ms(1)).done()
}

/// When the fans in a place are due.
pub(crate) fn due_of_fan_place(key: &[u8]) -> Result<Timestamp, StoreError> {
    let mut parts = Parts::of(key);
    parts.id()?;
    let (_, rest) = parts.0.split_first_chunk::<2>().ok_or_else(damaged)?;
    Parts(rest).instant()
}

/// The same place with its fans due at another instant.
pub(crate) fn fan_place_at(key: &[u8], due_at: Timestamp) -> Result<Vec<u8>, StoreError> {
    let (queue, position) = key.split_last_chunk::<16>().ok_or_else(damaged)?;
    let number = Parts(&position[8..]).number()?;
    Ok(Key(queue.to_vec()).instant(due_at).number(number).done())
}

pub(crate) fn review(app: &AppName, due_at: Timestamp, number: u64) -> Vec<u8> {
    Key(reviews(app)).instant(due_at).number(number).done()
}

pub(crate) fn reviews(app: &AppName) -> Vec<u8> {
    Key::kind(b'r').id(app.as_str()).done()
}

pub(crate) fn reviews_until(app: &AppName, due_at: Timestamp) -> Vec<u8> {
    Key(reviews(app)).instant(due_at.plus_ms(1)).done()
}

pub(crate) fn books(app: &AppName) -> Vec<u8> {
    Key::kind(b'l').id(app.as_str()).done()
}

pub(in crate::store) fn feed(seq: u64) -> Vec<u8> {
    Key::kind(b'f').number(seq).done()
}

pub(crate) fn ledger(account: &str, api: &str) -> Vec<u8> {
    Key::kind(b'g').id(account).id(api).done()
}

pub(crate) fn dealer(app: &AppName, corp: &CorpId) -> Vec<u8> {
    of_corp(b'h', app, corp)
}

pub(crate) fn cursor(sink: &SinkName) -> Vec<u8> {
    Key::kind(b's').id(sink.as_str()).done()
}

pub(crate) fn forgotten(hash: [u8; 16]) -> Vec<u8> {
    [b"e", hash.as_slice()].concat()
}

pub(crate) fn receipt(id: ReceiptId) -> Vec<u8> {
    [b"p", id.0.as_slice()].concat()
}

/// The counts of the hour that begins at this instant.
pub(crate) fn hour(begins_at: Timestamp) -> Vec<u8> {
    Key::kind(b'H').instant(begins_at).done()
}

pub(crate) fn url_marks(name: &AppName) -> Vec<u8> {
    Key::kind(b'U').id(name.as_str()).done()
}

pub(crate) fn sink_failures(sink: &SinkName) -> Vec<u8> {
    Key::kind(b'F').id(sink.as_str()).done()
}

pub(crate) fn audit_entry(number: u64) -> Vec<u8> {
    Key::kind(b'D').number(number).done()
}

pub(crate) fn to_forget(unionid: &Unionid) -> Vec<u8> {
    Key::kind(b'k').id(unionid.as_str()).done()
}

pub(crate) fn ticket(suite: &AppName) -> Vec<u8> {
    of_app(b'S', suite)
}

pub(crate) fn exchange(suite: &AppName, id: &CodeId) -> Vec<u8> {
    let mut key = exchanges(suite);
    key.extend(id.0);
    key
}

pub(crate) fn exchanges(suite: &AppName) -> Vec<u8> {
    of_app(b'E', suite)
}

/// The code id in the key of an exchange.
pub(crate) fn code_id(key: &[u8]) -> Result<CodeId, StoreError> {
    let mut parts = Parts::of(key);
    parts.app()?;
    parts.0.try_into().map(CodeId).map_err(|_| damaged())
}

pub(crate) fn authorization(suite: &AppName, corp: &CorpId) -> Vec<u8> {
    of_corp(b'P', suite, corp)
}

pub(crate) fn binding(app: &AppName) -> Vec<u8> {
    of_app(b'B', app)
}

/// The number in the key of a feed entry, an entry of the audit trail, or an event that is set aside.
pub(crate) fn number(key: &[u8]) -> Result<u64, StoreError> {
    Parts::of(key).number()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_comes_right_after_its_last_key() {
        assert_eq!(after(b"ab"), b"ac");
        assert_eq!(after(&[b'a', 255]), b"b");
        assert!(after(&[255]).as_slice() > [255_u8, 255].as_slice());
    }

    #[test]
    fn queues_sort_by_time_and_keys_read_back() {
        let early = inbox(Timestamp::from_secs(1), EventId(9));
        let late = inbox(Timestamp::from_secs(2), EventId(1));
        assert!(
            early < late
                && early < inbox_until(Timestamp::from_secs(1))
                && late > inbox_until(Timestamp::from_secs(1))
        );
        let key = ContactKey {
            app: AppName::new("brand").unwrap(),
            corp_id: CorpId::new("wpDEALER").unwrap(),
            external_userid: ExternalUserid::new("wmX").unwrap(),
        };
        let bytes = lookup(Haste::Background, Timestamp::from_secs(5), &key);
        let mut parts = Parts::of(&bytes);
        assert_eq!(parts.instant().unwrap(), Timestamp::from_secs(5));
        assert_eq!(parts.contact().unwrap(), key);
    }
}
