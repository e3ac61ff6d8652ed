//! Transactions on the comparison with WeCom's lists: the run, and the task of each dealer.

use crate::domain::ids::{AppName, ContactKey, CorpId};
use crate::domain::reconcile::{ReconcileRun, ReconcileTask};
use crate::domain::time::Timestamp;
use crate::store::StoreError;
use crate::store::rows::keys;
use crate::store::rows::records::{Record, readable};
use crate::store::rows::txn::Txn;

impl Record for ReconcileTask {}

impl Record for ReconcileRun {}

pub(crate) fn run_key() -> Vec<u8> {
    keys::only("reconcile")
}

pub(crate) fn change_run(
    txn: &mut Txn<'_>,
    change: impl FnOnce(&mut ReconcileRun),
) -> Result<(), StoreError> {
    readable(txn.change(run_key(), change)).map(drop)
}

/// Counts a link of a customer that a reconcile run found, if a run is under way.
pub(crate) fn count_link(txn: &mut Txn<'_>) -> Result<(), StoreError> {
    change_run(txn, |run| run.links_made += u64::from(run.is_running()))
}

/// The number of the comparison of a dealer that is under way.
pub(crate) fn number(txn: &Txn<'_>, app: &AppName, corp_id: &CorpId) -> Result<Option<u64>, StoreError> {
    let task = readable(txn.get::<ReconcileTask>(&keys::of_corp(b'T', app, corp_id)))?;
    Ok(task.map(|task| task.number))
}

/// Changes the number of lookups that the comparison of a dealer waits for. Does nothing without a `task`, or
/// if that comparison has ended: another one does not wait for its lookups.
pub(crate) fn count_unresolved(
    txn: &mut Txn<'_>,
    contact: &ContactKey,
    task: Option<u64>,
    change: impl FnOnce(u64) -> u64,
) -> Result<(), StoreError> {
    let ContactKey { app, corp_id, .. } = contact;
    if task.is_none() || number(txn, app, corp_id)? != task {
        return Ok(());
    }
    change_task(txn, app, corp_id, |task| task.unresolved = change(task.unresolved))
}

pub(crate) fn change_task(
    txn: &mut Txn<'_>,
    app: &AppName,
    corp_id: &CorpId,
    change: impl FnOnce(&mut ReconcileTask),
) -> Result<(), StoreError> {
    readable(txn.change(keys::of_corp(b'T', app, corp_id), change)).map(drop)
}

pub(crate) fn begin(
    txn: &mut Txn<'_>,
    corps: Vec<(AppName, CorpId)>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let known = readable(txn.get::<ReconcileRun>(&run_key()))?;
    let tasks_begun = known.map_or(0, |run| run.tasks_begun);
    let new = || ReconcileRun { tasks_begun, ..ReconcileRun::new(now) };
    let mut run = known.filter(ReconcileRun::is_running).unwrap_or_else(new);
    for (app, corp_id) in corps {
        let key = keys::of_corp(b'T', &app, &corp_id);
        if !txn.has(&key)? {
            run.tasks_begun += 1;
            run.dealers_total += 1;
            txn.put(key, &ReconcileTask { number: run.tasks_begun, ..ReconcileTask::new() })?;
        }
    }
    txn.put(run_key(), &run)
}

/// Ends the run if no dealer is left.
pub(crate) fn end_if_done(txn: &mut Txn<'_>, now: Timestamp) -> Result<(), StoreError> {
    if txn.keys(b"T", 1)?.is_empty() {
        change_run(txn, |run| run.finished_at = run.finished_at.or(Some(now)))?;
    }
    Ok(())
}
