//! The APIs of a template: `get_suite_token` (document 97162), `v2/get_permanent_code` (97163),
//! `v2/get_auth_info` (100795), and of its apps `agent/get_permissions` (99108).
//!
//! Deliberately absent: `gettoken` with a permanent code, which is that of every app (`endpoints`), and the
//! provider's own token.

use serde_json::{Value, json};

use super::{CodeKind, SuiteToken, TemplateIdx, Ticket};
use crate::domain::time::SECOND_MS;
use crate::simulator::api::{Answer, Api, Errcode, Request};
use crate::simulator::ids;
use crate::simulator::model::CorpIdx;
use crate::simulator::options::{SharedFrom, TicketRule};
use crate::simulator::world::World;

/// The `share_type` of 上下游.
const SHARED_IN_CHAIN: u8 = 1;

impl World {
    /// The template that a call names or whose token it carries, valid or not.
    pub(in crate::simulator) fn calling_template(&self, api: Api, request: &Request) -> Option<TemplateIdx> {
        if api == Api::GetSuiteToken {
            return self.template(request.body["suite_id"].as_str()?).ok();
        }
        Some(self.suite_tokens.get(request.param("suite_access_token")?)?.template)
    }

    /// Checks the ticket or token of a template's call.
    pub(in crate::simulator) fn check_template(
        &self,
        api: Api,
        request: &Request,
    ) -> Result<TemplateIdx, Errcode> {
        if api == Api::GetSuiteToken {
            return self.check_ticket(request);
        }
        let token = request.param("suite_access_token").and_then(|value| self.suite_tokens.get(value));
        let token = token.ok_or(Errcode::INVALID_SUITE_TOKEN)?;
        if token.expires_at <= self.now() {
            return Err(Errcode::SUITE_TOKEN_EXPIRED);
        }
        Ok(token.template)
    }

    fn check_ticket(&self, request: &Request) -> Result<TemplateIdx, Errcode> {
        let (suite_id, secret) = (request.text("suite_id")?, request.text("suite_secret")?);
        let index = self.template(suite_id).map_err(|_| Errcode::INVALID_SUITE_ID)?;
        let template = &self.templates[index];
        if template.spec.suite_secret != secret {
            return Err(Errcode::INVALID_SUITE_SECRET);
        }
        let value = request.text("suite_ticket")?;
        let now = self.now();
        let is_accepted = |ticket: &Ticket| ticket.value == value && now < ticket.expires_at;
        let is_good = match self.options.agency.ticket_rule {
            TicketRule::Unexpired => template.tickets.iter().any(is_accepted),
            TicketRule::Newest => template.tickets.last().is_some_and(is_accepted),
        };
        if is_good { Ok(index) } else { Err(Errcode::INVALID_TICKET) }
    }

    /// Carries an admitted call of a template out.
    pub(in crate::simulator) fn template_answer(
        &mut self,
        api: Api,
        template: TemplateIdx,
        request: &Request,
    ) -> Answer {
        match api {
            Api::GetSuiteToken => Ok(self.suite_token(template)),
            Api::GetPermanentCode => self.get_permanent_code(template, request),
            Api::GetAuthInfo => self.get_auth_info(template, request),
            _ => Err(Errcode::INVALID_TOKEN),
        }
    }

    /// The valid suite token of a template; a new one if there is none.
    fn suite_token(&mut self, template: TemplateIdx) -> Value {
        let now = self.now();
        if let Some(value) = &self.templates[template].token
            && let Some(token) = self.suite_tokens.get(value)
        {
            let secs_left = token.expires_at.millis_since(now) / SECOND_MS;
            if secs_left > 0 {
                return json!({ "suite_access_token": value, "expires_in": secs_left });
            }
        }
        let value = ids::access_token(&mut self.noise);
        let ttl_secs = self.options.token_ttl_secs;
        let expires_at = now.plus_ms(ttl_secs.saturating_mul(SECOND_MS));
        self.suite_tokens.insert(value.clone(), SuiteToken { template, expires_at });
        self.templates[template].token = Some(value.clone());
        json!({ "suite_access_token": value, "expires_in": ttl_secs })
    }

    fn get_permanent_code(&mut self, template: TemplateIdx, request: &Request) -> Answer {
        let (value, now) = (request.text("auth_code")?, self.now());
        let mut codes = self.templates[template].codes.iter_mut();
        let code = codes.find(|code| code.value == value && !code.is_spent && now < code.expires_at);
        let code = code.ok_or(Errcode::INVALID_AUTH_CODE)?;
        code.is_spent = true;
        let (corp, kind) = (code.corp, code.kind);
        let fresh = ids::permanent_code(&mut self.noise);
        if kind == CodeKind::Reset {
            self.revoke_tokens_of(corp);
        }
        let admin = self.user_id(corp, "admin");
        let agency = self.corps[corp].agency.as_mut().ok_or(Errcode::INVALID_AUTH_CODE)?;
        if kind == CodeKind::Reset {
            agency.end_code();
        }
        let permanent_code = agency.code.get_or_insert(fresh).clone();
        let corp = &self.corps[corp];
        Ok(json!({
            "permanent_code": permanent_code,
            "auth_corp_info": { "corpid": corp.id, "corp_name": corp.name },
            "auth_user_info": { "userid": admin, "open_userid": admin, "name": "", "avatar": "" },
            "state": "",
        }))
    }

    fn get_auth_info(&self, template: TemplateIdx, request: &Request) -> Answer {
        let (corp_id, code) = (request.text("auth_corpid")?, request.text("permanent_code")?);
        let corp = self.corp(corp_id).map_err(|_| Errcode::NOT_AUTHORIZED)?;
        let agency = self.corps[corp].agency.as_ref();
        let agency = agency.filter(|agency| agency.template == template && agency.is_authorized);
        let agency = agency.ok_or(Errcode::NOT_AUTHORIZED)?;
        if agency.code.as_deref() != Some(code) {
            return Err(Errcode::INVALID_PERMANENT_CODE);
        }
        Ok(json!({
            // The reseller of the authorization (代理服务商); not a dealer of a chain.
            "dealer_corp_info": { "corpid": "ww00000000000000a9", "corp_name": "代理商" },
            "auth_corp_info": {
                "corpid": corp_id,
                "corp_name": self.corps[corp].name,
                "corp_type": "verified",
                "corp_user_max": 50,
                "corp_full_name": self.corps[corp].name,
                "subject_type": 1,
            },
            "auth_info": { "agent": [self.agent(corp)] },
        }))
    }

    /// The app at a corp, as `v2/get_auth_info` describes it.
    fn agent(&self, corp: CorpIdx) -> Value {
        let installed = &self.corps[corp];
        let members = installed.members.iter().filter(|(_, member)| member.is_visible);
        let allow_user: Vec<&String> = members.map(|(user_id, _)| user_id).collect();
        let mut agent = json!({
            "agentid": installed.agent_id,
            "name": "代开发应用",
            "auth_mode": 0,
            "is_customized_app": true,
            "auth_from_thirdapp": false,
            "privilege": {
                "level": 0, "allow_party": [], "allow_user": allow_user, "allow_tag": [],
                "extra_party": [], "extra_user": [], "extra_tag": [],
            },
        });
        if !installed.is_upstream {
            let brand = &self.corps[installed.upstream];
            let plain = brand.agency.as_ref().map_or(&brand.id, |agency| &agency.plain_corp_id);
            let corp_id = match self.options.agency.shared_from {
                SharedFrom::Visible => &brand.id,
                SharedFrom::Plain => plain,
            };
            agent["shared_from"] = json!({ "corpid": corp_id, "share_type": SHARED_IN_CHAIN });
        }
        agent
    }

    pub(in crate::simulator) fn get_permissions(&self, caller: CorpIdx) -> Answer {
        let corp = &self.corps[caller];
        // A dealer that did not install the app has the permissions of its brand.
        let agency = corp.agency.as_ref().or(self.corps[corp.upstream].agency.as_ref());
        // The document is one of agency-developed apps only.
        let permissions = &agency.ok_or(Errcode::API_FORBIDDEN)?.permissions;
        Ok(json!({ "app_permissions": permissions, "app_permissions_ext": [] }))
    }
}
