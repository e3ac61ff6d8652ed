//! Connection admission and load shedding for a listener.
//!
//! Idle connections cost an attacker nothing. If a full listener refused new connections, a few thousand idle
//! ones would lock out every genuine client until they time out. So a full listener sheds a connection whose
//! request is incomplete, but looks before it does: one whose next bytes have arrived is only waiting for us
//! to read them, and is kept. Of the others, one that has never sent anything goes first, then the one that
//! has been waiting for input for longest (LRU): a genuine client sends its request as soon as it is
//! connected, and is served long before its connection is the oldest. Bodies being read share one byte
//! budget; when it is exceeded, a connection with an incomplete body is shed in the same way.
//!
//! A source may also have a limited share of the connections.
//!
//! Deliberately absent: HTTP. `tracked` reports the progress of each connection's requests.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::socket::{Input, Source};
use crate::telemetry::metrics::Metrics;

/// One in this many slots is kept free by shedding early, because a connection takes a moment to close.
const HEADROOM: usize = 16;

/// How long a connection may be silent before it is shed ahead of others: its request may be on the way.
const SILENT_FOR: Duration = Duration::from_millis(250);

/// How many connections are looked at, at most, to find one to shed.
const LOOKS_MAX: usize = 32;

/// How long a new connection waits while the input of every connection that could be shed is yet to be read.
const PATIENCE: Duration = Duration::from_millis(50);

/// After such a wait in vain, how long connections are shed although they have input: some may hold it back,
/// by not reading our responses.
const IMPATIENCE: Duration = Duration::from_secs(1);

/// The limits of a listener that admission keeps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Capacity {
    pub(super) slots: usize,
    /// The slots of one source; `None` for no limit.
    pub(super) slots_of_source: Option<usize>,
    /// The byte budget of all bodies being read; `None` if the handlers limit bodies, so that none is shed
    /// for its body.
    pub(super) bodies_bytes: Option<usize>,
}

/// The connection slots of one listener.
pub(super) struct Admission {
    capacity: Capacity,
    queue: Mutex<Queue>,
    /// Notified when a slot is freed, and while [`Queue::is_awaited`] when a request makes progress.
    changed: Notify,
    metrics: Arc<Metrics>,
}

/// The open connections, with the incomplete ones in LRU order.
#[derive(Default)]
struct Queue {
    open: usize,
    /// The number of open connections that were shed and have not closed yet.
    closing: usize,
    /// The next LRU position.
    position: u64,
    /// Connections with an incomplete request, by LRU position.
    incomplete: BTreeMap<u64, Arc<Candidate>>,
    /// Those of them that have never sent anything. Some may have since, which shows when they are looked at.
    silent: BTreeSet<u64>,
    /// Those of them with an incomplete body.
    bodies: BTreeSet<u64>,
    bodies_bytes: usize,
    /// The open connections by source, if these are limited.
    by_source: HashMap<IpAddr, usize>,
    /// Whether a new connection waits for any progress.
    is_awaited: bool,
    /// Until when connections are shed although they have input.
    impatient_until: Option<Instant>,
}

/// A connection that can be shed.
struct Candidate {
    shed: Notify,
    input: Arc<dyn Input>,
    admitted_at: Instant,
}

/// The phase of a connection. It has an LRU position while its request is incomplete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    ReadingHead(u64),
    ReadingBody(u64),
    /// The request is complete, its response not yet written.
    Serving,
    /// Shed; it closes as soon as its task runs.
    Closing,
}

/// The slot of one open connection, freed when it is dropped.
pub(super) struct Slot {
    admission: Arc<Admission>,
    candidate: Arc<Candidate>,
    connection: Mutex<Connection>,
}

struct Connection {
    phase: Phase,
    /// The source that it counts for.
    source: Option<IpAddr>,
    body_bytes: usize,
    /// Whether the whole body of the latest request was read.
    body_is_read: bool,
}

impl Admission {
    pub(super) fn new(capacity: Capacity, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { capacity, queue: Mutex::default(), changed: Notify::new(), metrics })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a slot, freed by shedding if necessary. `None` if every connection is being served, or `source`
    /// has its share of them.
    pub(super) async fn admit(self: &Arc<Self>, input: Arc<dyn Input>, source: Source) -> Option<Arc<Slot>> {
        let slots = self.capacity.slots;
        let source = self.capacity.slots_of_source.and(source.0).map(site);
        let mut give_up_at = None;
        loop {
            // Registered before the check, so that no wake-up is missed.
            let changed = self.changed.notified();
            {
                let (mut queue, now) = (self.queue(), Instant::now());
                queue.is_awaited = false;
                if !self.has_room(&queue, source) {
                    return None;
                }
                let remaining = queue.open - queue.closing;
                let has_waited = give_up_at.is_some_and(|at| at <= now);
                if remaining + slots / HEADROOM >= slots && queue.shed_one(now, has_waited) {
                    self.metrics.connection_shed();
                }
                if queue.open < slots {
                    return Some(self.slot(&mut queue, input, source, now));
                }
                if queue.closing > 0 {
                    // There will be a slot.
                    give_up_at = None;
                } else if has_waited || (give_up_at.is_none() && queue.incomplete.is_empty()) {
                    return None;
                } else {
                    queue.is_awaited = true;
                    give_up_at.get_or_insert(now + PATIENCE);
                }
            }
            match give_up_at {
                Some(at) => {
                    let _ = timeout_at(at, changed).await;
                }
                None => changed.await,
            }
        }
    }

    fn has_room(&self, queue: &Queue, source: Option<IpAddr>) -> bool {
        let open = source.and_then(|source| queue.by_source.get(&source)).copied().unwrap_or(0);
        self.capacity.slots_of_source.is_none_or(|max| open < max)
    }

    fn slot(
        self: &Arc<Self>,
        queue: &mut Queue,
        input: Arc<dyn Input>,
        source: Option<IpAddr>,
        now: Instant,
    ) -> Arc<Slot> {
        let candidate = Arc::new(Candidate { shed: Notify::new(), input, admitted_at: now });
        queue.open += 1;
        queue.count(source);
        let position = queue.push(candidate.clone());
        queue.silent.insert(position);
        let phase = Phase::ReadingHead(position);
        let connection = Mutex::new(Connection { phase, source, body_bytes: 0, body_is_read: false });
        Arc::new(Slot { admission: self.clone(), candidate, connection })
    }

    /// Wakes a new connection that waits for progress.
    fn progressed(&self, queue: &mut Queue) {
        if std::mem::take(&mut queue.is_awaited) {
            self.changed.notify_one();
        }
    }
}

/// What has one share of the connections: an IPv4 address, or the /64 network of an IPv6 address, all of
/// which one customer of a provider has.
fn site(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into(),
    }
}

impl Queue {
    fn push(&mut self, candidate: Arc<Candidate>) -> u64 {
        self.position += 1;
        self.incomplete.insert(self.position, candidate);
        self.position
    }

    /// Takes a connection out; `None` if it was shed.
    fn remove(&mut self, position: u64) -> Option<Arc<Candidate>> {
        self.silent.remove(&position);
        self.bodies.remove(&position);
        self.incomplete.remove(&position)
    }

    fn count(&mut self, source: Option<IpAddr>) {
        if let Some(source) = source {
            *self.by_source.entry(source).or_default() += 1;
        }
    }

    /// Sheds one connection. After a wait, `has_waited`, one that has input too. False if there is none.
    fn shed_one(&mut self, now: Instant, has_waited: bool) -> bool {
        let silent = self.silent_for_long(now);
        let chosen = silent.or_else(|| self.without_input(self.incomplete.keys())).or_else(|| {
            let oldest = *self.incomplete.keys().next()?;
            if has_waited {
                self.impatient_until = Some(now + IMPATIENCE);
            }
            self.impatient_until.is_some_and(|until| now < until).then_some(oldest)
        });
        self.shed(chosen)
    }

    /// Sheds the connection with the oldest incomplete body, if possible one without input.
    fn shed_body(&mut self) -> bool {
        let chosen = self.without_input(self.bodies.iter()).or_else(|| self.bodies.first().copied());
        self.shed(chosen)
    }

    /// The oldest connection that has never sent anything.
    fn silent_for_long(&mut self, now: Instant) -> Option<u64> {
        let (mut found, mut not_silent) = (None, Vec::new());
        for position in self.silent.iter().take(LOOKS_MAX) {
            match self.incomplete.get(position) {
                Some(candidate) if !candidate.input.has_sent() => {
                    if now.duration_since(candidate.admitted_at) < SILENT_FOR {
                        break;
                    }
                    if !candidate.input.is_waiting() {
                        found = Some(*position);
                        break;
                    }
                }
                _ => not_silent.push(*position),
            }
        }
        for position in not_silent {
            self.silent.remove(&position);
        }
        found
    }

    /// The first of some connections that waits for input.
    fn without_input<'a>(&self, positions: impl Iterator<Item = &'a u64>) -> Option<u64> {
        let waits = |position: &&u64| {
            self.incomplete.get(position).is_some_and(|candidate| !candidate.input.is_waiting())
        };
        positions.take(LOOKS_MAX).find(waits).copied()
    }

    fn shed(&mut self, position: Option<u64>) -> bool {
        let Some(candidate) = position.and_then(|position| self.remove(position)) else { return false };
        candidate.shed.notify_one();
        self.closing += 1;
        true
    }
}

impl Slot {
    /// Resolves when this connection is shed.
    pub(super) async fn shed(&self) {
        self.candidate.shed.notified().await;
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts this connection for the source that a proxy named. False if that has its share of them.
    pub(super) fn claim(&self, source: Source) -> bool {
        let Some(source) = self.admission.capacity.slots_of_source.and(source.0).map(site) else {
            return true;
        };
        let (mut connection, mut queue) = (self.connection(), self.admission.queue());
        let has_room = connection.source.is_some() || self.admission.has_room(&queue, Some(source));
        if has_room && connection.source.is_none() {
            connection.source = Some(source);
            queue.count(Some(source));
        }
        has_room
    }

    /// Records that the request's head is complete, and the whole request if it has no body.
    pub(super) fn head_complete(&self, has_body: bool) {
        let (mut connection, mut queue) = (self.connection(), self.admission.queue());
        connection.body_is_read = !has_body;
        let Phase::ReadingHead(position) = connection.phase else { return };
        connection.phase = if has_body && self.admission.capacity.bodies_bytes.is_some() {
            queue.silent.remove(&position);
            if queue.incomplete.contains_key(&position) {
                // Receiving headers does not refresh the LRU position.
                queue.bodies.insert(position);
                Phase::ReadingBody(position)
            } else {
                Phase::Closing
            }
        } else if queue.remove(position).is_some() {
            Phase::Serving
        } else {
            Phase::Closing
        };
        self.admission.progressed(&mut queue);
    }

    /// Records that another part of the body was received.
    pub(super) fn body_received(&self, bytes: usize) {
        let Some(max) = self.admission.capacity.bodies_bytes else { return };
        let (mut connection, mut queue) = (self.connection(), self.admission.queue());
        connection.body_bytes += bytes;
        queue.bodies_bytes += bytes;
        if queue.bodies_bytes > max && queue.shed_body() {
            self.admission.metrics.connection_shed();
        }
    }

    /// Records that the whole body of the request was read.
    pub(super) fn body_complete(&self) {
        let (mut connection, mut queue) = (self.connection(), self.admission.queue());
        connection.body_is_read = true;
        let Phase::ReadingBody(position) = connection.phase else { return };
        let is_open = queue.remove(position).is_some();
        connection.phase = if is_open { Phase::Serving } else { Phase::Closing };
        self.admission.progressed(&mut queue);
    }

    /// Whether the whole body of the request was read, or it has none.
    pub(super) fn body_is_read(&self) -> bool {
        self.connection().body_is_read
    }

    /// Records that the response was written; the connection waits for its next request.
    pub(super) fn answered(&self) {
        let (mut connection, mut queue) = (self.connection(), self.admission.queue());
        queue.bodies_bytes -= std::mem::take(&mut connection.body_bytes);
        let is_open = match connection.phase {
            Phase::ReadingHead(_) | Phase::Closing => return,
            // Answered before its body was read.
            Phase::ReadingBody(position) => queue.remove(position).is_some(),
            Phase::Serving => true,
        };
        connection.phase =
            if is_open { Phase::ReadingHead(queue.push(self.candidate.clone())) } else { Phase::Closing };
        self.admission.progressed(&mut queue);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        {
            let connection = self.connection.get_mut().unwrap_or_else(PoisonError::into_inner);
            let mut queue = self.admission.queue();
            let was_open = match connection.phase {
                Phase::ReadingHead(position) | Phase::ReadingBody(position) => {
                    queue.remove(position).is_some()
                }
                Phase::Serving => true,
                Phase::Closing => false,
            };
            queue.open -= 1;
            queue.closing -= usize::from(!was_open);
            queue.bodies_bytes -= connection.body_bytes;
            if let Some(source) = connection.source
                && let Entry::Occupied(mut open) = queue.by_source.entry(source)
            {
                *open.get_mut() -= 1;
                if *open.get() == 0 {
                    open.remove();
                }
            }
        }
        self.admission.changed.notify_one();
    }
}

#[cfg(test)]
mod tests;
