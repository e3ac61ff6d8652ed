//! Admission of a call (authentication, limits, permissions), and the token and address APIs.
//!
//! Deliberately absent: the conversions (`convert`), the dealer directory (`directory`), the lists of
//! customers (`lists`) and groups (`chats`), faults and HTTP (`server`).

use serde_json::{Value, json};

use super::api::{Answer, Api, Errcode, Request};
use super::directory::BUSINESS_TYPE_CHAIN;
use super::model::{Corp, CorpIdx};
use super::options::Permission;
use super::quota::{CallWindows, Charge};
use super::world::{Caller, World};
use crate::domain::time::HOUR_MS;

/// Wrong secrets in a row before an address is banned.
const WRONG_SECRETS_MAX: u32 = 5;
/// What an agency-developed app may not do.
const FORBIDDEN: Permission = Permission::Refused(Errcode::API_FORBIDDEN.0);

impl World {
    /// The corp or template whose token or id the call carries, valid or not.
    pub(super) fn caller(&self, api: Api, request: &Request) -> Option<Caller> {
        if api.is_of_template() {
            return self.calling_template(api, request).map(Caller::Template);
        }
        if api == Api::GetToken {
            return self.corp_with_secret(request.param("corpid")?).map(Caller::Corp);
        }
        Some(Caller::Corp(self.tokens.get(request.param("access_token")?)?.corp))
    }

    /// Checks the caller and charges the call, whatever happens to it afterwards.
    pub(super) fn admit(&mut self, api: Api, request: &Request) -> Result<Caller, Errcode> {
        if api.is_get() != request.is_get {
            return Err(if api.is_get() { Errcode::GET_REQUIRED } else { Errcode::POST_REQUIRED });
        }
        let caller = match api {
            _ if api.is_of_template() => Caller::Template(self.check_template(api, request)?),
            Api::GetToken => Caller::Corp(self.check_secret(request)?),
            _ => Caller::Corp(self.check_token(request)?),
        };
        let now_ms = self.now().as_millis();
        let base_limits = [self.options.base_per_minute, self.options.base_per_hour];
        let windows = self.base_calls.entry((caller, api)).or_insert_with(CallWindows::base);
        let charge = windows.charge(now_ms, &base_limits);
        self.counters.base_violations += u64::from(charge.is_violation);
        self.check_charge(charge)?;
        let Caller::Corp(corp) = caller else { return Ok(caller) };
        if api.is_upstream_only() && !self.corps[corp].is_upstream {
            return Err(Errcode::WRONG_TOKEN_KIND);
        }
        if api.has_conversion_quota() {
            let limits = self.options.quota.limits();
            let windows = self.conversion_calls.entry((corp, api)).or_insert_with(CallWindows::conversion);
            let charge = windows.charge(now_ms, &limits);
            self.counters.quota_violations += u64::from(charge.is_violation);
            self.check_charge(charge)?;
        }
        Ok(caller)
    }

    fn check_charge(&mut self, charge: Charge) -> Result<(), Errcode> {
        if charge.is_admitted {
            return Ok(());
        }
        self.counters.blocked_calls += u64::from(!charge.is_violation);
        Err(Errcode::OVER_LIMIT)
    }

    fn check_token(&self, request: &Request) -> Result<CorpIdx, Errcode> {
        let value = request.param("access_token").ok_or(Errcode::TOKEN_MISSING)?;
        let token = self.tokens.get(value).ok_or(Errcode::INVALID_TOKEN)?;
        if self.is_cancelled(token.corp) {
            return Err(Errcode(self.options.agency.cancelled));
        }
        if token.is_revoked {
            return Err(Errcode::INVALID_TOKEN);
        }
        if token.expires_at <= self.now() {
            return Err(Errcode::TOKEN_EXPIRED);
        }
        if !self.corps[token.corp].is_shared {
            return Err(Errcode(self.options.withdrawn_token));
        }
        Ok(token.corp)
    }

    fn check_secret(&mut self, request: &Request) -> Result<CorpIdx, Errcode> {
        let corp_id = request.param("corpid").ok_or(Errcode::CORP_ID_MISSING)?;
        let secret = request.param("corpsecret").ok_or(Errcode::SECRET_MISSING)?;
        let now_ms = self.now().as_millis();
        if self.wrong_secrets.get(&request.ip).is_some_and(|(_, banned_until_ms)| now_ms < *banned_until_ms) {
            self.counters.blocked_calls += 1;
            return Err(Errcode::OVER_LIMIT);
        }
        let corp = self.corp_with_secret(corp_id).ok_or(Errcode::INVALID_CORP_ID)?;
        let Corp { app, agency, .. } = &self.corps[corp];
        if agency.as_ref().is_some_and(|agency| !agency.is_authorized) {
            return Err(Errcode(self.options.agency.cancelled));
        }
        let secret_of_app = app.as_ref().map(|app| &app.secret);
        let known = secret_of_app.or_else(|| agency.as_ref()?.code.as_ref());
        if known.is_some_and(|known| known == secret) {
            self.wrong_secrets.remove(&request.ip);
            return Ok(corp);
        }
        let (tries, banned_until_ms) = self.wrong_secrets.entry(request.ip).or_insert((0, i64::MIN));
        *tries += 1;
        if *tries <= WRONG_SECRETS_MAX {
            return Err(Errcode::INVALID_SECRET);
        }
        *tries = 0;
        *banned_until_ms = now_ms.saturating_add(HOUR_MS);
        Err(Errcode::OVER_LIMIT)
    }

    /// A corp whose app has a secret or permanent code of its own, known or not.
    fn corp_with_secret(&self, corp_id: &str) -> Option<CorpIdx> {
        let corp = self.corp(corp_id).ok()?;
        (self.corps[corp].is_upstream || self.corps[corp].agency.is_some()).then_some(corp)
    }

    /// Counts an admitted call as in flight until [`Self::leave`], if not too many are already.
    pub(super) fn enter(&mut self, caller: Caller, api: Api) -> Result<(), Errcode> {
        let in_flight = self.in_flight.entry((caller, api)).or_default();
        if self.options.concurrency_max.is_some_and(|max| *in_flight >= max) {
            return Err(Errcode::TOO_MANY_AT_ONCE);
        }
        *in_flight += 1;
        let peak = self.counters.max_in_flight.entry(api).or_default();
        *peak = (*peak).max(*in_flight);
        Ok(())
    }

    /// A call is no longer in flight.
    pub(super) fn leave(&mut self, caller: Caller, api: Api) {
        if let Some(in_flight) = self.in_flight.get_mut(&(caller, api)) {
            *in_flight = in_flight.saturating_sub(1);
        }
    }

    fn permission(&self, api: Api, caller: CorpIdx) -> Permission {
        let agency = self.is_agency(caller).then_some(&self.options.agency);
        match (api, agency) {
            (Api::ContactList, Some(_)) => return FORBIDDEN,
            (Api::CorpGetToken, Some(agency)) => return agency.corp_gettoken,
            (Api::ListAppShareInfo, Some(agency)) => return agency.list_app_share_info,
            _ if api.reads_customers() && !self.may_read_customers(caller) => return FORBIDDEN,
            _ => {}
        }
        match api {
            Api::ContactList => self.options.contact_list,
            Api::GetChainList | Api::GetChainGroup | Api::GetChainCorpinfoList | Api::GetChainCorpinfo => {
                self.options.chain_calls
            }
            _ => Permission::Allowed,
        }
    }

    /// Carries an admitted call out.
    pub(super) fn answer(&mut self, api: Api, caller: Caller, request: &Request) -> Answer {
        if request.has_escapes {
            return Err(Errcode::ESCAPED_UNICODE);
        }
        let caller = match caller {
            Caller::Corp(corp) => corp,
            Caller::Template(template) => return self.template_answer(api, template, request),
        };
        if let Permission::Refused(code) = self.permission(api, caller) {
            return Err(Errcode(code));
        }
        match api {
            Api::GetToken => Ok(self.token_answer(caller)),
            Api::GetCallbackIp => Ok(json!({ "ip_list": self.options.callback_ips })),
            Api::ListAppShareInfo => self.list_app_share_info(caller, request),
            Api::CorpGetToken => self.corp_gettoken(caller, request),
            Api::UnionidToPendingId => self.unionid_to_pending_id(caller, request),
            Api::ExternalUseridToPendingId => self.external_userid_to_pending_id(caller, request),
            Api::UnionidToExternalUserid => self.unionid_to_external_userid(caller, request),
            Api::GetFollowUserList => Ok(self.get_follow_user_list(caller)),
            Api::ExternalContactList => self.externalcontact_list(caller, request),
            Api::GetByUser => self.get_by_user(caller, request),
            Api::ContactList => self.contact_list(caller, request),
            Api::GroupChatList => self.groupchat_list(caller, request),
            Api::GroupChatGet => self.groupchat_get(caller, request),
            Api::GetChainList => Ok(self.get_chain_list(caller)),
            Api::GetChainGroup => self.get_chain_group(caller, request),
            Api::GetChainCorpinfoList => self.get_chain_corpinfo_list(caller, request),
            Api::GetChainCorpinfo => self.get_chain_corpinfo(caller, request),
            Api::GetPermissions => self.get_permissions(caller),
            // The calls of templates, answered above.
            Api::GetSuiteToken | Api::GetPermanentCode | Api::GetAuthInfo => Err(Errcode::INVALID_TOKEN),
        }
    }

    fn token_answer(&mut self, corp: CorpIdx) -> Value {
        let (access_token, expires_in) = self.token_for(corp);
        json!({ "access_token": access_token, "expires_in": expires_in })
    }

    fn corp_gettoken(&mut self, caller: CorpIdx, request: &Request) -> Answer {
        let corp_id = request.text("corpid")?;
        let agent_id = request.optional_number("agentid")?.ok_or(Errcode::INVALID_PARAMETER)?;
        let business_type = request.optional_number("business_type")?.unwrap_or(0);
        let dealer = self.member_corp(caller, corp_id).map_err(|_| Errcode::NOT_SHARED)?;
        let corp = &self.corps[dealer];
        let is_shared = dealer != caller && self.is_reached_by_brand(dealer) && corp.agent_id == agent_id;
        if !is_shared || business_type != BUSINESS_TYPE_CHAIN {
            return Err(Errcode::NOT_SHARED);
        }
        Ok(self.token_answer(dealer))
    }
}
