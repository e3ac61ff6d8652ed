//! For the tests of workers: a WeCom with one dealer, whose lists and refusals a test prepares, and a store
//! in memory that outlives a restart.

use std::collections::VecDeque;

use async_trait::async_trait;

use super::*;
use crate::clock::ManualClock;
use crate::domain::chat::MemberVersion;
use crate::domain::dealer::{Dealer, Qualification};
use crate::domain::ids::{ChatId, ExternalUserid, Openid, PendingId, Unionid, UserId};
use crate::domain::quota::Share;
use crate::domain::sighting::{Sighting, SightingPlace};
use crate::domain::time::DAY_MS;
use crate::store::embedded::engine::Memory;
use crate::store::embedded::{EmbeddedStore, Settings};
use crate::store::{Outcome, Work};
use crate::wecom::{Api, CallError, ChatMembers, CustomerPage, DealerList, TokenOf};

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

/// The dealer, and how WeCom answers.
pub(super) struct Script {
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
    /// The calls made: name and argument.
    pub(super) calls: Vec<String>,
}

impl Script {
    /// A dealer whose customers are divided among its members.
    pub(super) fn new(members: usize, customers: usize) -> Self {
        Self {
            members: (0..members).map(member).collect(),
            follows: (0..customers).map(|n| (member(n % members), customer(n))).collect(),
            chats: BTreeMap::new(),
            version: None,
            unlicensed: Vec::new(),
            page_rows: 100,
            refused: BTreeMap::new(),
            next_refused: VecDeque::new(),
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

/// A WeCom that answers as its script says.
pub(super) struct Scripted(Mutex<Script>);

impl Scripted {
    pub(super) fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap()
    }

    /// Notes a call; it fails if the script says so.
    fn called(&self, name: &'static str, argument: &str) -> Result<MutexGuard<'_, Script>, CallError> {
        let mut script = self.script();
        let call = format!("{name} {argument}").trim_end().to_owned();
        let refused = script.refused.get(call.as_str()).or_else(|| script.refused.get(name)).copied();
        let refused = refused.or_else(|| script.next_refused.pop_front());
        script.calls.push(call);
        match refused {
            Some(errcode) => {
                Err(CallError::Refused { api: Api::ExternalUseridToPendingId, errcode, from_ip: None })
            }
            None => Ok(script),
        }
    }
}

#[async_trait]
impl Platform for Scripted {
    async fn dealers(&self, _: &AppName, _: Option<&CorpId>) -> Result<DealerList, CallError> {
        Ok(DealerList::default())
    }

    async fn chains(&self, _: &AppName) -> Result<Vec<String>, CallError> {
        Ok(Vec::new())
    }

    async fn qualification(
        &self,
        _: &AppName,
        _: &str,
        _: &CorpId,
    ) -> Result<Option<Qualification>, CallError> {
        Ok(None)
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
        _: &TokenOf,
        _: Option<&ChatId>,
        _: &[ExternalUserid],
    ) -> Result<Vec<(ExternalUserid, PendingId)>, CallError> {
        unreachable!("not a call of these workers")
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
}

/// One process, and what outlives it.
pub(super) struct World {
    pub(super) clock: Arc<ManualClock>,
    pub(super) wecom: Arc<Scripted>,
    pub(super) context: Context,
    memory: Memory,
}

impl World {
    /// A process that knows the dealer, and none of its customers.
    pub(super) async fn new(script: Script) -> Self {
        let wecom = Arc::new(Scripted(Mutex::new(script)));
        let world = Self::start(Memory::default(), Arc::new(ManualClock::new(T0)), wecom);
        let listed = Dealer::listed(dealer(), 7, "Dealer".to_owned(), T0);
        world.context.store.put_dealers(&app(), vec![listed]).await.unwrap();
        world
    }

    /// The next process.
    pub(super) async fn restart(self) -> Self {
        self.context.store.close().await;
        let Self { clock, wecom, context, memory } = self;
        drop(context);
        Self::start(memory, clock, wecom)
    }

    fn start(memory: Memory, clock: Arc<ManualClock>, wecom: Arc<Scripted>) -> Self {
        let store = EmbeddedStore::in_memory(memory.clone(), Settings::default()).unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let rules = AppRules {
            corp_id: CorpId::new("wwBRAND").unwrap(),
            conversion_token: ConversionToken::Auto,
            existing_customers: false,
            customer_groups: true,
            reconcile_hours: 24,
            silent_days: 7,
            renew: Renew::All,
            same_id_extends: false,
            quota: Limits::DOCUMENTED,
            reserve_percent: 0,
        };
        let names = Arc::new(DealerNames::default());
        let directory = Directory::new(store.clone(), wecom.clone(), clock.clone(), names.clone());
        let context = Context {
            store,
            platform: wecom.clone(),
            clock: clock.clone(),
            jitter: Jitter::default(),
            metrics: Arc::default(),
            wake: Arc::default(),
            breakers: Arc::default(),
            optional_calls: Arc::default(),
            parallelism: Arc::default(),
            directory: Arc::new(directory),
            dealer_names: names,
            activity: Arc::default(),
            apps: Arc::new(BTreeMap::from([(app(), rules)])),
            calls: TaskTracker::new(),
            panicked: CancellationToken::new(),
            calls_max: 4,
            sinks: Arc::new(SinkRegistry::new([])),
            store_failures: Arc::default(),
            feed_kept_ms: DAY_MS,
        };
        Self { clock, wecom, context, memory }
    }

    pub(super) fn change_rules(&mut self, change: impl FnOnce(&mut AppRules)) {
        let mut apps = BTreeMap::clone(&self.context.apps);
        change(apps.get_mut(&app()).unwrap());
        self.context.apps = Arc::new(apps);
    }

    /// Takes the calls made since the last time.
    pub(super) fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.wecom.script().calls)
    }

    /// Moves the wall clock and the monotonic clock.
    pub(super) async fn advance(&self, time: Duration) {
        self.clock.advance_ms(i64::try_from(time.as_millis()).unwrap());
        tokio::time::pause();
        tokio::time::advance(time).await;
        tokio::time::resume();
    }

    /// Answers every lookup that is due with a pending id. Returns how many there were.
    pub(super) async fn resolve(&self) -> usize {
        let (store, now) = (&self.context.store, self.clock.now());
        let work = store.lease(now, 10_000, 10_000).await.unwrap();
        let resolved = |work: Work| {
            let pending_id =
                PendingId::new(format!("pend{}", work.contact.external_userid.as_str())).unwrap();
            (work, Outcome::Resolved(pending_id))
        };
        let outcomes: Vec<_> = work.into_iter().map(resolved).collect();
        let count = outcomes.len();
        store.settle(outcomes, now).await.unwrap();
        count
    }
}
