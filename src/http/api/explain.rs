//! `GET /v1/explain/{id}`: gathers the facts about a person.
//!
//! Deliberately absent: the verdict and its texts, which are [`explain`]'s.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;

use super::audit::By;
use super::events::quarantine_remedy;
use super::extract::PathParam;
use super::state::{AdminState, Shared, scan};
use crate::domain::audit::AuditAction;
use crate::domain::bindings::Unserved;
use crate::domain::explain::{
    Explanation, Facts, HeldEvent, NoAuthorization, Place, SinkLag, Trouble, Unauthorized, explain,
};
use crate::domain::fan::{Fan, FanState, FanStep, Mint, Priority, Renew};
use crate::domain::forecast::forecast;
use crate::domain::ids::{AppName, CorpId, FanKey};
use crate::domain::quota::Share;
use crate::domain::tally::Tally;
use crate::domain::text::Text;
use crate::domain::time::Timestamp;
use crate::http::problem::Problem;
use crate::store::{CursorState, EventRow, FailureReason, PersonData};
use crate::wecom::{Api, Credentials as _, Remedy, Unavailable, remedy_for};
use crate::worker::breaker::{Breaker, Scope};

/// The longest accepted id; all kinds of ids are shorter.
const ID_BYTES_MAX: usize = 255;

/// Explain why a person is, or is not, linked
///
/// The id is a unionid or an `external_userid`. The codes of the answer are stable.
#[utoipa::path(operation_id = "explain", get, path = "/v1/explain/{id}", tag = "people",
    params(("id" = String, Path, description = "A unionid or an external_userid",
        example = "oINVENTED-unionid-0001")),
    responses(
        (status = 200, body = Explanation, description = "The verdict, for any id"),
        super::openapi::Errors,
    ))]
pub(super) async fn show(
    State(state): Shared,
    by: By,
    PathParam(id): PathParam,
) -> Result<Json<Explanation>, Problem> {
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        return Err(Problem::bad_request("an id is 1 to 255 bytes long"));
    }
    let (store, person_id) = (state.store.clone(), id.clone());
    let data =
        scan(&state.permits.explanations, async move { store.person_data(&person_id).await }).await??;
    let now = state.clock.now();
    let facts = state.facts(data, now).await?;
    state.record(by.did(AuditAction::Explain, &state)).await?;
    Ok(Json(explain(id, &facts, now)))
}

impl AdminState {
    /// The facts that the explanation is based on.
    async fn facts(&self, data: PersonData, now: Timestamp) -> Result<Facts, Problem> {
        let PersonData { fans, contacts, events, forgotten_at } = data;
        let apps = self.apps.all();
        let without_existing = apps.iter().filter(|(_, app)| !app.existing_customers);
        let without_existing = without_existing.map(|(name, _)| name.clone()).collect();
        let mut facts = Facts { without_existing, forgotten_at, ..Facts::default() };
        if let Some((key, fan)) = fans.iter().find(|(_, fan)| fan.state(now) == FanState::Queued) {
            facts.turn_at = self.turn_at(key, fan).await?;
        }
        for (key, fan) in fans {
            let trouble = self.fan_trouble(&key, &fan);
            facts.fans.push((key, fan, trouble));
        }
        for (key, contact) in contacts {
            let trouble = self.corp_trouble(&key.app, &key.corp_id);
            if let Some(errcode) = contact.lookup.and_then(|lookup| lookup.refused) {
                let remedy = remedy_for(errcode, self.apps.development(&key.app));
                facts.remedies.insert((key.app.clone(), errcode), text(remedy));
            }
            facts.contacts.push((key, contact, trouble));
        }
        facts.events = events.into_iter().map(|row| self.held_event(row)).collect();
        facts.unauthorized = self.unauthorized(&facts);
        let of_contacts = facts.contacts.iter().map(|(key, ..)| (key.app.clone(), key.corp_id.clone()));
        let corps = of_contacts.chain(facts.events.iter().filter_map(|event| event.corp.clone()));
        for (app, corp_id) in corps.collect::<BTreeSet<_>>() {
            if let Some(dealer) = self.store.dealer(&app, &corp_id).await? {
                facts.dealers.insert((app, corp_id), dealer);
            }
        }
        let head = self.store.counts().feed_head;
        for name in self.sinks.names() {
            let (status, cursor) = (self.sinks.status(&name).unwrap_or_default(), self.cursor(&name).await?);
            facts.sinks.push(SinkLag {
                name,
                entries: head.saturating_sub(status.position(cursor.as_ref())),
                oldest_at: status.oldest_at,
                is_stopped: cursor.as_ref().is_some_and(|cursor| cursor.state != CursorState::Running),
                reason: status.last_error,
            });
        }
        Ok(facts)
    }

    /// When a queued fan is expected to have its pending id: the forecast for a bulk fan is that of its app's
    /// whole queue, the forecast for a more urgent fan ignores the queue.
    async fn turn_at(&self, key: &FanKey, fan: &Fan) -> Result<Option<Timestamp>, Problem> {
        let Some(app) = self.apps.get(&key.app) else { return Ok(None) };
        let Some(corp_id) = &app.corp_id else { return Ok(None) };
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
        let ledger = self.store.ledger(corp_id.as_str(), Api::UnionidToPendingId.as_str()).await?;
        let now = self.clock.moment();
        Ok(forecast(&queued, &ledger, app.quota, share, Renew::Never, now).import_done_at)
    }

    /// What keeps a fan from getting a pending id: WeCom's rejection, or an open circuit breaker.
    fn fan_trouble(&self, key: &FanKey, fan: &Fan) -> Option<Trouble> {
        if let Mint::Rejected { errcode, .. } = fan.mint {
            return Some(self.errcode_trouble(&key.app, errcode));
        }
        let (app, class) = (&key.app, fan.queued_for(FanStep::Mint)?.class());
        let scopes = [
            Scope::App(app.clone()),
            Scope::Fans(app.clone(), FanStep::Mint),
            Scope::FanClass(app.clone(), FanStep::Mint, class),
        ];
        // The forecast takes an exhausted quota into account.
        self.breaker_trouble(app, &scopes)
    }

    /// What holds back the conversions of a corp's customers: an open circuit breaker. A wait for a call
    /// limit is none.
    fn corp_trouble(&self, app: &AppName, corp_id: &CorpId) -> Option<Trouble> {
        let scopes = [Scope::App(app.clone()), Scope::Corp(app.clone(), corp_id.clone())];
        self.breaker_trouble(app, &scopes)
    }

    fn held_event(&self, row: EventRow) -> HeldEvent {
        let (id, corp, received_at, place) = match row {
            EventRow::Inbox(event) => {
                let trouble = self.corp_trouble(&event.app, &event.event.corp_id);
                let corp = Some((event.app, event.event.corp_id));
                (event.id, corp, event.received_at, Place::Inbox(event.due_at, trouble))
            }
            EventRow::Dead { event, .. } => {
                let trouble = match event.failure {
                    Some(failure) => self.failure_trouble(&event.app, failure),
                    None => self.errcode_trouble(&event.app, 0),
                };
                let corp = Some((event.app, event.event.corp_id));
                (event.id, corp, event.received_at, Place::Dead(trouble))
            }
            EventRow::Quarantined(message) => {
                let remedy = text(quarantine_remedy(&message.reason));
                (message.id, None, message.received_at, Place::Quarantined(remedy))
            }
        };
        HeldEvent { id: id.to_string(), corp, received_at, place }
    }

    /// The agency-developed apps of this person that cannot call WeCom.
    fn unauthorized(&self, facts: &Facts) -> BTreeMap<AppName, Unauthorized> {
        let of_fans = facts.fans.iter().map(|(key, ..)| &key.app);
        let of_customers = facts.contacts.iter().map(|(key, ..)| &key.app);
        let of_events = facts.events.iter().filter_map(|event| event.corp.as_ref()).map(|(app, _)| app);
        let concerned: BTreeSet<_> = of_fans.chain(of_customers).chain(of_events).collect();
        concerned.into_iter().filter_map(|app| Some((app.clone(), self.no_authorization(app)?))).collect()
    }

    fn no_authorization(&self, app: &AppName) -> Option<Unauthorized> {
        self.apps.get(app)?.suite.as_ref()?;
        let unavailable = self.apps.of_app(app).err()?;
        let why = match (unavailable, self.apps.unserved(app)) {
            (Unavailable::SeveralBrands, Some(Unserved::Several(brands))) => {
                NoAuthorization::Ambiguous(brands)
            }
            (Unavailable::Cancelled, _) => {
                let (suite, brand) = self.apps.authorization_of(app)?;
                let at = suite.authorization(brand.as_str())?.record.cancellation_noticed_at()?;
                NoAuthorization::Cancelled { at }
            }
            _ => NoAuthorization::Waiting,
        };
        Some(Unauthorized { why, remedy: text(unavailable.remedy()) })
    }

    /// A breaker of an app's scopes that failures have opened.
    fn breaker_trouble(&self, app: &AppName, scopes: &[Scope]) -> Option<Trouble> {
        let scopes: Vec<_> = scopes.iter().collect();
        let Breaker { probe_at, reason, .. } = self.breakers.failing(&scopes)?;
        Some(Trouble { retry_at: Some(probe_at), ..self.failure_trouble(app, reason) })
    }

    fn failure_trouble(&self, app: &AppName, FailureReason { errcode, text: en }: FailureReason) -> Trouble {
        if let Some(errcode) = errcode {
            return self.errcode_trouble(app, errcode);
        }
        let zh = format!("原因（英文原文）：{en}");
        Trouble { errcode: None, remedy: Text { en, zh }, retry_at: None }
    }

    fn errcode_trouble(&self, app: &AppName, errcode: i64) -> Trouble {
        let remedy = text(remedy_for(errcode, self.apps.development(app)));
        Trouble { errcode: Some(errcode), remedy, retry_at: None }
    }
}

pub(super) fn text(Remedy { en, zh }: Remedy) -> Text {
    Text { en: en.to_owned(), zh: zh.to_owned() }
}
