//! Reads the app at each corp that has authorised a suite, and the permissions of the app of a brand: after a
//! grant, after each change that WeCom reports, and once a day where only a refused call showed that the corp
//! had cancelled.
//!
//! Readings come after exchanges and delay none. What failed is read again after a while; only memory knows
//! until when, so a restart, another permanent code or another change ends the wait.
//!
//! Deliberately absent: what an answer changes (see [`Authorization`]).

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::SecretString;
use tokio::time::Instant;

use super::super::failure::{failure_reason, limit_ends_at};
use super::super::suites::{AuthorizationView, SuiteView};
use super::super::{Context, until};
use super::report::corp_read;
use super::suite_calls::SuiteCalls;
use crate::domain::authorization::{Agent, Authorization, AuthorizationState, Role};
use crate::domain::backoff::Backoff;
use crate::domain::ids::{AppName, CorpId};
use crate::store::StoreError;
use crate::wecom::{Api, AuthInfo, CallError, Class};

/// Readings in flight at once.
const AT_ONCE: usize = 4;
/// How often an inferred cancellation, and permissions that could not be read, are read again.
const DAILY: Duration = Duration::from_hours(24);
/// The shortest wait for the end of a call limit.
const AGAIN_MIN: Duration = Duration::from_secs(1);
/// The permission without which no customer can be read (客户基础信息).
pub(super) const READ_CUSTOMERS: &str = "externalcontact:base:base";

/// What is read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Reading {
    /// The app at the corp.
    App,
    /// The same, although the corp seems to have cancelled.
    Cancelled,
    /// The permissions of the brand that this app serves.
    Permissions(AppName),
}

type Key = (AppName, CorpId, Reading);

/// A wait before something is read again.
struct Wait {
    /// The number of codes and changes of the authorisation that was read: after others, there is no wait.
    of: (u32, u32),
    failures: u32,
    until: Instant,
}

/// The readings of all suites.
pub(super) struct Reviews {
    calls: Arc<SuiteCalls>,
    in_flight: Mutex<BTreeSet<Key>>,
    waits: Mutex<HashMap<Key, Wait>>,
}

impl Reviews {
    pub(super) fn new(calls: Arc<SuiteCalls>) -> Self {
        Self { calls, in_flight: Mutex::default(), waits: Mutex::default() }
    }

    /// Starts the readings of a suite that are due.
    pub(super) fn start(self: &Arc<Self>, suite: &AppName, view: &SuiteView) {
        let can_call = self.calls.can_call(suite, view) && !self.calls.is_held_back(suite);
        for AuthorizationView { record, code } in view.authorizations.values() {
            let (Some(code), Some(reading)) = (code, self.due(suite, record)) else { continue };
            let key = (suite.clone(), record.corp_id.clone(), reading);
            if self.waits(&key, record) || !self.has_room_for(&key) {
                continue;
            }
            let needs_ticket = match key.2 {
                Reading::App | Reading::Cancelled => true,
                Reading::Permissions(_) => false,
            };
            if needs_ticket && !can_call {
                continue;
            }
            self.in_flight().insert(key.clone());
            self.spawn(key, record.clone(), code.clone());
        }
    }

    /// Has the corps of a suite read now whose reading failures put off.
    pub(super) fn forget_waits(&self, suite: &AppName) {
        lock(&self.waits).retain(|(of, ..), _| of != suite);
    }

    /// What is to be read of an authorisation.
    fn due(&self, suite: &AppName, record: &Authorization) -> Option<Reading> {
        if record.check_due || record.state() == AuthorizationState::Incomplete {
            return Some(Reading::App);
        }
        if record.is_cancellation_inferred() {
            return Some(Reading::Cancelled);
        }
        let is_unread = record.agent.as_ref().is_some_and(|agent| agent.may_read_customers.is_none());
        if record.state() != AuthorizationState::Active || record.role() != Some(Role::Brand) || !is_unread {
            return None;
        }
        // Read with the app's own access token, so only once an app serves the brand.
        let app = self.calls.context.apps.app_of_brand(suite, record.corp_id.as_str())?;
        Some(Reading::Permissions(app))
    }

    fn waits(&self, key: &Key, record: &Authorization) -> bool {
        let waits = lock(&self.waits);
        waits.get(key).is_some_and(|wait| wait.of == version(key, record) && Instant::now() < wait.until)
    }

    fn has_room_for(&self, key: &Key) -> bool {
        let in_flight = self.in_flight();
        in_flight.len() < AT_ONCE && !in_flight.contains(key)
    }

    fn spawn(self: &Arc<Self>, key: Key, record: Authorization, code: SecretString) {
        let this = self.clone();
        self.calls.context.spawn_call(async move {
            let stored = match &key.2 {
                Reading::Permissions(app) => this.read_permissions(&key, app, &record).await,
                Reading::App | Reading::Cancelled => this.read_app(&key, &record, &code).await,
            };
            if let Err(error) = &stored {
                let message = "what was read of an authorised app could not be stored; it is read again";
                this.calls.context.store_failures.warn(message, error);
                this.delay(&key, &record, Backoff::CALL);
            }
            this.in_flight().remove(&key);
            if stored.is_ok() {
                this.calls.context.wake.suites_changed();
            }
        });
    }

    async fn read_app(
        &self,
        key: &Key,
        record: &Authorization,
        code: &SecretString,
    ) -> Result<(), StoreError> {
        let (suite, Context { store, .. }) = (&key.0, &self.calls.context);
        let answer = self.calls.platform.auth_info(suite, &record.corp_id, code).await;
        self.calls.note(suite, &answer);
        let now = self.calls.context.now();
        match answer {
            Ok(AuthInfo { corp_name, agent_id: Some(agent_id), shared_from, is_verified }) => {
                let agent =
                    Agent { agent_id, shared_from, is_verified, may_read_customers: None, read_at: now };
                let name = corp_name.unwrap_or_default();
                store.put_agent(suite, record, name, agent.clone()).await?;
                lock(&self.waits).remove(key);
                corp_read(suite, record, agent);
            }
            Ok(AuthInfo { agent_id: None, .. }) => {
                let reason = "WeCom's answer names no app of this corp";
                self.put_off(key, record, None, reason, Backoff::UNKNOWN_CODE);
            }
            Err(error) if has_cancelled(&error) => {
                store.put_cancelled(suite, record, now).await?;
                lock(&self.waits).remove(key);
                let again = (key.0.clone(), key.1.clone(), Reading::Cancelled);
                let wait = Wait { of: version(&again, record), failures: 0, until: Instant::now() + DAILY };
                lock(&self.waits).insert(again, wait);
            }
            // It is read with the next ticket, however soon that comes.
            Err(error) if SuiteCalls::needs_ticket(&error) => {}
            Err(error) => self.failed(key, record, &error),
        }
        Ok(())
    }

    async fn read_permissions(
        &self,
        key: &Key,
        app: &AppName,
        record: &Authorization,
    ) -> Result<(), StoreError> {
        let Some(agent) = record.agent.clone() else { return Ok(()) };
        match self.calls.platform.permissions(app).await {
            Ok(permissions) => {
                let may_read = permissions.iter().any(|permission| permission == READ_CUSTOMERS);
                let (suite, corp_id, corp) = (&key.0, &record.corp_id, &record.name);
                if !may_read {
                    tracing::warn!(%suite, %app, %corp_id, corp,
                        "the app may not read customers: request 客户联系 → 客户基础信息 for it, and have the \
                         brand confirm");
                }
                let agent = Agent { may_read_customers: Some(may_read), ..agent };
                self.calls.context.store.put_agent(suite, record, String::new(), agent).await?;
                lock(&self.waits).remove(key);
            }
            Err(error) if matches!(error.class(), Class::Transient | Class::Token | Class::Rate) => {
                self.failed(key, record, &error);
            }
            // Nothing depends on it.
            Err(_) => {
                let wait = Wait { of: version(key, record), failures: 0, until: Instant::now() + DAILY };
                lock(&self.waits).insert(key.clone(), wait);
            }
        }
        Ok(())
    }

    /// Puts a reading off after a failed call.
    fn failed(&self, key: &Key, record: &Authorization, error: &CallError) {
        let now = self.calls.context.now();
        let backoff = match error.class() {
            Class::Rate => {
                let until = Instant::now() + until(now, limit_ends_at(error, now)).max(AGAIN_MIN);
                let wait = Wait { of: version(key, record), failures: 0, until };
                lock(&self.waits).insert(key.clone(), wait);
                return;
            }
            Class::Transient | Class::Token => Backoff::CALL,
            Class::Configuration => Backoff::CONFIGURATION,
            Class::Item | Class::Invisible | Class::Unknown => Backoff::UNKNOWN_CODE,
        };
        self.put_off(key, record, error.errcode(), &failure_reason(error).text, backoff);
    }

    fn put_off(
        &self,
        key: &Key,
        record: &Authorization,
        errcode: Option<i64>,
        reason: &str,
        backoff: Backoff,
    ) {
        if self.delay(key, record, backoff) == 1 {
            let (suite, corp_id, corp) = (&key.0, &record.corp_id, &record.name);
            tracing::warn!(%suite, %corp_id, corp, errcode, reason,
                "the app at a corp could not be read; it is read again later");
        }
    }

    /// Has a reading wait after another failure in a row. Returns which one.
    fn delay(&self, key: &Key, record: &Authorization, backoff: Backoff) -> u32 {
        let of = version(key, record);
        let mut waits = lock(&self.waits);
        let before = waits.get(key).filter(|wait| wait.of == of).map_or(0, |wait| wait.failures);
        let failures = before.saturating_add(1);
        let jitter = self.calls.context.jitter.of(key, failures);
        let wait_ms = u64::try_from(backoff.wait_ms(failures, jitter)).unwrap_or(0);
        let until = Instant::now() + Duration::from_millis(wait_ms);
        waits.insert(key.clone(), Wait { of, failures, until });
        failures
    }

    fn in_flight(&self) -> MutexGuard<'_, BTreeSet<Key>> {
        lock(&self.in_flight)
    }
}

/// The state of the authorisation for which a wait holds. A cancellation that was just inferred is a change
/// itself.
const fn version(key: &Key, record: &Authorization) -> (u32, u32) {
    match key.2 {
        Reading::Cancelled => (record.codes, 0),
        Reading::App | Reading::Permissions(_) => (record.codes, record.changes),
    }
}

/// Whether WeCom says that the corp has cancelled.
const fn has_cancelled(error: &CallError) -> bool {
    matches!(error, CallError::Refused { api: Api::GetAuthInfo, errcode: 48_003 | 48_004, .. })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
