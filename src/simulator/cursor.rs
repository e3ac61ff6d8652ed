//! The cursors of the customer and group lists: opaque to clients, positions in a list for the simulator.
//!
//! A position is a key, not an offset, so that a row that is added or removed during a traversal shifts no
//! other.
//!
//! Deliberately absent: the cursors of the dealer directory, which are offsets (`directory`).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::api::{Errcode, Request};
use super::model::CustomerIdx;

/// Where the next page of a list begins.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Cursor {
    /// Of `batch/get_by_user`.
    Customers { user_id: String, from: CustomerIdx },
    /// Of `groupchat/list`: a position in the groups of the corp.
    Chats { from: usize },
    /// Of `contact_list`.
    Contacts { issued_at_ms: i64, traversal: u64, place: ContactPlace },
}

/// A row of `contact_list`, in the order of the list.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ContactPlace {
    /// The nth person that is not a customer.
    Stranger(usize),
    /// A customer that a member added.
    Friend { user_id: String, customer: CustomerIdx },
    /// A customer in the nth group of the corp.
    InChat { nth: usize, id: String },
}

impl Cursor {
    pub(super) fn into_text(self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&self).unwrap_or_default())
    }

    /// The cursor of a request; `None` for the first page.
    pub(super) fn requested(request: &Request) -> Result<Option<Self>, Errcode> {
        let Some(text) = request.optional_text("cursor")? else { return Ok(None) };
        let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| Errcode::INVALID_CURSOR)?;
        serde_json::from_slice(&json).map(Some).map_err(|_| Errcode::INVALID_CURSOR)
    }
}
