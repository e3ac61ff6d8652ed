//! The simulated APIs, and the form of a call's request and answer: parameters, `errcode`, `errmsg`, payload.
//!
//! Deliberately absent: what each API does (`endpoints` and those it calls) and HTTP (`server`).

use std::collections::HashMap;
use std::net::IpAddr;

use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use strum::VariantArray;

use super::ids;
use crate::domain::time::Timestamp;

/// A simulated API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, VariantArray)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// `GET /cgi-bin/gettoken`
    #[serde(rename = "gettoken")]
    GetToken,
    /// `GET /cgi-bin/getcallbackip`
    #[serde(rename = "getcallbackip")]
    GetCallbackIp,
    /// `POST /cgi-bin/corpgroup/corp/list_app_share_info`
    ListAppShareInfo,
    /// `POST /cgi-bin/corpgroup/corp/gettoken`
    #[serde(rename = "corp_gettoken")]
    CorpGetToken,
    /// `POST /cgi-bin/corpgroup/unionid_to_pending_id`
    UnionidToPendingId,
    /// `POST /cgi-bin/corpgroup/batch/external_userid_to_pending_id`
    ExternalUseridToPendingId,
    /// `POST /cgi-bin/corpgroup/unionid_to_external_userid`
    UnionidToExternalUserid,
    /// `GET /cgi-bin/externalcontact/get_follow_user_list`
    GetFollowUserList,
    /// `GET /cgi-bin/externalcontact/list`
    #[serde(rename = "externalcontact_list")]
    ExternalContactList,
    /// `POST /cgi-bin/externalcontact/batch/get_by_user`
    GetByUser,
    /// `POST /cgi-bin/externalcontact/contact_list`
    ContactList,
    /// `POST /cgi-bin/externalcontact/groupchat/list`
    #[serde(rename = "groupchat_list")]
    GroupChatList,
    /// `POST /cgi-bin/externalcontact/groupchat/get`
    #[serde(rename = "groupchat_get")]
    GroupChatGet,
    /// `GET /cgi-bin/corpgroup/corp/get_chain_list`
    GetChainList,
    /// `POST /cgi-bin/corpgroup/corp/get_chain_group`
    GetChainGroup,
    /// `POST /cgi-bin/corpgroup/corp/get_chain_corpinfo_list`
    GetChainCorpinfoList,
    /// `POST /cgi-bin/corpgroup/corp/get_chain_corpinfo`
    GetChainCorpinfo,
    /// `POST /cgi-bin/service/get_suite_token`
    GetSuiteToken,
    /// `POST /cgi-bin/service/v2/get_permanent_code`
    GetPermanentCode,
    /// `POST /cgi-bin/service/v2/get_auth_info`
    GetAuthInfo,
    /// `POST /cgi-bin/agent/get_permissions`
    GetPermissions,
}

impl Api {
    /// Its path on the API host.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::GetToken => "/cgi-bin/gettoken",
            Self::GetCallbackIp => "/cgi-bin/getcallbackip",
            Self::ListAppShareInfo => "/cgi-bin/corpgroup/corp/list_app_share_info",
            Self::CorpGetToken => "/cgi-bin/corpgroup/corp/gettoken",
            Self::UnionidToPendingId => "/cgi-bin/corpgroup/unionid_to_pending_id",
            Self::ExternalUseridToPendingId => "/cgi-bin/corpgroup/batch/external_userid_to_pending_id",
            Self::UnionidToExternalUserid => "/cgi-bin/corpgroup/unionid_to_external_userid",
            Self::GetFollowUserList => "/cgi-bin/externalcontact/get_follow_user_list",
            Self::ExternalContactList => "/cgi-bin/externalcontact/list",
            Self::GetByUser => "/cgi-bin/externalcontact/batch/get_by_user",
            Self::ContactList => "/cgi-bin/externalcontact/contact_list",
            Self::GroupChatList => "/cgi-bin/externalcontact/groupchat/list",
            Self::GroupChatGet => "/cgi-bin/externalcontact/groupchat/get",
            Self::GetChainList => "/cgi-bin/corpgroup/corp/get_chain_list",
            Self::GetChainGroup => "/cgi-bin/corpgroup/corp/get_chain_group",
            Self::GetChainCorpinfoList => "/cgi-bin/corpgroup/corp/get_chain_corpinfo_list",
            Self::GetChainCorpinfo => "/cgi-bin/corpgroup/corp/get_chain_corpinfo",
            Self::GetSuiteToken => "/cgi-bin/service/get_suite_token",
            Self::GetPermanentCode => "/cgi-bin/service/v2/get_permanent_code",
            Self::GetAuthInfo => "/cgi-bin/service/v2/get_auth_info",
            Self::GetPermissions => "/cgi-bin/agent/get_permissions",
        }
    }

    /// Whether its method is GET; the others take POST.
    pub(super) const fn is_get(self) -> bool {
        matches!(
            self,
            Self::GetToken
                | Self::GetCallbackIp
                | Self::GetFollowUserList
                | Self::ExternalContactList
                | Self::GetChainList
        )
    }

    /// Whether only the upstream corp's own token may call it.
    pub(super) const fn is_upstream_only(self) -> bool {
        match self {
            Self::ListAppShareInfo
            | Self::CorpGetToken
            | Self::UnionidToPendingId
            | Self::UnionidToExternalUserid
            | Self::GetChainList
            | Self::GetChainGroup
            | Self::GetChainCorpinfoList
            | Self::GetChainCorpinfo => true,
            Self::GetToken
            | Self::GetCallbackIp
            | Self::ExternalUseridToPendingId
            | Self::GetFollowUserList
            | Self::ExternalContactList
            | Self::GetByUser
            | Self::ContactList
            | Self::GroupChatList
            | Self::GroupChatGet
            | Self::GetSuiteToken
            | Self::GetPermanentCode
            | Self::GetAuthInfo
            | Self::GetPermissions => false,
        }
    }

    /// Whether a template calls it, with its ticket or suite token.
    pub(super) const fn is_of_template(self) -> bool {
        matches!(self, Self::GetSuiteToken | Self::GetPermanentCode | Self::GetAuthInfo)
    }

    /// Whether it needs the permission for customers and customer groups.
    pub(super) const fn reads_customers(self) -> bool {
        matches!(
            self,
            Self::GetFollowUserList
                | Self::ExternalContactList
                | Self::GetByUser
                | Self::GroupChatList
                | Self::GroupChatGet
        )
    }

    /// Whether the hour, day and month limits of the unionid conversions apply.
    pub(super) const fn has_conversion_quota(self) -> bool {
        matches!(self, Self::UnionidToPendingId | Self::UnionidToExternalUserid)
    }

    /// The payload of an error answer. Two APIs were seen to send their list of results, empty.
    fn error_payload(self) -> Value {
        match self {
            Self::ExternalContactList => json!({ "external_userid": [] }),
            Self::UnionidToExternalUserid => json!({ "external_userid_info": [] }),
            _ => json!({}),
        }
    }
}

/// An error by its `errcode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Errcode(pub(super) i64);

impl Errcode {
    pub(super) const INVALID_SECRET: Self = Self(40_001);
    pub(super) const INVALID_CORP_ID: Self = Self(40_013);
    pub(super) const INVALID_TOKEN: Self = Self(40_014);
    pub(super) const ESCAPED_UNICODE: Self = Self(40_033);
    pub(super) const UNKNOWN_CHAT: Self = Self(40_050);
    pub(super) const INVALID_AGENT_ID: Self = Self(40_056);
    pub(super) const INVALID_PARAMETER: Self = Self(40_058);
    pub(super) const INVALID_AUTH_CODE: Self = Self(40_078);
    pub(super) const INVALID_SUITE_SECRET: Self = Self(40_080);
    pub(super) const INVALID_SUITE_TOKEN: Self = Self(40_082);
    pub(super) const INVALID_SUITE_ID: Self = Self(40_083);
    pub(super) const INVALID_PERMANENT_CODE: Self = Self(40_084);
    pub(super) const INVALID_TICKET: Self = Self(40_085);
    pub(super) const INVALID_EXTERNAL_USERID: Self = Self(40_096);
    pub(super) const TOKEN_MISSING: Self = Self(41_001);
    pub(super) const CORP_ID_MISSING: Self = Self(41_002);
    pub(super) const SECRET_MISSING: Self = Self(41_004);
    pub(super) const TOKEN_EXPIRED: Self = Self(42_001);
    pub(super) const SUITE_TOKEN_EXPIRED: Self = Self(42_009);
    pub(super) const GET_REQUIRED: Self = Self(43_001);
    pub(super) const POST_REQUIRED: Self = Self(43_002);
    pub(super) const UNVERIFIED_CORP: Self = Self(43_009);
    pub(super) const OVER_LIMIT: Self = Self(45_009);
    pub(super) const TOO_MANY_AT_ONCE: Self = Self(45_033);
    pub(super) const API_FORBIDDEN: Self = Self(48_002);
    pub(super) const NOT_AUTHORIZED: Self = Self(48_003);
    pub(super) const CHAT_DISMISSED: Self = Self(49_008);
    pub(super) const INVALID_CURSOR: Self = Self(50_100);
    pub(super) const NOT_VISIBLE: Self = Self(60_011);
    pub(super) const UNKNOWN_USER_ID: Self = Self(60_111);
    pub(super) const EXPIRED_CURSOR: Self = Self(60_268);
    pub(super) const RANGE_TOO_LARGE: Self = Self(81_017);
    pub(super) const NO_RELATION: Self = Self(84_061);
    pub(super) const OTHER_CORP: Self = Self(92_002);
    pub(super) const WRONG_TOKEN_KIND: Self = Self(301_002);
    pub(super) const UNKNOWN_UNIONID: Self = Self(610_014);
    pub(super) const OPENID_MISMATCH: Self = Self(610_018);
    pub(super) const NOT_SHARED: Self = Self(670_001);
    pub(super) const UNKNOWN_CHAIN: Self = Self(670_002);
    pub(super) const UNKNOWN_CHAIN_GROUP: Self = Self(670_003);
    pub(super) const NOT_IN_CHAIN: Self = Self(670_004);

    const fn text(self) -> &'static str {
        match self.0 {
            -1 => "system busy",
            40_001 => "invalid credential",
            40_013 => "invalid corpid",
            40_014 => "invalid access_token",
            40_033 => "invalid charset, do not escape unicode in the request body",
            40_050 => "chatid not exist",
            40_056 => "invalid agentid",
            40_058 => "invalid Request Parameter",
            40_078 => "invalid auth code",
            40_080 => "invalid suite secret",
            40_082 => "invalid suite token",
            40_083 => "invalid suite id",
            40_084 => "invalid permanent code",
            40_085 => "invalid suite ticket",
            40_096 => "invalid external userid",
            41_001 => "access_token missing",
            41_002 => "corpid missing",
            41_004 => "corpsecret missing",
            42_001 => "access_token expired",
            42_009 => "suite access token expired",
            43_001 => "require GET method",
            43_002 => "require POST method",
            43_009 => "corp not verified",
            45_009 => "api freq out of limit",
            45_033 => "api concurrent out of limit",
            48_002 => "api forbidden",
            48_003 => "suite unauthorized",
            48_004 => "api forbidden for authorization cancelled",
            49_008 => "group already dismissed",
            50_100 | 60_268 => "invalid cursor",
            60_011 => "no privilege to access/modify contact/party/agent",
            60_020 => "not allow to access from your ip",
            60_111 => "userid not found",
            81_017 => "owner filter required",
            84_061 => "not external contact",
            90_501 => "not external group chat",
            92_002 => "not allow to call across corps",
            301_002 => "no permission to access this agent",
            610_014 => "invalid unionid",
            610_018 => "openid and unionid not match",
            670_001 => "app not shared",
            670_002 => "invalid chain id",
            670_003 => "invalid chain group id",
            670_004 => "corp not in corp chain",
            _ => "request refused",
        }
    }
}

/// A call as it arrived.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) is_get: bool,
    pub(super) params: HashMap<String, String>,
    pub(super) body: Value,
    /// The raw body contains `\u` escapes, which the platform rejects.
    pub(super) has_escapes: bool,
    pub(super) ip: IpAddr,
}

impl Request {
    /// A query parameter; empty counts as absent.
    pub(super) fn param(&self, name: &str) -> Option<&str> {
        self.params.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A required, non-empty text field.
    pub(super) fn text(&self, name: &str) -> Result<&str, Errcode> {
        self.optional_text(name)?.ok_or(Errcode::INVALID_PARAMETER)
    }

    /// An optional text field; empty counts as absent.
    pub(super) fn optional_text(&self, name: &str) -> Result<Option<&str>, Errcode> {
        match &self.body[name] {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            _ => Err(Errcode::INVALID_PARAMETER),
        }
    }

    pub(super) fn optional_number(&self, name: &str) -> Result<Option<u64>, Errcode> {
        match &self.body[name] {
            Value::Null => Ok(None),
            number => number.as_u64().map(Some).ok_or(Errcode::INVALID_PARAMETER),
        }
    }

    /// An optional number of rows; 0 counts as absent.
    pub(super) fn optional_rows(&self, name: &str) -> Result<Option<usize>, Errcode> {
        let rows = self.optional_number(name)?.filter(|rows| *rows > 0);
        Ok(rows.map(|rows| usize::try_from(rows).unwrap_or(usize::MAX)))
    }
}

/// The texts in a required JSON array with at least one and at most `max` of them.
pub(super) fn texts(array: &Value, max: usize) -> Result<Vec<&str>, Errcode> {
    let texts = array.as_array().ok_or(Errcode::INVALID_PARAMETER)?;
    if texts.is_empty() || texts.len() > max {
        return Err(Errcode::INVALID_PARAMETER);
    }
    texts.iter().map(|text| text.as_str().ok_or(Errcode::INVALID_PARAMETER)).collect()
}

/// The payload of an answer, which is a JSON object, or the error.
pub(super) type Answer = Result<Value, Errcode>;

/// The form of an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    /// The request body could be parsed.
    pub(super) is_json: bool,
    /// A success is sent without `errcode` and `errmsg`.
    pub(super) omits_success: bool,
}

/// The JSON body of an answer.
pub(super) fn body(
    api: Api,
    answer: Answer,
    at: Timestamp,
    ip: IpAddr,
    form: Form,
    rng: &mut StdRng,
) -> Vec<u8> {
    let (errcode, mut errmsg, mut body) = match answer {
        Ok(payload) => (0, "ok".to_owned(), payload),
        Err(code) => {
            let errmsg = format!(
                "{}, hint: [{}_{}_{}], from ip: {ip}, more info at \
                 https://open.work.weixin.qq.com/devtool/query?e={}",
                code.text(),
                at.as_secs(),
                ids::number(rng, 100),
                ids::hex(rng, 32),
                code.0,
            );
            (code.0, errmsg, api.error_payload())
        }
    };
    if !form.is_json {
        errmsg.push_str(". Warning: wrong json format.");
    }
    if errcode != 0 || !form.omits_success {
        body["errcode"] = json!(errcode);
        body["errmsg"] = json!(errmsg);
    }
    // Not documented: real answers grow fields, and a client has to tolerate them.
    body["request_id"] = json!(ids::hex(rng, 16));
    body.to_string().into_bytes()
}
