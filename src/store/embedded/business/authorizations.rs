//! Authorisations of suites of agency-developed apps: their records, and the transactions on them. The pure
//! rules are in [`crate::domain::authorization`].

use serde::Deserialize;

use crate::domain::authorization::{Agent, Authorization, Granted};
use crate::domain::ids::{AppName, CorpId};
use crate::domain::sealed::Sealed;
use crate::domain::suite::CodeId;
use crate::domain::time::Timestamp;
use crate::store::StoreError;
use crate::store::embedded::records::{Record, readable};
use crate::store::embedded::rows::keys;
use crate::store::embedded::rows::txn::Txn;
use crate::store::embedded::rows::view::View;

impl Record for Authorization {
    const VERSION: u8 = 2;

    fn of_version(version: u8, body: &[u8]) -> Option<Result<Self, postcard::Error>> {
        (version == 1).then(|| postcard::from_bytes::<AuthorizationVersion1>(body).map(Self::from))
    }
}

/// An authorisation of version 1, which does not record the brand of a dealer.
#[derive(Deserialize)]
struct AuthorizationVersion1 {
    corp_id: CorpId,
    name: String,
    code: Sealed,
    granted_at: Timestamp,
    codes: u32,
    agent: Option<Agent>,
    cancelled_at: Option<Timestamp>,
    changed_at: Timestamp,
    changes: u32,
    check_due: bool,
}

impl From<AuthorizationVersion1> for Authorization {
    fn from(old: AuthorizationVersion1) -> Self {
        let mut new = Self {
            corp_id: old.corp_id,
            name: old.name,
            code: old.code,
            granted_at: old.granted_at,
            codes: old.codes,
            agent: None,
            cancelled_at: old.cancelled_at,
            changed_at: old.changed_at,
            changes: old.changes,
            check_due: old.check_due,
            dealer_of: None,
        };
        if let Some(agent) = old.agent {
            new.set_agent(agent);
        }
        new
    }
}

/// Changes an authorisation, if there is one. `change` returns whether it had an effect, and so does this.
pub(crate) fn change(
    txn: &mut Txn<'_>,
    suite: &AppName,
    corp_id: &CorpId,
    change: impl FnOnce(&mut Authorization) -> bool,
) -> Result<bool, StoreError> {
    let key = keys::authorization(suite, corp_id);
    let Some(mut known) = readable(txn.get::<Authorization>(&key))? else { return Ok(false) };
    let has_effect = change(&mut known);
    txn.put(key, &known)?;
    Ok(has_effect)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::authorization::{Role, SharedFrom};
    use crate::store::embedded::records::{checked, decode};

    #[test]
    fn an_authorisation_of_version_1_is_read_and_knows_of_whom_it_is_a_dealer() {
        let corp = |id: &str| CorpId::new(id).unwrap();
        let now = Timestamp::from_secs(1_795_309_323);
        let shared_from = Some(SharedFrom { corp_id: corp("wpA"), share_type: 1 });
        let agent = Agent {
            agent_id: 7,
            shared_from: shared_from.clone(),
            is_verified: None,
            may_read_customers: None,
            read_at: now,
        };
        let code = Sealed { key: [1; 8], nonce: [2; 12], text: vec![3] };
        // The fields in their order then.
        let old =
            (corp("wpD"), "上海一店", code, now, 2_u32, Some(agent), None::<Timestamp>, now, 3_u32, false);
        let key = keys::authorization(&AppName::new("agency").unwrap(), &corp("wpD"));
        let bytes = checked(&key, postcard::to_extend(&old, vec![1]).unwrap());
        let read = decode::<Authorization>(&key, &bytes).unwrap();
        assert_eq!((read.codes, read.changes, read.name.as_str()), (2, 3, "上海一店"));
        assert_eq!((read.role(), read.dealer_of), (Some(Role::Dealer(corp("wpA"))), shared_from));
    }
}
