//! unionlink tells a brand, within a second of a dealer adding a customer, which of its fans that customer is.
//!
//! A brand knows its mini-program fans by `unionid`. Its dealers know the same people as WeCom (企业微信) customers,
//! by `external_userid`, a different one at every dealer. WeCom gives one bridge between the two, the
//! `pending_id`, and this program walks it in both directions:
//!
//! ```text
//!                     verify · decrypt          ≤ 100 ids a call
//!  WeCom ──callback──▶ http/callback ──▶ inbox ──▶ resolve ──┐
//!                                     (durable,              ▼                   ┌──▶ deliver ──▶ sinks
//!                                      then 200)          ┌──────┐               │
//!                                                         │ join │──▶ links ──▶ feed ──▶ pages · stream
//!                                                         └──────┘      │
//!  brand ──fans──────▶ http/admin ──▶ fans ──▶ mint ─────────▲          └──▶ look-ups · export
//!                                  (durable,  quota-paced
//!                                   then 202)
//! ```
//!
//! Two streams meet in a join keyed by `(app, pending_id)`. Either may come first. Every arrow right of a queue is
//! a worker that can be killed at any instruction and repeated.
//!
//! # A guided tour
//!
//! 1. [`callback`] takes a callback's bytes apart: signature, cipher, envelope, message. No I/O.
//! 2. [`http::door`] decides what the message means for us, [`http::callback`] makes it durable and answers.
//! 3. [`store`] is spoken to in business transactions; [`store::embedded`] keeps them with one writer thread: durable in
//!    a redo journal first, then in sled, which is brought up to date, verified and rebuilt from the journal.
//! 4. [`worker::resolve`] and [`worker::mint`] turn customers and fans into pending ids through [`wecom`], which
//!    makes no call without a permit.
//! 5. [`domain::join`] decides, as a pure function, when the two sides are one person; [`domain::contact`] keeps
//!    what is known of a customer whatever order the news arrives in.
//! 6. [`domain::fan`] is what time does to the brand's side, [`worker::renew`] does it; millions of fans lie in the
//!    store's roll and wait in its queues, and [`domain::quota`] says whose turn it is and when.
//! 7. Links leave through the feed, which [`store::Feed`] keeps in order with a cursor for each sink.
//!    [`worker::deliver`] hands its entries to the receivers behind [`sink::Sink`]: webhook, NATS, files.
//! 8. [`http::admin`] is where the brand's systems read links and the feed, and operators see how it goes;
//!    [`domain::explain`] says, as a pure function, why somebody is or is not linked; [`store::People`] forgets.
//! 9. [`app`] puts it all together, [`lifecycle`] starts and stops it, [`cli`] is what a person types.
//! 10. [`simulator`] is a working model of WeCom behind a socket: for the demo, for development, for the tests.
//!
//! Direction: `main → cli → app → { http, worker } → { store, wecom, sink } → domain`, and `http → callback → domain`.
//! `store`, `wecom` and `sink` do not know each other; `http` and `worker` meet only in the store, a
//! [`Notify`](worker::Wake) and what workers tell of [pauses](worker::pause::Pauses) and
//! [sinks](worker::sink_status::SinkRegistry). [`config`] is known to `cli` and `app` only; everything else
//! receives the narrow struct it needs.
//!
//! # Invariants
//!
//! 1. A callback is acknowledged only after its event is durable: it survives power loss, not only `kill -9`.
//! 2. Order does not matter, repeats do not matter: any interleaving, duplication or replay of the same inputs ends
//!    in the same links.
//! 3. A store effect happens once; a delivery at least once, with a stable id so that receivers can drop repeats.
//! 4. No call to WeCom without a permit from the limiter; quotas survive a restart and are never exceeded.
//! 5. Nothing is dropped silently. What cannot be processed becomes a dead letter or is quarantined, is counted, is
//!    visible, and can be redriven.
//! 6. Nothing outside [`callback`] sees ciphertext or the AES key. Nothing unverified reaches the store.
//! 7. [`domain`] reads no clock and does no I/O.
//! 8. Every queue, body, batch, retry and wait has a bound.
//! 9. Tokens, secrets and personal ids never reach logs, metrics, error texts or URLs that are printed.
//!
//! # Deliberately absent
//!
//! No home-made cluster: past one machine a database server takes the place of sled behind the same
//! [`Store`](store::Store) trait and contract suite. No message to customers is sent. No customer profile is fetched or
//! kept. No plugin system.

pub mod app;
pub mod callback;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
pub mod http;
pub mod intake;
pub mod lifecycle;
#[cfg(any(test, fuzzing))]
pub mod properties;
pub mod simulator;
pub mod sink;
pub mod store;
pub mod telemetry;
pub mod wecom;
pub mod worker;
