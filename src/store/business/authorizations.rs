//! Authorisations of suites of agency-developed apps: their records, and the transactions on them. The pure
//! rules are in [`crate::domain::authorization`].

use crate::domain::authorization::{Authorization, Granted};
use crate::domain::ids::{AppName, CorpId};
use crate::domain::suite::CodeId;
use crate::domain::time::Timestamp;
use crate::store::StoreError;
use crate::store::rows::keys;
use crate::store::rows::records::{Record, readable};
use crate::store::rows::txn::Txn;
use crate::store::rows::view::View;

impl Record for Authorization {
    /// No released version has written version 1.
    const VERSION: u8 = 2;
}

/// Changes an authorisation, if there is one. `change` returns whether it had an effect, and so does this.
pub(crate) fn change(
    txn: &mut Txn<'_>,
    suite: &AppName,
    corp_id: &CorpId,
    change: impl FnOnce(&mut Authorization) -> bool,
) -> Result<bool, StoreError> {
    Ok(readable(txn.change(keys::authorization(suite, corp_id), change))?.unwrap_or(false))
}

/// Stores what a corp has granted, and removes the exchange of the code that it came with.
pub(crate) fn grant(
    txn: &mut Txn<'_>,
    suite: &AppName,
    id: &CodeId,
    granted: Granted,
    now: Timestamp,
) -> Result<Authorization, StoreError> {
    let key = keys::authorization(suite, &granted.corp_id);
    let known = readable(txn.get::<Authorization>(&key))?;
    let authorization = Authorization::granted(known, granted, now);
    txn.delete(keys::exchange(suite, id));
    txn.put(key, &authorization)?;
    Ok(authorization)
}

/// The authorisations of a suite.
pub(crate) fn of_suite(view: &View<'_>, suite: &AppName) -> Result<Vec<Authorization>, StoreError> {
    let records = view.records_under(&keys::of_app(b'P', suite))?;
    Ok(records.into_iter().map(|(_, authorization)| authorization).collect())
}
