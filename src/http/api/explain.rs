//! `GET /v1/explain/{id}`: gathers what is known about a person.
//!
//! Deliberately absent: the verdict and its words, which are [`explain`]'s.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};

use super::events::quarantine_remedy;
use super::links::id;
use super::{AdminState, Problem, Shared, scan};
use crate::domain::explain::{Explanation, Facts, HeldEvent, Place, SinkLag, Text, Trouble, explain};
use crate::domain::fan::{Fan, FanState, FanStep, Mint, Priority, Renew};
use crate::domain::forecast::forecast;
use crate::domain::ids::{AppName, CorpId, FanKey};
use crate::domain::quota::Share;
use crate::domain::tally::Tally;
use crate::domain::time::Timestamp;
use crate::store::{EventRow, FailureReason, PersonData};
use crate::wecom::{Api, Remedy, remedies};
use crate::worker::breaker::{Breaker, Scope};

/// Ids are shorter.
const ID_BYTES_MAX: usize = 255;

/// Why an id is, or is not, linked
///
/// The id is a unionid or an `external_userid`. The codes are stable.
#[utoipa::path(operation_id = "explain", get, path = "/v1/explain/{id}", tag = "people",
    params(("id" = String, Path, description = "A unionid or an external_userid",
        example = "oINVENTED-unionid-0001")),
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
    let data = scan(&state, async move { store.person_data(&asked).await }).await??;
    let now = state.clock.now();
    let facts = state.facts(data, now).await?;
    Ok(Json(explain(id, &facts, now)))
}

impl AdminState {
    async fn facts(&self, data: PersonData, now: Timestamp) -> Result<Facts, Problem> {
        let PersonData { fans, contacts, events, forgotten_at } = data;
        let mut facts = Facts { forgotten_at, ..Facts::default() };
        if let Some((key, fan)) = fans.iter().find(|(_, fan)| fan.state(now) == FanState::Queued) {
            facts.turn_at = self.turn_at(key, fan, now).await?;
        }
        for (key, fan) in fans {
            let trouble = self.fan_trouble(&key, &fan, now);
            facts.fans.push((key, fan, trouble));
        }
        for (key, contact) in contacts {
            let trouble = self.corp_trouble(&key.app, &key.corp_id, now);
            facts.contacts.push((key, contact, trouble));
        }
        facts.events = events.into_iter().map(|row| self.held_event(row, now)).collect();
        let head = self.store.counts().feed_head;
        for name in self.sink_kinds.keys() {
            let (status, cursor) = (self.sinks.status(name).unwrap_or_default(), self.cursor(name).await?);
            facts.sinks.push(SinkLag {
                name: name.clone(),
                entries: head.saturating_sub(status.position(cursor.as_ref())),
                oldest_at: status.oldest_at,
                reason: status.last_error.map(|(_, reason)| reason),
            });
        }
        Ok(facts)
    }

    /// When a queued fan is expected to have its pending id: a bulk fan together with all queued fans of its
    /// app, a more urgent one as if it were alone.
    async fn turn_at(&self, key: &FanKey, fan: &Fan, now: Timestamp) -> Result<Option<Timestamp>, Problem> {
        let Some(app) = self.apps.get(&key.app) else { return Ok(None) };
        let (queued, share) = if fan.queued_for(FanStep::Mint) == Some(Priority::Bulk) {
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
        let start = now.plus_ms(ledger.used(moment).blocked_ms.unwrap_or(0));
        let history = ledger.history(moment);
        Ok(forecast(&queued, &history, app.quota, share, Renew::Never, start).import_done_at)
    }

    /// What keeps a fan from getting a pending id: WeCom's rejection, or an open circuit breaker.
    fn fan_trouble(&self, key: &FanKey, fan: &Fan, now: Timestamp) -> Option<Trouble> {
        if let Mint::Rejected { errcode, .. } = fan.mint {
            return Some(of_errcode(errcode));
        }
        let (app, class) = (&key.app, fan.queued_for(FanStep::Mint)?.class());
        let scopes = [
            Scope::App(app.clone()),
            Scope::Fans(app.clone(), FanStep::Mint),
            Scope::FanClass(app.clone(), FanStep::Mint, class),
        ];
        // An exhausted quota is no failure; the forecast knows about it.
        self.breakers.open(&scopes.each_ref(), now).filter(|breaker| breaker.failures > 0).map(of_breaker)
    }

    fn corp_trouble(&self, app: &AppName, corp_id: &CorpId, now: Timestamp) -> Option<Trouble> {
        let scopes = [Scope::App(app.clone()), Scope::Corp(app.clone(), corp_id.clone())];
        self.breakers.open(&scopes.each_ref(), now).map(of_breaker)
    }

    fn held_event(&self, row: EventRow, now: Timestamp) -> HeldEvent {
        let (id, received_at, place) = match row {
            EventRow::Inbox(event) => {
                let trouble = self.corp_trouble(&event.app, &event.event.corp_id, now);
                (event.id, event.received_at, Place::Inbox(event.due_at, trouble))
            }
            EventRow::Dead { event, .. } => {
                let trouble = event.failure.map_or_else(|| of_errcode(0), of_failure);
                (event.id, event.received_at, Place::Dead(trouble))
            }
            EventRow::Quarantined(message) => {
                let remedy = text(quarantine_remedy(&message.reason));
                (message.id, message.received_at, Place::Quarantined(remedy))
            }
        };
        HeldEvent { id: id.to_string(), received_at, place }
    }
}

fn text(Remedy { en, zh }: Remedy) -> Text {
    Text { en: en.to_owned(), zh: zh.to_owned() }
}

fn of_errcode(errcode: i64) -> Trouble {
    Trouble { errcode: Some(errcode), remedy: text(remedies(errcode)), retry_at: None }
}

fn of_failure(FailureReason { errcode, text: en }: FailureReason) -> Trouble {
    if let Some(errcode) = errcode {
        return of_errcode(errcode);
    }
    let zh = format!("原因（英文原文）：{en}");
    Trouble { errcode: None, remedy: Text { en, zh }, retry_at: None }
}

fn of_breaker(breaker: Breaker) -> Trouble {
    Trouble { retry_at: Some(breaker.probe_at), ..of_failure(breaker.reason) }
}
