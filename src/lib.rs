//! unionlink links the customers of a brand's dealers to the brand's fans, within a second of a dealer adding a customer.
//!
//! A brand knows its mini-program fans by `unionid`. Its dealers know the same people as WeCom (企业微信) customers, by
//! `external_userid`, a different one at every dealer. WeCom converts both ids into a third, the `pending_id`; where two
//! pending ids are equal, fan and customer are one person:
//!
//! ```text
//!                    verify, classify           ≤ 100 ids a call
//!  WeCom ──callback──▶ http::public ──▶ inbox ──▶ resolve ──┐
//!                                      (durable,            ▼                   ┌──▶ deliver ──▶ sinks
//!                                       then 200)        ┌──────┐               │
//!                                                        │ join │──▶ links ──▶ feed ──▶ pages, stream
//!                                                        └──────┘     │
//!  brand ───fans────▶ http::api ─────▶ fans ───▶ mint ──────▲         └──▶ queries, export
//!                                      (durable,  paced by
//!                                       then 202) the quota
//! ```
//!
//! It is a stream join keyed by `(app, pending_id)`; either side may come first. Every arrow that leaves a queue is an
//! idempotent worker: it may be killed at any instruction, and repeats its work after a restart.
//!
//! # One callback, from the socket to the receiver
//!
//! 1. [`http::serve`] accepts the connection; `http::admission` bounds connections and the bodies in memory.
//! 2. [`http::public`] routes the request and reads its body. Its handler calls steps 3 to 5 and answers.
//! 3. [`callback::verify`] checks the signature and decrypts: a [`VerifiedMessage`](callback::VerifiedMessage), or a
//!    [`Refusal`](callback::Refusal). Pure; nothing unverified leaves the module.
//! 4. [`intake::classify`] decides what the message means for us: an [`Event`](domain::event::Event), to be ignored, or to
//!    be quarantined until an operator has corrected a setting.
//! 5. [`Store::append`](store::Store::append) deduplicates it and makes it durable in the inbox. Only then WeCom gets its
//!    200. The store is [`store::embedded`]: one writer thread, a redo journal, and sled.
//! 6. [`worker::resolve`] leases it from the inbox, batches customers by corp and calls
//!    [`wecom::Platform`], whose [`Client`](wecom::Client) makes no call without a permit from the
//!    [`Limiter`](wecom::Limiter). [`worker::breaker`] holds back an app, dealer or API that fails.
//! 7. [`Store::settle`](store::Store::settle) stores the pending id and removes the event in one transaction, in which
//!    [`domain::join`] decides whether fan and contact are one person; [`domain::contact`] keeps what is known of a
//!    customer, in whatever order events arrive. A new link is appended to the feed.
//! 8. [`worker::deliver`] reads the feed with a durable cursor for each sink and sends its entries, in order and at least
//!    once, to a [`sink::Sink`]: webhook, NATS or files.
//!
//! # Beside this path
//!
//! - Fans: [`http::api`] registers them, [`worker::mint`] obtains their pending ids, [`worker::renew`] queues them again
//!   before the 90 days are over. [`domain::fan`] is the life of a fan; [`domain::quota`] decides when the next call may
//!   be made, and whose it is.
//! - [`http::api`] is also the admin API: links, the feed, export, sinks, dead letters and quarantine, deletion of a
//!   person, status. [`domain::explain`] finds out why somebody is, or is not, linked.
//! - [`app`] assembles a service from a [`config`], [`lifecycle`] starts and stops it, [`cli`] is the command line.
//! - [`simulator`] is a working model of WeCom behind a socket: for the demo, for development, for the tests.
//!
//! # Direction
//!
//! `main → cli → app → { http, worker } → { store, wecom, sink, intake } → domain`, and `intake → callback → domain`.
//! `store`, `wecom` and `sink` do not know each other. `http` and `worker` meet in the store and in three handles that
//! they share: the wake-up signals ([`worker::Wake`]), the circuit breakers and the
//! [status of the sinks](worker::sink_status::SinkRegistry). [`config`] is known to `cli` and `app` only; everything else
//! receives the narrow struct it needs. No two files import each other, directly or in a circle.
//!
//! # Invariants
//!
//! 1. A callback is acknowledged only after its event is durable: it survives power loss, not only `kill -9`.
//! 2. Order and repetition do not matter: any interleaving, duplication or replay of the same inputs ends in the same
//!    links.
//! 3. A store effect happens once; a delivery at least once, with a stable id by which receivers drop repeats.
//! 4. No call to WeCom without a permit from the limiter; quotas survive a restart and are never exceeded.
//! 5. Nothing is dropped silently. What cannot be processed becomes a dead letter or is quarantined, is counted and
//!    visible, and can be redriven.
//! 6. Nothing outside [`callback`] sees ciphertext or the AES key. Nothing unverified reaches the store.
//! 7. [`domain`] reads no clock and does no I/O.
//! 8. Every queue, body, batch, retry and wait has a bound.
//! 9. Tokens, secrets and personal ids never reach logs, metrics, error texts or URLs that are printed.
//!
//! # Deliberately absent
//!
//! No clustering of our own: past one machine a database server takes the place of sled, behind the same
//! [`Store`](store::Store) trait and contract tests. No messages to customers, no customer profiles, no plugin system.

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
