//! An event, or a quarantined message, as `/v1/events` shows it.

use serde::Serialize;
use utoipa::ToSchema;

use super::super::state::AdminState;
use crate::domain::event::{Event, QuarantineReason};
use crate::domain::time::{SECOND_MS, Timestamp};
use crate::store::{EventRow, EventState, InboxEvent, Quarantined};
use crate::wecom::{Remedy, remedy_for};

/// An event, or a quarantined message.
#[derive(Serialize, ToSchema)]
#[schema(as = EventView)]
pub(in super::super) struct Row {
    #[schema(example = "evt_42")]
    id: String,
    #[schema(inline)]
    state: EventState,
    #[schema(example = "brand")]
    pub(super) app: String,
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
    pub(super) content: RowContent,
    /// The full text of a quarantined message; only in the answer for a single one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<String>,
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum RowContent {
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
pub(super) fn row(admin: &AdminState, row: EventRow, queue_state: EventState, now: Timestamp) -> Row {
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
pub(in super::super) const fn quarantine_remedy(reason: &QuarantineReason) -> Remedy {
    match reason {
        QuarantineReason::ReceiveId => Remedy {
            en: "add the receive id to the app's accept_receive_ids if the corp or suite is yours, reload \
                 the configuration, then redrive; otherwise discard it",
            zh: "请将该 receive_id 加入应用的 accept_receive_ids（仅当该企业或套件属于你），重新加载配置后重新投递；\
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
