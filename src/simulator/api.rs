//! The simulated APIs by name, and how an answer looks: `errcode`, a documented-looking `errmsg`, payload.
//!
//! Deliberately absent: what each API does (`endpoints`, `convert`) and how it is reached (`server`).

use std::net::IpAddr;

use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::ids;
use crate::domain::time::Timestamp;

/// A simulated API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Api {
    /// `GET /cgi-bin/gettoken`
    #[serde(rename = "gettoken")]
    GetToken,
    /// `GET /cgi-bin/getcallbackip`
    #[serde(rename = "getcallbackip")]
    GetCallbackIp,
    /// `POST /cgi-bin/corpgroup/corp/list_app_share_info`
    #[serde(rename = "list_app_share_info")]
    ListAppShareInfo,
    /// `POST /cgi-bin/corpgroup/corp/gettoken`
    #[serde(rename = "corp_gettoken")]
    CorpGetToken,
    /// `POST /cgi-bin/corpgroup/unionid_to_pending_id`
    #[serde(rename = "unionid_to_pending_id")]
    UnionidToPendingId,
    /// `POST /cgi-bin/corpgroup/batch/external_userid_to_pending_id`
    #[serde(rename = "external_userid_to_pending_id")]
    ExternalUseridToPendingId,
    /// `POST /cgi-bin/corpgroup/unionid_to_external_userid`
    #[serde(rename = "unionid_to_external_userid")]
    UnionidToExternalUserid,
}

impl Api {
    /// Every simulated API.
    pub const ALL: [Self; 7] = [
        Self::GetToken,
        Self::GetCallbackIp,
        Self::ListAppShareInfo,
        Self::CorpGetToken,
        Self::UnionidToPendingId,
        Self::ExternalUseridToPendingId,
        Self::UnionidToExternalUserid,
    ];

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
        }
    }

    /// Whether it is asked with GET; the others take POST.
    pub(super) const fn is_get(self) -> bool {
        matches!(self, Self::GetToken | Self::GetCallbackIp)
    }

    /// Whether only the upstream corp's own token may call it.
    pub(super) const fn is_upstream_only(self) -> bool {
        match self {
            Self::ListAppShareInfo
            | Self::CorpGetToken
            | Self::UnionidToPendingId
            | Self::UnionidToExternalUserid => true,
            Self::GetToken | Self::GetCallbackIp | Self::ExternalUseridToPendingId => false,
        }
    }

    /// Whether the hour, day and month limits of the unionid conversions apply.
    pub(super) const fn has_conversion_quota(self) -> bool {
        matches!(self, Self::UnionidToPendingId | Self::UnionidToExternalUserid)
    }
}

/// A refusal by its `errcode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Errcode(pub(super) i64);

impl Errcode {
    pub(super) const INVALID_SECRET: Self = Self(40_001);
    pub(super) const INVALID_CORP_ID: Self = Self(40_013);
    pub(super) const INVALID_TOKEN: Self = Self(40_014);
    pub(super) const ESCAPED_UNICODE: Self = Self(40_033);
    pub(super) const INVALID_AGENT_ID: Self = Self(40_056);
    pub(super) const INVALID_PARAMETER: Self = Self(40_058);
    pub(super) const INVALID_EXTERNAL_USERID: Self = Self(40_096);
    pub(super) const TOKEN_MISSING: Self = Self(41_001);
    pub(super) const CORP_ID_MISSING: Self = Self(41_002);
    pub(super) const SECRET_MISSING: Self = Self(41_004);
    pub(super) const TOKEN_EXPIRED: Self = Self(42_001);
    pub(super) const GET_REQUIRED: Self = Self(43_001);
    pub(super) const POST_REQUIRED: Self = Self(43_002);
    pub(super) const OVER_LIMIT: Self = Self(45_009);
    pub(super) const WRONG_TOKEN_KIND: Self = Self(301_002);
    pub(super) const UNKNOWN_UNIONID: Self = Self(610_014);
    pub(super) const OPENID_MISMATCH: Self = Self(610_018);
    pub(super) const NOT_SHARED: Self = Self(670_001);
    pub(super) const NOT_IN_CHAIN: Self = Self(670_004);

    const fn text(self) -> &'static str {
        match self.0 {
            -1 => "system busy",
            40_001 => "invalid credential",
            40_013 => "invalid corpid",
            40_014 => "invalid access_token",
            40_033 => "invalid charset, do not escape unicode in the request body",
            40_056 => "invalid agentid",
            40_058 => "invalid Request Parameter",
            40_096 => "invalid external userid",
            41_001 => "access_token missing",
            41_002 => "corpid missing",
            41_004 => "corpsecret missing",
            42_001 => "access_token expired",
            43_001 => "require GET method",
            43_002 => "require POST method",
            45_009 => "api freq out of limit",
            48_002 => "api forbidden",
            60_020 => "not allow to access from your ip",
            301_002 => "no permission to access this agent",
            610_014 => "invalid unionid",
            610_018 => "openid and unionid not match",
            670_001 => "app not shared",
            670_004 => "corp not in corp chain",
            _ => "request refused",
        }
    }
}

/// What a call answers when nothing goes wrong on the way.
pub(super) type Answer = Result<Map<String, Value>, Errcode>;

/// The JSON body of an answer. `is_json` says whether the request body was understood.
pub(super) fn body(answer: Answer, at: Timestamp, ip: IpAddr, is_json: bool, rng: &mut StdRng) -> Vec<u8> {
    let mut errmsg;
    let mut fields = match answer {
        Ok(fields) => {
            errmsg = "ok".to_owned();
            with_code(0, fields)
        }
        Err(code) => {
            errmsg = format!(
                "{}, hint: [{}_{}_{}], from ip: {ip}, more info at \
                 https://open.work.weixin.qq.com/devtool/query?e={}",
                code.text(),
                at.as_secs(),
                ids::number(rng, 100),
                ids::hex(rng, 32),
                code.0,
            );
            with_code(code.0, Map::new())
        }
    };
    if !is_json {
        errmsg.push_str(". Warning: wrong json format.");
    }
    fields.insert("errmsg".to_owned(), Value::String(errmsg));
    // Not documented: real answers grow fields, and a client has to live with them.
    fields.insert("request_id".to_owned(), Value::String(ids::hex(rng, 16)));
    Value::Object(fields).to_string().into_bytes()
}

fn with_code(code: i64, mut fields: Map<String, Value>) -> Map<String, Value> {
    fields.insert("errcode".to_owned(), json!(code));
    fields
}

/// The object behind a `json!({..})` literal.
pub(super) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        other => Map::from_iter([("value".to_owned(), other)]),
    }
}
