//! The addresses that WeCom sends callbacks from: WeCom's list is read once a day, and soon after a callback
//! has come from an address that is not on it.
//!
//! WeCom changes the list without notice, and genuine callbacks have come from addresses that were not on it.
//! So a list that is old, or has an entry that cannot be read, is no reason to refuse anybody.
//!
//! Deliberately absent: what becomes of a callback from another address, which `http` decides.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::breaker::Scope;
use super::failure::failure_reason;
use super::{Activation, Context, overdue};
use crate::domain::ids::AppName;
use crate::domain::network::Network;
use crate::domain::time::Moment;
use crate::reach::is_private;

/// How often the list is read.
const READ_EVERY: Duration = Duration::from_hours(24);
/// When it is read again after a failure, and at the earliest after a callback from another address.
const RETRY_AFTER: Duration = Duration::from_mins(5);
const READ_APART: Duration = Duration::from_mins(10);
/// The age at which a list is too old to say that an address is not WeCom's.
const OLD_AFTER: Duration = Duration::from_hours(72);

/// Whether an address is on WeCom's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// There is no list, or only an old one.
    NoList,
    /// It is a private address: the callback came through a proxy that does not say where it is from.
    Private,
}

/// WeCom's list, as it was read with the token of each app.
#[derive(Debug, Default)]
pub struct CallbackIps {
    lists: RwLock<BTreeMap<AppName, List>>,
    /// Whether the list is to be read again.
    is_outdated: AtomicBool,
}

#[derive(Debug)]
struct List {
    networks: BTreeSet<Network>,
    read_at: Moment,
}

impl CallbackIps {
    /// Whether this address is on the list. WeCom has one list; one app's token suffices to read it.
    #[must_use]
    pub fn listed(&self, source: IpAddr, now: Moment) -> Listed {
        let lists = self.lists.read().unwrap_or_else(PoisonError::into_inner);
        if lists.values().flat_map(|list| &list.networks).any(|network| network.contains(source)) {
            Listed::Yes
        } else if is_private(source) {
            Listed::Private
        } else if lists.values().all(|list| overdue(Some(list.read_at), OLD_AFTER, now)) {
            Listed::NoList
        } else {
            Listed::No
        }
    }

    /// A list that was read at this time.
    #[cfg(test)]
    pub(crate) fn with(networks: impl IntoIterator<Item = Network>, read_at: Moment) -> Self {
        let (ips, app) = (Self::default(), super::scripted::app());
        ips.replace(&app, networks.into_iter().collect(), read_at);
        ips
    }

    /// Has the list read again soon: it may have changed.
    pub fn may_be_outdated(&self) {
        self.is_outdated.store(true, Ordering::Relaxed);
    }

    /// Replaces the list of an app. Returns whether it has changed, and how many networks all lists have.
    fn replace(&self, app: &AppName, networks: BTreeSet<Network>, read_at: Moment) -> (bool, usize) {
        let mut lists = self.lists.write().unwrap_or_else(PoisonError::into_inner);
        let before = lists.insert(app.clone(), List { networks, read_at });
        let has_changed =
            before.map(|list| list.networks).as_ref() != lists.get(app).map(|list| &list.networks);
        let all: BTreeSet<_> = lists.values().flat_map(|list| &list.networks).collect();
        (has_changed, all.len())
    }
}

/// Runs until `stop`.
pub async fn run(context: Context, ips: Arc<CallbackIps>, stop: CancellationToken) {
    let reader = Reader { context, ips, attempts: BTreeMap::new() };
    super::run(&Notify::new(), stop, reader).await;
}

struct Reader {
    context: Context,
    ips: Arc<CallbackIps>,
    attempts: BTreeMap<AppName, Attempt>,
}

/// The last reading with an app's token.
struct Attempt {
    at: Moment,
    has_failed: bool,
    /// Whether the list may have changed since.
    is_outdated: bool,
}

impl Activation for Reader {
    async fn activate(&mut self) -> Duration {
        if self.ips.is_outdated.swap(false, Ordering::Relaxed) {
            for attempt in self.attempts.values_mut() {
                attempt.is_outdated = true;
            }
        }
        for app in self.context.apps.names() {
            if self.is_due(&app) {
                self.read(&app).await;
            }
        }
        super::LOOK_EVERY
    }
}

impl Reader {
    fn is_due(&self, app: &AppName) -> bool {
        let Context { apps, breakers, clock, .. } = &self.context;
        let attempt = self.attempts.get(app);
        let every = match attempt {
            Some(Attempt { has_failed: true, .. }) => RETRY_AFTER,
            Some(Attempt { is_outdated: true, .. }) => READ_APART,
            _ => READ_EVERY,
        };
        overdue(attempt.map(|attempt| attempt.at), every, clock.moment())
            && apps.can_call(app)
            && breakers.open(&[&Scope::App(app.clone())], self.context.now()).is_none()
    }

    async fn read(&mut self, app: &AppName) {
        let Context { platform, clock, metrics, .. } = &self.context;
        let read = match platform.callback_ips(app).await {
            Ok(list) => networks(&list),
            Err(error) => Err(failure_reason(&error).text),
        };
        let at = clock.moment();
        let has_failed = read.is_err();
        match read {
            Ok(networks) => {
                let (has_changed, total) = self.ips.replace(app, networks, at);
                metrics.callbacks.addresses_listed(total);
                if has_changed {
                    tracing::info!(%app, networks = total, "list of the addresses of WeCom's callbacks read");
                }
            }
            Err(error) if self.attempts.get(app).is_none_or(|attempt| !attempt.has_failed) => {
                let hint = "unionlink tries again every 5 minutes; a list is used for 3 days, after which no \
                            callback is compared with it";
                tracing::warn!(%app, error, hint, "list of the addresses of WeCom's callbacks not read");
            }
            Err(_) => {}
        }
        self.attempts.insert(app.clone(), Attempt { at, has_failed, is_outdated: false });
    }
}

/// The networks in WeCom's list. A part of it would be taken for all of it, so every entry has to be
/// readable.
fn networks(list: &[String]) -> Result<BTreeSet<Network>, String> {
    if list.is_empty() {
        return Err("WeCom answered with an empty list".to_owned());
    }
    let network = |text: &String| {
        Network::parse(text.trim()).ok_or_else(|| {
            let shown: String = text.chars().take(64).collect();
            format!("WeCom's list has {shown:?} in it, which is not an address")
        })
    };
    list.iter().map(network).collect()
}

#[cfg(test)]
mod tests {
    use super::super::scripted::{Script, app};
    use super::super::world::World;
    use super::*;

    struct Worker {
        world: World,
        reader: Reader,
    }

    impl Worker {
        fn new(ips: &[&'static str]) -> Self {
            let world = World::first(Script { callback_ips: ips.to_vec(), ..Script::new(0, 0) });
            let context = world.context.clone();
            let reader = Reader { context, ips: Arc::default(), attempts: BTreeMap::new() };
            Self { world, reader }
        }

        /// Lets time pass and looks whether anything is due. Returns how often the list was read.
        async fn after(&mut self, time: Duration) -> usize {
            self.world.advance(time).await;
            self.reader.activate().await;
            self.world.take_calls().len()
        }

        fn listed(&self, source: &str) -> Listed {
            self.reader.ips.listed(source.parse().unwrap(), self.world.context.clock.moment())
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn an_address_is_on_the_list_or_not_unless_the_list_is_old_or_the_address_private() {
        let mut worker = Worker::new(&["101.226.103.*", " 159.75.144.151", "10.1.2.3"]);
        assert_eq!(
            [worker.listed("101.226.103.1"), worker.listed("10.0.0.1")],
            [Listed::NoList, Listed::Private]
        );
        assert_eq!(worker.after(SECOND).await, 1);
        for (source, expected) in [
            ("101.226.103.1", Listed::Yes),
            ("::ffff:159.75.144.151", Listed::Yes),
            ("10.1.2.3", Listed::Yes),
            ("159.75.144.152", Listed::No),
            ("2001:4860::1", Listed::No),
            ("10.0.0.1", Listed::Private),
            ("127.0.0.1", Listed::Private),
        ] {
            assert_eq!(worker.listed(source), expected, "{source}");
        }
        worker.world.wecom.script().refused.insert("callback_ips", 60_020);
        worker.after(OLD_AFTER.saturating_sub(SECOND)).await;
        assert_eq!(
            [worker.listed("159.75.144.152"), worker.listed("101.226.103.1")],
            [Listed::No, Listed::Yes]
        );
        worker.after(SECOND).await;
        assert_eq!(
            [worker.listed("159.75.144.152"), worker.listed("101.226.103.1")],
            [Listed::NoList, Listed::Yes]
        );
    }

    #[tokio::test]
    async fn the_list_is_read_daily_after_a_failure_and_after_a_callback_from_elsewhere() {
        let mut worker = Worker::new(&["101.226.103.1"]);
        assert_eq!(
            [worker.after(SECOND).await, worker.after(READ_EVERY.saturating_sub(SECOND)).await],
            [1, 0]
        );
        worker.world.wecom.script().next_refused.push_back(-1);
        assert_eq!(
            [worker.after(SECOND).await, worker.after(RETRY_AFTER.saturating_sub(SECOND)).await],
            [1, 0]
        );
        assert_eq!(
            [worker.after(SECOND).await, worker.after(READ_APART.saturating_sub(SECOND)).await],
            [1, 0]
        );
        worker.reader.ips.may_be_outdated();
        worker.world.wecom.script().callback_ips = vec!["101.226.103.2"];
        assert_eq!([worker.after(Duration::ZERO).await, worker.after(SECOND).await], [0, 1]);
        assert_eq!(
            [worker.listed("101.226.103.1"), worker.listed("101.226.103.2")],
            [Listed::No, Listed::Yes]
        );
        assert_eq!(worker.after(READ_APART).await, 0);
    }

    #[tokio::test]
    async fn a_list_that_is_not_wholly_understood_is_not_used() {
        let mut worker = Worker::new(&["101.226.103.1"]);
        worker.after(SECOND).await;
        for unusable in [vec![], vec!["101.226.103.2", "tencent.example"]] {
            worker.world.wecom.script().callback_ips = unusable;
            assert_eq!(worker.after(READ_EVERY).await, 1);
            assert_eq!(
                [worker.listed("101.226.103.1"), worker.listed("101.226.103.2")],
                [Listed::Yes, Listed::No]
            );
        }
        assert!(worker.reader.attempts[&app()].has_failed);
    }
}
