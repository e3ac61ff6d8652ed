//! Agency-developed apps (代开发): templates, the corps that authorize them, and what happens between the two
//! (documents 97163, 97173, 97175, 100965). The template's APIs have a file of their own below this one.
//!
//! An authorization is made when a corp's administrator scans the QR code. The provider has its permanent
//! code, the app's secret, only after exchanging the auth code that the event carries.
//!
//! Deliberately absent: review and release of templates, custom permissions that a corp confirms bit by bit,
//! licences, two apps of one corp, and corps that authorized before ids were encrypted.

mod suite;

use super::error::SimulatorError;
use super::event::{Event, Sending};
use super::ids;
use super::model::{
    Agency, AuthCode, CUSTOMERS, CallbackSpec, CodeKind, Corp, CorpIdx, SuiteToken, Template, TemplateIdx,
    TemplateSpec, Ticket,
};
use super::options::{AppUrlCheck, EventUrl, ResetEndsOld};
use super::world::World;
use super::xml::{SuiteChange, suite_xml};
use crate::domain::time::MINUTE_MS;

/// The documented life of a ticket.
const TICKET_LIFE_MS: i64 = 30 * MINUTE_MS;
/// The documented life of an auth code.
const AUTH_CODE_LIFE_MS: i64 = 10 * MINUTE_MS;
/// A brand that has authorized a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned {
    /// The brand's id as the provider sees it.
    pub corp_id: String,
    /// `create_auth`.
    pub event: Event,
}

/// Look-ups.
impl World {
    pub(super) fn template(&self, suite_id: &str) -> Result<TemplateIdx, SimulatorError> {
        let found = self.templates.iter().position(|template| template.spec.suite_id == suite_id);
        found.ok_or_else(|| SimulatorError::UnknownSuite(suite_id.to_owned()))
    }

    /// The named template, or the only one.
    pub(super) fn template_or_only(&self, suite_id: Option<&str>) -> Result<TemplateIdx, SimulatorError> {
        match (suite_id, self.templates.len()) {
            (Some(suite_id), _) => self.template(suite_id),
            (None, 1) => Ok(0),
            (None, _) => Err(SimulatorError::AmbiguousSuite),
        }
    }

    /// A corp with an authorization, cancelled or not.
    pub(super) fn agency_mut(&mut self, corp_id: &str) -> Result<(CorpIdx, &mut Agency), SimulatorError> {
        let corp = self.corp(corp_id)?;
        let agency = self.corps[corp].agency.as_mut();
        Ok((corp, agency.ok_or_else(|| SimulatorError::NotAuthorized(corp_id.to_owned()))?))
    }

    /// Whether the app of a corp is, or is shared from, an agency-developed one.
    pub(super) fn is_agency(&self, corp: CorpIdx) -> bool {
        self.corps[self.corps[corp].upstream].agency.is_some()
    }

    /// Whether the brand shares its app with a dealer, and reaches it by `corp/gettoken`.
    pub(super) fn is_reached_by_brand(&self, dealer: CorpIdx) -> bool {
        let Corp { agency, is_shared, .. } = &self.corps[dealer];
        let is_separate = agency.is_some() && !self.options.agency.installed_are_shared;
        *is_shared && !is_separate
    }

    /// Whether the authorization of a corp, or of the brand that shares its app with it, is cancelled.
    pub(super) fn is_cancelled(&self, corp: CorpIdx) -> bool {
        let Corp { agency, is_shared, upstream, .. } = &self.corps[corp];
        match agency {
            Some(own) if own.is_authorized => false,
            Some(_) if !is_shared => true,
            // The app of a dealer that is shared with it again, and a brand's own.
            _ => self.corps[*upstream].agency.as_ref().is_some_and(|brand| !brand.is_authorized),
        }
    }

    /// Whether the app of a corp may use the customers' APIs.
    pub(super) fn may_read_customers(&self, corp: CorpIdx) -> bool {
        let agency = self.corps[self.corps[corp].upstream].agency.as_ref();
        agency.is_none_or(|agency| agency.permissions.iter().any(|permission| permission == CUSTOMERS))
    }

    /// The id of a member as the app sees it: encrypted (`wo…`) if the app is agency-developed, else the
    /// name.
    pub(super) fn user_id(&self, corp: CorpIdx, name: &str) -> String {
        let Corp { id, id_stem, .. } = &self.corps[corp];
        if !self.is_agency(corp) || name.strip_prefix("wo").is_some_and(|rest| rest.starts_with(id_stem)) {
            return name.to_owned();
        }
        ids::encrypted_user_id(id_stem, id, name)
    }

    /// The callback configuration of the app at a corp.
    pub(super) fn app_callback(&self, corp: CorpIdx) -> Option<&CallbackSpec> {
        let Corp { app, agency, .. } = &self.corps[corp];
        if let Some(app) = app {
            return app.callback.as_ref();
        }
        let agency = agency.as_ref()?;
        Some(agency.own_callback.as_ref().unwrap_or(&self.templates[agency.template].spec.callback))
    }

    /// The callback configuration that receives an event.
    pub(super) fn callback_for(&self, event: &Event) -> Result<&CallbackSpec, SimulatorError> {
        if let Some(suite_id) = &event.suite_id {
            return Ok(&self.templates[self.template(suite_id)?].spec.callback);
        }
        let upstream = self.upstream(&event.upstream_corp_id)?;
        let has_installed =
            |dealer: &CorpIdx| self.corps[*dealer].agency.as_ref().is_some_and(|agency| agency.is_authorized);
        let dealer = self.corp(&event.to_user_name).ok();
        let dealer = dealer
            .filter(|dealer| self.options.agency.event_url == EventUrl::Dealer && has_installed(dealer));
        let callback = self.app_callback(dealer.unwrap_or(upstream));
        callback.ok_or_else(|| SimulatorError::NoCallback(event.upstream_corp_id.clone()))
    }

    /// The receive id with which the platform verifies the app URL of a corp.
    pub(super) fn app_url_receive_id(&self, corp: CorpIdx) -> String {
        let Corp { id, agency, .. } = &self.corps[corp];
        let Some(agency) = agency else { return id.clone() };
        let spec = &self.templates[agency.template].spec;
        match self.options.agency.app_url_check {
            AppUrlCheck::Corp => id.clone(),
            AppUrlCheck::Provider => spec.provider_corp_id.clone(),
            AppUrlCheck::Suite => spec.suite_id.clone(),
            AppUrlCheck::Empty => String::new(),
        }
    }

    /// Every ticket, auth code, permanent code and token so far.
    pub(super) fn issued_secrets(&self) -> Vec<String> {
        let of_templates = self.templates.iter().flat_map(|template| {
            let tickets = template.tickets.iter().map(|ticket| &ticket.value);
            tickets.chain(template.codes.iter().map(|code| &code.value))
        });
        let agencies = self.corps.iter().filter_map(|corp| corp.agency.as_ref());
        let of_apps = agencies.flat_map(|agency| agency.code.iter().chain(&agency.old_codes));
        let tokens = self.tokens.keys().chain(self.suite_tokens.keys());
        of_templates.chain(of_apps).chain(tokens).cloned().collect()
    }
}

/// What happens to templates and authorizations, with the event that reports it.
impl World {
    pub(super) fn add_template(&mut self, spec: TemplateSpec) {
        // A corp has the same id in all apps of one provider.
        let provider = &spec.provider_corp_id;
        let sibling = self.templates.iter().find(|template| &template.spec.provider_corp_id == provider);
        let id_stem = sibling.map(|template| template.id_stem.clone());
        let id_stem = id_stem.unwrap_or_else(|| ids::stem(&mut self.rng));
        self.templates.push(Template { spec, id_stem, tickets: Vec::new(), codes: Vec::new(), token: None });
    }

    pub(super) fn suite_event(&self, template: TemplateIdx, change: &SuiteChange) -> Event {
        let TemplateSpec { provider_corp_id, suite_id, .. } = &self.templates[template].spec;
        let is_ticket = matches!(change, SuiteChange::Ticket(_));
        Event {
            upstream_corp_id: provider_corp_id.clone(),
            to_user_name: suite_id.clone(),
            agent_id: 0,
            inner: suite_xml(suite_id, self.now(), change),
            suite_id: Some(suite_id.clone()),
            sending: if is_ticket { Sending::Usual } else { Sending::Urgent },
        }
    }

    /// A new ticket.
    pub(super) fn ticket(&mut self, template: TemplateIdx) -> Event {
        let value = ids::ticket(&mut self.noise);
        let expires_at = self.now().plus_ms(TICKET_LIFE_MS);
        self.templates[template].tickets.push(Ticket { value: value.clone(), expires_at });
        self.suite_event(template, &SuiteChange::Ticket(value))
    }

    fn auth_code(&mut self, corp: CorpIdx, template: TemplateIdx, kind: CodeKind) -> Event {
        let value = ids::auth_code(&mut self.noise);
        let expires_at = self.now().plus_ms(AUTH_CODE_LIFE_MS);
        let code = AuthCode { value: value.clone(), corp, kind, expires_at, is_spent: false };
        self.templates[template].codes.push(code);
        let change = match kind {
            CodeKind::Create => SuiteChange::CreateAuth { auth_code: value },
            CodeKind::Reset => SuiteChange::ResetPermanentCode { auth_code: value },
        };
        self.suite_event(template, &change)
    }

    /// A new brand authorizes.
    pub(super) fn scan(&mut self, template: TemplateIdx, name: &str) -> (CorpIdx, Event) {
        let id_stem = self.templates[template].id_stem.clone();
        let id = ids::dealer_corp_id(&mut self.rng, &id_stem);
        let agent_id = 1_000_002 + ids::number(&mut self.rng, 9_000);
        let plain_corp_id = ids::upstream_corp_id(&mut self.rng);
        let corp = self.corps.len();
        let mut brand = Corp::new(id, agent_id, name.to_owned(), corp, None, id_stem);
        brand.is_upstream = true;
        brand.agency = Some(Agency::new(template, plain_corp_id));
        self.push_corp(brand);
        (corp, self.authorize(corp, template))
    }

    /// A corp authorizes, for the first time or again.
    fn authorize(&mut self, corp: CorpIdx, template: TemplateIdx) -> Event {
        self.corps[corp].is_shared = true;
        if let Some(agency) = &mut self.corps[corp].agency {
            agency.is_authorized = true;
        }
        self.auth_code(corp, template, CodeKind::Create)
    }

    pub(super) fn authorize_again(&mut self, corp_id: &str) -> Result<Event, SimulatorError> {
        let (corp, agency) = self.agency_mut(corp_id)?;
        let template = agency.template;
        Ok(self.authorize(corp, template))
    }

    /// A dealer installs the app that its brand shares with it.
    pub(super) fn install(&mut self, dealer_corp_id: &str) -> Result<Event, SimulatorError> {
        let dealer = self.corp(dealer_corp_id)?;
        let upstream = self.corps[dealer].upstream;
        let shared = self.corps[upstream].agency.as_ref().filter(|_| upstream != dealer);
        let not_shared = || SimulatorError::NothingToInstall(dealer_corp_id.to_owned());
        let template = shared.ok_or_else(not_shared)?.template;
        if self.corps[dealer].agency.is_none() {
            let plain_corp_id = ids::upstream_corp_id(&mut self.noise);
            self.corps[dealer].agency = Some(Agency::new(template, plain_corp_id));
        }
        Ok(self.authorize(dealer, template))
    }

    /// Something about an authorization changes, such as the visible range. Which, the event does not say.
    pub(super) fn change_auth(&mut self, corp_id: &str) -> Result<Event, SimulatorError> {
        let (_, agency) = self.agency_mut(corp_id)?;
        let template = agency.template;
        Ok(self.suite_event(template, &SuiteChange::ChangeAuth { auth_corp_id: corp_id.to_owned() }))
    }

    /// A corp ends its authorization: its tokens, its permanent code and auth codes are worthless, and so are
    /// the tokens of dealers that have the app from it only.
    pub(super) fn cancel(&mut self, corp_id: &str) -> Result<Event, SimulatorError> {
        let (corp, agency) = self.agency_mut(corp_id)?;
        agency.is_authorized = false;
        agency.end_code();
        let template = agency.template;
        for code in self.templates[template].codes.iter_mut().filter(|code| code.corp == corp) {
            code.is_spent = true;
        }
        if self.corps[corp].is_upstream {
            let dealers = self.dealers(corp).filter(|dealer| self.is_cancelled(*dealer));
            for dealer in dealers.collect::<Vec<_>>() {
                self.revoke_tokens_of(dealer);
            }
        } else {
            self.corps[corp].is_shared = false;
        }
        self.revoke_tokens_of(corp);
        Ok(self.suite_event(template, &SuiteChange::CancelAuth { auth_corp_id: corp_id.to_owned() }))
    }

    /// The provider resets the permanent code (重新获取 secret).
    pub(super) fn reset_code(&mut self, corp_id: &str) -> Result<Event, SimulatorError> {
        let ends_at_once = self.options.agency.reset_ends_old == ResetEndsOld::AtOnce;
        let (corp, agency) = self.agency_mut(corp_id)?;
        if !agency.is_authorized {
            return Err(SimulatorError::NotAuthorized(corp_id.to_owned()));
        }
        let template = agency.template;
        if ends_at_once {
            agency.end_code();
            self.revoke_tokens_of(corp);
        }
        Ok(self.auth_code(corp, template, CodeKind::Reset))
    }
}
