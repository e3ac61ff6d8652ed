//! The log of what happens to suites, their corps and apps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::Context;
use super::super::apps::{AppChanges, Apps};
use crate::clock::Clock;
use crate::domain::authorization::{Agent, Authorization, AuthorizationState, Role};
use crate::domain::bindings::Unserved;
use crate::domain::dealer::named;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::suite::{CodeKind, ExchangeEnd, TICKET_EVERY_MS};
use crate::domain::time::Timestamp;

/// What was logged last, so that only changes are.
pub(super) struct Report {
    apps: Arc<Apps>,
    clock: Arc<dyn Clock>,
    /// When the ticket of each suite was received.
    tickets: BTreeMap<AppName, Timestamp>,
    /// The suites without a valid ticket.
    waiting: BTreeSet<AppName>,
    /// The brands among which an app has to choose.
    several: BTreeMap<AppName, Vec<(CorpId, String)>>,
}

impl Report {
    pub(super) fn new(context: &Context) -> Self {
        Self {
            apps: context.apps.clone(),
            clock: context.clock.clone(),
            tickets: BTreeMap::new(),
            waiting: BTreeSet::new(),
            several: BTreeMap::new(),
        }
    }

    /// Logs what is different now that the suites were loaded.
    pub(super) fn loaded(&mut self, changes: &AppChanges) {
        let apps = self.apps.clone();
        for suite in apps.suites().keys() {
            self.ticket(suite);
        }
        for (app, corp_id) in &changes.usable {
            tracing::info!(%app, %corp_id, "the app is authorised: its calls go on");
        }
        for app in &changes.parked {
            self.parked(app);
        }
        for one in apps.agency() {
            self.unserved(&one.app);
        }
    }

    fn ticket(&mut self, suite: &AppName) {
        let Some(view) = self.apps.suite(suite) else { return };
        if let Some(ticket) = &view.ticket {
            match self.tickets.insert(suite.clone(), ticket.received_at) {
                None => tracing::info!(%suite, "the suite has a ticket"),
                Some(before) if before != ticket.received_at => {
                    tracing::debug!(%suite, "the suite has another ticket");
                }
                Some(_) => {}
            }
        }
        let now = self.clock.now();
        if view.has_ticket(now) {
            self.waiting.remove(suite);
        } else if self.waiting.insert(suite.clone()) {
            let last = view.ticket.as_ref().map(|ticket| ticket.received_at.plus_ms(TICKET_EVERY_MS));
            let until = last.filter(|until| now < *until).unwrap_or(now.plus_ms(TICKET_EVERY_MS));
            tracing::warn!(%suite, %until,
                "the suite has no valid ticket and waits for the next one; WeCom sends one every 10 minutes, \
                 or when 服务商管理后台 is asked to");
        }
    }

    fn parked(&self, app: &AppName) {
        let Some((view, corp_id)) = self.apps.authorization_of(app) else { return };
        let Some(one) = view.authorization(corp_id.as_str()) else { return };
        let corp = &one.record.name;
        match (one.record.state(), &one.code) {
            (AuthorizationState::Cancelled, _) => tracing::warn!(%app, %corp_id, corp,
                "the brand has cancelled the authorisation: the app is parked, and its work waits until the \
                 brand authorises again"),
            (_, None) => tracing::warn!(%app, %corp_id, corp,
                "the permanent code was sealed with another suite secret: the app is parked; set \
                 previous_suite_secret, or choose 重新获取 secret in 服务商管理后台"),
            // After another code, for the moment until its app is read.
            (AuthorizationState::Incomplete | AuthorizationState::Active, Some(_)) => {
                tracing::debug!(%app, %corp_id, corp, "the app waits until it has been read");
            }
        }
    }

    fn unserved(&mut self, app: &AppName) {
        let Some(Unserved::Several(brands)) = self.apps.unserved(app) else {
            self.several.remove(app);
            return;
        };
        if self.several.get(app) != Some(&brands) {
            let shown: Vec<_> =
                brands.iter().map(|(corp_id, name)| named(Some(name), corp_id.as_str())).collect();
            tracing::warn!(%app, brands = shown.join(", "),
                "several brands have authorised the suite: set corp_id of the app to the one it is for");
            self.several.insert(app.clone(), brands);
        }
    }
}

/// Logs that an exchange ended without an authorisation; `reason` is WeCom's last refusal.
pub(super) fn exchange_ended(suite: &AppName, kind: CodeKind, end: ExchangeEnd, reason: Option<&str>) {
    let (kind, how): (&str, &str) = (kind.into(), (&end).into());
    let errcode = match end {
        ExchangeEnd::Refused { errcode, .. } => Some(errcode),
        ExchangeEnd::Lost { .. } | ExchangeEnd::Expired { .. } | ExchangeEnd::Unreadable { .. } => None,
    };
    tracing::warn!(%suite, kind, how, errcode, reason,
        "an auth code could not be exchanged: have the corp authorise again (a brand by the QR code, a \
         dealer by installing the shared app again), or choose 重新获取 secret in 服务商管理后台");
}

/// Logs that the app at a corp was read for the first time since a grant.
pub(super) fn corp_read(suite: &AppName, before: &Authorization, agent: Agent) {
    if before.agent.is_some() {
        return;
    }
    let mut read = before.clone();
    read.set_agent(agent);
    let role = match read.role() {
        Some(Role::Brand) => "brand",
        Some(Role::Dealer(_)) => "dealer",
        Some(Role::Other) | None => "other",
    };
    let (corp_id, corp) = (&before.corp_id, &before.name);
    tracing::info!(%suite, %corp_id, corp, role, "a corp has authorised the suite");
    if matches!(read.role(), Some(Role::Dealer(_)))
        && read.agent.is_some_and(|agent| agent.shared_from.is_none())
    {
        tracing::warn!(%suite, %corp_id, corp,
            "a dealer has authorised the template by QR code and remains a dealer: to serve it as a brand, set \
             it as corp_id of an app");
    }
}
