//! A WeCom that issues auth codes and permanent codes, and forgets nothing: what a suite sees of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Notify;

use super::super::super::scripted::refused_by;
use super::READ_CUSTOMERS;
use crate::domain::authorization::SharedFrom;
use crate::domain::ids::{AppName, CorpId};
use crate::wecom::{Api, AuthInfo, CallError, PermanentCode, SuitePlatform, Transport};

/// How many more steps a process makes before it is killed; `None`: it is not. A step is a write, what WeCom
/// does for a call, or the receipt of an answer.
#[derive(Default)]
pub(super) struct Steps(Mutex<Option<u32>>);

impl Steps {
    pub(super) fn set(&self, left: Option<u32>) {
        *self.0.lock().unwrap() = left;
    }

    /// Makes a step. False if the process is killed before it.
    pub(super) fn make(&self) -> bool {
        match &mut *self.0.lock().unwrap() {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }

    pub(super) fn is_over(&self) -> bool {
        *self.0.lock().unwrap() == Some(0)
    }
}

#[derive(Default)]
pub(super) struct State {
    /// The auth codes that can be used, and the corp of each.
    codes: BTreeMap<String, CorpId>,
    /// The newest permanent code of each corp.
    permanent: BTreeMap<CorpId, String>,
    /// The corps that have the app from another, and from which.
    pub(super) shared_from: BTreeMap<CorpId, CorpId>,
    pub(super) cancelled: BTreeSet<CorpId>,
    /// Whether a ticket was refused that it was not asked about since.
    has_refused_ticket: bool,
    /// Whether the suite's access token is in the cache.
    pub(super) has_suite_token: bool,
    /// The ticket that was refused last.
    refused_ticket: Option<String>,
    /// Codes that a call is refused with, by the name of the call or that of the call before it.
    pub(super) refused: BTreeMap<Api, i64>,
    /// Whether the next answer to `permanent_code` is lost.
    pub(super) loses_answer: bool,
    /// Auth codes whose answers are held until [`Wecom::answer`].
    pub(super) held: BTreeSet<String>,
    /// The calls made: name and argument.
    pub(super) calls: Vec<String>,
}

#[derive(Default)]
pub(super) struct Wecom {
    state: Mutex<State>,
    answered: Notify,
    pub(super) steps: Steps,
}

impl Wecom {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Issues an auth code for a corp, which has not cancelled any more.
    pub(super) fn issue(&self, code: &str, corp_id: &CorpId) {
        let mut state = self.state();
        state.codes.insert(code.to_owned(), corp_id.clone());
        state.cancelled.remove(corp_id);
    }

    /// Lets the answers go that were held.
    pub(super) fn answer(&self) {
        self.state().held.clear();
        self.answered.notify_waiters();
    }

    pub(super) fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state().calls)
    }

    pub(super) fn count(&self, call: &str) -> usize {
        self.state().calls.iter().filter(|made| made.starts_with(call)).count()
    }

    /// The end of the process if it has no step left.
    async fn step(&self) {
        if !self.steps.make() {
            std::future::pending::<()>().await;
        }
    }

    fn called(&self, call: String, apis: &[Api]) -> Result<MutexGuard<'_, State>, CallError> {
        let mut state = self.state();
        let refused = apis.iter().find_map(|api| Some((*api, *state.refused.get(api)?)));
        state.calls.push(call);
        state.has_refused_ticket |= refused == Some((Api::GetSuiteToken, 40_085));
        match refused {
            Some((api, errcode)) => Err(refused_by(api, errcode)),
            None => Ok(state),
        }
    }

    fn exchange(&self, code: &str) -> Result<PermanentCode, CallError> {
        let apis = [Api::GetSuiteToken, Api::GetPermanentCode];
        let mut state = self.called(format!("permanent_code {code}"), &apis)?;
        let corp_id = state.codes.remove(code).ok_or_else(|| refused_by(Api::GetPermanentCode, 40_078))?;
        let permanent = format!("permanent of {code}");
        state.permanent.insert(corp_id.clone(), permanent.clone());
        if std::mem::take(&mut state.loses_answer) {
            return Err(CallError::Transport { api: Api::GetPermanentCode, cause: Transport::Timeout });
        }
        let corp_name = format!("name of {corp_id}");
        Ok(PermanentCode { code: permanent.into(), corp_id, corp_name })
    }
}

#[async_trait]
impl SuitePlatform for Wecom {
    async fn permanent_code(
        &self,
        _: &AppName,
        auth_code: &SecretString,
    ) -> Result<PermanentCode, CallError> {
        self.step().await;
        let code = auth_code.expose_secret();
        let answer = self.exchange(code);
        loop {
            let answered = self.answered.notified();
            if !self.state().held.contains(code) {
                break;
            }
            answered.await;
        }
        self.step().await;
        answer
    }

    async fn auth_info(
        &self,
        _: &AppName,
        corp_id: &CorpId,
        code: &SecretString,
    ) -> Result<AuthInfo, CallError> {
        self.step().await;
        let answer = {
            let apis = [Api::GetSuiteToken, Api::GetAuthInfo];
            let call = format!("auth_info {corp_id}");
            self.called(call, &apis).and_then(|state| {
                let api = Api::GetAuthInfo;
                if state.cancelled.contains(corp_id) {
                    return Err(refused_by(api, 48_003));
                }
                if state.permanent.get(corp_id).map(String::as_str) != Some(code.expose_secret()) {
                    return Err(refused_by(api, 40_084));
                }
                let shared_from = state.shared_from.get(corp_id).cloned();
                let shared_from = shared_from.map(|corp_id| SharedFrom { corp_id, share_type: 1 });
                let (corp_name, agent_id) = (None, Some(7));
                Ok(AuthInfo { corp_name, agent_id, shared_from, is_verified: Some(true) })
            })
        };
        self.step().await;
        answer
    }

    async fn permissions(&self, app: &AppName) -> Result<Vec<String>, CallError> {
        self.step().await;
        let answer = self.called(format!("permissions {app}"), &[Api::GetPermissions]);
        let answer = answer.map(|_| vec![READ_CUSTOMERS.to_owned()]);
        self.step().await;
        answer
    }

    fn has_refused_ticket(&self, _: &AppName, ticket: &SecretString) -> bool {
        let (ticket, mut state) = (ticket.expose_secret().to_owned(), self.state());
        if std::mem::take(&mut state.has_refused_ticket) {
            state.refused_ticket = Some(ticket.clone());
        }
        state.refused_ticket == Some(ticket)
    }

    fn has_suite_token(&self, _: &AppName) -> bool {
        self.state().has_suite_token
    }
}

/// The same WeCom for the next process.
pub(super) fn platform(wecom: &Arc<Wecom>) -> Arc<dyn SuitePlatform> {
    wecom.clone()
}
