//! Transactions on contacts: their records, what events and lists say of them, and the queues of their
//! lookups. The pure rules are in [`crate::domain::contact`] and [`crate::domain::lookup`].
//!
//! Deliberately absent: the outcomes of lookups (see `work`), and links to fans (see `links`).

use super::{chat_members, dealers, feed, forgotten, tasks};
use crate::domain::contact::{CHATS_MAX, Contact, ContactVersion1};
use crate::domain::ids::ContactKey;
use crate::domain::link::{ChangeType, Source};
use crate::domain::lookup::{Haste, Lookup};
use crate::domain::sighting::{Sighting, SightingPlace};
use crate::domain::time::Timestamp;
use crate::store::rows::keys;
use crate::store::rows::records::Record;
use crate::store::rows::txn::Txn;
use crate::store::{PageFound, StoreError};

impl Record for Contact {
    const VERSION: u8 = 2;

    fn of_version(version: u8, body: &[u8]) -> Option<Result<Self, postcard::Error>> {
        (version == 1).then(|| postcard::from_bytes::<ContactVersion1>(body).map(Self::from))
    }
}

/// The list in which a customer was found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FoundBy {
    /// When the list was read.
    pub(crate) read_at: Timestamp,
    /// The source of a customer who was not known before.
    pub(crate) source: Source,
    /// How soon a lookup is made.
    pub(crate) haste: Haste,
    /// The number of the reconcile task that waits for the lookup.
    pub(crate) task: Option<u64>,
}

/// The record of a customer; `None` if the customer is not known.
pub(crate) fn read(txn: &Txn<'_>, key: &ContactKey) -> Result<Option<Contact>, StoreError> {
    txn.get(&keys::contact(key))
}

/// Changes a contact, which is created if it is not known, and appends the change that `change` returns to
/// the feed. Returns that change.
pub(crate) fn update(
    txn: &mut Txn<'_>,
    key: &ContactKey,
    now: Timestamp,
    change: impl FnOnce(&mut Txn<'_>, &mut Contact) -> Result<Option<ChangeType>, StoreError>,
) -> Result<Option<ChangeType>, StoreError> {
    let known = read(txn, key)?;
    if known.is_none() {
        count_new(txn, key)?;
    }
    let mut contact = known.unwrap_or_else(|| Contact::new(Source::Callback, now));
    let news = change(txn, &mut contact)?;
    if let Some(news) = news {
        feed::append_change(txn, key, &contact, news, now)?;
    }
    contact.drop_expired_welcome_code(now);
    txn.put(keys::contact(key), &contact)?;
    Ok(news)
}

fn count_new(txn: &mut Txn<'_>, key: &ContactKey) -> Result<(), StoreError> {
    txn.counts().contacts += 1;
    txn.mark(keys::contact_of_corp(key));
    dealers::count(txn, key, |counts| counts.customers += 1)
}

/// Applies a row of one of WeCom's lists. Queues a lookup if the customer was never looked up, was refused
/// for the last time, or has joined a group or become a member's customer since.
pub(crate) fn see(
    txn: &mut Txn<'_>,
    key: &ContactKey,
    sighting: &Sighting,
    list: FoundBy,
) -> Result<PageFound, StoreError> {
    let now = list.read_at;
    let known = match read(txn, key) {
        // The other rows of the list are still applied.
        Err(StoreError::Damaged(reason)) => {
            tracing::error!(reason, "a customer whose record is damaged is left alone");
            return Ok(PageFound::default());
        }
        known => known?,
    };
    let since = sighting.since.unwrap_or(now);
    // `contact_list` has the time of the first add: it confirms a member who has added the customer again
    // since the erasure, which has left no record of anybody.
    let is_confirmed = || known.as_ref().is_some_and(|contact| contact.knows_follower(&sighting.place));
    if forgotten::is_back(txn, &key.external_userid, since)? && !is_confirmed() {
        return Ok(PageFound::default());
    }
    let is_new = known.is_none();
    if is_new {
        count_new(txn, key)?;
    }
    let before = known.clone();
    let mut contact = known.unwrap_or_else(|| {
        let mut new = Contact::new(list.source, now);
        new.found_in = match &sighting.place {
            SightingPlace::Chat(chat_id) => Some(chat_id.clone()),
            SightingPlace::Follower { .. } => None,
        };
        new
    });
    let chats = before.as_ref().map_or(&[][..], Contact::chats);
    let news = contact.see(sighting, now);
    chat_members::follow(txn, key, chats, contact.chats());
    // A comparison lists every group of a customer in more than CHATS_MAX of them, and each takes another's
    // place: none of these is news.
    let is_full = list.source == Source::Reconcile && chats.len() >= CHATS_MAX;
    let has_joined = !is_full && contact.chats().iter().any(|chat_id| !chats.contains(chat_id));
    let has_follower_now = |contact: &Contact| !contact.followers_now().is_empty();
    let is_followed = has_follower_now(&contact) && !before.as_ref().is_some_and(has_follower_now);
    let lookup = match contact.lookup {
        _ if contact.is_identified() => None,
        // Never looked up; or refused to the end of the schedule, but WeCom still lists the customer.
        None | Some(Lookup { due_at: None, refused: Some(_), .. }) => {
            Some(Lookup { task: list.task, ..Lookup::first(list.haste, now) })
        }
        // The group, or the first follower, is another way to look the customer up.
        Some(lookup) if has_joined || is_followed => Some(Lookup {
            due_at: Some(lookup.due_at.map_or(now, |due_at| due_at.min(now))),
            haste: lookup.haste.min(list.haste),
            // As after an add, WeCom may need time: the schedule begins again.
            asked: if list.haste == Haste::Live { lookup.asked.min(1) } else { lookup.asked },
            task: list.task,
            through_chat: has_joined,
            ..lookup
        }),
        Some(_) => None,
    };
    if let Some(lookup) = lookup {
        set_lookup(txn, key, &mut contact, Some(lookup))?;
    }
    if let Some(news) = news {
        feed::append_change(txn, key, &contact, news, now)?;
    }
    if before.as_ref() != Some(&contact) {
        txn.put(keys::contact(key), &contact)?;
    }
    Ok(PageFound { new: is_new.into(), queued: lookup.is_some().into() })
}

/// Changes the followers of a customer, if the customer is known.
pub(crate) fn change_followers(
    txn: &mut Txn<'_>,
    key: &ContactKey,
    now: Timestamp,
    change: impl FnOnce(&mut Contact) -> Option<ChangeType>,
) -> Result<(), StoreError> {
    let Some(mut contact) = read(txn, key)? else { return Ok(()) };
    if let Some(news) = change(&mut contact) {
        feed::append_change(txn, key, &contact, news, now)?;
    }
    txn.put(keys::contact(key), &contact)
}

/// Makes the lookup of a customer without a pending id due at `now`, if WeCom refused the last one; with
/// `all`, whether it did or not. Returns whether the lookup was moved.
pub(crate) fn look_up_again(
    txn: &mut Txn<'_>,
    key: &ContactKey,
    all: bool,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let Some(mut contact) = read(txn, key)? else { return Ok(false) };
    let never_queued = || (all && contact.can_be_looked_up()).then(|| Lookup::first(Haste::Background, now));
    let lookup = match contact.lookup {
        None => never_queued(),
        Some(lookup) => Some(lookup).filter(|lookup| {
            (all || lookup.refused.is_some()) && lookup.due_at.is_none_or(|due_at| now < due_at)
        }),
    };
    let Some(lookup) = lookup.filter(|_| !contact.is_identified()) else { return Ok(false) };
    set_lookup(txn, key, &mut contact, Some(Lookup { due_at: Some(now), ..lookup }))?;
    txn.put(keys::contact(key), &contact)?;
    Ok(true)
}

/// Sets the lookup of a customer, in `contact`, in the queues and in the counters. `None` ends the lookups.
/// The caller stores `contact`.
pub(crate) fn set_lookup(
    txn: &mut Txn<'_>,
    key: &ContactKey,
    contact: &mut Contact,
    lookup: Option<Lookup>,
) -> Result<(), StoreError> {
    let place = |lookup: Lookup| Some(keys::lookup(lookup.haste, lookup.due_at?, key));
    let before = std::mem::replace(&mut contact.lookup, lookup);
    if let Some(place) = before.and_then(place) {
        txn.delete(place);
    }
    if let Some(place) = lookup.and_then(place) {
        txn.mark(place);
    }
    let is_waiting = |lookup: Option<Lookup>| lookup.is_some_and(Lookup::is_waiting);
    match (is_waiting(before), is_waiting(lookup)) {
        (false, true) => txn.counts().waiting += 1,
        (true, false) => txn.discount(|counts| &mut counts.waiting),
        (false, false) | (true, true) => {}
    }
    let [before, after] = [before, lookup].map(|lookup| lookup.and_then(|lookup| lookup.task));
    if before == after {
        return Ok(());
    }
    tasks::count_unresolved(txn, key, before, |unresolved| unresolved.saturating_sub(1))?;
    tasks::count_unresolved(txn, key, after, |unresolved| unresolved + 1)
}
