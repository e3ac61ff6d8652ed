//! Lists in pages: the body that asks for one page, and the cursor of the next.

use serde_json::Value;

use crate::wecom::api::Api;
use crate::wecom::error::{CallError, Transport};

/// The longest cursor accepted, in bytes; those in WeCom's documents have 43.
const CURSOR_BYTES_MAX: usize = 4_096;

/// The body of a call for one page; the first one has no cursor.
pub(super) fn page_body(mut body: Value, cursor: &str) -> Value {
    if !cursor.is_empty() {
        body["cursor"] = cursor.into();
    }
    body
}

/// The cursor of the page after the one at `cursor`, empty after the last. A page that names itself as the
/// next one is an error, because the list would never end.
pub(super) fn next_page(api: Api, cursor: &str, next: Option<String>) -> Result<String, CallError> {
    let next = next.unwrap_or_default();
    if next.len() > CURSOR_BYTES_MAX || (!next.is_empty() && next == cursor) {
        return Err(CallError::Transport { api, cause: Transport::Body });
    }
    Ok(next)
}
