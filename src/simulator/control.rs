//! The control routes under `/sim/`: the simulator for people with curl.
//!
//! Every route takes and answers JSON; a request that makes no sense is answered 400 `{"error": "…"}`.
//! `upstream` may be left out while there is one app.
//!
//! Deliberately absent: authentication. This is a development tool and listens on loopback.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::api::Api;
use super::error::SimulatorError;
use super::event::{Change, Event};
use super::fault::{Fault, Target};
use super::relations::Beginning;
use super::shared::Shared;
use super::world::{Person, World};

/// People one request may make.
const PEOPLE_MAX: usize = 1_000_000;

type Reply = Result<Json<Value>, Refused>;

/// A 400 with its reason.
#[derive(Debug)]
struct Refused(String);

impl From<SimulatorError> for Refused {
    fn from(error: SimulatorError) -> Self {
        Self(error.to_string())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, Json(json!({ "error": self.0 }))).into_response()
    }
}

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/sim/people", get(people).post(add_people))
        .route("/sim/dealers", get(dealers).post(add_dealer))
        .route("/sim/befriend", post(befriend))
        .route("/sim/unfriend", post(unfriend))
        .route("/sim/faults", post(inject).delete(clear_faults))
        .route("/sim/tokens/revoke", post(revoke_tokens))
        .route("/sim/state", get(state))
}

fn parsed<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refused> {
    serde_json::from_slice(body)
        .map_err(|error| Refused(format!("the body is not what is expected: {error}")))
}

/// Sends an event without keeping the requester waiting.
fn deliver_in_background(shared: &Arc<Shared>, event: Event) {
    let in_background = Arc::clone(shared);
    shared.tasks.spawn(async move {
        let retries = in_background.world().options.sender.retries;
        tokio::select! {
            () = in_background.stop.cancelled() => {}
            delivery = in_background.deliver(&event, retries) => {
                let (acknowledged, attempts) = (delivery.acknowledged, delivery.attempts);
                tracing::debug!(acknowledged, attempts, "event sent");
            }
        }
    });
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddPeople {
    count: usize,
}

async fn add_people(State(shared): State<Arc<Shared>>, body: Bytes) -> Reply {
    let AddPeople { count } = parsed(&body)?;
    if count > PEOPLE_MAX {
        return Err(Refused(format!("at most {PEOPLE_MAX} people at a time")));
    }
    let mut world = shared.world();
    let people: Vec<Person> = (0..count).map(|_| world.add_person()).collect();
    Ok(Json(json!(people)))
}

async fn people(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let world = shared.world();
    let mut customer_of = vec![Vec::new(); world.people.len()];
    for customer in &world.customers {
        customer_of[customer.person].push(json!({
            "corp_id": world.corps[customer.corp].id,
            "external_userid": customer.external_userid,
            "followers": customer.followers,
        }));
    }
    let people: Vec<Value> = world
        .people
        .iter()
        .zip(customer_of)
        .map(|(state, customer_of)| {
            json!({
                "unionid": state.person.unionid,
                "openid": state.person.openid,
                "customer_of": customer_of,
            })
        })
        .collect();
    Json(json!(people))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddDealer {
    upstream: Option<String>,
    name: String,
}

async fn add_dealer(State(shared): State<Arc<Shared>>, body: Bytes) -> Reply {
    let request: AddDealer = parsed(&body)?;
    let (dealer, event) = {
        let mut world = shared.world();
        let upstream = world.upstream_or_only(request.upstream.as_deref())?;
        let dealer = world.add_dealer(upstream, &request.name);
        let change = Change::ShareChainChange { agent_id: world.corps[upstream].agent_id };
        (dealer, world.event(upstream, &change, shared.clock.now()))
    };
    deliver_in_background(&shared, event);
    Ok(Json(json!(dealer)))
}

async fn dealers(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let world = shared.world();
    let dealers: Vec<Value> = (0..world.corps.len())
        .filter(|corp| world.app(*corp).is_none())
        .map(|corp| {
            json!({
                "upstream": world.corps[world.upstream_of(corp)].id,
                "corp_id": world.corps[corp].id,
                "agent_id": world.corps[corp].agent_id,
                "name": world.corps[corp].name,
                "shared": world.is_shared(corp),
            })
        })
        .collect();
    Json(json!(dealers))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Befriend {
    upstream: Option<String>,
    unionid: String,
    corp_id: String,
    user_id: String,
    state: Option<String>,
}

async fn befriend(State(shared): State<Arc<Shared>>, body: Bytes) -> Reply {
    let request: Befriend = parsed(&body)?;
    let friendship = {
        let mut world = shared.world();
        let upstream = world.upstream_or_only(request.upstream.as_deref())?;
        let corp = world.member_corp(upstream, &request.corp_id)?;
        let person = world.person(&request.unionid)?;
        let (user_id, state, now) = (&request.user_id, request.state.as_deref(), shared.clock.now());
        world.befriend(corp, person, user_id, state, Beginning::Confirmed, now)
    };
    deliver_in_background(&shared, friendship.event);
    Ok(Json(json!({ "external_userid": friendship.external_userid })))
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum By {
    Member,
    Customer,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unfriend {
    upstream: Option<String>,
    unionid: String,
    corp_id: String,
    user_id: String,
    by: By,
}

async fn unfriend(State(shared): State<Arc<Shared>>, body: Bytes) -> Reply {
    let request: Unfriend = parsed(&body)?;
    let event = {
        let mut world = shared.world();
        let upstream = world.upstream_or_only(request.upstream.as_deref())?;
        let corp = world.member_corp(upstream, &request.corp_id)?;
        let person = world.person(&request.unionid)?;
        let by_member = matches!(request.by, By::Member);
        world.unfriend(corp, person, &request.user_id, by_member, shared.clock.now())?
    };
    deliver_in_background(&shared, event);
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Inject {
    api: String,
    fault: Fault,
    times: Option<u32>,
}

async fn inject(State(shared): State<Arc<Shared>>, body: Bytes) -> Reply {
    let request: Inject = parsed(&body)?;
    let target = match request.api.as_str() {
        "all" => Target::Every,
        name => Target::Only(
            serde_json::from_value::<Api>(json!(name))
                .map_err(|error| Refused(format!("`api` is \"all\" or an API: {error}")))?,
        ),
    };
    shared.world().faults.inject(target, request.fault, request.times);
    Ok(Json(json!({})))
}

async fn clear_faults(State(shared): State<Arc<Shared>>) -> Json<Value> {
    shared.clear_faults();
    Json(json!({}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    corp_id: String,
}

async fn revoke_tokens(State(shared): State<Arc<Shared>>, body: Bytes) -> Reply {
    let Revoke { corp_id } = parsed(&body)?;
    let mut world = shared.world();
    let corp = world.any_corp(&corp_id)?;
    world.revoke_tokens(corp);
    Ok(Json(json!({})))
}

async fn state(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let world = shared.world();
    Json(json!({ "counts": counts(&world), "counters": world.counters }))
}

fn counts(world: &World) -> Value {
    let apps = (0..world.corps.len()).filter(|corp| world.app(*corp).is_some()).count();
    json!({
        "apps": apps,
        "dealers": world.corps.len() - apps,
        "people": world.people.len(),
        "customers": world.customers.len(),
        "chats": world.chats.len(),
        "minted_people": world.pending_ids.len(),
        "tokens": world.tokens.len(),
    })
}
