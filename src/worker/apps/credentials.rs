//! [`Credentials`] and [`QuotaLimits`] of the apps in the registry: what the client calls WeCom with.

use super::Apps;
use crate::domain::authorization::AuthorizationState;
use crate::domain::bindings::Unserved;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::quota::Limits;
use crate::domain::suite::next_ticket_at;
use crate::domain::time::Timestamp;
use crate::wecom::{
    AppCredentials, Credentials, DealerCredentials, Development, QuotaLimits, SuiteCredentials, Unavailable,
};

impl Credentials for Apps {
    fn of_app(&self, app: &AppName) -> Result<AppCredentials, Unavailable> {
        let current = self.current();
        if let Some(own) = current.self_built.get(app) {
            return Ok(own.clone());
        }
        let rules = current.apps.get(app).ok_or(Unavailable::NotConfigured)?;
        let suite = rules.suite.as_ref().and_then(|suite| current.suites.get(suite));
        let suite = suite.ok_or(Unavailable::NotConfigured)?;
        let corp_id = rules.corp_id.clone().ok_or_else(|| match current.unserved.get(app) {
            Some(Unserved::Several(_)) => Unavailable::SeveralBrands,
            Some(Unserved::OtherBrand { .. }) => Unavailable::OtherBrand,
            Some(Unserved::Taken { .. }) => Unavailable::Taken,
            Some(Unserved::NoBrand) | None => Unavailable::NotAuthorized,
        })?;
        let authorization = suite.authorization(corp_id.as_str()).ok_or(Unavailable::NotAuthorized)?;
        let agent = match (authorization.record.state(), &authorization.record.agent) {
            (AuthorizationState::Cancelled, _) => return Err(Unavailable::Cancelled),
            (AuthorizationState::Incomplete, _) | (AuthorizationState::Active, None) => {
                return Err(Unavailable::Incomplete);
            }
            (AuthorizationState::Active, Some(agent)) => agent,
        };
        Ok(AppCredentials {
            corp_id,
            agent_id: agent.agent_id,
            secret: authorization.code.clone().ok_or(Unavailable::Unreadable)?,
            generation: authorization.record.codes,
            development: Development::Agency,
        })
    }

    fn of_dealer(&self, app: &AppName, dealer: &CorpId) -> Option<DealerCredentials> {
        let (suite, _) = self.authorization_of(app)?;
        if !self.authorized_dealers(app).iter().any(|one| one.corp_id.same_corp(dealer.as_str())) {
            return None;
        }
        let authorization = suite.authorization(dealer.as_str()).filter(|one| one.is_usable())?;
        let secret = authorization.code.clone()?;
        Some(DealerCredentials { secret, generation: authorization.record.codes })
    }

    /// The newest ticket is given whatever its age: WeCom knows whether it can still be used.
    fn of_suite(&self, suite: &AppName, now: Timestamp) -> Result<SuiteCredentials, Unavailable> {
        let settings = self.suites.get(suite).ok_or(Unavailable::NotConfigured)?;
        let view = self.suite(suite).ok_or(Unavailable::NotConfigured)?;
        let last_at = view.ticket.as_ref().map_or(settings.waits_since, |ticket| ticket.received_at);
        let ticket = view.ticket.as_ref().and_then(|ticket| ticket.value.clone());
        Ok(SuiteCredentials {
            provider_corp_id: settings.provider_corp_id.clone(),
            suite_id: settings.suite_id.clone(),
            secret: settings.secret.clone(),
            ticket: ticket.ok_or(Unavailable::NoTicket { until: next_ticket_at(last_at, now) }),
        })
    }
}

/// Apps of one corp share its quota; the lowest limit of each window counts.
impl QuotaLimits for Apps {
    fn of(&self, corp_id: &CorpId) -> Limits {
        let apps = self.all();
        let of_corp = apps.values().filter(|rules| rules.corp_id.as_ref() == Some(corp_id));
        of_corp.map(|rules| rules.quota).reduce(Limits::and).unwrap_or(Limits::DOCUMENTED)
    }

    fn corps(&self) -> Vec<CorpId> {
        let mut corps: Vec<_> = self.all().values().filter_map(|rules| rules.corp_id.clone()).collect();
        corps.sort_unstable();
        corps.dedup();
        corps
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::super::ReloadedSettings;
    use super::super::tests::{apps, authorized, corp, name, replace, rules, settings, settings_of};
    use super::*;
    use crate::domain::time::MINUTE_MS;

    fn refusal(apps: &Apps) -> Option<Unavailable> {
        apps.of_app(&name("brand")).err()
    }

    #[test]
    fn an_agency_developed_app_calls_with_the_permanent_code_of_its_brand() {
        let apps = apps();
        assert_eq!(refusal(&apps), Some(Unavailable::NotAuthorized));
        assert_eq!(apps.of_app(&name("other")).err(), Some(Unavailable::NotConfigured));
        replace(&apps, vec![authorized("wpA", None, 1)]);
        let credentials = apps.of_app(&name("brand")).unwrap();
        assert_eq!((credentials.corp_id, credentials.agent_id), (corp("wpA"), 7));
        assert_eq!((credentials.generation, credentials.development), (1, Development::Agency));
        assert_eq!(credentials.secret.expose_secret(), "code1");
    }

    #[test]
    fn each_reason_for_which_an_app_cannot_call_is_told_apart() {
        let apps = apps();
        replace(&apps, vec![authorized("wpA", None, 1), authorized("wpB", None, 1)]);
        assert_eq!(refusal(&apps), Some(Unavailable::SeveralBrands));
        let mut authorization = authorized("wpA", None, 1);
        replace(&apps, vec![authorization.clone()]);
        authorization.code.key = [0; 8];
        replace(&apps, vec![authorization.clone()]);
        assert_eq!(refusal(&apps), Some(Unavailable::Unreadable));
        authorization.agent = None;
        replace(&apps, vec![authorization.clone()]);
        assert_eq!(refusal(&apps), Some(Unavailable::Incomplete));
        authorization.cancelled_at = Some(authorization.granted_at);
        replace(&apps, vec![authorization]);
        assert_eq!(refusal(&apps), Some(Unavailable::Cancelled));
        replace(&apps, vec![]);
        assert_eq!(refusal(&apps), Some(Unavailable::NotAuthorized), "its record is lost");
    }

    #[test]
    fn a_dealer_has_credentials_of_its_own_once_it_has_authorised() {
        let apps = apps();
        let brand = authorized("wpA", None, 1);
        replace(&apps, vec![brand.clone()]);
        assert!(apps.of_dealer(&name("brand"), &corp("wpD")).is_none());
        let mut dealer = authorized("wpD", Some("wpA"), 2);
        replace(&apps, vec![brand.clone(), dealer.clone()]);
        let credentials = apps.of_dealer(&name("brand"), &corp("wpD")).unwrap();
        assert_eq!((credentials.secret.expose_secret(), credentials.generation), ("code2", 1));
        assert!(apps.of_dealer(&name("own"), &corp("wpD")).is_none(), "the app is of no suite");
        assert!(dealer.refused(1, dealer.changed_at));
        replace(&apps, vec![brand, dealer]);
        assert!(apps.of_dealer(&name("brand"), &corp("wpD")).is_none(), "it has cancelled");
    }

    #[test]
    fn a_suite_without_a_ticket_says_until_when_it_waits() {
        let apps = apps();
        let start = settings().waits_since;
        for (now, until) in [(0, 10), (9, 10), (10, 20), (65, 70)] {
            let at = |minutes: i64| start.plus_ms(minutes * MINUTE_MS);
            let refused = apps.of_suite(&name("agency"), at(now)).unwrap().ticket.err();
            assert_eq!(refused, Some(Unavailable::NoTicket { until: at(until) }), "after {now} minutes");
        }
        assert_eq!(apps.of_suite(&name("other"), start).err(), Some(Unavailable::NotConfigured));
    }

    #[test]
    fn apps_of_one_corp_share_the_lowest_quota_and_a_brand_has_its_own() {
        let with_quota = |suite, corp_id, per_hour| {
            let mut rules = rules(suite, corp_id);
            rules.quota.per_hour = per_hour;
            rules
        };
        let all = [
            (name("a"), with_quota(None, Some("wwOWN"), 9)),
            (name("b"), with_quota(None, Some("wwOWN"), 5)),
            (name("brand"), with_quota(Some("agency"), None, 3)),
        ];
        let apps = Apps::new(all, settings_of("agency"));
        assert_eq!(apps.corps(), [corp("wwOWN")]);
        assert_eq!((apps.of(&corp("wwOWN")).per_hour, apps.of(&corp("wpA"))), (5, Limits::DOCUMENTED));
        replace(&apps, vec![authorized("wpA", None, 1)]);
        assert_eq!(apps.corps(), [corp("wpA"), corp("wwOWN")]);
        assert_eq!(apps.of(&corp("wpA")).per_hour, 3);
    }

    #[test]
    fn after_a_reload_an_app_calls_with_its_new_secret_and_quota_as_another_generation() {
        let own = AppCredentials {
            corp_id: corp("wwOWN"),
            agent_id: 1,
            secret: "before".into(),
            generation: 0,
            development: Development::SelfBuilt,
        };
        let apps = apps().with_credentials([(name("own"), own)].into());
        let reload = |app, secret: &str| {
            let quota = Limits { per_hour: 7, ..Limits::DOCUMENTED };
            let settings = ReloadedSettings { secret: Some(secret.into()), quota, reserve_percent: 3 };
            apps.reconfigure([(name(app), settings)].into())
        };
        assert_eq!(reload("own", "before"), []);
        assert_eq!(apps.of_app(&name("own")).unwrap().generation, 0, "cached tokens stay");
        assert_eq!(reload("own", "after"), [name("own")]);
        let own = apps.of_app(&name("own")).unwrap();
        assert_eq!((own.secret.expose_secret(), own.generation), ("after", 1));
        assert_eq!(
            (apps.of(&corp("wwOWN")).per_hour, apps.get(&name("own")).unwrap().reserve_percent),
            (7, 3)
        );
        // An agency-developed app has no secret in the configuration, and another name is not configured.
        assert_eq!((reload("brand", "code"), reload("other", "secret")), (vec![], vec![]));
        assert_eq!(apps.get(&name("brand")).unwrap().quota.per_hour, 7);
        assert_eq!(refusal(&apps), Some(Unavailable::NotAuthorized));
    }
}
