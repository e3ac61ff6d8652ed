//! Checks that the records, indexes, queues and counters of a store agree: for the simulation, after each
//! run.
//!
//! Reads the whole store, so the store has to be small and no transaction may run.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::authorization::Authorization;
use crate::domain::chat::Chat;
use crate::domain::contact::Contact;
use crate::domain::dealer_activity::DealerCounts;
use crate::domain::fan::{FanStep, Priority};
use crate::domain::ids::{AppName, ContactKey, CorpId};
use crate::domain::lookup::{Haste, Lookup};
use crate::domain::reconcile::ReconcileTask;
use crate::domain::suite::{Exchange, Ticket};
use crate::domain::tally::Tally;
use crate::domain::time::Timestamp;
use crate::store::business::inbox::SetAside;
use crate::store::business::queues::{Books, Waiting};
use crate::store::business::roll::{self, Entry};
use crate::store::business::trail;
use crate::store::rows::clue::Clue;
use crate::store::rows::ids::{FanNumber, PackedId};
use crate::store::rows::keys;
use crate::store::rows::records::{Record, decode};
use crate::store::rows::view::{Read, View};
use crate::store::{Counts, StoreError};

/// An upper bound of the sheets of any store that is audited.
const FANS_MAX: u32 = 1 << 20;

/// A check under way, and the disagreements found so far, as text.
struct Audit<'a> {
    view: &'a View<'a>,
    known: Counts,
    complaints: Vec<String>,
}

/// The disagreements in a store with these counters, as text; empty if there are none.
pub(crate) fn complaints(view: &View<'_>, known: Counts) -> Result<Vec<String>, StoreError> {
    let mut audit = Audit { view, known, complaints: Vec::new() };
    let counted = audit.contacts()?;
    audit.groups()?;
    let counted = audit.events(counted)?;
    audit.feed()?;
    audit.fans()?;
    audit.suites()?;
    audit.trail()?;
    let Counts { feed_head, feed_pruned, event_head, made, .. } = known;
    let expected = Counts { feed_head, feed_pruned, event_head, made, ..counted };
    audit.expect(known == expected, || format!("counted {expected:?}, noted {known:?}"));
    Ok(audit.complaints)
}

impl Audit<'_> {
    fn expect(&mut self, agrees: bool, complaint: impl FnOnce() -> String) {
        if !agrees {
            self.complaints.push(complaint());
        }
    }

    fn keys(&self, kind: &[u8]) -> Result<BTreeSet<Vec<u8>>, StoreError> {
        Ok(self.view.under(kind, usize::MAX >> 1)?.into_iter().collect())
    }

    /// The records of a kind, with their keys.
    fn records<R: Record>(&self, kind: &[u8]) -> Result<Vec<(Vec<u8>, R)>, StoreError> {
        let record = |key: &[u8], value: &[u8]| Ok(Some((key.to_vec(), decode(key, value)?)));
        self.view.rows(kind, &keys::after(kind), usize::MAX, record)
    }

    /// Checks contacts against every index of them. Returns their counts.
    fn contacts(&mut self) -> Result<Counts, StoreError> {
        let (mut linked, mut met, mut of_corps) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let (mut live, mut background, mut in_chats) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let (mut contacts, mut waiting) = (0, 0);
        let (mut of_dealers, mut unresolved) = (BTreeMap::new(), BTreeMap::new());
        for (key, contact) in self.records::<Contact>(b"c")? {
            let contact_key = keys::Parts::of(&key).contact()?;
            contacts += 1;
            linked.extend(contact.link.iter().map(|link| keys::linked(&link.unionid, &contact_key)));
            let ids = contact.pending_id.iter().chain(&contact.earlier_pending_ids);
            met.extend(ids.map(|id| keys::contact_at(id, &contact_key)));
            let ContactKey { app, corp_id, .. } = &contact_key;
            let counts: &mut DealerCounts = of_dealers.entry(keys::of_corp(b'b', app, corp_id)).or_default();
            counts.customers += 1;
            counts.links += u64::from(contact.link.is_some());
            if let Some(task) = contact.lookup.and_then(|lookup| lookup.task) {
                *unresolved.entry((keys::of_corp(b'T', app, corp_id), task)).or_default() += 1;
            }
            of_corps.insert(keys::contact_of_corp(&contact_key));
            in_chats.extend(contact.chats().iter().map(|chat_id| keys::chat_member(chat_id, &contact_key)));
            waiting += u64::from(contact.lookup.is_some_and(Lookup::is_waiting));
            if let Some(Lookup { haste, due_at: Some(at), .. }) = contact.lookup {
                let queue = if haste == Haste::Live { &mut live } else { &mut background };
                queue.insert(keys::lookup(haste, at, &contact_key));
            }
        }
        let queues = [(b"w", &background), (b"y", &live)];
        let indexes = [(b"u", &linked), (b"q", &met), (b"o", &of_corps), (b"M", &in_chats)];
        for (kind, expected) in queues.into_iter().chain(indexes) {
            self.expect_keys(kind, expected)?;
        }
        self.dealers(of_dealers)?;
        self.tasks(&unresolved)?;
        let links = linked.len() as u64;
        Ok(Counts { contacts, waiting, links, ..Counts::default() })
    }

    fn expect_keys(&mut self, kind: &[u8], expected: &BTreeSet<Vec<u8>>) -> Result<(), StoreError> {
        let there = self.keys(kind)?;
        let (amiss, missing) = (there.difference(expected).count(), expected.difference(&there).count());
        self.expect(amiss + missing == 0, || {
            format!("of kind {:?} {amiss} lead nowhere, {missing} are missing", char::from(kind[0]))
        });
        Ok(())
    }

    /// Checks that the audit trail has no gap and ends with the newest entry.
    fn trail(&mut self) -> Result<(), StoreError> {
        let numbers = self.keys(b"D")?.iter().map(|key| keys::number(key)).collect::<Result<Vec<_>, _>>()?;
        let has_gap = numbers.windows(2).any(|pair| pair[0] + 1 != pair[1]);
        let head = trail::head(self.view)?;
        self.expect(!has_gap && numbers.last().is_none_or(|last| *last == head), || {
            format!("the audit trail is {numbers:?}, its head {head}")
        });
        Ok(())
    }

    /// Checks the numbers of customers and links of each dealer. A dealer that has neither may have a record.
    fn dealers(&mut self, mut counted: BTreeMap<Vec<u8>, DealerCounts>) -> Result<(), StoreError> {
        for (key, noted) in self.records::<DealerCounts>(b"b")? {
            let counted = counted.remove(&key).unwrap_or_default();
            self.expect(noted == counted, || format!("of a dealer, counted {counted:?}, noted {noted:?}"));
        }
        self.expect(counted.is_empty(), || format!("the counts of {} dealers are missing", counted.len()));
        Ok(())
    }

    /// Checks how many lookups the comparison of each dealer waits for.
    fn tasks(&mut self, unresolved: &BTreeMap<(Vec<u8>, u64), u64>) -> Result<(), StoreError> {
        for (key, task) in self.records::<ReconcileTask>(b"T")? {
            let waiting = unresolved.get(&(key, task.number)).copied().unwrap_or_default();
            self.expect(task.unresolved == waiting, || {
                format!("a comparison waits for {} lookups, and there are {waiting}", task.unresolved)
            });
        }
        Ok(())
    }

    /// Checks the queue of readings against the groups.
    fn groups(&mut self) -> Result<(), StoreError> {
        let mut due = BTreeSet::new();
        for (key, chat) in self.records::<Chat>(b"G")? {
            let mut parts = keys::Parts::of(&key);
            let ((app, corp_id), chat_id) = (parts.corp()?, parts.chat_id()?);
            due.extend(chat.reading.map(|reading| keys::reading(reading.due_at, &app, &corp_id, &chat_id)));
        }
        self.expect_keys(b"j", &due)
    }

    fn events(&mut self, counted: Counts) -> Result<Counts, StoreError> {
        let (mut dead, mut quarantined) = (0, 0);
        for (_, aside) in self.records(b"x")? {
            match aside {
                SetAside::Quarantined(_) => quarantined += 1,
                SetAside::Dead { .. } => dead += 1,
            }
        }
        Ok(Counts { inbox: self.keys(b"i")?.len() as u64, dead, quarantined, ..counted })
    }

    fn feed(&mut self) -> Result<(), StoreError> {
        let Counts { feed_head, feed_pruned, .. } = self.known;
        let there: Vec<_> = self.keys(b"f")?.iter().map(|key| keys::number(key)).collect::<Result<_, _>>()?;
        let expected = feed_pruned + 1..=feed_head;
        self.expect(there.iter().copied().eq(expected.clone()), || {
            format!("the feed should hold {expected:?}, and holds {there:?}")
        });
        Ok(())
    }

    /// Checks that every record of a suite can be read, and that its key agrees with it.
    fn suites(&mut self) -> Result<(), StoreError> {
        for (key, _) in self.records::<CorpId>(b"B")? {
            keys::Parts::of(&key).app()?;
        }
        for (key, exchange) in self.records::<Exchange>(b"E")? {
            let id = keys::code_id(&key)?;
            self.expect(exchange.answered <= exchange.asked, || format!("exchange {id} has more answers"));
        }
        for (key, authorization) in self.records::<Authorization>(b"P")? {
            let (_, corp_id) = keys::Parts::of(&key).corp()?;
            self.expect(authorization.corp_id == corp_id, || format!("{corp_id} has another's record"));
        }
        self.records::<Ticket>(b"S").map(drop)
    }

    /// Checks that every fan is found by its ids, counted, in the queue in which it waits, and on the
    /// timeline.
    fn fans(&mut self) -> Result<(), StoreError> {
        let mut tallies: BTreeMap<AppName, Tally> = BTreeMap::new();
        let queues: Vec<_> = FanStep::ALL
            .into_iter()
            .flat_map(|step| Priority::ALL.map(|priority| (step, priority)))
            .collect();
        let sheets = u32::try_from(self.keys(b"n")?.len()).unwrap_or(FANS_MAX);
        for number in (0..FanNumber::first_on(sheets).0).map(FanNumber) {
            let Some(Entry { key, fan, .. }) = roll::fan_at(self.view, number)? else { continue };
            tallies.entry(key.app.clone()).or_default().replace(None, Some(&fan));
            let unionid = PackedId::of(key.unionid.as_str());
            let found = self.view.candidates(&Clue::unionid(unionid.borrowed()))?.contains(&number);
            self.expect(found, || format!("fan {} is not found by unionid", number.0));
            for minted in &fan.ids {
                let id = PackedId::of(minted.pending_id.as_str());
                let found = self.view.candidates(&Clue::pending_id(id.borrowed()))?.contains(&number);
                self.expect(found, || format!("fan {} is not found by a pending id", number.0));
            }
            for (step, priority) in &queues {
                if fan.queued_for(*step) == Some(*priority) {
                    let queue = keys::fan_queue(&key.app, *step, *priority);
                    let waits = self.listed(&queue, number, Timestamp::EPOCH)?;
                    self.expect(waits, || {
                        format!("fan {} is in no place of {step:?}, {priority:?}", number.0)
                    });
                }
            }
            if let Some(at) = fan.review_at() {
                let on_timeline = self.listed(&keys::reviews(&key.app), number, at)?;
                self.expect(on_timeline, || format!("fan {} is not on the timeline at {at}", number.0));
            }
        }
        for (app, tally) in tallies {
            let key = keys::books(&app);
            let books = self.view.read::<Books>(&key)?.unwrap_or_default();
            self.expect(books.tally == tally, || format!("tallied {tally:?}, noted {:?}", books.tally));
        }
        Ok(())
    }

    /// Whether a fan is in one of the records under `prefix` that are due at `from` or later.
    fn listed(&self, prefix: &[u8], number: FanNumber, from: Timestamp) -> Result<bool, StoreError> {
        for row in self.view.range(prefix, &keys::after(prefix)) {
            let (key, value) = row?;
            let due_at = keys::Parts(&key[prefix.len()..]).instant()?;
            if due_at >= from && decode::<Waiting>(&key, &value)?.0.contains(&number) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::chat::{ChatChange, ChatEvent};
    use crate::domain::ids::{ChatId, ExternalUserid};
    use crate::domain::sighting::{Sighting, SightingPlace};
    use crate::store::embedded::engine::Memory;
    use crate::store::embedded::{EmbeddedStore, Settings};
    use crate::store::rows::records::encode;
    use crate::store::{Arrival, MessageDigest, Payload, Reconciling as _, Store as _};

    #[tokio::test]
    async fn a_wrong_reading_number_of_customers_or_of_lookups_is_noticed() {
        let store = EmbeddedStore::in_memory(Memory::default(), Settings::default()).unwrap();
        let (app, corp_id) = (AppName::new("brand").unwrap(), CorpId::new("wpDEALER").unwrap());
        let (chat_id, now) = (ChatId::new("wrCHAT").unwrap(), Timestamp::from_secs(1_795_309_323));
        let change = ChatChange::Created;
        let event = ChatEvent { corp_id: corp_id.clone(), created_at: now, chat_id: chat_id.clone(), change };
        let digest = MessageDigest::of(&app, b"created");
        let payload = Payload::Chat(event);
        store.append(Arrival { app: app.clone(), digest, received_at: now, payload }).await.unwrap();
        store.begin_reconcile(vec![(app.clone(), corp_id.clone())], now).await.unwrap();
        let external_userid = ExternalUserid::new("wmCUSTOMER").unwrap();
        let row = Sighting { external_userid, place: SightingPlace::Chat(chat_id), since: None };
        store.page_read(&app, &corp_id, vec![row], ReconcileTask::new(), now).await.unwrap();
        assert_eq!(store.audit(), Ok(vec![]));
        let [counts, task] = [b'b', b'T'].map(|kind| keys::of_corp(kind, &app, &corp_id));
        let reading = store.keys_of(b'j').remove(0);
        let wrong_counts = encode(&counts, &DealerCounts { customers: 2, links: 0 }).unwrap();
        let wrong_task = encode(&task, &ReconcileTask { number: 1, ..ReconcileTask::new() }).unwrap();
        for (key, wrong) in
            [(counts.clone(), Some(wrong_counts)), (counts, None), (task, Some(wrong_task)), (reading, None)]
        {
            let right = store.view().get(&key).unwrap();
            store.overwrite(&key, wrong);
            assert_eq!(store.audit().unwrap().len(), 1);
            store.overwrite(&key, right);
        }
        assert_eq!(store.audit(), Ok(vec![]));
    }
}
