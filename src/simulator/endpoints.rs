//! Admission of a call (whose token, which limits) and the token, sharing and address APIs.
//!
//! Deliberately absent: the three conversions (`convert`), faults and HTTP (`server`).

use std::collections::HashMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::api::{Answer, Api, Errcode, object};
use super::quota::{Ledger, conversion_limits};
use super::world::{CorpIdx, World};
use crate::domain::time::{HOUR_MS, Timestamp};

/// The documented page size limit of `list_app_share_info`.
const PAGE_CORPS_MAX: u64 = 100;
/// The relation type that means 上下游; 0, the default, means 企业互联.
const BUSINESS_TYPE_CHAIN: u64 = 1;
/// Wrong secrets in a row that an address may try.
const WRONG_SECRETS_MAX: u32 = 5;

/// A call as it arrived.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) is_get: bool,
    pub(super) params: HashMap<String, String>,
    pub(super) body: Value,
    /// The raw body contains `\u` escapes, which the platform refuses.
    pub(super) has_escapes: bool,
    pub(super) ip: IpAddr,
}

impl Request {
    fn param(&self, name: &str) -> Option<&str> {
        self.params.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A required, non-empty text field.
    pub(super) fn text(&self, name: &str) -> Result<&str, Errcode> {
        self.body[name].as_str().filter(|value| !value.is_empty()).ok_or(Errcode::INVALID_PARAMETER)
    }

    /// An optional text field; empty counts as absent.
    pub(super) fn optional_text(&self, name: &str) -> Result<Option<&str>, Errcode> {
        match &self.body[name] {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            _ => Err(Errcode::INVALID_PARAMETER),
        }
    }

    fn optional_number(&self, name: &str) -> Result<Option<u64>, Errcode> {
        match &self.body[name] {
            Value::Null => Ok(None),
            number => number.as_u64().map(Some).ok_or(Errcode::INVALID_PARAMETER),
        }
    }
}

impl World {
    /// Whose call this is, without judging it.
    pub(super) fn caller(&self, api: Api, request: &Request) -> Option<CorpIdx> {
        if api == Api::GetToken {
            let corp_id = request.param("corpid")?;
            return self.upstream(corp_id).ok();
        }
        Some(self.tokens.get(request.param("access_token")?)?.corp)
    }

    /// Checks the caller and charges the call, whatever becomes of it afterwards.
    pub(super) fn admit(&mut self, api: Api, request: &Request, now: Timestamp) -> Result<CorpIdx, Errcode> {
        if api.is_get() != request.is_get {
            return Err(if api.is_get() { Errcode::GET_REQUIRED } else { Errcode::POST_REQUIRED });
        }
        let caller = match api {
            Api::GetToken => self.admit_secret_holder(request, now)?,
            _ => self.admit_token_holder(request, now)?,
        };
        let base_limits = [self.options.base_per_minute, self.options.base_per_hour];
        let ledger = self.base_ledgers.entry((caller, api)).or_insert_with(Ledger::base);
        let charge = ledger.charge(now.as_millis(), &base_limits);
        self.counters.base_violations += u64::from(charge.is_violation);
        if !charge.is_admitted {
            self.counters.blocked_calls += u64::from(!charge.is_violation);
            return Err(Errcode::OVER_LIMIT);
        }
        if api.is_upstream_only() && self.app(caller).is_none() {
            return Err(Errcode::WRONG_TOKEN_KIND);
        }
        if api.has_conversion_quota() {
            let limits = conversion_limits(&self.options.quota);
            let ledger = self.conversion_ledgers.entry((caller, api)).or_insert_with(Ledger::conversion);
            let charge = ledger.charge(now.as_millis(), &limits);
            self.counters.quota_violations += u64::from(charge.is_violation);
            if !charge.is_admitted {
                self.counters.blocked_calls += u64::from(!charge.is_violation);
                return Err(Errcode::OVER_LIMIT);
            }
        }
        Ok(caller)
    }

    fn admit_token_holder(&self, request: &Request, now: Timestamp) -> Result<CorpIdx, Errcode> {
        let value = request.param("access_token").ok_or(Errcode::TOKEN_MISSING)?;
        let token = self.tokens.get(value).filter(|token| !token.is_revoked).ok_or(Errcode::INVALID_TOKEN)?;
        if token.expires_at <= now {
            return Err(Errcode::TOKEN_EXPIRED);
        }
        Ok(token.corp)
    }

    fn admit_secret_holder(&mut self, request: &Request, now: Timestamp) -> Result<CorpIdx, Errcode> {
        let corp_id = request.param("corpid").ok_or(Errcode::CORP_ID_MISSING)?;
        let secret = request.param("corpsecret").ok_or(Errcode::SECRET_MISSING)?;
        if self.wrong_secrets.get(&request.ip).is_some_and(|(_, until_ms)| now.as_millis() < *until_ms) {
            self.counters.blocked_calls += 1;
            return Err(Errcode::OVER_LIMIT);
        }
        let corp = self.upstream(corp_id).map_err(|_| Errcode::INVALID_CORP_ID)?;
        if self.app(corp).is_some_and(|app| app.secret == secret) {
            self.wrong_secrets.remove(&request.ip);
            return Ok(corp);
        }
        let (tries, banned_until_ms) = self.wrong_secrets.entry(request.ip).or_insert((0, i64::MIN));
        *tries += 1;
        if *tries <= WRONG_SECRETS_MAX {
            return Err(Errcode::INVALID_SECRET);
        }
        *tries = 0;
        *banned_until_ms = now.as_millis().saturating_add(HOUR_MS);
        Err(Errcode::OVER_LIMIT)
    }

    /// Carries an admitted call out.
    pub(super) fn answer(&mut self, api: Api, caller: CorpIdx, request: &Request, now: Timestamp) -> Answer {
        if request.has_escapes {
            return Err(Errcode::ESCAPED_UNICODE);
        }
        match api {
            Api::GetToken => Ok(self.token_answer(caller, now)),
            Api::GetCallbackIp => Ok(object(json!({ "ip_list": ["127.0.0.1"] }))),
            Api::ListAppShareInfo => self.list_app_share_info(caller, request),
            Api::CorpGetToken => self.corp_gettoken(caller, request, now),
            Api::UnionidToPendingId => self.unionid_to_pending_id(caller, request, now),
            Api::ExternalUseridToPendingId => self.external_userid_to_pending_id(caller, request, now),
            Api::UnionidToExternalUserid => self.unionid_to_external_userid(caller, request),
        }
    }

    fn token_answer(&mut self, corp: CorpIdx, now: Timestamp) -> serde_json::Map<String, Value> {
        let (access_token, expires_in) = self.token_for(corp, now);
        object(json!({ "access_token": access_token, "expires_in": expires_in }))
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
        let dealers = self.app(caller).map(|app| app.dealers.as_slice()).unwrap_or_default();
        let listed: Vec<CorpIdx> = dealers
            .iter()
            .copied()
            .filter(|dealer| business_type == BUSINESS_TYPE_CHAIN && self.is_shared(*dealer))
            .filter(|dealer| only_corp.is_none_or(|only| self.corps[*dealer].id == only))
            .collect();
        let page_corps = usize::try_from(limit).ok().filter(|corps| *corps > 0).unwrap_or(usize::MAX);
        let page: Vec<Value> = listed
            .iter()
            .skip(offset)
            .take(page_corps)
            .map(|dealer| {
                let corp = &self.corps[*dealer];
                json!({
                    "corpid": corp.id,
                    "corp_name": corp.name,
                    "agentid": corp.agent_id,
                    "corp_status": 1,
                })
            })
            .collect();
        let next = offset.saturating_add(page.len());
        let is_last = next >= listed.len();
        Ok(object(json!({
            "ending": u8::from(is_last),
            "corp_list": page,
            "next_cursor": if is_last { String::new() } else { cursor_at(next) },
        })))
    }

    fn corp_gettoken(&mut self, caller: CorpIdx, request: &Request, now: Timestamp) -> Answer {
        let corp_id = request.text("corpid")?;
        let agent_id = request.optional_number("agentid")?.ok_or(Errcode::INVALID_PARAMETER)?;
        let business_type = request.optional_number("business_type")?.unwrap_or(0);
        let dealer = self
            .member_corp(caller, corp_id)
            .ok()
            .filter(|dealer| *dealer != caller && self.is_shared(*dealer))
            .filter(|dealer| self.corps[*dealer].agent_id == agent_id)
            .filter(|_| business_type == BUSINESS_TYPE_CHAIN)
            .ok_or(Errcode::NOT_SHARED)?;
        Ok(self.token_answer(dealer, now))
    }
}

// A cursor is opaque to the client; the prefix keeps anybody from computing one.
fn cursor_at(offset: usize) -> String {
    format!("next_cursor_{offset:x}")
}

fn offset_of(cursor: &str) -> Option<usize> {
    usize::from_str_radix(cursor.strip_prefix("next_cursor_")?, 16).ok()
}
