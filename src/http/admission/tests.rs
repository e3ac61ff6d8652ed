//! Which connection is shed, with inputs that are set by hand and a paused clock.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use futures_util::FutureExt as _;

use super::*;

/// An input that is as the test says.
#[derive(Default)]
struct Told {
    is_waiting: AtomicBool,
    has_sent: AtomicBool,
}

impl Input for Told {
    fn is_waiting(&self) -> bool {
        self.is_waiting.load(SeqCst)
    }

    fn has_sent(&self) -> bool {
        self.has_sent.load(SeqCst)
    }
}

fn admission(slots: usize) -> Arc<Admission> {
    let capacity = Capacity { slots, slots_of_source: None, bodies_bytes: Some(1_000) };
    Admission::new(capacity, Arc::default())
}

/// A connection that has sent a part of its request.
async fn admit(admission: &Arc<Admission>) -> Option<Arc<Slot>> {
    let input = Told { has_sent: true.into(), ..Told::default() };
    admission.admit(Arc::new(input), Source(None)).await
}

/// A connection that has not sent anything, with its input.
async fn admit_silent(admission: &Arc<Admission>) -> (Arc<Slot>, Arc<Told>) {
    let input = Arc::new(Told::default());
    (admission.admit(input.clone(), Source(None)).await.unwrap(), input)
}

fn is_shed(slot: &Slot) -> bool {
    slot.shed().now_or_never().is_some()
}

#[tokio::test]
async fn the_connection_that_was_idle_for_longest_is_shed() {
    let admission = admission(3);
    let mut slots = Vec::new();
    for _ in 0..3 {
        slots.push(admit(&admission).await.unwrap());
    }
    slots[0].head_complete(false);
    slots[0].answered();
    slots[1].head_complete(true);
    // The second one's body is awaited, then comes the third; the first one has begun another request.
    for oldest in [1, 1, 0] {
        let mut waiting = Box::pin(admit(&admission));
        assert!(waiting.as_mut().now_or_never().is_none());
        let shed: Vec<_> = slots.iter().map(|slot| is_shed(slot)).collect();
        assert_eq!(shed.iter().position(|shed| *shed), Some(oldest), "{shed:?}");
        drop(slots.remove(oldest));
        slots.push(waiting.await.unwrap());
    }
}

#[tokio::test]
async fn no_connection_is_shed_while_it_is_served() {
    let admission = admission(2);
    let (a, b) = (admit(&admission).await.unwrap(), admit(&admission).await.unwrap());
    a.head_complete(false);
    b.head_complete(true);
    b.body_received(10);
    b.body_complete();
    assert!(admit(&admission).await.is_none() && !is_shed(&a) && !is_shed(&b));
    a.answered();
    let mut waiting = Box::pin(admit(&admission));
    assert!(waiting.as_mut().now_or_never().is_none() && is_shed(&a));
    // Too late: it was shed, and its slot is promised.
    a.head_complete(false);
    a.answered();
    drop(a);
    assert!(waiting.await.is_some());
    drop(b);
    let queue = admission.queue();
    assert_eq!((queue.open, queue.closing, queue.incomplete.len(), queue.bodies_bytes), (0, 0, 0, 0));
    assert!(queue.silent.is_empty() && queue.bodies.is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_that_never_sent_anything_goes_first_unless_its_request_may_be_on_the_way() {
    let admission = admission(3);
    let sending = admit(&admission).await.unwrap();
    let (silent, _) = admit_silent(&admission).await;
    let (arrived, input) = admit_silent(&admission).await;
    input.is_waiting.store(true, SeqCst);
    tokio::time::advance(SILENT_FOR).await;
    let mut waiting = Box::pin(admit_silent(&admission));
    assert!(waiting.as_mut().now_or_never().is_none());
    assert!(is_shed(&silent) && !is_shed(&sending) && !is_shed(&arrived));
    drop(silent);
    let (young, _) = waiting.await;
    tokio::time::advance(SILENT_FOR.saturating_sub(Duration::from_millis(1))).await;
    let mut waiting = Box::pin(admit_silent(&admission));
    assert!(waiting.as_mut().now_or_never().is_none());
    assert!(is_shed(&sending) && !is_shed(&young) && !is_shed(&arrived));
    drop(sending);
    let (_last, _) = waiting.await;
    // What was read shows at the next look: it is not silent any more, and idle for longest.
    input.is_waiting.store(false, SeqCst);
    input.has_sent.store(true, SeqCst);
    tokio::time::advance(Duration::from_millis(1)).await;
    let waiting = Box::pin(admit_silent(&admission));
    assert!(waiting.now_or_never().is_none() && is_shed(&young) && !is_shed(&arrived));
}

#[tokio::test(start_paused = true)]
async fn while_all_have_input_a_new_connection_waits_for_progress() {
    let admission = admission(2);
    let inputs: [Arc<Told>; 2] = Default::default();
    let mut slots = Vec::new();
    for input in &inputs {
        input.is_waiting.store(true, SeqCst);
        slots.push(admission.admit(input.clone(), Source(None)).await.unwrap());
    }
    let mut waiting = Box::pin(admit(&admission));
    assert!(waiting.as_mut().now_or_never().is_none() && slots.iter().all(|slot| !is_shed(slot)));
    // Both are read and served: there is nobody to shed, and it still waits.
    for (slot, input) in slots.iter().zip(&inputs) {
        input.is_waiting.store(false, SeqCst);
        input.has_sent.store(true, SeqCst);
        slot.head_complete(false);
    }
    assert!(waiting.as_mut().now_or_never().is_none());
    slots[1].answered();
    assert!(waiting.as_mut().now_or_never().is_none() && is_shed(&slots[1]) && !is_shed(&slots[0]));
    drop(slots.remove(1));
    assert!(waiting.await.is_some());
    assert_eq!(admission.queue().impatient_until, None);
}

#[tokio::test(start_paused = true)]
async fn input_that_is_not_read_protects_for_a_moment_only() {
    let admission = admission(2);
    let input = Arc::new(Told { is_waiting: true.into(), has_sent: true.into() });
    let admit = || Box::pin(admission.admit(input.clone(), Source(None)));
    let mut slots = vec![admit().await.unwrap(), admit().await.unwrap()];
    let mut waiting = admit();
    assert!(waiting.as_mut().now_or_never().is_none() && !is_shed(&slots[0]));
    tokio::time::advance(PATIENCE).await;
    assert!(waiting.as_mut().now_or_never().is_none() && is_shed(&slots[0]) && !is_shed(&slots[1]));
    slots.remove(0);
    slots.push(waiting.await.unwrap());
    // The next ones do not wait in vain, until a second has passed.
    let mut waiting = admit();
    assert!(waiting.as_mut().now_or_never().is_none() && is_shed(&slots[0]));
    slots.remove(0);
    slots.push(waiting.await.unwrap());
    tokio::time::advance(IMPATIENCE).await;
    assert!(admit().now_or_never().is_none() && slots.iter().all(|slot| !is_shed(slot)));
}

#[tokio::test]
async fn a_source_has_its_share_of_the_connections() {
    let capacity = Capacity { slots: 32, slots_of_source: Some(2), bodies_bytes: None };
    let admission = Admission::new(capacity, Arc::default());
    let source = |text: &str| Source(text.parse().ok());
    let admit =
        |text: &str| admission.admit(Arc::new(Told::default()), source(text)).now_or_never().flatten();
    let mut slots = vec![admit("192.0.2.1").unwrap(), admit("2001:db8::1").unwrap()];
    slots.extend([admit("192.0.2.1").unwrap(), admit("2001:db8::ffff:0:0:1").unwrap()]);
    for full in ["192.0.2.1", "2001:db8::2"] {
        assert!(admit(full).is_none(), "{full}");
    }
    slots.extend([admit("192.0.2.2").unwrap(), admit("2001:db8:0:1::1").unwrap()]);
    // Those of a proxy count once it has named their source.
    let proxied: Vec<_> = (0..3).map(|_| admit("").unwrap()).collect();
    assert!(proxied[0].claim(source("")) && proxied[0].claim(source("192.0.2.2")));
    assert!(!proxied[1].claim(source("192.0.2.2")) && !slots.iter().any(|slot| is_shed(slot)));
    drop(slots);
    assert!(proxied[1].claim(source("192.0.2.2")) && !proxied[2].claim(source("192.0.2.2")));
    drop(proxied);
    assert!(admission.queue().by_source.is_empty());
}

#[tokio::test]
async fn bodies_share_a_byte_budget_and_the_oldest_without_input_is_shed() {
    let admission = admission(32);
    let first = Arc::new(Told { is_waiting: true.into(), has_sent: true.into() });
    let mut slots = vec![admission.admit(first.clone(), Source(None)).await.unwrap()];
    for _ in 0..3 {
        slots.push(admit(&admission).await.unwrap());
    }
    for slot in &slots[..3] {
        slot.head_complete(true);
        slot.body_received(333);
    }
    assert!(!slots.iter().any(|slot| is_shed(slot)));
    slots[2].body_received(2);
    assert!(is_shed(&slots[1]) && !is_shed(&slots[0]) && !is_shed(&slots[2]));
    slots.remove(1);
    first.is_waiting.store(false, SeqCst);
    slots[1].body_received(400);
    assert!(is_shed(&slots[0]) && !is_shed(&slots[1]));
    slots.remove(0);
    slots[0].body_complete();
    slots[0].answered();
    assert_eq!(admission.queue().bodies_bytes, 0);
    slots.clear();
    let queue = admission.queue();
    assert_eq!((queue.open, queue.closing, queue.bodies_bytes, queue.bodies.len()), (0, 0, 0, 0));
}

#[tokio::test]
async fn with_headroom_a_new_connection_does_not_wait() {
    let admission = admission(32);
    let mut slots = Vec::new();
    for _ in 0..30 {
        slots.push(admit(&admission).await.unwrap());
    }
    assert!(!slots.iter().any(|slot| is_shed(slot)));
    // The shed connections have not closed yet; there is headroom still.
    for n in 0..2 {
        slots.push(admit(&admission).now_or_never().flatten().expect("a slot"));
        assert!(is_shed(&slots[n]));
    }
    assert!(admit(&admission).now_or_never().is_none(), "now a connection has to close first");
}
