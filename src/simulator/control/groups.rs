//! The control routes about customer groups.
//!
//! Deliberately absent: what happens in a group (`groups` of the simulator).

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use serde::Deserialize;
use serde_json::json;

use super::{Reply, deliver_in_background, parsed};
use crate::simulator::event::ChatChange;
use crate::simulator::platform::Platform;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    corp_id: String,
    name: Option<String>,
}

pub(super) async fn add(State(platform): State<Arc<Platform>>, body: Bytes) -> Reply {
    let Add { corp_id, name } = parsed(&body)?;
    let (chat_id, event) = {
        let mut world = platform.world();
        let chat_id = world.add_chat(&corp_id, None, name.as_deref())?;
        let event = world.chat_event(world.chat(&chat_id)?, ChatChange::Created);
        (chat_id, event)
    };
    deliver_in_background(&platform, event);
    Ok(Json(json!({ "chat_id": chat_id })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Join {
    chat_id: String,
    unionids: Vec<String>,
    deliver: Option<bool>,
}

pub(super) async fn join(State(platform): State<Arc<Platform>>, body: Bytes) -> Reply {
    let Join { chat_id, unionids, deliver } = parsed(&body)?;
    let unionids: Vec<&str> = unionids.iter().map(String::as_str).collect();
    let (external_userids, event) = {
        let mut world = platform.world();
        let event = world.join_chat(&chat_id, &unionids)?;
        let corp = world.chats[world.chat(&chat_id)?].corp;
        let mut external_userids = Vec::with_capacity(unionids.len());
        for unionid in &unionids {
            let person = world.person(unionid)?;
            let customer = world.customer_of.get(&(corp, person));
            external_userids.extend(customer.map(|index| world.customers[*index].external_userid.clone()));
        }
        (external_userids, event)
    };
    if deliver.unwrap_or(true) {
        deliver_in_background(&platform, event);
    }
    Ok(Json(json!({ "external_userids": external_userids })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Dismiss {
    chat_id: String,
}

pub(super) async fn dismiss(State(platform): State<Arc<Platform>>, body: Bytes) -> Reply {
    let Dismiss { chat_id } = parsed(&body)?;
    let event = platform.world().dismiss_chat(&chat_id)?;
    deliver_in_background(&platform, event);
    Ok(Json(json!({})))
}
