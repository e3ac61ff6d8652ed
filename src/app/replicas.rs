//! What this process does because others share its store: it hears what they tell, and tells them; what it knows of the
//! store in memory it reads again now and then; what it has counted it records.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::assemble::{SinkPart, Task, Workers};
use super::deliveries::Deliveries;
use super::duties::Duties;
use crate::clock::Clock;
use crate::lifecycle::Lifecycle;
use crate::store::{Duty, Heard, Replicas, Signal};
use crate::worker::{Context, authorize, resume};

/// How often what is known in memory is read again, and counts are recorded.
const UPKEEP_EVERY: Duration = Duration::from_secs(10);
/// Rounds of that after which everything is read again.
const ROUNDS: u32 = 6;
/// The wait before the work is begun again that could not be begun.
const BEGIN_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Shares the work of an assembled service with the other replicas of its store, deliveries included. Returns what is to be
/// done all the time, by name; what it does in a term of this replica, `lifecycle` supervises. `machine` is the clock that
/// leases are counted on.
pub fn share_work(
    workers: Workers,
    context: &Context,
    sinks: Vec<SinkPart>,
    machine: Arc<dyn Clock>,
    lifecycle: &Lifecycle,
) -> Vec<(Cow<'static, str>, Task)> {
    let duties = Arc::new(Duties::new(&*context.store, machine, lifecycle.soft()));
    let deliveries = Deliveries::new(context.clone(), lifecycle.clone(), duties.clone());
    for sink in sinks {
        deliveries.start(sink);
    }
    tasks(workers, context, || None, &duties, lifecycle)
}

/// What is to be done all the time, by name.
pub(super) fn tasks(
    workers: Workers,
    context: &Context,
    status: impl Fn() -> Option<String> + Send + Sync + 'static,
    duties: &Arc<Duties>,
    lifecycle: &Lifecycle,
) -> Vec<(Cow<'static, str>, Task)> {
    let of = || (context.clone(), duties.clone(), lifecycle.soft());
    let held = {
        let (context, duties, _) = of();
        async move {
            if let Some(replicas) = context.store.replicas() {
                duties.hold(replicas, status).await;
            }
        }
    };
    let heard = {
        let (context, duties, stop) = of();
        async move {
            let store = context.store.clone();
            if let Some(replicas) = store.replicas() {
                hear(context, replicas, &duties, stop).await;
            }
        }
    };
    let signals = context.wake.forward();
    let told = {
        let (context, duties, stop) = of();
        async move {
            if let Some(replicas) = context.store.replicas() {
                tell(signals, replicas, &duties, stop).await;
            }
        }
    };
    let (of_upkeep, upkeep_duties, stop) = of();
    vec![
        ("work".into(), Box::pin(work(workers, context.clone(), duties.clone(), lifecycle.clone()))),
        ("leases".into(), Box::pin(held)),
        ("replicas heard".into(), Box::pin(heard)),
        ("replicas told".into(), Box::pin(told)),
        ("upkeep".into(), Box::pin(keep_up(of_upkeep, upkeep_duties, stop))),
    ]
}

/// Works whenever this process has the duty to.
async fn work(workers: Workers, context: Context, duties: Arc<Duties>, lifecycle: Lifecycle) {
    let (workers, context, lifecycle) = (&workers, &context, &lifecycle);
    let work = |term: CancellationToken| async move {
        context.begin_again().await;
        let begun = async {
            loop {
                match workers.begin(&term).await {
                    Ok(begun) => return begun,
                    Err(error) => {
                        tracing::warn!(error = error.to_string(), "the work could not be begun yet");
                        tokio::time::sleep(BEGIN_AGAIN_AFTER).await;
                    }
                }
            }
        };
        let running = TaskTracker::new();
        for (name, task) in term.run_until_cancelled(begun).await.unwrap_or_default() {
            lifecycle.supervise_until(name, term.clone(), running.track_future(task));
        }
        term.cancelled().await;
        running.close();
        running.wait().await;
        if !lifecycle.soft().is_cancelled() {
            // What it holds back is another replica's to say now.
            context.begin_again().await;
        }
    };
    duties.perform(Duty::Work, Duration::ZERO, &lifecycle.soft(), work).await;
}

/// Hears what the other replicas tell, until `stop`.
async fn hear(context: Context, replicas: &dyn Replicas, duties: &Duties, stop: CancellationToken) {
    let mut heard = replicas.heard();
    while let Some(received) = stop.run_until_cancelled(heard.recv()).await {
        match received {
            Ok(Heard::Work) => context.wake.inbox.notify_one(),
            Ok(Heard::Released) => duties.look(),
            Ok(Heard::Signal(signal)) => take_up(&context, duties, signal).await,
            Ok(Heard::Missed) | Err(RecvError::Lagged(_)) => {
                read_again(&context, duties).await;
                context.wake.inbox.notify_one();
            }
            Err(RecvError::Closed) => return stop.cancelled().await,
        }
    }
}

async fn take_up(context: &Context, duties: &Duties, signal: Signal) {
    if signal == Signal::SuitesChanged {
        read_suites(context, duties).await;
    }
    if let Signal::CallsResumed { app, corp_id } = &signal
        && duties.has(&Duty::Work)
        && let Err(error) = resume::resume_calls(context, app.as_ref(), corp_id.as_ref()).await
    {
        tracing::warn!(error = error.to_string(), "what waits for paused calls could not be brought forward");
    }
    context.wake.hear(signal);
}

/// Passes the signals of this process on to the other replicas, until `stop`.
async fn tell(
    mut told: mpsc::Receiver<Signal>,
    replicas: &dyn Replicas,
    duties: &Duties,
    stop: CancellationToken,
) {
    while let Some(Some(signal)) = stop.run_until_cancelled(told.recv()).await {
        // The replica that works handles its own signals; the others need only the change of suites.
        let concerns_others = !duties.has(&Duty::Work) || signal == Signal::SuitesChanged;
        if concerns_others && let Err(error) = replicas.tell(signal).await {
            tracing::debug!(error = error.to_string(), "a signal to other replicas is lost");
        }
    }
}

/// Keeps up what a replica knows that does not do the work, until `stop`.
async fn keep_up(context: Context, duties: Arc<Duties>, stop: CancellationToken) {
    let mut round = 0;
    while stop.run_until_cancelled(tokio::time::sleep(UPKEEP_EVERY)).await.is_some() {
        if duties.has(&Duty::Work) {
            continue;
        }
        if let Err(error) = context.activity.record_rest(&*context.store).await {
            context.store_failures.warn("the dealers' activity could not be recorded", &error);
        }
        round = (round + 1) % ROUNDS;
        if round == 0 {
            read_again(&context, &duties).await;
        }
    }
}

async fn read_again(context: &Context, duties: &Duties) {
    for app in context.apps.names() {
        context.dealer_names.load(&*context.store, &app).await;
    }
    read_suites(context, duties).await;
}

/// Reads the suites, unless this replica works: then the worker reads them, and acts upon what has changed.
async fn read_suites(context: &Context, duties: &Duties) {
    if duties.has(&Duty::Work) || context.apps.suites().is_empty() {
        return;
    }
    if let Err(error) = authorize::load(&*context.store, &context.apps, context.clock.now()).await {
        context.store_failures.warn("the suites could not be read", &error);
    }
}
