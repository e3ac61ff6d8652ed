//! The invariants of agency-developed apps: nothing of one brand is at another, an auth code leads to one
//! authorisation at most, one that was used up without an answer is reported as lost, and no secret is stored
//! or traced in the clear.

use std::collections::{BTreeMap, BTreeSet};

use unionlink::domain::link::LinkData;
use unionlink::domain::suite::ExchangeEnd;

use crate::agency::Agency;
use crate::check::Checker;
use crate::wire::{ExchangeAnswer, ExchangeCall};

/// WeCom's code for an auth code that is unknown, expired or used.
const INVALID_AUTH_CODE: i64 = 40_078;
/// The characters of a secret that are looked for: no other text has as many of them by chance.
const SECRET_CHARS: usize = 16;

impl Checker<'_> {
    /// All of them.
    pub async fn agency(&mut self, agency: &Agency, links: &[LinkData]) {
        self.judged.agency.schedules += 1;
        self.judged.agency.links += links.len() as u64;
        self.links_of_brands(links);
        self.fans_of_brands().await;
        self.dealers_of_brands().await;
        self.exchanges(agency).await;
        self.secrets(agency);
    }

    /// A link is of the app of the brand whose dealer it is, and whose fan.
    fn links_of_brands(&mut self, links: &[LinkData]) {
        let cast = &self.schedule.cast;
        let of_dealer = |corp_id: &str| {
            cast.dealers
                .iter()
                .find(|dealer| dealer.dealer.corp_id == corp_id)
                .map(|dealer| &dealer.brand.app)
        };
        let of_person = |unionid: &str| {
            cast.people.iter().find(|one| one.person.unionid == unionid).map(|one| &one.brand.app)
        };
        for link in links {
            let app = Some(&link.app);
            let is_right = of_dealer(link.corp_id.as_str()) == app && of_person(link.unionid.as_str()) == app;
            self.expect(is_right, || format!("a link between two brands: {link:?}"));
        }
        let strangers = cast.pairs.keys().filter(|(p, d)| {
            cast.people[*p].is_fan && cast.people[*p].brand.corp_id != cast.dealers[*d].brand.corp_id
        });
        self.judged.agency.strangers += strangers.count() as u64;
    }

    /// A fan is registered and minted for one brand alone.
    async fn fans_of_brands(&mut self) {
        let schedule = self.schedule;
        for (p, somebody) in schedule.cast.people.iter().enumerate() {
            let others = schedule.machine.brands.iter().filter(|brand| brand.app != somebody.brand.app);
            let foreign: BTreeSet<_> = others
                .flat_map(|brand| schedule.machine.sim.pending_ids(&brand.corp_id, &somebody.person))
                .collect();
            self.expect(foreign.is_empty(), || format!("p{p} is minted for another brand"));
            for (key, _) in self.service.store.fans(&somebody.unionid()).await.unwrap() {
                let is_own = key.app == somebody.brand.app;
                self.expect(is_own, || format!("p{p} is a fan of {}", key.app));
            }
        }
    }

    /// A dealer and its customers are of one brand alone.
    async fn dealers_of_brands(&mut self) {
        let schedule = self.schedule;
        for brand in &schedule.machine.brands {
            for known in self.service.store.dealers(&brand.app).await.unwrap() {
                let mut dealers = schedule.cast.dealers.iter();
                let is_own = dealers.any(|dealer| {
                    dealer.dealer.corp_id == known.corp_id.as_str() && dealer.brand.app == brand.app
                });
                self.expect(is_own, || format!("{} is no dealer of {}", known.corp_id, brand.app));
            }
        }
        for ((p, d), pair) in &schedule.cast.pairs {
            let data = self.service.store.person_data(pair.external_userid.as_str()).await.unwrap();
            for (key, _) in data.contacts {
                let is_own = key.app == schedule.cast.dealers[*d].brand.app;
                self.expect(is_own, || format!("p{p} at d{d} is a customer of {}", key.app));
            }
        }
    }

    /// What became of every auth code.
    async fn exchanges(&mut self, agency: &Agency) {
        let machine = &self.schedule.machine;
        let spent: BTreeSet<_> = machine.sim.spent_auth_codes().into_iter().collect();
        let mut calls: BTreeMap<String, Vec<ExchangeCall>> = BTreeMap::new();
        for call in machine.exchanges.calls() {
            calls.entry(call.auth_code.clone()).or_default().push(call);
        }
        let mut grants: BTreeMap<&str, u32> = BTreeMap::new();
        for code in &agency.codes {
            let calls = calls.remove(&code.value).unwrap_or_default();
            for (n, earlier) in calls.iter().enumerate() {
                // After a crash, the next process has to find out.
                let mut later = calls[n + 1..].iter().filter(|later| later.process == earlier.process);
                let ends = match earlier.answer {
                    ExchangeAnswer::None => false,
                    ExchangeAnswer::Refused(errcode) => errcode == INVALID_AUTH_CODE,
                    ExchangeAnswer::Granted(_) | ExchangeAnswer::Awaited => true,
                };
                self.expect(!ends || later.next().is_none(), || {
                    format!("an auth code was exchanged again after {:?}", earlier.answer)
                });
            }
            let granted = calls.iter().filter(|call| matches!(call.answer, ExchangeAnswer::Granted(_)));
            let granted = u32::try_from(granted.count()).unwrap();
            *grants.entry(&code.corp_id).or_default() += granted;
            self.judged.agency.granted += u64::from(granted);
            let end = agency.ends.get(&code.id);
            if granted > 0 || code.is_void || !spent.contains(&code.value) {
                continue;
            }
            self.judged.agency.lost += u64::from(matches!(end, Some(ExchangeEnd::Lost { .. })));
            let is_other = match end {
                None | Some(ExchangeEnd::Lost { .. }) => false,
                // A fault has made WeCom blame the code.
                Some(ExchangeEnd::Refused { errcode, .. }) => *errcode == INVALID_AUTH_CODE,
                Some(ExchangeEnd::Expired { .. } | ExchangeEnd::Unreadable { .. }) => true,
            };
            self.expect(!is_other, || {
                format!("an auth code was used up in a lost answer and ended as {end:?}: {calls:?}")
            });
        }
        self.expect(calls.is_empty(), || format!("auth codes that nobody issued: {calls:?}"));
        for known in self.service.store.suite(&agency.suite).await.unwrap().authorizations {
            let granted = grants.get(known.corp_id.as_str()).copied().unwrap_or_default();
            self.expect(known.codes <= granted, || {
                format!("{} permanent codes of {} from {granted} auth codes", known.codes, known.corp_id)
            });
        }
    }

    /// No secret is in the store or in the trace.
    fn secrets(&mut self, agency: &Agency) {
        let machine = &self.schedule.machine;
        let mut secrets = machine.sim.secrets();
        secrets.push(agency.template.suite_secret.clone());
        let parts: BTreeSet<_> = secrets.iter().map(|secret| &secret.as_bytes()[..SECRET_CHARS]).collect();
        // Most of what is searched is excluded by its first two bytes.
        let mut begins = vec![false; 1 << 16];
        let begin = |part: &[u8]| (usize::from(part[0]) << 8) | usize::from(part[1]);
        for part in &parts {
            begins[begin(part)] = true;
        }
        let has_secret = |bytes: &[u8]| {
            bytes.windows(SECRET_CHARS).any(|part| begins[begin(part)] && parts.contains(part))
        };
        let stored = machine.rows();
        for (key, _) in stored.iter().filter(|(key, value)| has_secret(key) || has_secret(value)) {
            self.violations.push(format!("a secret is stored in the clear under {}", key.escape_ascii()));
        }
        let lines = machine.trace.lines();
        let leaks = lines.iter().filter(|(_, line)| has_secret(line.as_bytes())).count();
        self.expect(leaks == 0, || format!("a secret is in {leaks} lines of the trace"));
    }
}
