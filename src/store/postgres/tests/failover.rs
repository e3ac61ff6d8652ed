//! The server fails, and a standby takes its place; or the standby fails, and nothing may be acknowledged.
//!
//! `UNIONLINK_FAILOVERS` is the number of rounds (default 2).

use std::process::Command;

use super::*;
use crate::postgres_server::{Cluster, command, new_folder, program, succeed};

/// The options of a primary whose commits wait for the standby.
const SYNCHRONOUS: [&str; 4] = ["-c", "synchronous_standby_names=standby", "-c", "fsync=off"];

impl Cluster {
    /// Makes and starts a standby of this one, which is known as `standby` there.
    fn standby(&self) -> Option<Self> {
        let (folder, primary) = (new_folder(), format!("{} application_name=standby", self.address()));
        let options = ["-R", "-X", "stream", "-c", "fast", "-d", &primary, "-D"];
        succeed(command(&program("pg_basebackup")?, &folder).args(options).arg(folder.join("data")));
        Self::run(folder, &[])
    }

    /// Sends a signal to all of its processes at once.
    fn signal(&self, signal: &str) {
        let postmaster = self.status().first().cloned().unwrap_or_default();
        let signals = format!("kill -{signal} {postmaster} $(ps -o pid= --ppid {postmaster})");
        succeed(Command::new("sh").args(["-c", &signals]));
    }

    /// Makes a standby the primary.
    fn promote(&self) {
        let mut promote = command(&program("pg_ctl").unwrap(), &self.folder);
        succeed(promote.args(["promote", "-w", "-D"]).arg(self.folder.join("data")));
    }
}

/// A store on whichever of these servers accepts writes.
async fn open_on(servers: &[&Cluster]) -> Arc<PostgresStore> {
    let hosts: Vec<_> = servers.iter().map(|server| server.folder.display().to_string()).collect();
    let url = format!("host={} user=unionlink dbname=postgres", hosts.join(","));
    let settings = Settings { allow_unsafe: true, ..Settings::of(&url, "unionlink") };
    Arc::new(PostgresStore::open(&settings).await.unwrap())
}

/// Appends until it is done. Returns what was acknowledged.
fn appending(
    store: &Arc<PostgresStore>,
    next: &Arc<AtomicUsize>,
    is_done: &Arc<AtomicBool>,
) -> JoinSet<Vec<usize>> {
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let (store, next, is_done) = (store.clone(), next.clone(), is_done.clone());
        tasks.spawn(async move {
            let mut acknowledged = Vec::new();
            while !is_done.load(Relaxed) {
                let n = next.fetch_add(1, Relaxed);
                if matches!(store.append(added(n)).await, Ok(Appended::New(_))) {
                    acknowledged.push(n);
                }
            }
            acknowledged
        });
    }
    tasks
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a setting of the tests, not of the service")]
fn rounds() -> usize {
    std::env::var("UNIONLINK_FAILOVERS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(2)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_failover_to_a_synchronous_standby_nothing_acknowledged_is_lost() {
    for round in 0..rounds() {
        let clusters = blocking(|| {
            let primary = Cluster::start(&SYNCHRONOUS)?;
            let standby = primary.standby()?;
            Some((primary, standby))
        });
        let Some((primary, standby)) = clusters.await else { return };
        let (store, next, is_done) = (open_on(&[&primary, &standby]).await, Arc::default(), Arc::default());
        let tasks = appending(&store, &next, &is_done);
        let before = Duration::from_millis(700 + 83 * round as u64);
        let servers = blocking(move || {
            std::thread::park_timeout(before);
            primary.signal("KILL");
            std::thread::park_timeout(Duration::from_millis(100));
            standby.promote();
            (primary, standby)
        });
        let _servers = servers.await;
        // It goes on by itself.
        let (promoted_at, known) = (next.load(Relaxed), store.clone());
        while known.append(added(1_000_000 + promoted_at)).await.is_err() {}
        is_done.store(true, Relaxed);
        let acknowledged = tasks.join_all().await.concat();
        assert!(acknowledged.len() > 50, "{} were acknowledged", acknowledged.len());
        all_are_stored(&store, acknowledged).await;
        assert_eq!(disagreements(&store).await, [""; 0]);
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_standby_a_server_acknowledges_nothing_even_if_the_wait_is_cancelled() {
    let clusters = blocking(|| {
        let primary = Cluster::start(&SYNCHRONOUS)?;
        let standby = primary.standby()?;
        Some((primary, standby))
    });
    let Some((primary, standby)) = clusters.await else { return };
    let (store, other) = (open_on(&[&primary]).await, open_on(&[&primary]).await);
    assert!(matches!(store.append(added(0)).await, Ok(Appended::New(_))));
    standby.signal("STOP");
    let (next, is_done) = (Arc::new(AtomicUsize::new(1)), Arc::new(AtomicBool::new(false)));
    let tasks = appending(&store, &next, &is_done);
    let (client, connection) =
        tokio_postgres::connect(&primary.address(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let mut cancelled = 0;
    while cancelled < 5 {
        let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        cancelled += client.query(cancel, &[]).await.unwrap().len();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    is_done.store(true, Relaxed);
    assert_eq!(tasks.join_all().await.concat(), [0_usize; 0], "nothing is on the standby");
    // Neither may another replica say that it knows what was committed here and nowhere else.
    for n in 1..next.load(Relaxed).min(4) {
        assert!(other.append(added(n)).await.is_err(), "{n} was acknowledged as known");
    }
    assert!(store.ready().is_err(), "nothing can be made durable");
    standby.signal("CONT");
    // It goes on by itself, and what was committed meanwhile is there once.
    while store.append(added(1_000_000)).await.is_err() {}
    let sent = next.load(Relaxed);
    for n in 0..sent {
        store.append(added(n)).await.unwrap();
    }
    assert_eq!(store.counts().inbox, sent as u64 + 1);
    assert_eq!(disagreements(&store).await, [""; 0]);
    store.close().await;
}
