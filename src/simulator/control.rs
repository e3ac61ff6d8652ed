//! The control routes under `/sim/`: the simulator by curl. Those about groups and about agency-developed
//! apps have files of their own below this one.
//!
//! Requests and answers are JSON; an invalid request is answered 400 `{"error": "…"}`. `upstream` may be left
//! out while there is one app. `GET /sim` lists the routes, for people.
//!
//! Deliberately absent: authentication. This is a development tool and listens on loopback.

mod agency;
mod groups;

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
use super::event::{Change, Event, MemberChange};
use super::fault::{Fault, Target};
use super::model::Person;
use super::platform::Platform;
use super::relations::{Beginning, By};
use super::world::World;

/// People that one request may add.
const PEOPLE_MAX: usize = 1_000_000;

/// The answer of `GET /sim`.
const INDEX: &str = r#"The simulated WeCom. Each line is a call: method, path, body; what it does and answers.

GET    /sim/people
       lists people: [{"unionid","openid","customer_of":[{"corp_id","external_userid","followers"}]}]
POST   /sim/people {"count":2}
       adds people: [{"unionid","openid"}]
GET    /sim/dealers
       lists dealers: [{"upstream","corp_id","agent_id","name","shared"}]
POST   /sim/dealers {"name":"Dealer 4"}
       adds a dealer, and sends the event share_chain_change: {"corp_id","agent_id"}
POST   /sim/befriend {"unionid":"…","corp_id":"…","user_id":"zhangsan","state":"poster"}
       a dealer's member adds a person as customer; sends add_external_contact: {"external_userid"}
       "state" may be left out; with "deliver":false nothing is sent, as if the callback got lost
POST   /sim/unfriend {"unionid":"…","corp_id":"…","user_id":"zhangsan","by":"customer"}
       one deletes the other, "by" is customer or member; sends del_follow_user or del_external_contact: {}
POST   /sim/chats {"corp_id":"…","name":"Neighbours"}
       a dealer creates a customer group; sends create: {"chat_id"}
       "name" may be left out
POST   /sim/chats/join {"chat_id":"…","unionids":["…"]}
       people join a group; sends update, add_member: {"external_userids":[…]}
       with "deliver":false nothing is sent, as if the callback got lost
POST   /sim/chats/dismiss {"chat_id":"…"}
       the owner dismisses a group; sends dismiss: {}
POST   /sim/members {"corp_id":"…","user_id":"lisi","visible":false}
       a member leaves or enters the visible range of the app; sends unsubscribe or subscribe: {}
POST   /sim/share {"corp_id":"…","shared":true}
       shares the app with a dealer or stops sharing it; sends share_chain_change: {}
POST   /sim/faults {"api":"unionid_to_pending_id","fault":{"errcode":48002},"times":5}
       makes calls fail: {}
       "api" is all, gettoken, getcallbackip, list_app_share_info, corp_gettoken, unionid_to_pending_id,
       external_userid_to_pending_id, unionid_to_external_userid, get_follow_user_list,
       externalcontact_list, get_by_user, contact_list, groupchat_list, groupchat_get, get_chain_list,
       get_chain_group, get_chain_corpinfo_list, get_chain_corpinfo, get_suite_token, get_permanent_code,
       get_auth_info or get_permissions; "fault" is {"errcode":N}, {"http_status":N}, {"latency":MS}, "hang",
       "reset", "garbage" or "apply_then_drop"; without "times" it lasts until the faults are cleared
DELETE /sim/faults
       ends every fault: {}
POST   /sim/tokens/revoke {"corp_id":"…"}
       invalidates the access tokens of a corp: {}
GET    /sim/state
       {"counts":{"apps","dealers","members","people","customers","chats","minted_people","tokens"},
        "counters":{…}}

Agency-developed apps (代开发):
POST   /sim/template/ticket {}
       sends a new suite_ticket, which also happens every ten minutes: {}
POST   /sim/authorize {"name":"Brand 2"}
       a new brand authorizes the template; sends create_auth: {"corp_id"}
       with "corp_id" in place of "name" a known brand or dealer authorizes again
POST   /sim/change_auth {"corp_id":"…"}
       something about an authorization changes; sends change_auth: {}
POST   /sim/reset {"corp_id":"…"}
       the provider resets the permanent code; sends reset_permanent_code: {}
POST   /sim/install {"corp_id":"…"}
       a dealer installs the app of its brand; sends create_auth: {}
POST   /sim/cancel {"corp_id":"…"}
       a brand or dealer ends its authorization; sends cancel_auth: {}

With more than one template, ticket and authorize need "suite_id". Members of these corps have encrypted ids;
a name in place of the id is encrypted.
With more than one app, dealers, befriend and unfriend need "upstream", the corp id of the app.
A wrong call is answered 400 {"error":"…"}.
"#;

type Reply = Result<Json<Value>, BadRequest>;

/// A 400 with its reason.
#[derive(Debug)]
struct BadRequest(String);

impl From<SimulatorError> for BadRequest {
    fn from(error: SimulatorError) -> Self {
        Self(error.to_string())
    }
}

impl IntoResponse for BadRequest {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, Json(json!({ "error": self.0 }))).into_response()
    }
}

pub(super) fn routes() -> Router<Arc<Platform>> {
    Router::new()
        .route("/", get(INDEX))
        .route("/sim", get(INDEX))
        .route("/sim/people", get(people).post(add_people))
        .route("/sim/dealers", get(dealers).post(add_dealer))
        .route("/sim/befriend", post(befriend))
        .route("/sim/unfriend", post(unfriend))
        .route("/sim/chats", post(groups::add))
        .route("/sim/chats/join", post(groups::join))
        .route("/sim/chats/dismiss", post(groups::dismiss))
        .route("/sim/members", post(set_member))
        .route("/sim/share", post(share))
        .route("/sim/template/ticket", post(agency::ticket))
        .route("/sim/authorize", post(agency::authorize))
        .route("/sim/change_auth", post(agency::change_auth))
        .route("/sim/reset", post(agency::reset))
        .route("/sim/install", post(agency::install))
        .route("/sim/cancel", post(agency::cancel))
        .route("/sim/faults", post(inject).delete(clear_faults))
        .route("/sim/tokens/revoke", post(revoke_tokens))
        .route("/sim/state", get(state))
}

fn parsed<T: DeserializeOwned>(body: &Bytes) -> Result<T, BadRequest> {
    serde_json::from_slice(body).map_err(|error| BadRequest(format!("invalid request body: {error}")))
}

/// Sends an event without delaying the answer to the request.
fn deliver_in_background(platform: &Arc<Platform>, event: Event) {
    deliver_in_order(platform, vec![event]);
}

/// Sends events one after the other, without delaying the answer to the request.
fn deliver_in_order(platform: &Arc<Platform>, events: Vec<Event>) {
    let in_background = Arc::clone(platform);
    platform.tasks.spawn(async move {
        let retries = in_background.world().options.sender.retries;
        for event in events {
            tokio::select! {
                () = in_background.stop.cancelled() => return,
                delivery = in_background.deliver(&event, retries) => {
                    let (acknowledged, attempts) = (delivery.acknowledged, delivery.attempts);
                    tracing::debug!(acknowledged, attempts, "event sent");
                }
            }
        }
    });
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddPeople {
    count: usize,
}

async fn add_people(State(platform): State<Arc<Platform>>, body: Bytes) -> Reply {
    let AddPeople { count } = parsed(&body)?;
    if count > PEOPLE_MAX {
        return Err(BadRequest(format!("at most {PEOPLE_MAX} people at a time")));
    }
    let mut world = platform.world();
    let people: Vec<Person> = (0..count).map(|_| world.add_person()).collect();
    Ok(Json(json!(people)))
}

async fn people(State(platform): State<Arc<Platform>>) -> Json<Value> {
    let world = platform.world();
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

async fn add_dealer(State(platform): State<Arc<Platform>>, body: Bytes) -> Reply {
    let request: AddDealer = parsed(&body)?;
    let (dealer, event) = {
        let mut world = platform.world();
        let upstream = world.upstream_or_only(request.upstream.as_deref())?;
        let dealer = world.add_dealer(upstream, &request.name);
        let change = Change::ShareChainChange { agent_id: world.corps[upstream].agent_id };
        (dealer, world.event(upstream, &change))
    };
    deliver_in_background(&platform, event);
    Ok(Json(json!(dealer)))
}

async fn dealers(State(platform): State<Arc<Platform>>) -> Json<Value> {
    let world = platform.world();
    let dealers: Vec<Value> = world
        .corps
        .iter()
        .filter(|corp| !corp.is_upstream)
        .map(|corp| {
            json!({
                "upstream": world.corps[corp.upstream].id,
                "corp_id": corp.id,
                "agent_id": corp.agent_id,
                "name": corp.name,
                "shared": corp.is_shared,
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
    deliver: Option<bool>,
}

async fn befriend(State(platform): State<Arc<Platform>>, body: Bytes) -> Reply {
    let request: Befriend = parsed(&body)?;
    let friendship = {
        let mut world = platform.world();
        world.member_corp(world.upstream_or_only(request.upstream.as_deref())?, &request.corp_id)?;
        let Befriend { unionid, corp_id, user_id, state, .. } = &request;
        world.befriend(corp_id, unionid, user_id, state.as_deref(), Beginning::Confirmed)?
    };
    if request.deliver.unwrap_or(true) {
        deliver_in_background(&platform, friendship.event);
    }
    Ok(Json(json!({ "external_userid": friendship.external_userid })))
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

async fn unfriend(State(platform): State<Arc<Platform>>, body: Bytes) -> Reply {
    let request: Unfriend = parsed(&body)?;
    let event = {
        let mut world = platform.world();
        world.member_corp(world.upstream_or_only(request.upstream.as_deref())?, &request.corp_id)?;
        world.unfriend(&request.corp_id, &request.unionid, &request.user_id, request.by)?
    };
    deliver_in_background(&platform, event);
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetMember {
    corp_id: String,
    user_id: String,
    visible: bool,
}

async fn set_member(State(platform): State<Arc<Platform>>, body: Bytes) -> Reply {
    let SetMember { corp_id, user_id, visible } = parsed(&body)?;
    let event = {
        let mut world = platform.world();
        world.member_mut(&corp_id, &user_id)?.is_visible = visible;
        let change = if visible { MemberChange::Subscribed } else { MemberChange::Unsubscribed };
        let corp = world.corp(&corp_id)?;
        let user_id = world.user_id(corp, &user_id);
        world.event(corp, &Change::Member { user_id, change })
    };
    deliver_in_background(&platform, event);
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Share {
    corp_id: String,
    shared: bool,
}

async fn share(State(platform): State<Arc<Platform>>, body: Bytes) -> Reply {
    let Share { corp_id, shared } = parsed(&body)?;
    let event = {
        let mut world = platform.world();
        let dealer = world.corp(&corp_id)?;
        let upstream = world.corps[dealer].upstream;
        if dealer == upstream {
            return Err(BadRequest(format!("{corp_id} is not a dealer")));
        }
        world.corps[dealer].is_shared = shared;
        world.event(upstream, &Change::ShareChainChange { agent_id: world.corps[upstream].agent_id })
    };
    deliver_in_background(&platform, event);
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Inject {
    api: String,
    fault: Fault,
    times: Option<u32>,
}

async fn inject(State(platform): State<Arc<Platform>>, body: Bytes) -> Reply {
    let request: Inject = parsed(&body)?;
    let target = match request.api.as_str() {
        "all" => Target::Every,
        name => Target::Only(
            serde_json::from_value::<Api>(json!(name))
                .map_err(|error| BadRequest(format!("`api` is \"all\" or an API: {error}")))?,
        ),
    };
    platform.world().faults.inject(target, request.fault, request.times);
    Ok(Json(json!({})))
}

async fn clear_faults(State(platform): State<Arc<Platform>>) -> Json<Value> {
    platform.clear_faults();
    Json(json!({}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    corp_id: String,
}

async fn revoke_tokens(State(platform): State<Arc<Platform>>, body: Bytes) -> Reply {
    let Revoke { corp_id } = parsed(&body)?;
    platform.world().revoke_tokens(&corp_id)?;
    Ok(Json(json!({})))
}

async fn state(State(platform): State<Arc<Platform>>) -> Json<Value> {
    let world = platform.world();
    Json(json!({ "counts": counts(&world), "counters": world.counters }))
}

fn counts(world: &World) -> Value {
    let apps = world.corps.iter().filter(|corp| corp.is_upstream).count();
    json!({
        "apps": apps,
        "dealers": world.corps.len() - apps,
        "members": world.corps.iter().map(|corp| corp.members.len()).sum::<usize>(),
        "people": world.people.len(),
        "customers": world.customers.len(),
        "chats": world.chats.iter().filter(|chat| !chat.is_dismissed).count(),
        "minted_people": world.pending_ids.len(),
        "tokens": world.tokens.len(),
    })
}
