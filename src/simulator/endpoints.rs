//! Admission of a call (authentication and limits), and the token, sharing and address APIs.
//!
//! Deliberately absent: the three conversions (`convert`), faults and HTTP (`server`).

use serde_json::{Value, json};

use super::api::{Answer, Api, Errcode, Request};
use super::model::{Corp, CorpIdx};
use super::quota::{CallWindows, Charge};
use super::world::World;
use crate::domain::time::HOUR_MS;

/// The documented page size limit of `list_app_share_info`.
const PAGE_CORPS_MAX: u64 = 100;
/// The `business_type` of 上下游; 0, the default, is 企业互联.
const BUSINESS_TYPE_CHAIN: u64 = 1;
/// Wrong secrets in a row before an address is banned.
const WRONG_SECRETS_MAX: u32 = 5;

impl World {
    /// The corp whose token or corp id the call carries, valid or not.
    pub(super) fn caller(&self, api: Api, request: &Request) -> Option<CorpIdx> {
        if api == Api::GetToken {
            return self.upstream(request.param("corpid")?).ok();
        }
        Some(self.tokens.get(request.param("access_token")?)?.corp)
    }

    /// Checks the caller and charges the call, whatever happens to it afterwards.
    pub(super) fn admit(&mut self, api: Api, request: &Request) -> Result<CorpIdx, Errcode> {
        if api.is_get() != request.is_get {
            return Err(if api.is_get() { Errcode::GET_REQUIRED } else { Errcode::POST_REQUIRED });
        }
        let caller = match api {
            Api::GetToken => self.check_secret(request)?,
            _ => self.check_token(request)?,
        };
        let now_ms = self.now().as_millis();
        let base_limits = [self.options.base_per_minute, self.options.base_per_hour];
        let windows = self.base_calls.entry((caller, api)).or_insert_with(CallWindows::base);
        let charge = windows.charge(now_ms, &base_limits);
        self.counters.base_violations += u64::from(charge.is_violation);
        self.check_charge(charge)?;
        if api.is_upstream_only() && !self.corps[caller].is_upstream() {
            return Err(Errcode::WRONG_TOKEN_KIND);
        }
        if api.has_conversion_quota() {
            let limits = self.options.quota.limits();
            let windows = self.conversion_calls.entry((caller, api)).or_insert_with(CallWindows::conversion);
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
        let token = self.tokens.get(value).filter(|token| !token.is_revoked).ok_or(Errcode::INVALID_TOKEN)?;
        if token.expires_at <= self.now() {
            return Err(Errcode::TOKEN_EXPIRED);
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
        let corp = self.upstream(corp_id).map_err(|_| Errcode::INVALID_CORP_ID)?;
        if self.corps[corp].app.as_ref().is_some_and(|app| app.secret == secret) {
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

    /// Carries an admitted call out.
    pub(super) fn answer(&mut self, api: Api, caller: CorpIdx, request: &Request) -> Answer {
        if request.has_escapes {
            return Err(Errcode::ESCAPED_UNICODE);
        }
        match api {
            Api::GetToken => Ok(self.token_answer(caller)),
            Api::GetCallbackIp => Ok(json!({ "ip_list": ["127.0.0.1"] })),
            Api::ListAppShareInfo => self.list_app_share_info(caller, request),
            Api::CorpGetToken => self.corp_gettoken(caller, request),
            Api::UnionidToPendingId => self.unionid_to_pending_id(caller, request),
            Api::ExternalUseridToPendingId => self.external_userid_to_pending_id(caller, request),
            Api::UnionidToExternalUserid => self.unionid_to_external_userid(caller, request),
        }
    }

    fn token_answer(&mut self, corp: CorpIdx) -> Value {
        let (access_token, expires_in) = self.token_for(corp);
        json!({ "access_token": access_token, "expires_in": expires_in })
    }

    fn list_app_share_info(&self, caller: CorpIdx, request: &Request) -> Answer {
        let agent_id = request.optional_number("agentid")?.ok_or(Errcode::INVALID_PARAMETER)?;
        let business_type = request.optional_number("business_type")?.unwrap_or(0);
        let only_corp = request.optional_text("corpid")?;
        let limit = request.optional_number("limit")?.unwrap_or(0);
        let offset = match request.optional_text("cursor")? {
            None => 0,
            Some(cursor) => offset_of(cursor).ok_or(Errcode::INVALID_PARAMETER)?,
        };
        if agent_id != self.corps[caller].agent_id {
            return Err(Errcode::INVALID_AGENT_ID);
        }
        if limit > PAGE_CORPS_MAX {
            return Err(Errcode::INVALID_PARAMETER);
        }
        let listed: Vec<&Corp> = self
            .dealers(caller)
            .map(|dealer| &self.corps[dealer])
            .filter(|dealer| business_type == BUSINESS_TYPE_CHAIN && dealer.is_shared)
            .filter(|dealer| only_corp.is_none_or(|only| dealer.id == only))
            .collect();
        let page_corps = usize::try_from(limit).ok().filter(|corps| *corps > 0).unwrap_or(usize::MAX);
        let page: Vec<Value> = listed
            .iter()
            .skip(offset)
            .take(page_corps)
            .map(|dealer| {
                json!({
                    "corpid": dealer.id,
                    "corp_name": dealer.name,
                    "agentid": dealer.agent_id,
                    "corp_status": 1,
                })
            })
            .collect();
        let next = offset.saturating_add(page.len());
        let is_last = next >= listed.len();
        Ok(json!({
            "ending": u8::from(is_last),
            "corp_list": page,
            "next_cursor": if is_last { String::new() } else { cursor_at(next) },
        }))
    }

    fn corp_gettoken(&mut self, caller: CorpIdx, request: &Request) -> Answer {
        let corp_id = request.text("corpid")?;
        let agent_id = request.optional_number("agentid")?.ok_or(Errcode::INVALID_PARAMETER)?;
        let business_type = request.optional_number("business_type")?.unwrap_or(0);
        let dealer = self.member_corp(caller, corp_id).map_err(|_| Errcode::NOT_SHARED)?;
        let corp = &self.corps[dealer];
        let is_shared = dealer != caller && corp.is_shared && corp.agent_id == agent_id;
        if !is_shared || business_type != BUSINESS_TYPE_CHAIN {
            return Err(Errcode::NOT_SHARED);
        }
        Ok(self.token_answer(dealer))
    }
}

// A cursor is opaque to the client; the prefix keeps a client from passing an offset instead.
fn cursor_at(offset: usize) -> String {
    format!("next_cursor_{offset:x}")
}

fn offset_of(cursor: &str) -> Option<usize> {
    usize::from_str_radix(cursor.strip_prefix("next_cursor_")?, 16).ok()
}
