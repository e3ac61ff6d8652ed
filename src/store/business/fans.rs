//! Transactions on the brand's side: registering fans, the outcomes of calls for them, and what becomes due
//! as time passes.

use super::queues::{OpenBooks, Strays, Waiting, leave};
use super::roll::{self, Entry};
use super::{forgotten, links};
use crate::domain::fan::{Existing, Fan, FanStep, Minted, Renew};
use crate::domain::ids::{AppName, ContactKey, FanKey};
use crate::domain::join::FanSide;
use crate::domain::link::{Claim, Source};
use crate::domain::time::Timestamp;
use crate::store::rows::ids::FanNumber;
use crate::store::rows::keys;
use crate::store::rows::txn::Txn;
use crate::store::rows::view::View;
use crate::store::{FanOutcome, FanWork, NewFan, Registered, StoreError};

/// Registers fans of one app. The results are in the same order. With a `shared_clock`, `now` is before a
/// commit of another replica only if that came later.
pub(crate) fn register(
    txn: &mut Txn<'_>,
    app: &AppName,
    fans: &[NewFan],
    now: Timestamp,
    shared_clock: bool,
) -> Result<Vec<Registered>, StoreError> {
    let mut books = OpenBooks::open(txn, app, now)?;
    let mut registered = Vec::with_capacity(fans.len());
    let erased_since = shared_clock && txn.meta.forgotten_at.is_some_and(|at| now <= at);
    for new in fans {
        if erased_since && forgotten::forgotten_since(txn, &new.key.unionid, now)? {
            registered.push(Registered::Forgotten);
            continue;
        }
        registered.push(match register_one(txn, &mut books, new, now) {
            // The record of this fan cannot be read; the others are still registered.
            Err(StoreError::Damaged(_)) => {
                books.leave_sheet();
                Registered::Damaged
            }
            other => other?,
        });
    }
    books.close(txn)?;
    Ok(registered)
}

fn register_one(
    txn: &mut Txn<'_>,
    books: &mut OpenBooks,
    new: &NewFan,
    now: Timestamp,
) -> Result<Registered, StoreError> {
    let known = roll::fan(txn, &new.key)?;
    let (number, before) = match known {
        Some(Entry { number, fan, .. }) => (number, Some(fan)),
        None => (books.next_number(txn), None),
    };
    // Not before anybody was forgotten, even if the clock was set back since.
    let registered_at = txn.meta.forgotten_at.map_or(now, |at| at.max(now));
    let mut fan = before
        .clone()
        .unwrap_or_else(|| Fan::new(new.openid.clone(), registered_at, new.ask_existing, new.priority));
    let mut changed = fan.register_again(&new.openid, new.priority, new.retry_rejected);
    // Someone was forgotten since the fan was registered: perhaps this person, as a customer who was not
    // known to be this fan. The new registration makes them a fan again.
    if before.is_some() && txn.meta.forgotten_at.is_some_and(|at| fan.registered_at < at) {
        fan.registered_at = registered_at;
        for minted in &fan.ids {
            arrive(txn, &new.key, minted, registered_at, now)?;
        }
    }
    if txn.meta.forgotten_at.is_some() && txn.has(&keys::to_forget(&new.key.unionid))? {
        txn.delete(keys::to_forget(&new.key.unionid));
    }
    if let Some(minted) = new.minted.clone()
        && fan.adopt(minted.clone(), now)
    {
        changed = true;
        // A person who was forgotten before this registration may be linked again.
        arrive(txn, &new.key, &minted, registered_at, now)?;
    }
    if before.as_ref() != Some(&fan) {
        roll::write(txn, number, &new.key, before.as_ref(), &fan)?;
        books.replace(number, before.as_ref(), &fan, None);
    }
    Ok(match (before, changed) {
        (None, _) => Registered::New,
        (Some(_), true) => Registered::Changed,
        (Some(_), false) => Registered::Known,
    })
}

/// Joins a fan's pending id with the contacts that have the same one. Returns true if one of them was
/// forgotten since the fan was registered: see [`links::fan_arrives`].
fn arrive(
    txn: &mut Txn<'_>,
    key: &FanKey,
    minted: &Minted,
    registered_at: Timestamp,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let arriving = FanSide { minted_at: minted.minted_at, unionid: key.unionid.clone() };
    links::fan_arrives(txn, &key.app, &minted.pending_id, arriving, registered_at, now)
}

/// Applies the outcome of one call for a fan.
pub(crate) fn settle(
    txn: &mut Txn<'_>,
    work: &FanWork,
    outcome: FanOutcome,
    now: Timestamp,
) -> Result<(), StoreError> {
    // A fan with another number is another registration: the leased one was forgotten in the meantime.
    let known = roll::fan(txn, &work.key)?.filter(|entry| entry.number.0 == work.number);
    let Some(Entry { number, fan: before, .. }) = known else { return Ok(()) };
    let place = keys::fan_place(&work.key.app, work.step, work.priority, work.position);
    let stays = matches!(outcome, FanOutcome::Retry { due_at, .. } if due_at == work.position.due_at);
    let was_there = if stays { txn.has(&place)? } else { leave(txn, place, &[number])? };
    let mut fan = before.clone();
    // Settled before, by a lease from before a restart; or the call is no longer wanted.
    if !was_there || before.queued_for(work.step).is_none() {
        // The pending id that WeCom returned is valid nevertheless, and a dealer's customer may have it.
        if let FanOutcome::Minted { minted, .. } = outcome
            && fan.adopt(minted.clone(), now)
        {
            if arrive(txn, &work.key, &minted, fan.registered_at, now)? {
                return forgotten::found_out(txn, &work.key, now);
            }
            let mut books = OpenBooks::open(txn, &work.key.app, now)?;
            roll::write(txn, number, &work.key, Some(&before), &fan)?;
            books.replace(number, Some(&before), &fan, None);
            books.close(txn)?;
        }
        return Ok(());
    }
    let mut again = None;
    match (outcome, work.step) {
        (FanOutcome::Retry { due_at, spent }, step) => {
            fan.attempts += u32::from(spent);
            again = (!stays && before.queued_for(step) == Some(work.priority)).then_some((step, due_at));
        }
        (FanOutcome::Minted { minted, same_id_extends }, _) => {
            if arrive(txn, &work.key, &minted, fan.registered_at, now)? {
                return forgotten::found_out(txn, &work.key, now);
            }
            fan.minted(minted, same_id_extends);
            txn.counts().made.minted += 1;
        }
        (FanOutcome::Existing(found), step) => {
            fan.attempts = 0;
            if fan.newest() == work.fan.newest() {
                fan.existing =
                    Existing::Asked { at: now, found: u32::try_from(found.len()).unwrap_or(u32::MAX) };
            } else {
                // Another pending id was stored in the meantime, perhaps after WeCom's answer.
                again = Some((step, now));
            }
            for (_, customer) in &found {
                if forgotten::stands_between(txn, customer, fan.registered_at)? {
                    return forgotten::found_out(txn, &work.key, now);
                }
            }
            for (corp_id, external_userid) in found {
                let claim = Claim {
                    contact: ContactKey { app: work.key.app.clone(), corp_id, external_userid },
                    unionid: work.key.unionid.clone(),
                    pending_id: None,
                    source: Some(Source::Existing),
                    evidence_at: now,
                };
                match links::settle_claim(txn, &claim, now) {
                    // The other customers are still linked.
                    Err(StoreError::Damaged(reason)) => {
                        tracing::error!(reason, "a customer cannot be linked");
                    }
                    settled => settled?,
                }
            }
        }
        // WeCom refused an openid that was replaced in the meantime; the new one is tried.
        (FanOutcome::Rejected { .. }, step) if fan.openid != work.fan.openid => {
            fan.attempts = 0;
            again = Some((step, now));
        }
        (FanOutcome::Rejected { errcode }, FanStep::Mint) => fan.rejected(errcode, now),
        (FanOutcome::Rejected { errcode }, FanStep::AskExisting) => {
            fan.attempts = 0;
            fan.existing = Existing::Refused { errcode, at: now };
        }
    }
    let mut books = OpenBooks::open(txn, &work.key.app, now)?;
    roll::write(txn, number, &work.key, Some(&before), &fan)?;
    books.replace(number, Some(&before), &fan, again);
    books.close(txn)
}

/// Removes strays from their place, except fans that have been queued there since they were found.
pub(crate) fn remove_strays(txn: &mut Txn<'_>, strays: Strays) -> Result<(), StoreError> {
    let Strays { place, step, priority, numbers } = strays;
    let mut leaving = Vec::with_capacity(numbers.len());
    for number in numbers {
        let waits = match roll::fan_at(txn, number) {
            // Perhaps; a lease skips it.
            Err(StoreError::Damaged(_)) => true,
            found => found?.is_some_and(|entry| entry.fan.queued_for(step) == Some(priority)),
        };
        leaving.extend((!waits).then_some(number));
    }
    leave(txn, place, &leaving).map(drop)
}

/// Makes the fans in a place due `by_ms` later, or earlier if that is negative.
pub(crate) fn move_place(txn: &mut Txn<'_>, place: &[u8], by_ms: i64) -> Result<(), StoreError> {
    let Some(waiting) = txn.get::<Waiting>(place)? else { return Ok(()) };
    let due_at = keys::due_of_fan_place(place)?.plus_ms(by_ms);
    txn.delete(place.to_vec());
    txn.put(keys::fan_place_at(place, due_at)?, &waiting)
}

/// The first record of the timeline of an app that is due at `now` and not damaged.
pub(crate) fn first_review(
    view: &View<'_>,
    app: &AppName,
    now: Timestamp,
) -> Result<Option<Vec<u8>>, StoreError> {
    let first = view.rows(&keys::reviews(app), &keys::reviews_until(app, now), 1, |key, _| {
        Ok((!view.is_damaged(key)).then(|| key.to_vec()))
    })?;
    Ok(first.into_iter().next())
}

/// Reviews the fans of one record of the timeline. Returns their number.
pub(crate) fn review(
    txn: &mut Txn<'_>,
    app: &AppName,
    key: Vec<u8>,
    renew: Renew,
    now: Timestamp,
) -> Result<usize, StoreError> {
    let Some(Waiting(due)) = txn.get::<Waiting>(&key)? else { return Ok(0) };
    leave(txn, key, &due)?;
    let mut books = OpenBooks::open(txn, app, now)?;
    for number in &due {
        match review_one(txn, &mut books, *number, renew, now) {
            Err(StoreError::Damaged(reason)) => tracing::error!(reason, "a fan cannot be reviewed"),
            done => done?,
        }
    }
    books.close(txn)?;
    Ok(due.len())
}

fn review_one(
    txn: &mut Txn<'_>,
    books: &mut OpenBooks,
    number: FanNumber,
    renew: Renew,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Some(Entry { key, fan: before, .. }) = roll::fan_at(txn, number)? else { return Ok(()) };
    // Otherwise the fan has changed since, and is on the timeline at another instant.
    if before.review_at().is_some_and(|at| at <= now) {
        let linked = !txn.keys(&keys::linked_in(&key.unionid, &key.app), 1)?.is_empty();
        let mut fan = before.clone();
        fan.review(now, linked, renew);
        roll::write(txn, number, &key, Some(&before), &fan)?;
        books.replace(number, Some(&before), &fan, None);
    }
    Ok(())
}
