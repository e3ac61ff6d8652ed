//! The ledgers of calls: transactions on them, and reading one.

use crate::domain::quota::{self, Budget, Grant, Ledger, LedgerBefore, Share};
use crate::domain::time::Moment;
use crate::store::StoreError;
use crate::store::rows::keys;
use crate::store::rows::records::Record;
use crate::store::rows::txn::Txn;
use crate::store::rows::view::View;

impl Record for Ledger {
    const VERSION: u8 = 2;

    fn of_version(version: u8, body: &[u8]) -> Option<Result<Self, postcard::Error>> {
        (version == 1).then(|| postcard::from_bytes::<LedgerBefore>(body).map(Into::into))
    }
}

/// Reserves calls in all of these ledgers, or in none.
pub(crate) fn reserve(
    txn: &mut Txn<'_>,
    accounts: Vec<(Vec<u8>, Budget)>,
    share: Share,
    want: u32,
    now: Moment,
) -> Result<Grant, StoreError> {
    let ledgers = accounts.iter().map(|(key, _)| Ok(txn.get(key)?.unwrap_or_default()));
    let mut ledgers = ledgers.collect::<Result<Vec<Ledger>, StoreError>>()?;
    let mut charged: Vec<_> =
        ledgers.iter_mut().zip(&accounts).map(|(ledger, (_, budget))| (ledger, *budget)).collect();
    let grant = quota::reserve(&mut charged, now, want, share);
    // In vain too: a ledger has to see each start of the machine to know what has passed since.
    for ((key, _), ledger) in accounts.into_iter().zip(&ledgers) {
        txn.put(key, ledger)?;
    }
    Ok(grant)
}

/// Records a 45009. Returns for how long calls stop, in milliseconds.
pub(crate) fn rate_limited(
    txn: &mut Txn<'_>,
    key: Vec<u8>,
    budget: Budget,
    now: Moment,
) -> Result<i64, StoreError> {
    let mut ledger: Ledger = txn.get(&key)?.unwrap_or_default();
    let blocked_ms = ledger.rate_limited(now, budget);
    txn.put(key, &ledger)?;
    Ok(blocked_ms)
}

/// The ledger of an account and API; an empty one if no call was ever reserved.
pub(crate) fn ledger(view: &View<'_>, account: &str, api: &str) -> Result<Ledger, StoreError> {
    Ok(view.read(&keys::ledger(account, api))?.unwrap_or_default())
}
