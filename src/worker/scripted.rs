//! For the tests of workers: a WeCom whose answers and refusals a test prepares.
//!
//! Deliberately absent: a service that calls it (`world`), and what only one worker's tests need.

use std::collections::VecDeque;

use async_trait::async_trait;

use super::*;
use crate::domain::chat::MemberVersion;
use crate::domain::dealer::{Dealer, Qualification};
use crate::domain::event::{ContactChange, ContactEvent};
use crate::domain::ids::{ChatId, ExternalUserid, Openid, PendingId, Unionid, UserId};
use crate::domain::quota::Share;
use crate::domain::sighting::{Sighting, SightingPlace};
use crate::domain::time::DAY_MS;
use crate::wecom::{
    Api, CallError, ChatMembers, CustomerPage, DealerList, Development, TokenOf, Unavailable,
};

/// When every test begins.
pub(super) const T0: Timestamp = Timestamp::from_secs(1_795_309_323);

pub(super) fn app() -> AppName {
    AppName::new("brand").unwrap()
}

pub(super) fn dealer() -> CorpId {
    CorpId::new("wpDEALER").unwrap()
}

pub(super) fn member(n: usize) -> UserId {
    UserId::new(format!("member{n:03}")).unwrap()
}

pub(super) fn customer(n: usize) -> ExternalUserid {
    ExternalUserid::new(format!("wmCUSTOMER{n:05}")).unwrap()
}

pub(super) fn chat_id(n: usize) -> ChatId {
    ChatId::new(format!("wr{n:03}")).unwrap()
}

/// What a member of a dealer did with a customer.
pub(super) fn contact_event(
    change: ContactChange,
    user_id: UserId,
    external_userid: ExternalUserid,
) -> ContactEvent {
    ContactEvent { change, user_id, external_userid, state: None, welcome_code: None }
}

/// The pending ids of some customers, or WeCom's code.
type Converted = Result<Vec<(ExternalUserid, PendingId)>, i64>;
/// How WeCom converts customers.
type Convert = dyn Fn(&TokenOf, &[ExternalUserid]) -> Converted + Send;

/// How WeCom answers. Each dealer has these members, customers and groups.
pub(super) struct Script {
    /// The dealers that share the app.
    pub(super) listed: Vec<CorpId>,
    /// An app whose list of dealers is never answered.
    pub(super) hanging: Option<AppName>,
    pub(super) qualification: Option<Qualification>,
    /// The addresses of WeCom's callbacks.
    pub(super) callback_ips: Vec<&'static str>,
    pub(super) convert: Box<Convert>,
    pub(super) members: Vec<UserId>,
    pub(super) follows: Vec<(UserId, ExternalUserid)>,
    pub(super) chats: BTreeMap<ChatId, Vec<ExternalUserid>>,
    pub(super) version: Option<MemberVersion>,
    /// Members whose customers are not listed.
    pub(super) unlicensed: Vec<UserId>,
    /// Rows in a page.
    pub(super) page_rows: usize,
    /// Codes that a call is always refused with: by its name, or by its name and argument.
    pub(super) refused: BTreeMap<&'static str, i64>,
    /// Codes that the next calls of any name are refused with.
    pub(super) next_refused: VecDeque<i64>,
    /// Why the app cannot call WeCom.
    pub(super) unavailable: Option<Unavailable>,
    /// The calls made: name and argument.
    pub(super) calls: Vec<String>,
}

impl Script {
    /// A dealer whose customers are divided among its members.
    pub(super) fn new(members: usize, customers: usize) -> Self {
        Self {
            listed: Vec::new(),
            hanging: None,
            qualification: None,
            callback_ips: Vec::new(),
            convert: Box::new(|_, _| Ok(Vec::new())),
            members: (0..members).map(member).collect(),
            follows: (0..customers).map(|n| (member(n % members), customer(n))).collect(),
            chats: BTreeMap::new(),
            version: None,
            unlicensed: Vec::new(),
            page_rows: 100,
            refused: BTreeMap::new(),
            next_refused: VecDeque::new(),
            unavailable: None,
            calls: Vec::new(),
        }
    }

    /// The same without `contact_list`.
    pub(super) fn without_contact_list(mut self) -> Self {
        self.refused.insert("contact_list", 48_002);
        self
    }

    fn page<T>(&self, rows: Vec<T>, cursor: &str) -> (Vec<T>, String) {
        let from: usize = cursor.parse().unwrap_or(0);
        let to = from + self.page_rows;
        let next_cursor = if to < rows.len() { to.to_string() } else { String::new() };
        (rows.into_iter().skip(from).take(self.page_rows).collect(), next_cursor)
    }

    fn follower_rows(&self, of: &[UserId]) -> Vec<Sighting> {
        let listed: BTreeSet<_> =
            of.iter().filter(|id| self.members.contains(id) && !self.unlicensed.contains(id)).collect();
        let row = |(user_id, external_userid): &(UserId, ExternalUserid)| Sighting {
            external_userid: external_userid.clone(),
            place: SightingPlace::Follower { user_id: user_id.clone(), state: None },
            since: Some(T0.plus_ms(-DAY_MS)),
        };
        self.follows.iter().filter(|(user_id, _)| listed.contains(user_id)).map(row).collect()
    }

    fn chat_rows(&self, chat_id: &ChatId) -> Vec<Sighting> {
        let row = |external_userid: &ExternalUserid| Sighting {
            external_userid: external_userid.clone(),
            place: SightingPlace::Chat(chat_id.clone()),
            since: Some(T0.plus_ms(-DAY_MS)),
        };
        self.chats.get(chat_id).into_iter().flatten().map(row).collect()
    }
}

fn refused(errcode: i64) -> CallError {
    let (api, development) = (Api::ExternalUseridToPendingId, Development::SelfBuilt);
    CallError::Refused { api, errcode, from_ip: None, development }
}

/// WeCom's refusal of a call of this API.
pub(super) fn refused_by(called: Api, errcode: i64) -> CallError {
    let mut error = refused(errcode);
    if let CallError::Refused { api, .. } = &mut error {
        *api = called;
    }
    error
}

/// A WeCom that answers as its script says.
pub(super) struct Scripted(pub(super) Mutex<Script>);

impl Scripted {
    /// A WeCom that converts as a function says.
    pub(super) fn new(
        convert: impl Fn(&TokenOf, &[ExternalUserid]) -> Converted + Send + 'static,
    ) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Script { convert: Box::new(convert), ..Script::new(0, 0) })))
    }

    /// How many of the calls made begin like this.
    pub(super) fn count(&self, call: &str) -> usize {
        self.script().calls.iter().filter(|made| made.starts_with(call)).count()
    }

    /// The number of conversions with the brand's token, and of those with a dealer's.
    pub(super) fn counts(&self) -> [usize; 2] {
        ["convert brand", "convert dealer"].map(|call| self.count(call))
    }

    pub(super) fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap()
    }

    /// Notes a call; it fails if the script says so.
    fn called(&self, name: &'static str, argument: &str) -> Result<MutexGuard<'_, Script>, CallError> {
        let mut script = self.script();
        if let Some(why) = script.unavailable {
            return Err(CallError::NotAuthorized { api: Api::GetToken, app: app(), why });
        }
        let call = format!("{name} {argument}").trim_end().to_owned();
        let refused = script.refused.get(call.as_str()).or_else(|| script.refused.get(name)).copied();
        let refused = refused.or_else(|| script.next_refused.pop_front());
        script.calls.push(call);
        match refused {
            Some(errcode) => Err(self::refused(errcode)),
            None => Ok(script),
        }
    }
}

#[async_trait]
impl Platform for Scripted {
    async fn dealers(&self, app: &AppName, only: Option<&CorpId>) -> Result<DealerList, CallError> {
        let is_hanging = self.script().hanging.as_ref() == Some(app);
        if is_hanging {
            std::future::pending::<()>().await;
        }
        let called = match only {
            Some(corp_id) => self.called("dealer", corp_id.as_str()),
            None => self.called("dealers", ""),
        };
        let script = called.map_err(|error| match error.errcode() {
            Some(errcode) => refused_by(Api::ListAppShareInfo, errcode),
            None => error,
        })?;
        let listed = script.listed.iter().filter(|corp_id| only.is_none_or(|only| only == *corp_id));
        let dealer = |corp_id: &CorpId| Dealer::listed(corp_id.clone(), 7, String::new(), T0);
        Ok(DealerList { dealers: listed.map(dealer).collect(), is_complete: true })
    }

    async fn callback_ips(&self, _: &AppName) -> Result<Vec<String>, CallError> {
        let script = self.called("callback_ips", "")?;
        Ok(script.callback_ips.iter().map(|text| (*text).to_owned()).collect())
    }

    async fn chains(&self, _: &AppName) -> Result<Vec<String>, CallError> {
        self.called("chains", "").map(|_| vec!["chain".to_owned()])
    }

    async fn qualification(
        &self,
        _: &AppName,
        _: &str,
        corp_id: &CorpId,
    ) -> Result<Option<Qualification>, CallError> {
        Ok(self.called("qualification", corp_id.as_str())?.qualification)
    }

    async fn unionid_to_pending_id(
        &self,
        _: &AppName,
        _: &Unionid,
        _: &Openid,
        _: Share,
    ) -> Result<PendingId, CallError> {
        unreachable!("not a call of these workers")
    }

    async fn unionid_to_external_userid(
        &self,
        _: &AppName,
        _: &Unionid,
        _: &Openid,
        _: Share,
    ) -> Result<Vec<(CorpId, ExternalUserid)>, CallError> {
        unreachable!("not a call of these workers")
    }

    async fn external_userid_to_pending_id(
        &self,
        _: &AppName,
        token: &TokenOf,
        _: Option<&ChatId>,
        ids: &[ExternalUserid],
    ) -> Result<Vec<(ExternalUserid, PendingId)>, CallError> {
        let of = if *token == TokenOf::Upstream { "brand" } else { "dealer" };
        let script = self.called("convert", of)?;
        (script.convert)(token, ids).map_err(refused)
    }

    async fn members(&self, _: &AppName, _: &TokenOf) -> Result<Vec<UserId>, CallError> {
        Ok(self.called("members", "")?.members.clone())
    }

    async fn customers_of(
        &self,
        _: &AppName,
        _: &TokenOf,
        members: &[UserId],
        cursor: &str,
    ) -> Result<CustomerPage, CallError> {
        assert!((1..=100).contains(&members.len()));
        let script = self.called("customers", &format!("{} {cursor}", members[0].as_str()))?;
        let (rows, next_cursor) = script.page(script.follower_rows(members), cursor);
        let unlicensed = script.unlicensed.iter().filter(|id| members.contains(id)).cloned().collect();
        Ok(CustomerPage { rows, next_cursor, unlicensed })
    }

    async fn contacts(&self, _: &AppName, _: &TokenOf, cursor: &str) -> Result<CustomerPage, CallError> {
        let script = self.called("contact_list", cursor)?;
        let mut rows = script.follower_rows(&script.members);
        rows.extend(script.chats.keys().flat_map(|chat_id| script.chat_rows(chat_id)));
        let (rows, next_cursor) = script.page(rows, cursor);
        Ok(CustomerPage { rows, next_cursor, unlicensed: Vec::new() })
    }

    async fn chats(
        &self,
        _: &AppName,
        _: &TokenOf,
        cursor: &str,
    ) -> Result<(Vec<ChatId>, String), CallError> {
        let script = self.called("chats", cursor)?;
        Ok(script.page(script.chats.keys().cloned().collect(), cursor))
    }

    async fn chat(&self, _: &AppName, _: &TokenOf, chat_id: &ChatId) -> Result<ChatMembers, CallError> {
        let script = self.called("chat", chat_id.as_str())?;
        Ok(ChatMembers { customers: script.chat_rows(chat_id), version: script.version.clone() })
    }

    fn forget_failures(&self, _: Option<&AppName>) {}

    fn forget_refused_codes(&self, _: Option<&AppName>) {}
}
