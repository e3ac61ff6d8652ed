//! Transactions on the brand's side: registering fans, and what came of the calls made for them.

use super::super::{FanVerdict, FanWork, NewFan, Registered, StoreError};
use super::keys;
use super::links;
use super::records::Record;
use super::txn::Txn;
use crate::domain::fan::{Existing, Fan, FanStep, Mint};
use crate::domain::ids::{ContactKey, FanKey};
use crate::domain::join::FanAtMeeting;
use crate::domain::link::{Claim, Source};
use crate::domain::time::Timestamp;

impl Record for Fan {}

pub(super) fn register(txn: &mut Txn<'_>, new: &NewFan, now: Timestamp) -> Result<Registered, StoreError> {
    let key = keys::fan(&new.key);
    let Some(mut fan) = txn.get::<Fan>(&key)? else {
        let fan = Fan::new(new.openid.clone(), now, new.ask_existing);
        txn.counts().fans += 1;
        txn.counts().fans_queued += 1;
        schedule(txn, &new.key, &fan, now);
        txn.put(key, &fan)?;
        return Ok(Registered::New);
    };
    let step_before = fan.next_step();
    let was_rejected = matches!(fan.mint, Mint::Rejected { .. });
    if !fan.register_again(&new.openid) {
        return Ok(Registered::Known);
    }
    if was_rejected {
        txn.discount(|counts| &mut counts.fans_rejected);
        txn.counts().fans_queued += 1;
    }
    if step_before.is_none() {
        schedule(txn, &new.key, &fan, now);
    }
    txn.put(key, &fan)?;
    Ok(Registered::Replaced)
}

fn schedule(txn: &mut Txn<'_>, key: &FanKey, fan: &Fan, due_at: Timestamp) {
    if let Some(step) = fan.next_step() {
        txn.mark(keys::fan_work(key, step, due_at));
    }
}

/// Writes down what came of one call for a fan.
pub(super) fn settle(
    txn: &mut Txn<'_>,
    work: &FanWork,
    verdict: FanVerdict,
    now: Timestamp,
) -> Result<(), StoreError> {
    let queue_key = keys::fan_work(&work.key, work.step, work.due_at);
    let Some(mut fan) = txn.get::<Fan>(&keys::fan(&work.key))? else {
        return Ok(());
    };
    if !txn.has(&queue_key)? {
        return Ok(());
    }
    txn.delete(queue_key);
    match (verdict, work.step) {
        (FanVerdict::Retry { due_at, spent }, step) => {
            fan.attempts += u32::from(spent);
            txn.mark(keys::fan_work(&work.key, step, due_at));
            return txn.put(keys::fan(&work.key), &fan);
        }
        (FanVerdict::Minted(minted), _) => {
            let arriving = FanAtMeeting {
                minted_at: minted.minted_at,
                unionid: work.key.unionid.clone(),
                expires_at: minted.expires_at,
            };
            links::fan_arrives(txn, &work.key.app, &minted.pending_id, arriving, now)?;
            fan.mint = Mint::Minted(minted);
            txn.discount(|counts| &mut counts.fans_queued);
            txn.counts().fans_minted += 1;
        }
        (FanVerdict::Existing(found), _) => {
            fan.existing = Existing::Asked { at: now, found: u32::try_from(found.len()).unwrap_or(u32::MAX) };
            for (corp_id, external_userid) in found {
                let claim = Claim {
                    contact: ContactKey { app: work.key.app.clone(), corp_id, external_userid },
                    unionid: work.key.unionid.clone(),
                    pending_id: None,
                    source: Some(Source::Existing),
                    evidence_at: now,
                };
                links::settle_claim(txn, &claim, now)?;
            }
        }
        // A refusal of an openid that was replaced meanwhile says nothing about the new one.
        (FanVerdict::Rejected { .. }, _) if fan.openid != work.fan.openid => {}
        (FanVerdict::Rejected { errcode }, FanStep::Mint) => {
            fan.mint = Mint::Rejected { errcode, at: now };
            txn.discount(|counts| &mut counts.fans_queued);
            txn.counts().fans_rejected += 1;
        }
        (FanVerdict::Rejected { errcode }, FanStep::AskExisting) => {
            fan.existing = Existing::Refused { errcode, at: now };
        }
    }
    fan.attempts = 0;
    schedule(txn, &work.key, &fan, now);
    txn.put(keys::fan(&work.key), &fan)
}
