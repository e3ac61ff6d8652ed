//! `/v1/events`: the inbox, dead letters and quarantined messages.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use self::selection::{Filter, find_set_aside};
use super::extract::{PathParam, QueryParams};
use super::state::{AdminState, Shared, scan};
use crate::domain::event::{Event, QuarantineReason};
use crate::domain::time::{SECOND_MS, Timestamp};
use crate::http::problem::Problem;
use crate::store::{EventId, EventRow, EventState, InboxEvent, Quarantined};
use crate::wecom::{Remedy, remedy_for};

pub(super) mod discard;
pub(super) mod redrive;
mod selection;

const EVENTS_DEFAULT: usize = 100;
const EVENTS_MAX: usize = 1_000;
/// Queue entries scanned for a filter: the queue is ordered by due instant only, so a filter has no index.
const QUEUE_SCANNED_MAX: usize = 20_000;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// The state of the events to list.
    #[param(inline)]
    #[serde(default)]
    state: EventState,
    /// Only events after this id; for `dead` and `quarantined` only.
    #[param(example = "evt_42")]
    after: Option<String>,
    /// The maximum number of events, 1 to 1000; values outside this range are clamped.
    #[param(default = 100)]
    limit: Option<usize>,
    /// Only events of this app.
    app: Option<String>,
    /// Only events of this dealer (corp id).
    corp_id: Option<String>,
    /// Only events whose last failure has this WeCom errcode.
    errcode: Option<i64>,
    /// Only events whose reason contains this text.
    reason: Option<String>,
}

/// An event, or a quarantined message.
#[derive(Serialize, ToSchema)]
#[schema(as = EventView)]
pub(super) struct Row {
    #[schema(example = "evt_42")]
    id: String,
    #[schema(inline)]
    state: EventState,
    #[schema(example = "brand")]
    app: String,
    #[schema(value_type = String, format = DateTime)]
    received_at: Timestamp,
    /// Seconds since it was received.
    #[schema(example = 61)]
    age_seconds: i64,
    /// What an operator can do.
    remedy: Option<&'static str>,
    /// The same in Chinese.
    remedy_zh: Option<&'static str>,
    #[serde(flatten)]
    #[schema(inline, value_type = RowFields)]
    content: RowContent,
    /// The full text of a quarantined message; only in the answer for a single one.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum RowContent {
    Event {
        r#type: &'static str,
        corp_id: String,
        corp_name: Option<String>,
        external_userid: String,
        user_id: String,
        created_at: Timestamp,
        due_at: Timestamp,
        died_at: Option<Timestamp>,
        attempts: u32,
        errcode: Option<i64>,
        reason: Option<String>,
    },
    Message {
        reason: &'static str,
        detail: Option<String>,
        receive_id: String,
        message_bytes: u32,
    },
}

// One type, because generators of clients do not support a flattened choice of two.
/// The fields of an event and those of a quarantined message; those of the other kind are absent.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes the response")]
struct RowFields {
    /// The kind of event.
    #[schema(example = "add_external_contact")]
    r#type: Option<String>,
    /// The dealer's corp id.
    #[schema(example = "wpINVENTED-dealer-01")]
    corp_id: Option<String>,
    /// The dealer's name, if it is known.
    #[schema(example = "上海一店")]
    corp_name: Option<String>,
    #[schema(example = "wmINVENTED-customer-0001")]
    external_userid: Option<String>,
    #[schema(example = "zhangsan")]
    user_id: Option<String>,
    #[schema(format = DateTime)]
    created_at: Option<String>,
    /// When it is processed next.
    #[schema(format = DateTime)]
    due_at: Option<String>,
    /// When it became a dead letter.
    #[schema(format = DateTime)]
    died_at: Option<String>,
    attempts: Option<u32>,
    /// The WeCom errcode of the last failure.
    errcode: Option<i64>,
    /// The last failure; of a quarantined message, why it is in quarantine: `receive_id`, `not_understood`,
    /// `far_off` or `unrouted`.
    reason: Option<String>,
    /// Details of the reason for which a message is in quarantine.
    detail: Option<String>,
    /// The corp or suite id for which WeCom encrypted a quarantined message.
    receive_id: Option<String>,
    /// The length of a quarantined message.
    message_bytes: Option<u32>,
}

fn event_row(
    admin: &AdminState,
    event: InboxEvent,
    state: EventState,
    died_at: Option<Timestamp>,
    now: Timestamp,
) -> Row {
    let Event { corp_id, created_at, contact } = event.event;
    let corp_name = admin.dealer_names.of(&event.app, &corp_id);
    let development = admin.apps.development(&event.app);
    let (errcode, reason) =
        event.failure.map_or((None, None), |failure| (failure.errcode, Some(failure.text)));
    let remedy = errcode.map(|errcode| remedy_for(errcode, development));
    Row {
        id: event.id.to_string(),
        state,
        app: event.app.into(),
        received_at: event.received_at,
        age_seconds: now.millis_since(event.received_at).max(0) / SECOND_MS,
        remedy: remedy.map(|remedy| remedy.en),
        remedy_zh: remedy.map(|remedy| remedy.zh),
        content: RowContent::Event {
            r#type: contact.change.kind().into(),
            corp_id: corp_id.into(),
            corp_name,
            external_userid: contact.external_userid.into(),
            user_id: contact.user_id.into(),
            created_at,
            due_at: event.due_at,
            died_at,
            attempts: event.attempts,
            errcode,
            reason,
        },
        message: None,
    }
}

/// Converts a stored row. `queue_state` is the state of an event that is in the queue.
fn row(admin: &AdminState, row: EventRow, queue_state: EventState, now: Timestamp) -> Row {
    match row {
        EventRow::Inbox(event) => event_row(admin, event, queue_state, None, now),
        EventRow::Dead { event, died_at } => event_row(admin, event, EventState::Dead, Some(died_at), now),
        EventRow::Quarantined(Quarantined { id, app, received_at, reason, receive_id, message_bytes }) => {
            let Remedy { en, zh } = quarantine_remedy(&reason);
            let (reason, detail) = ((&reason).into(), reason.detail());
            Row {
                id: id.to_string(),
                state: EventState::Quarantined,
                app: app.into(),
                received_at,
                age_seconds: now.millis_since(received_at).max(0) / SECOND_MS,
                remedy: Some(en),
                remedy_zh: Some(zh),
                content: RowContent::Message { reason, detail, receive_id, message_bytes },
                message: None,
            }
        }
    }
}

/// What to do about a quarantined message.
pub(super) const fn quarantine_remedy(reason: &QuarantineReason) -> Remedy {
    match reason {
        QuarantineReason::ReceiveId => Remedy {
            en: "add the receive id to the app's accept_receive_ids if the corp or suite is yours, restart, \
                 then redrive; otherwise discard it",
            zh: "请将该 receive_id 加入应用的 accept_receive_ids（仅当该企业或套件属于你），重启后重新投递；\
                 否则可丢弃",
        },
        QuarantineReason::NotUnderstood(_) => Remedy {
            en: "update unionlink, then redrive: a newer version may support this message",
            zh: "请升级 unionlink 后重新投递：新版可能支持该消息",
        },
        QuarantineReason::Unrouted { .. } => Remedy {
            en: "wait: it is redriven once the corp has authorised the suite and an app serves it, or once \
                 it is listed as a dealer; a brand without an app needs an [[apps]] section of its own",
            zh: "请等待：该企业完成授权并有应用为其服务，或被列为经销商后，消息会自动重新投递；\
                 尚无应用的品牌需要配置自己的 [[apps]]",
        },
        QuarantineReason::FarOff { .. } => Remedy {
            en: "redrive it if it should be processed, otherwise discard it: it is older than \
                 event_days_max, or more than a day in the future (a replayed callback, or a wrong clock)",
            zh: "请确认是否应处理，如应处理则重新投递，否则可丢弃：事件早于 event_days_max 的期限，\
                 或超前一天以上（旧回调被重放，或时钟有误）",
        },
    }
}

/// A page of events.
#[derive(Serialize, ToSchema)]
#[schema(as = EventList)]
pub(super) struct List {
    events: Vec<Row>,
    /// The `after` of the next page; `null` when there are no more events.
    #[schema(example = "evt_42")]
    next: Option<String>,
}

impl AdminState {
    /// The first `limit` events in the queue that match.
    async fn queued(
        &self,
        state: EventState,
        filter: &Filter,
        scanned_max: usize,
        limit: usize,
    ) -> Result<Vec<Row>, Problem> {
        let rows = self.store.events(state, EventId(0), scanned_max).await?;
        let now = self.clock.now();
        let rows = rows.into_iter().map(|found| row(self, found, state, now));
        Ok(rows.filter(|row| filter.matches(row)).take(limit).collect())
    }
}

/// List events in one state: the inbox, dead letters or quarantine
///
/// Waiting and leased events are listed by due instant, the first ones only. Dead letters and quarantined
/// messages are listed by id, page by page.
#[utoipa::path(operation_id = "list_events", get, path = "/v1/events",
    tag = "events", params(ListQuery), responses(
    (status = 200, body = List, description = "A page of events"),
    super::openapi::Errors,
))]
pub(super) async fn list(
    State(state): Shared,
    QueryParams(query): QueryParams<ListQuery>,
) -> Result<Json<List>, Problem> {
    let ListQuery { state: event_state, after, limit, app, corp_id, errcode, reason } = query;
    let filter = Filter { app, corp_id, errcode, reason };
    let limit = limit.unwrap_or(EVENTS_DEFAULT).clamp(1, EVENTS_MAX);
    match (after, event_state) {
        (after, EventState::Dead | EventState::Quarantined) => {
            let after = after.as_deref().map_or(Ok(EventId(0)), event_id)?;
            let (found, next) = find_set_aside(&state, event_state, &filter, after, limit).await?;
            let events = found.into_iter().map(|(_, row)| row).collect();
            Ok(Json(List { events, next: next.map(|id| id.to_string()) }))
        }
        (Some(_), EventState::Waiting | EventState::Leased) => {
            Err(Problem::bad_request("after requires state=dead or state=quarantined")
                .hint("the queue changes while it is read; narrow the list with a filter instead"))
        }
        (None, EventState::Waiting | EventState::Leased) => {
            let events = if filter.is_empty() {
                state.queued(event_state, &filter, limit, limit).await?
            } else {
                let owner = state.clone();
                let work = async move { owner.queued(event_state, &filter, QUEUE_SCANNED_MAX, limit).await };
                scan(&state.permits.scans, work).await??
            };
            Ok(Json(List { events, next: None }))
        }
    }
}

fn event_id(text: &str) -> Result<EventId, Problem> {
    text.parse().map_err(|_| Problem::bad_request(format!("{text:?} is not an event id such as evt_42")))
}

/// The id of an event that exists, or existed: the numbers are given in order.
fn known_event(state: &AdminState, text: &str) -> Result<EventId, Problem> {
    let id = event_id(text)?;
    let is_known = (1..=state.store.counts().event_head).contains(&id.0);
    if is_known { Ok(id) } else { Err(event_not_found()) }
}

fn event_not_found() -> Problem {
    Problem::not_found("dead letter or quarantined message not found")
}

/// Show one dead letter, or one quarantined message with its full text
#[utoipa::path(operation_id = "show_event", get, path = "/v1/events/{id}", tag = "events",
    params(("id" = String, Path, description = "The event's id", example = "evt_42")),
    responses(
        (status = 200, body = Row, description = "The event"),
        (status = 404, response = super::openapi::NotFound),
        super::openapi::Errors,
    ))]
pub(super) async fn show(State(state): Shared, PathParam(id): PathParam) -> Result<Json<Row>, Problem> {
    let id = event_id(&id)?;
    let event = state.store.event(id).await?.ok_or_else(event_not_found)?;
    let mut row = row(&state, event, EventState::Waiting, state.clock.now());
    let message = state.store.quarantined_message(id).await?;
    row.message = message.map(|message| String::from_utf8_lossy(&message).into_owned());
    Ok(Json(row))
}

#[cfg(test)]
mod tests {
    use strum::VariantNames as _;
    use utoipa::PartialSchema as _;

    use super::*;

    #[test]
    fn the_description_names_every_reason_for_a_quarantine() {
        let schema = serde_json::to_value(RowFields::schema()).unwrap();
        let description = schema["properties"]["reason"]["description"].as_str().unwrap();
        for reason in QuarantineReason::VARIANTS {
            assert!(description.contains(&format!("`{reason}`")), "{reason}: {description}");
        }
    }
}
