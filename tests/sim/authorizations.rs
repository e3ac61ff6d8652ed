//! What an operator sees of authorisations and does about them: where an auth code was lost, expired or
//! refused, or its event never came, the corp is asked to authorise again.

use std::ops::AddAssign;
use std::sync::atomic::Ordering;

use secrecy::ExposeSecret as _;
use unionlink::domain::authorization::AuthorizationState;
use unionlink::store::SuiteRecords;

use crate::agency::{Agency, Delivery};
use crate::schedule::Schedule;
use crate::service::Service;

/// What agency-developed apps gave the verdicts to judge.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct JudgedAgency {
    /// Schedules with such apps.
    pub schedules: u64,
    /// Auth codes that were exchanged.
    pub granted: u64,
    /// Auth codes that were used up in a lost answer.
    pub lost: u64,
    /// Customers of one brand who are fans of another.
    pub strangers: u64,
    /// Links of agency-developed apps.
    pub links: u64,
}

impl AddAssign for JudgedAgency {
    fn add_assign(&mut self, more: Self) {
        self.schedules += more.schedules;
        self.granted += more.granted;
        self.lost += more.lost;
        self.strangers += more.strangers;
        self.links += more.links;
    }
}

/// What the service knows of a corp's authorisation.
enum Standing {
    Usable,
    /// More will come of it.
    Waits(&'static str),
    /// Nothing more comes of it.
    Failed(&'static str),
}

impl Agency {
    /// `is_valid` is whether WeCom accepts the permanent code of the service. Where it does not, an operator
    /// sees that each call fails with the advice to have the corp authorise again.
    fn standing(&self, corp_id: &str, records: &SuiteRecords, is_valid: bool) -> Standing {
        let Some(newest) = self.newest_code(corp_id) else { return Standing::Failed("has no code") };
        if !self.corps[corp_id] {
            return Standing::Failed("has cancelled");
        }
        if let Some((_, exchange)) = records.exchanges.iter().find(|(id, _)| *id == newest.id) {
            return match exchange.end {
                Some(_) => Standing::Failed("has a code that failed"),
                None => Standing::Waits("has a code that is being exchanged"),
            };
        }
        let known = records.authorizations.iter().find(|known| known.corp_id.as_str() == corp_id);
        match known.filter(|known| known.granted_at.as_secs() >= newest.issued_at.as_secs()) {
            // Exchanged before an older one that reset it.
            Some(_) if !is_valid => Standing::Failed("has a permanent code that is not valid"),
            Some(known) if known.check_due => Standing::Waits("is to be read"),
            Some(known) => match known.state() {
                AuthorizationState::Active => Standing::Usable,
                AuthorizationState::Incomplete => Standing::Waits("has yet to be read"),
                AuthorizationState::Cancelled => Standing::Waits("seems to have cancelled"),
            },
            None if newest.acknowledged.load(Ordering::Relaxed) => Standing::Failed("had a code that failed"),
            None => Standing::Failed("had an event that got lost"),
        }
    }
}

impl Schedule {
    /// Notes the exchanges that have failed: the service keeps them for a week.
    pub async fn note_ends(&mut self) {
        let Some(service) = self.machine.running() else { return };
        let Some(agency) = &mut self.agency else { return };
        // A replica may be cut off from the database meanwhile.
        let Ok(records) = service.store.suite(&agency.suite).await else { return };
        for (id, exchange) in records.exchanges {
            if let Some(end) = exchange.end {
                agency.ends.entry(id).or_insert(end);
            }
        }
    }

    /// Has those corps authorise again of whose authorisation nothing comes any more.
    pub async fn authorize_again(&mut self) {
        self.note_ends().await;
        let (Some(service), Some(agency)) = (self.machine.running(), &self.agency) else { return };
        let records = service.store.suite(&agency.suite).await.unwrap();
        let standing = |corp_id| agency.standing(corp_id, &records, self.is_code_valid(&service, corp_id));
        let failed = agency.corps.keys().filter_map(|corp_id| match standing(corp_id) {
            Standing::Failed(why) => Some((corp_id.clone(), why)),
            Standing::Usable | Standing::Waits(_) => None,
        });
        for (corp_id, why) in failed.collect::<Vec<_>>() {
            // An event of before may be on its way.
            if self.deliveries.is_empty() {
                self.note(format!("a corp {why} and is asked to authorise again"));
                self.authorize(&corp_id, Delivery::Sure);
            }
        }
    }

    /// A corp whose authorisation cannot be used yet, if there is one.
    pub async fn not_authorized(&self) -> Option<String> {
        let (Some(service), Some(agency)) = (self.machine.running(), &self.agency) else { return None };
        let records = service.store.suite(&agency.suite).await.unwrap();
        for corp_id in agency.corps.keys() {
            match agency.standing(corp_id, &records, self.is_code_valid(&service, corp_id)) {
                Standing::Usable => {}
                Standing::Waits(why) | Standing::Failed(why) => return Some(format!("{corp_id} {why}")),
            }
        }
        let mut brands = self.machine.brands.iter();
        let unusable = brands.find(|brand| !service.apps.can_call(&brand.app));
        unusable.map(|brand| format!("{} cannot call WeCom", brand.app))
    }

    /// Whether the permanent code that the service has of a corp is the valid one.
    fn is_code_valid(&self, service: &Service, corp_id: &str) -> bool {
        let suite = self.agency.as_ref().and_then(|agency| service.apps.suite(&agency.suite));
        let held = suite.as_ref().and_then(|suite| suite.authorization(corp_id)?.code.as_ref());
        held.map(|code| code.expose_secret().to_owned()) == self.machine.sim.permanent_code(corp_id)
    }
}
