//! `GET /v1/explain/{id}`: gathers what is known of a person and has [`explain`](crate::domain::explain) judge it.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::links::id;
use super::{AdminState, Problem, Shared, scan};
use crate::domain::contact::Contact;
use crate::domain::event::QuarantineReason;
use crate::domain::explain::{
    Code, ContactFacts, EventFacts, EventIs, Evidence, Facts, FanFacts, FanIs, SinkFacts, Text, Trouble,
    Verdict, explain,
};
use crate::domain::fan::{Existing, Fan, FanState, FanStep, Mint, Priority, Renew};
use crate::domain::forecast::forecast;
use crate::domain::ids::{AppName, ContactKey, CorpId, FanKey};
use crate::domain::quota::Share;
use crate::domain::tally::Tally;
use crate::domain::time::Timestamp;
use crate::store::{self, EventRow, InboxEvent, Quarantined, Trace};
use crate::wecom::{Api, remedy, remedy_zh};
use crate::worker::breaker::{Breaker, Scope};

/// Ids are shorter.
const ID_BYTES_MAX: usize = 255;

/// Why an id is, or is not, linked.
#[derive(Serialize, ToSchema)]
pub(super) struct Explanation {
    /// The id that was asked about.
    #[schema(example = "oINVENTED-unionid-0001")]
    id: String,
    /// What is, for programs.
    code: Code,
    /// What is, for people.
    text: Text,
    /// What to do, if anything.
    hint: Option<Text>,
    /// What this rests on, earliest first.
    evidence: Vec<Evidence>,
}

/// Why an id is, or is not, linked
///
/// The id is a unionid or an `external_userid`. The codes are stable.
#[utoipa::path(operation_id = "explain", get, path = "/v1/explain/{id}", tag = "people",
    params(("id" = String, Path, description = "A unionid or an external_userid", example = "oINVENTED-unionid-0001")),
    responses(
        (status = 200, body = Explanation),
        super::openapi::Errors,
    ))]
pub(super) async fn show(
    State(state): Shared,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<Explanation>, Problem> {
    let id = id(path)?;
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        return Err(Problem::bad_request("an id has 1 to 255 bytes"));
    }
    let (store, asked) = (state.store.clone(), id.clone());
    let trace = scan(&state, async move { store.trace(&asked).await }).await??;
    let facts = state.facts(trace).await?;
    let (Verdict { code, text, hint }, evidence) = explain(&facts, state.clock.now());
    Ok(Json(Explanation { id, code, text, hint, evidence }))
}

impl AdminState {
    async fn facts(&self, trace: Trace) -> Result<Facts, Problem> {
        let Trace { fans, contacts, events, forgotten_at } = trace;
        let mut facts = Facts { forgotten_at, ..Facts::default() };
        for (key, fan) in &fans {
            facts.fans.push(self.fan_facts(key, fan).await?);
        }
        facts.contacts = contacts.iter().map(|(key, contact)| self.contact_facts(key, contact)).collect();
        facts.events = events.into_iter().map(|row| self.event_facts(row)).collect();
        let head = self.store.counts().feed_head;
        for name in self.sink_kinds.keys() {
            let (status, cursor) = (self.sinks.status(name).unwrap_or_default(), self.cursor(name).await?);
            let after = status.position(cursor.as_ref());
            facts.sinks.push(SinkFacts {
                name: name.clone(),
                entries: head.saturating_sub(after),
                oldest_at: status.oldest_at,
                reason: status.last_error.map(|(_, reason)| reason),
            });
        }
        Ok(facts)
    }

    async fn fan_facts(&self, key: &FanKey, fan: &Fan) -> Result<FanFacts, Problem> {
        let now = self.clock.now();
        let state = match (fan.state(now), fan.mint) {
            (FanState::Minted, _) => FanIs::Minted,
            (FanState::Queued, _) => FanIs::Waiting(self.turn_at(key, fan).await?),
            (FanState::Rejected, Mint::Rejected { errcode, at }) => {
                FanIs::Rejected { at, trouble: from_code(errcode, None) }
            }
            (FanState::Expired | FanState::Rejected, _) => FanIs::Expired,
        };
        let scopes = [
            Scope::App(key.app.clone()),
            Scope::Fans(key.app.clone(), FanStep::Mint),
            Scope::FanClass(
                key.app.clone(),
                FanStep::Mint,
                fan.queued_for(FanStep::Mint).unwrap_or(Priority::Bulk).class(),
            ),
        ];
        // A budget that is used up is no fault; the forecast knows about it.
        let paused = self.breakers.open(&scopes.each_ref(), now).filter(|pause| pause.failures > 0);
        Ok(FanFacts {
            app: key.app.clone(),
            registered_at: fan.registered_at,
            state,
            minted: fan.newest().map(|minted| (minted.minted_at, minted.expires_at())),
            existing: match fan.existing {
                Existing::Asked { at, found } => Some((at, found)),
                Existing::Off | Existing::Due(_) | Existing::Refused { .. } => None,
            },
            paused: paused.map(of_pause),
        })
    }

    /// When a fan who waits will have had its turn: with everybody of its app who waits with it, or alone if it goes
    /// before the import.
    async fn turn_at(&self, key: &FanKey, fan: &Fan) -> Result<Option<Timestamp>, Problem> {
        let Some(app) = self.apps.get(&key.app) else { return Ok(None) };
        let bulk = fan.queued_for(FanStep::Mint) == Some(Priority::Bulk);
        let (waiting, share) = if bulk {
            let tallies = self.store.fan_tallies().await?;
            let of_app = tallies.into_iter().find(|(name, _)| *name == key.app);
            let share = Share::Without { reserve_percent: app.reserve_percent, month_kept: 0 };
            (of_app.map(|(_, tally)| tally).unwrap_or_default(), share)
        } else {
            let mut alone = Tally::default();
            alone.replace(None, Some(fan));
            (alone, Share::Whole)
        };
        let moment = self.clock.moment();
        let ledger = self.store.ledger(app.corp_id.as_str(), Api::UnionidToPendingId.as_str()).await?;
        let start = self.clock.now().plus_ms(ledger.used(moment).blocked_ms.unwrap_or(0));
        let history = ledger.history(moment);
        Ok(forecast(&waiting, &history, app.quota, share, Renew::Never, start).import_done_at)
    }

    fn contact_facts(&self, key: &ContactKey, contact: &Contact) -> ContactFacts {
        ContactFacts {
            corp_id: key.corp_id.clone(),
            first_seen_at: contact.first_seen_at,
            has_pending_id: contact.pending_id.is_some(),
            asked: contact.waiting.map(|waiting| (waiting.asked, waiting.due_at)),
            linked: contact.link.as_ref().map(|link| (link.linked_at, link.source)),
            paused: self.corp_paused(&key.app, &key.corp_id),
        }
    }

    fn corp_paused(&self, app: &AppName, corp_id: &CorpId) -> Option<Trouble> {
        let scopes = [Scope::App(app.clone()), Scope::Corp(app.clone(), corp_id.clone())];
        self.breakers.open(&scopes.each_ref(), self.clock.now()).map(of_pause)
    }

    fn event_facts(&self, row: EventRow) -> EventFacts {
        let of = |event: &InboxEvent, place| EventFacts {
            id: event.id.to_string(),
            received_at: event.received_at,
            place,
            paused: self.corp_paused(&event.app, &event.event.corp_id),
        };
        match row {
            EventRow::Inbox(event) => of(&event, EventIs::Waiting(event.due_at)),
            EventRow::Dead { event, .. } => {
                let trouble = event.failure.clone().map_or_else(|| from_code(0, None), of_problem);
                of(&event, EventIs::Dead(trouble))
            }
            EventRow::Quarantined(Quarantined { id, received_at, reason, .. }) => {
                let (en, zh) = quarantine_remedy(&reason);
                let trouble = Trouble { errcode: None, en: en.to_owned(), zh: zh.to_owned(), until: None };
                EventFacts {
                    id: id.to_string(),
                    received_at,
                    place: EventIs::Quarantined(trouble),
                    paused: None,
                }
            }
        }
    }
}

fn from_code(errcode: i64, until: Option<Timestamp>) -> Trouble {
    let (en, zh) = (remedy(errcode).to_owned(), remedy_zh(errcode).to_owned());
    Trouble { errcode: Some(errcode), en, zh, until }
}

fn of_problem(problem: store::FailureReason) -> Trouble {
    if let Some(errcode) = problem.errcode {
        return from_code(errcode, None);
    }
    let zh = format!("原因（英文原文）：{}", problem.text);
    Trouble { errcode: None, zh, en: problem.text, until: None }
}

fn of_pause(breaker: Breaker) -> Trouble {
    Trouble { until: Some(breaker.probe_at), ..of_problem(breaker.reason) }
}

/// What to do about a quarantined message, in English and Chinese.
pub(super) const fn quarantine_remedy(reason: &QuarantineReason) -> (&'static str, &'static str) {
    match reason {
        QuarantineReason::ReceiveId => (
            "if this corp or suite is yours, add it to accept_receive_ids of the app, restart, and redrive",
            "若该企业或套件属于你们，请将其加入应用的 accept_receive_ids，重启后 redrive",
        ),
        QuarantineReason::NotUnderstood(_) => (
            "a newer version of unionlink may understand it; redrive after the update",
            "新版本的 unionlink 可能支持该消息；升级后请 redrive",
        ),
        QuarantineReason::FarOff { .. } => (
            "it happened longer ago than event_days_max, or is more than a day ahead: an old callback sent again, or \
             a clock that is wrong; if it is to count all the same, redrive",
            "事件发生时间早于 event_days_max 或超前一天以上：可能是旧回调被重放，或时钟有误；若仍应处理，请 redrive",
        ),
    }
}
