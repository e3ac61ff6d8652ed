//! The suites (代开发应用模版) of the service as they are now, with their secrets opened: the ticket, and the
//! corps that have authorised each.
//!
//! Deliberately absent: which app serves which of the corps (see [`apps`](super::apps)), and every change of
//! what is stored (see [`Suites`](crate::store::Suites)).

use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::SecretString;

use crate::at_rest::{Purpose, Sealer};
use crate::domain::authorization::{Authorization, AuthorizationState};
use crate::domain::ids::{CorpId, SuiteId};
use crate::domain::suite::{CodeId, Exchange};
use crate::domain::time::Timestamp;
use crate::store::SuiteRecords;

/// A suite in the configuration.
#[derive(Debug, Clone)]
pub struct SuiteSettings {
    /// The provider's corp, whose budget its calls are charged to.
    pub provider_corp_id: CorpId,
    /// Its id at WeCom.
    pub suite_id: SuiteId,
    /// Its secret.
    pub secret: SecretString,
    /// Seals and opens its stored secrets.
    pub sealer: Arc<Sealer>,
    /// Since when it waits for its first ticket: the start of the service.
    pub waits_since: Timestamp,
}

/// A suite as it is now.
#[derive(Debug, Default)]
pub struct SuiteView {
    /// Its newest ticket; `None` until WeCom has sent one.
    pub ticket: Option<TicketView>,
    /// The corps that have authorised it, those that have cancelled included.
    pub authorizations: BTreeMap<CorpId, AuthorizationView>,
    /// The auth codes that are to be exchanged, and those whose exchange has failed.
    pub exchanges: Vec<(CodeId, Exchange)>,
}

/// The ticket of a suite.
#[derive(Debug)]
pub struct TicketView {
    /// The ticket; `None` if it was sealed with another secret of the suite.
    pub value: Option<SecretString>,
    /// When it was received, by our clock.
    pub received_at: Timestamp,
    /// Until when it should be valid, by our clock.
    pub expires_at: Timestamp,
}

/// The authorisation of a corp.
#[derive(Debug)]
pub struct AuthorizationView {
    /// Its record.
    pub record: Authorization,
    /// The permanent code; `None` if it was sealed with another secret of the suite.
    pub code: Option<SecretString>,
}

impl AuthorizationView {
    /// Whether calls can be made with it.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.record.state() == AuthorizationState::Active && self.code.is_some()
    }
}

impl SuiteView {
    /// The suite with these records, opened.
    #[must_use]
    pub fn of(records: SuiteRecords, sealer: &Sealer) -> Self {
        let SuiteRecords { ticket, exchanges, authorizations } = records;
        let ticket = ticket.map(|ticket| TicketView {
            value: sealer.open(Purpose::Ticket, "", &ticket.sealed).ok(),
            received_at: ticket.received_at,
            expires_at: ticket.expires_at(),
        });
        let opened = |record: Authorization| {
            let code = sealer.open(Purpose::PermanentCode, record.corp_id.as_str(), &record.code).ok();
            (record.corp_id.clone(), AuthorizationView { record, code })
        };
        Self { ticket, exchanges, authorizations: authorizations.into_iter().map(opened).collect() }
    }

    /// Whether there is a ticket that should be valid at `now`.
    #[must_use]
    pub fn has_ticket(&self, now: Timestamp) -> bool {
        self.ticket.as_ref().is_some_and(|ticket| ticket.value.is_some() && now < ticket.expires_at)
    }

    /// The authorisation of a corp, whatever the case of its id.
    #[must_use]
    pub fn authorization(&self, corp_id: &str) -> Option<&AuthorizationView> {
        self.authorizations.values().find(|one| one.record.corp_id.same_corp(corp_id))
    }

    /// The records of all authorisations.
    #[must_use]
    pub fn records(&self) -> Vec<Authorization> {
        self.authorizations.values().map(|one| one.record.clone()).collect()
    }
}
