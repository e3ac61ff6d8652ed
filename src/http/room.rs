//! Who is connected to a listener, and who has to go when it is full.
//!
//! Connections are cheap for whoever opens them. Were the newest turned away when all places are taken, a few thousand
//! that say nothing would keep everybody else out until their time is up. So the one goes that has been silent for
//! longest: a genuine sender writes its request the moment it is connected, and is at work long before its turn comes.
//! Only a connection whose request has not arrived is ever closed so. Bodies being read are bounded in the same way,
//! all of them together: when they hold too many bytes, the oldest goes.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::service::TowerToHyperService;
use tokio::sync::Notify;

use crate::telemetry::metrics::Metrics;

/// One place in so many is left to those who have been told to go and have not gone yet.
const SPARE: usize = 16;

/// The places of one listener.
pub(super) struct Room {
    places: usize,
    /// Bodies being read, in all; `None` if the handlers bound them, and who sends one is never sent away.
    bodies_bytes_max: Option<usize>,
    inside: Mutex<Inside>,
    /// Somebody left.
    left: Notify,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Inside {
    taken: usize,
    /// Of those, who have been told to go.
    going: usize,
    turn: u64,
    /// Without a whole request head, or without a whole body, by the turn at which that began.
    heads: BTreeMap<u64, Arc<Notify>>,
    bodies: BTreeMap<u64, Arc<Notify>>,
    bodies_bytes: usize,
}

/// What a connection is doing. It has a turn while it keeps us waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Head(u64),
    Body(u64),
    /// Its request is there, its answer is not all gone.
    AtWork,
    Going,
}

/// A place taken by a connection, given back when it is dropped.
pub(super) struct Seat {
    room: Arc<Room>,
    told_to_go: Arc<Notify>,
    state: Mutex<SeatState>,
}

struct SeatState {
    phase: Phase,
    body_bytes: usize,
}

impl Room {
    pub(super) fn new(places: usize, bodies_bytes_max: Option<usize>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { places, bodies_bytes_max, inside: Mutex::default(), left: Notify::new(), metrics })
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, made free if need be; `None` if everybody is at work.
    pub(super) async fn enter(self: &Arc<Self>) -> Option<Arc<Seat>> {
        loop {
            // Whoever leaves from now on is noticed.
            let left = self.left.notified();
            {
                let mut inside = self.inside();
                let staying = inside.taken - inside.going;
                if staying + self.places / SPARE >= self.places && inside.send_away_the_oldest() {
                    self.metrics.connection_shed();
                }
                if inside.taken < self.places {
                    return Some(self.seat(&mut inside));
                }
                if inside.going == 0 {
                    return None;
                }
            }
            left.await;
        }
    }

    fn seat(self: &Arc<Self>, inside: &mut Inside) -> Arc<Seat> {
        let told_to_go = Arc::new(Notify::new());
        inside.taken += 1;
        let phase = Phase::Head(inside.await_head(told_to_go.clone()));
        Arc::new(Seat {
            room: self.clone(),
            told_to_go,
            state: Mutex::new(SeatState { phase, body_bytes: 0 }),
        })
    }
}

impl Inside {
    fn await_head(&mut self, told_to_go: Arc<Notify>) -> u64 {
        self.turn += 1;
        self.heads.insert(self.turn, told_to_go);
        self.turn
    }

    /// Tells the connection to go that has kept us waiting for longest.
    fn send_away_the_oldest(&mut self) -> bool {
        let first =
            |waiting: &BTreeMap<u64, _>| waiting.first_key_value().map_or(u64::MAX, |(turn, _)| *turn);
        let oldest = if first(&self.heads) <= first(&self.bodies) {
            self.heads.pop_first()
        } else {
            self.bodies.pop_first()
        };
        self.send_away(oldest)
    }

    fn send_away(&mut self, who: Option<(u64, Arc<Notify>)>) -> bool {
        let Some((_, told_to_go)) = who else { return false };
        told_to_go.notify_one();
        self.going += 1;
        true
    }
}

impl Seat {
    /// Ends when the place is needed for somebody else.
    pub(super) async fn told_to_go(&self) {
        self.told_to_go.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, SeatState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request's head is there, and with it all of the request, unless there is a body.
    fn head_is_whole(&self, has_body: bool) {
        let (mut state, mut inside) = (self.state(), self.room.inside());
        let Phase::Head(turn) = state.phase else { return };
        state.phase = match inside.heads.remove(&turn) {
            None => Phase::Going,
            Some(told_to_go) if has_body && self.room.bodies_bytes_max.is_some() => {
                // It keeps its turn: a head makes nobody young again.
                inside.bodies.insert(turn, told_to_go);
                Phase::Body(turn)
            }
            Some(_) => Phase::AtWork,
        };
    }

    /// So much more of the body is there.
    fn body_grew(&self, bytes: usize) {
        let Some(max) = self.room.bodies_bytes_max else { return };
        let (mut state, mut inside) = (self.state(), self.room.inside());
        state.body_bytes += bytes;
        inside.bodies_bytes += bytes;
        if inside.bodies_bytes > max {
            let oldest = inside.bodies.pop_first();
            if inside.send_away(oldest) {
                self.room.metrics.connection_shed();
            }
        }
    }

    /// All of the body is there.
    fn body_is_whole(&self) {
        let (mut state, mut inside) = (self.state(), self.room.inside());
        let Phase::Body(turn) = state.phase else { return };
        let stays = inside.bodies.remove(&turn).is_some();
        state.phase = if stays { Phase::AtWork } else { Phase::Going };
    }

    /// The answer is written; now the next request is waited for.
    fn answered(&self) {
        let (mut state, mut inside) = (self.state(), self.room.inside());
        inside.bodies_bytes -= std::mem::take(&mut state.body_bytes);
        let stays = match state.phase {
            Phase::Head(_) | Phase::Going => return,
            // Answered before its body was read.
            Phase::Body(turn) => inside.bodies.remove(&turn).is_some(),
            Phase::AtWork => true,
        };
        state.phase =
            if stays { Phase::Head(inside.await_head(self.told_to_go.clone())) } else { Phase::Going };
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        {
            let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
            let mut inside = self.room.inside();
            let stayed = match state.phase {
                Phase::Head(turn) => inside.heads.remove(&turn).is_some(),
                Phase::Body(turn) => inside.bodies.remove(&turn).is_some(),
                Phase::AtWork => true,
                Phase::Going => false,
            };
            inside.taken -= 1;
            inside.going -= usize::from(!stayed);
            inside.bodies_bytes -= state.body_bytes;
        }
        self.room.left.notify_one();
    }
}

/// A router whose room knows how far each request is.
pub(super) struct Seated {
    router: TowerToHyperService<Router>,
    seat: Arc<Seat>,
    asked_before: AtomicBool,
}

impl Seated {
    pub(super) fn new(router: Router, seat: Arc<Seat>) -> Self {
        Self { router: TowerToHyperService::new(router), seat, asked_before: AtomicBool::new(false) }
    }
}

impl Service<Request<Incoming>> for Seated {
    type Response = Response<Watched<Body>>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.seat.head_is_whole(!request.body().is_end_stream());
        let seat = self.seat.clone();
        let request = request.map(|body| Body::new(Watched { body, seat: Watch::Coming(seat) }));
        let seat = self.seat.clone();
        let answer = self.router.call(request);
        let asked_before = self.asked_before.swap(true, Ordering::Relaxed);
        Box::pin(async move {
            if asked_before {
                // Requests may have come all at once; hyper would serve sixteen before anybody else has a turn.
                tokio::task::yield_now().await;
            }
            let answer = answer.await?;
            Ok(answer.map(|body| Watched { body, seat: Watch::Leaving(seat) }))
        })
    }
}

/// A body on its way in or out.
pub(super) struct Watched<B> {
    body: B,
    seat: Watch,
}

enum Watch {
    Coming(Arc<Seat>),
    Leaving(Arc<Seat>),
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Watched<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if let Watch::Coming(seat) = &this.seat {
            if let Poll::Ready(Some(Ok(frame))) = &polled {
                seat.body_grew(frame.data_ref().map_or(0, Bytes::len));
            }
            if matches!(polled, Poll::Ready(None)) || this.body.is_end_stream() {
                seat.body_is_whole();
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Watched<B> {
    /// An answer's body is dropped once all of it has been handed to the connection, which writes it in the same step.
    fn drop(&mut self) {
        if let Watch::Leaving(seat) = &self.seat {
            seat.answered();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn room(places: usize) -> Arc<Room> {
        Room::new(places, Some(1_000), Arc::default())
    }

    fn told(seat: &Seat) -> bool {
        seat.told_to_go().now_or_never().is_some()
    }

    #[tokio::test]
    async fn the_one_that_was_silent_for_longest_goes() {
        let room = room(3);
        let mut seats = Vec::new();
        for _ in 0..3 {
            seats.push(room.enter().await.unwrap());
        }
        seats[0].head_is_whole(false);
        seats[0].answered();
        seats[1].head_is_whole(true);
        // The second one's body is awaited, then there is the third; the first one has asked anew.
        for longest in [1, 1, 0] {
            let mut coming = Box::pin(room.enter());
            assert!(coming.as_mut().now_or_never().is_none());
            let told: Vec<_> = seats.iter().map(|seat| told(seat)).collect();
            assert_eq!(told.iter().position(|told| *told), Some(longest), "{told:?}");
            drop(seats.remove(longest));
            seats.push(coming.await.unwrap());
        }
    }

    #[tokio::test]
    async fn nobody_at_work_is_sent_away() {
        let room = room(2);
        let (a, b) = (room.enter().await.unwrap(), room.enter().await.unwrap());
        a.head_is_whole(false);
        b.head_is_whole(true);
        b.body_grew(10);
        b.body_is_whole();
        assert!(room.enter().await.is_none() && !told(&a) && !told(&b));
        a.answered();
        let mut coming = Box::pin(room.enter());
        assert!(coming.as_mut().now_or_never().is_none() && told(&a));
        // Too late: it was told, and its place is promised.
        a.head_is_whole(false);
        a.answered();
        drop(a);
        assert!(coming.await.is_some());
        drop(b);
        let inside = room.inside();
        assert_eq!((inside.taken, inside.going, inside.heads.len(), inside.bodies_bytes), (0, 0, 0, 0));
    }

    #[tokio::test]
    async fn bodies_are_bounded_together_and_the_oldest_goes() {
        let room = room(32);
        let mut seats = Vec::new();
        for _ in 0..3 {
            let seat = room.enter().await.unwrap();
            seat.head_is_whole(true);
            seat.body_grew(333);
            seats.push(seat);
        }
        assert!(!seats.iter().any(|seat| told(seat)));
        seats[2].body_grew(2);
        assert!(told(&seats[0]) && !told(&seats[1]));
        seats.remove(0);
        seats[0].body_is_whole();
        seats[0].answered();
        assert_eq!(room.inside().bodies_bytes, 335);
        seats.clear();
        let inside = room.inside();
        assert_eq!((inside.taken, inside.going, inside.bodies_bytes), (0, 0, 0));
    }

    #[tokio::test]
    async fn with_room_to_spare_a_newcomer_does_not_wait() {
        let room = room(32);
        let mut seats = Vec::new();
        for _ in 0..30 {
            seats.push(room.enter().await.unwrap());
        }
        assert!(!seats.iter().any(|seat| told(seat)));
        // Those told to go have not gone; there are places still.
        for n in 0..2 {
            seats.push(room.enter().now_or_never().flatten().expect("a place"));
            assert!(told(&seats[n]));
        }
        assert!(room.enter().now_or_never().is_none(), "now somebody has to leave first");
    }
}
