//! Transactions on the comparison with WeCom's lists: the run, and the task of each dealer.

use super::super::StoreError;
use super::keys;
use super::records::{Record, readable};
use super::txn::Txn;
use crate::domain::ids::{AppName, ContactKey, CorpId};
use crate::domain::reconcile::{ReconcileRun, ReconcileTask};
use crate::domain::time::Timestamp;

impl Record for ReconcileTask {}

impl Record for ReconcileRun {}

pub(super) fn run_key() -> Vec<u8> {
    keys::only("reconcile")
}

pub(super) fn change_run(
    txn: &mut Txn<'_>,
    change: impl FnOnce(&mut ReconcileRun),
) -> Result<(), StoreError> {
    let Some(mut run) = readable(txn.get::<ReconcileRun>(&run_key()))? else { return Ok(()) };
    change(&mut run);
    txn.put(run_key(), &run)
}

/// Counts a link of a customer that a reconcile run found, if a run is under way.
pub(super) fn count_link(txn: &mut Txn<'_>) -> Result<(), StoreError> {
    change_run(txn, |run| run.links_made += u64::from(run.is_running()))
}

/// Changes the number of lookups that the task of a contact's dealer waits for, if there is one.
pub(super) fn count_unresolved(
    txn: &mut Txn<'_>,
    contact: &ContactKey,
    change: impl FnOnce(u64) -> u64,
) -> Result<(), StoreError> {
    change_task(txn, &contact.app, &contact.corp_id, |task| task.unresolved = change(task.unresolved))
}

pub(super) fn change_task(
    txn: &mut Txn<'_>,
    app: &AppName,
    corp_id: &CorpId,
    change: impl FnOnce(&mut ReconcileTask),
) -> Result<(), StoreError> {
    let key = keys::of_corp(b'T', app, corp_id);
    let Some(mut task) = readable(txn.get::<ReconcileTask>(&key))? else { return Ok(()) };
    change(&mut task);
    txn.put(key, &task)
}

pub(super) fn begin(
    txn: &mut Txn<'_>,
    corps: Vec<(AppName, CorpId)>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let known = readable(txn.get::<ReconcileRun>(&run_key()))?;
    let mut run = known.filter(ReconcileRun::is_running).unwrap_or_else(|| ReconcileRun::new(now));
    for (app, corp_id) in corps {
        let key = keys::of_corp(b'T', &app, &corp_id);
        if !txn.has(&key)? {
            txn.put(key, &ReconcileTask::new())?;
            run.dealers_total += 1;
        }
    }
    txn.put(run_key(), &run)
}

/// Ends the run if no dealer is left.
pub(super) fn end_if_done(txn: &mut Txn<'_>, now: Timestamp) -> Result<(), StoreError> {
    if txn.keys(b"T", 1)?.is_empty() {
        change_run(txn, |run| run.finished_at = run.finished_at.or(Some(now)))?;
    }
    Ok(())
}
