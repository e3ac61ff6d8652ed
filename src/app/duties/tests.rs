//! Terms of duties, with leases that the tests grant.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst};

use async_trait::async_trait;
use tokio::sync::broadcast;

use super::*;
use crate::clock::SystemClock;
use crate::store::{Heard, Replica, Signal, StoreError};

/// Grants the duty to work in the term with this number, or to nobody if it is 0; does not answer if it is negative.
struct Granted(AtomicI64);

#[async_trait]
impl Replicas for Granted {
    fn id(&self) -> &'static str {
        "one"
    }

    fn clock(&self) -> Arc<dyn Clock> {
        unreachable!()
    }

    async fn beat(
        &self,
        duties: &BTreeMap<Duty, Duration>,
        _: Option<String>,
    ) -> Result<Heartbeat, StoreError> {
        let takes = duties.get(&Duty::Work);
        assert_eq!(takes.copied().unwrap_or(HELD_FOR + TAKES), HELD_FOR + TAKES);
        match self.0.load(SeqCst) {
            ..0 => Err(StoreError::Unavailable("it does not answer".to_owned())),
            0 => Ok(Heartbeat::default()),
            number => Ok(Heartbeat {
                held: duties.keys().map(|duty| (duty.clone(), number)).collect(),
                replicas: 2,
            }),
        }
    }

    async fn release(&self, _: &[Duty]) -> Result<(), StoreError> {
        unreachable!()
    }

    async fn replicas(&self) -> Result<Vec<Replica>, StoreError> {
        unreachable!()
    }

    async fn tell(&self, _: Signal) -> Result<(), StoreError> {
        unreachable!()
    }

    fn heard(&self) -> broadcast::Receiver<Heard> {
        unreachable!()
    }
}

const TAKES: Duration = Duration::from_secs(3);

struct Scene {
    soft: CancellationToken,
    duties: Arc<Duties>,
    granted: Arc<Granted>,
    /// Terms begun, and terms ended.
    terms: Arc<[AtomicUsize; 2]>,
}

impl Scene {
    /// A process that performs its duty to work.
    fn new() -> Self {
        let soft = CancellationToken::new();
        let duties = Arc::new(Duties {
            soft: soft.clone(),
            machine: Arc::new(SystemClock),
            is_shared: true,
            known: Mutex::default(),
            changed: Notify::new(),
        });
        let (granted, terms) = (Arc::new(Granted(AtomicI64::new(0))), Arc::<[AtomicUsize; 2]>::default());
        let (held, replicas) = (duties.clone(), granted.clone());
        tokio::spawn(async move { held.hold(&*replicas, || None).await });
        let (performed, counted, stop) = (duties.clone(), terms.clone(), soft.clone());
        tokio::spawn(async move {
            let perform = |term: CancellationToken| {
                let counted = counted.clone();
                async move {
                    counted[0].fetch_add(1, SeqCst);
                    term.cancelled().await;
                    counted[1].fetch_add(1, SeqCst);
                }
            };
            performed.perform(Duty::Work, TAKES, &stop, perform).await;
        });
        Self { soft, duties, granted, terms }
    }

    fn terms(&self) -> [usize; 2] {
        [self.terms[0].load(SeqCst), self.terms[1].load(SeqCst)]
    }

    /// Waits until so many terms have begun and ended.
    async fn until(&self, terms: [usize; 2]) {
        while self.terms() != terms {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(self.duties.has(&Duty::Work), terms[0] > terms[1]);
    }
}

#[tokio::test]
async fn a_duty_is_performed_while_its_lease_is_held_and_begun_anew_in_each_term() {
    let scene = Scene::new();
    scene.granted.0.store(7, SeqCst);
    scene.until([1, 0]).await;
    // Somebody else had it in between.
    scene.granted.0.store(9, SeqCst);
    scene.duties.changed.notify_one();
    scene.until([2, 1]).await;
    scene.granted.0.store(0, SeqCst);
    scene.duties.changed.notify_one();
    scene.until([2, 2]).await;
    scene.granted.0.store(11, SeqCst);
    scene.duties.look();
    scene.until([3, 2]).await;
    scene.soft.cancel();
    while scene.terms() != [3, 3] {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_lease_that_is_not_renewed_is_trusted_for_less_time_than_it_lasts() {
    let scene = Scene::new();
    scene.granted.0.store(1, SeqCst);
    scene.until([1, 0]).await;
    let begun_ms = local_ms(&SystemClock);
    scene.granted.0.store(-1, SeqCst);
    scene.until([1, 1]).await;
    let lasted_ms = local_ms(&SystemClock) - begun_ms;
    let held_ms = i64::try_from(HELD_FOR.as_millis()).unwrap();
    assert!((1_000..held_ms).contains(&lasted_ms), "{lasted_ms} ms");
    scene.granted.0.store(1, SeqCst);
    scene.until([2, 1]).await;
}

#[tokio::test]
async fn without_leases_a_process_has_every_duty_until_it_stops() {
    let soft = CancellationToken::new();
    let duties = Duties {
        soft: soft.clone(),
        machine: Arc::new(SystemClock),
        is_shared: false,
        known: Mutex::default(),
        changed: Notify::new(),
    };
    let begun = AtomicUsize::new(0);
    let perform = |term: CancellationToken| {
        begun.fetch_add(1, SeqCst);
        soft.cancel();
        async move { term.cancelled().await }
    };
    duties.perform(Duty::Work, TAKES, &soft, perform).await;
    assert_eq!(begun.load(SeqCst), 1);
}
