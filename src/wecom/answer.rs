//! Reading WeCom's answers: success or error code, and the values in them.
//!
//! Answers are read with tolerance: numbers may come as text, lists may be missing or null, malformed rows
//! are skipped.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::api::Api;
use super::credentials::Development;
use super::error::{CallError, Transport};
use crate::domain::time::Timestamp;

/// Separates successes from errors. `errcode` alone decides (document 90664): some calls leave it out on
/// success, and `errmsg` may carry a warning then.
pub(super) fn success(api: Api, development: Development, answer: Value) -> Result<Value, CallError> {
    let errcode = match answer.get("errcode") {
        None if answer.is_object() => 0,
        Some(Value::Number(number)) => number.as_i64().unwrap_or(i64::MAX),
        Some(Value::String(text)) => text.parse().unwrap_or(i64::MAX),
        _ => {
            return Err(CallError::Transport { api, cause: Transport::Body });
        }
    };
    if errcode == 0 {
        return Ok(answer);
    }
    let from_ip = answer.get("errmsg").and_then(Value::as_str).and_then(caller_ip);
    Err(CallError::Refused { api, errcode, from_ip, development })
}

/// Our IP address in `… from ip: 9.30.0.138, more info at …`.
fn caller_ip(errmsg: &str) -> Option<String> {
    let (_, rest) = errmsg.split_once("from ip:")?;
    let ip = rest.trim_start().split([',', ' ']).next()?;
    ip.parse::<std::net::IpAddr>().ok().map(|ip| ip.to_string())
}

/// The answer as a value of its own type.
pub(super) fn parse<T: DeserializeOwned>(api: Api, answer: Value) -> Result<T, CallError> {
    serde_json::from_value(answer).map_err(|_| CallError::Transport { api, cause: Transport::Body })
}

/// The well-formed rows of a list.
pub(super) fn rows<T: DeserializeOwned>(api: Api, list: Option<Vec<Value>>) -> impl Iterator<Item = T> {
    list.unwrap_or_default().into_iter().filter_map(move |row| {
        let read = serde_json::from_value(row);
        if read.is_err() {
            tracing::warn!(api = api.as_str(), "skipped a malformed row in WeCom's answer");
        }
        read.ok()
    })
}

/// An integer that may come as text.
pub(super) fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// A field with an [`integer`].
pub(super) fn number<'de, D: serde::Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    integer(&Value::deserialize(from)?).ok_or_else(|| serde::de::Error::custom("not an integer"))
}

/// A field with an instant in Unix seconds; `None` for anything else, and for 0.
pub(super) fn instant<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
    let secs = integer(&Value::deserialize(from)?);
    Ok(secs.filter(|secs| *secs > 0).map(Timestamp::from_secs))
}

/// A truth value that may come as a number or as text.
pub(super) fn is_true(value: &Value) -> bool {
    value.as_bool() == Some(true) || integer(value) == Some(1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wecom::errcode::Class;

    #[test]
    fn success_is_decided_on_the_code_alone() {
        let success = |answer| success(Api::GetToken, Development::SelfBuilt, answer);
        assert!(success(json!({"errcode": 0, "errmsg": "Warning: wrong json format."})).is_ok());
        assert!(success(json!({"suite_access_token": "x"})).is_ok());
        assert!(success(json!({"errcode": "0"})).is_ok());
        assert_eq!(success(json!({"errcode": 42_001})).unwrap_err().class(), Class::Token);
        assert_eq!(success(json!([])).unwrap_err().class(), Class::Unknown);
        assert_eq!(success(json!({"errcode": null})).unwrap_err().class(), Class::Unknown);
    }

    #[test]
    fn the_address_wecom_saw_is_found_in_its_message() {
        let errmsg =
            "not allow to access from your ip, hint: [1], from ip: 9.30.0.138, more info at https://…";
        assert_eq!(caller_ip(errmsg).as_deref(), Some("9.30.0.138"));
        assert_eq!(caller_ip("from ip: secret"), None);
        let refused = |development| {
            let answer = json!({"errcode": 60_020, "errmsg": errmsg});
            success(Api::GetToken, development, answer).unwrap_err().to_string()
        };
        assert!(refused(Development::SelfBuilt).contains("企业可信IP"));
        assert!(refused(Development::Agency).contains("服务商管理后台"));
    }
}
