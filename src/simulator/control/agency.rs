//! The control routes about agency-developed apps (代开发).
//!
//! Deliberately absent: adding templates: the process that starts the simulator does that.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use serde::Deserialize;
use serde_json::json;

use super::{BadRequest, Reply, deliver_in_background, deliver_in_order, parsed};
use crate::simulator::error::SimulatorError;
use crate::simulator::event::Event;
use crate::simulator::platform::Platform;
use crate::simulator::world::World;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ticket {
    suite_id: Option<String>,
}

pub(super) async fn ticket(State(platform): State<Arc<Platform>>, body: Bytes) -> Reply {
    let Ticket { suite_id } = parsed(&body)?;
    let event = {
        let mut world = platform.world();
        let template = world.template_or_only(suite_id.as_deref())?;
        world.ticket(template)
    };
    deliver_in_background(&platform, event);
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Authorize {
    suite_id: Option<String>,
    name: Option<String>,
    corp_id: Option<String>,
}

pub(super) async fn authorize(State(platform): State<Arc<Platform>>, body: Bytes) -> Reply {
    let Authorize { suite_id, name, corp_id } = parsed(&body)?;
    let (corp_id, events) = {
        let mut world = platform.world();
        let (corp_id, create_auth) = match (name, corp_id) {
            (Some(name), None) => {
                let template = world.template_or_only(suite_id.as_deref())?;
                let (corp, event) = world.scan(template, &name);
                (world.corps[corp].id.clone(), event)
            }
            (None, Some(corp_id)) => {
                let event = world.authorize_again(&corp_id)?;
                (corp_id, event)
            }
            _ => return Err(BadRequest("give either `name` or `corp_id`".to_owned())),
        };
        let events = with_change_auth(&mut world, &corp_id, create_auth)?;
        (corp_id, events)
    };
    deliver_in_order(&platform, events);
    Ok(Json(json!({ "corp_id": corp_id })))
}

/// The events of a new authorization, in the order in which they are sent.
fn with_change_auth(world: &mut World, corp_id: &str, create: Event) -> Result<Vec<Event>, SimulatorError> {
    if !world.options.agency.change_auth_first {
        return Ok(vec![create]);
    }
    Ok(vec![world.change_auth(corp_id)?, create])
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Concerned {
    corp_id: String,
}

pub(super) async fn install(State(platform): State<Arc<Platform>>, body: Bytes) -> Reply {
    let Concerned { corp_id } = parsed(&body)?;
    let events = {
        let mut world = platform.world();
        let create_auth = world.install(&corp_id)?;
        with_change_auth(&mut world, &corp_id, create_auth)?
    };
    deliver_in_order(&platform, events);
    Ok(Json(json!({})))
}

pub(super) async fn cancel(State(platform): State<Arc<Platform>>, body: Bytes) -> Reply {
    change(&platform, &body, World::cancel)
}

pub(super) async fn reset(State(platform): State<Arc<Platform>>, body: Bytes) -> Reply {
    change(&platform, &body, World::reset_code)
}

pub(super) async fn change_auth(State(platform): State<Arc<Platform>>, body: Bytes) -> Reply {
    change(&platform, &body, World::change_auth)
}

/// Changes the authorization of a corp and sends the event.
fn change(
    platform: &Arc<Platform>,
    body: &Bytes,
    make: fn(&mut World, &str) -> Result<Event, SimulatorError>,
) -> Reply {
    let Concerned { corp_id } = parsed(body)?;
    let event = make(&mut platform.world(), &corp_id)?;
    deliver_in_background(platform, event);
    Ok(Json(json!({})))
}
