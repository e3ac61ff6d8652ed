//! For the tests of workers: a service over a store in memory and a [scripted](super::scripted) WeCom.

use std::sync::atomic::{AtomicU32, Ordering};

use super::apps::AppRules;
use super::scripted::*;
use super::*;
use crate::clock::ManualClock;
use crate::domain::dealer::Dealer;
use crate::domain::ids::PendingId;
use crate::domain::time::DAY_MS;
use crate::store::embedded::engine::Memory;
use crate::store::embedded::{EmbeddedStore, Settings};
use crate::store::{Arrival, MessageDigest, Outcome, Payload, Work};

/// One process, and what outlives it.
pub(super) struct World {
    pub(super) clock: Arc<ManualClock>,
    pub(super) wecom: Arc<Scripted>,
    pub(super) context: Context,
    /// The store of the context.
    pub(super) store: Arc<EmbeddedStore>,
    memory: Memory,
    /// The apps of a process that has just started.
    apps: fn() -> Apps,
    /// The number of messages received.
    messages: AtomicU32,
}

/// One self-built app.
fn self_built() -> Apps {
    Apps::new([(app(), rules())], BTreeMap::new())
}

/// The rules of a self-built app.
pub(super) fn rules() -> AppRules {
    let brand = CorpId::new("wwBRAND").unwrap();
    AppRules { reconcile_hours: 24, silent_days: 7, ..AppRules::for_tests(None, Some(brand)) }
}

/// What the workers of a process share.
pub(super) fn context(
    store: Arc<dyn Store>,
    clock: Arc<ManualClock>,
    wecom: Arc<Scripted>,
    apps: Apps,
) -> Context {
    let (names, apps) = (Arc::new(DealerNames::default()), Arc::new(apps));
    let directory = Directory::new(store.clone(), wecom.clone(), clock.clone(), names.clone(), apps.clone());
    Context {
        store,
        platform: wecom,
        clock,
        jitter: Jitter::default(),
        metrics: Arc::default(),
        wake: Arc::default(),
        breakers: Arc::default(),
        optional_calls: Arc::default(),
        parallelism: Arc::default(),
        directory: Arc::new(directory),
        dealer_names: names,
        activity: Arc::default(),
        notes: Arc::default(),
        apps,
        calls: TaskTracker::new(),
        panicked: CancellationToken::new(),
        calls_max: 8,
        sinks: Arc::default(),
        store_failures: Arc::default(),
        feed_kept_ms: DAY_MS,
    }
}

impl World {
    /// A process that knows the dealer, and none of its customers.
    pub(super) async fn new(script: Script) -> Self {
        Self::over(Arc::new(Scripted(Mutex::new(script)))).await
    }

    /// The same with this WeCom.
    pub(super) async fn over(wecom: Arc<Scripted>) -> Self {
        let world = Self::start(Memory::default(), Arc::new(ManualClock::new(T0)), wecom, self_built);
        let listed = Dealer::listed(dealer(), 7, "Dealer".to_owned(), T0);
        world.context.store.put_dealers(&app(), vec![listed]).await.unwrap();
        world
    }

    /// The first process of a service, which knows no dealer yet.
    pub(super) fn first(script: Script) -> Self {
        Self::first_with(script, self_built)
    }

    /// The same with these apps.
    pub(super) fn first_with(script: Script, apps: fn() -> Apps) -> Self {
        let wecom = Arc::new(Scripted(Mutex::new(script)));
        Self::start(Memory::default(), Arc::new(ManualClock::new(T0)), wecom, apps)
    }

    /// The next process.
    pub(super) async fn restart(self) -> Self {
        self.context.store.close().await;
        let Self { clock, wecom, context, store, memory, apps, messages } = self;
        drop((context, store));
        Self { messages, ..Self::start(memory, clock, wecom, apps) }
    }

    fn start(memory: Memory, clock: Arc<ManualClock>, wecom: Arc<Scripted>, apps: fn() -> Apps) -> Self {
        let store = Arc::new(EmbeddedStore::in_memory(memory.clone(), Settings::default()).unwrap());
        let context = context(store.clone(), clock.clone(), wecom.clone(), apps());
        Self { clock, wecom, context, store, memory, apps, messages: AtomicU32::new(0) }
    }

    /// Adds an app with the same rules.
    pub(super) fn add_app(&mut self, name: AppName) {
        self.context.apps.change(|apps| drop(apps.insert(name, apps[&app()].clone())));
    }

    pub(super) fn change_rules(&mut self, change: impl FnOnce(&mut AppRules)) {
        self.context.apps.change(|apps| change(Arc::make_mut(apps.get_mut(&app()).unwrap())));
    }

    /// Receives a message that is unlike all others.
    pub(super) async fn append(&self, payload: Payload) {
        let message = self.messages.fetch_add(1, Ordering::Relaxed);
        let digest = MessageDigest::of(&app(), &message.to_be_bytes());
        let arrival = Arrival { app: app(), digest, received_at: self.clock.now(), payload };
        self.context.store.append(arrival).await.unwrap();
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
