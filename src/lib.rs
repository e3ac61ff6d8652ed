//! unionlink links the customers of a brand's dealers to the brand's fans, within a second of a dealer adding
//! a customer.
//!
//! A brand knows its mini-program fans by `unionid`. Its dealers know the same people as WeCom (企业微信)
//! customers, by `external_userid`, a different one at every dealer. WeCom converts both ids into a third,
//! the `pending_id`; where two pending ids are equal, fan and customer are one person:
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
//! It is a stream join keyed by `(app, pending_id)`; either side may come first. The workers (`resolve`,
//! `mint` and `deliver`) are idempotent: they may be killed at any instruction, and repeat their work after a
//! restart.
//!
//! # One callback, from the socket to the receiver
//!
//! 1. [`http::serve`] accepts the connection; `http::admission` bounds connections and the bodies in memory;
//!    `http::source` decides where a request comes from if a trusted proxy forwarded it.
//! 2. [`http::public`] routes the request and reads its body. Its handler runs steps 3 to 5 and answers. At
//!    the URL of a suite of agency-developed apps, [`http::doors`] decides which of them a message is for.
//! 3. [`callback::verify`] checks the signature and decrypts: a
//!    [`VerifiedMessage`](callback::VerifiedMessage), or a [`Refusal`](callback::Refusal). Pure; nothing
//!    unverified leaves the module.
//! 4. [`intake::classify`] decides what becomes of the message: it is an [`Event`](domain::event::Event) or
//!    something else to act upon, such as a [`ChatEvent`](domain::chat::ChatEvent), it is ignored, or it is
//!    quarantined until an operator has corrected a setting.
//! 5. [`Store::append`](store::Store::append) drops duplicates and makes the event durable in the inbox. Only
//!    then WeCom gets its 200. The store is [`store::embedded`]: one writer thread, a write-ahead log with
//!    checkpoints, and sled as its index; or [`store::postgres`], a database that several replicas share.
//! 6. [`worker::resolve`] leases the event from the inbox, batches customers by the corp whose token converts
//!    them and calls [`wecom::Platform`], whose [`Client`](wecom::Client) makes no call without a permit from
//!    the [`Limiter`](wecom::Limiter). [`worker::breaker`] holds back the calls of an app, dealer or API that
//!    fails.
//! 7. [`Store::settle`](store::Store::settle) stores the pending id and removes the event in one transaction,
//!    in which [`domain::join`] decides whether fan and contact are one person; [`domain::contact`] keeps
//!    what is known of a customer, in whatever order events arrive. A new link is appended to the feed.
//! 8. [`worker::deliver`] reads the feed with a durable cursor for each sink and sends its entries, in order
//!    and at least once, to a [`sink::Sink`]: webhook, NATS or files.
//!
//! # Beside this path
//!
//! - Fans: [`http::api`] registers them, [`worker::mint`] obtains their pending ids and asks which dealers
//!   have them as customers already, [`worker::renew`] queues them again before the 90 days of a pending id
//!   are over. [`domain::fan`] is the life of a fan and the priority of its calls; [`domain::quota`] decides
//!   when the next call may be made.
//! - Customers without a callback: [`worker::groups`] reads the members of customer groups, and
//!   [`worker::reconcile`] compares the dealers' customers with WeCom's lists. [`domain::chat`] and
//!   [`domain::reconcile`] decide what is read, and what a complete list means.
//! - [`http::api`] is also the admin API: links, the feed, export, sinks, dead letters and quarantine,
//!   deletion of a person, status. [`domain::explain`] explains why a person is, or is not, linked.
//! - [`worker::dealers`] keeps the dealers up to date, [`worker::sweep`] deletes expired records, and
//!   [`worker::clock_watch`] moves every wait along when the wall clock is set.
//! - [`worker::callback_ips`] reads the addresses that WeCom sends callbacks from; the public listener compares
//!   callbacks with them if it is configured to.
//! - Agency-developed apps (代开发): [`domain::suite`], [`domain::authorization`] and [`domain::bindings`]
//!   decide how a corp that has authorised a template becomes an app's brand or a dealer; [`at_rest`]
//!   encrypts the secrets that this brings into the store.
//! - [`app`] assembles a service from a [`config`], and reloads it when that changes; [`lifecycle`] starts
//!   and stops it, [`cli`] is the command line.
//! - [`domain::finding`] says what is wrong, from what the service knows of itself and of its [`machine`]: for
//!   `GET /v1/doctor`, the command `doctor`, which looks at what only somebody outside can see, the metrics, and the group
//!   robots that `app::alerts` tells. [`worker::history`] records what is counted, by hour, and [`telemetry::observed`]
//!   how WeCom behaves where its documents are silent.
//! - [`simulator`] is a working model of WeCom behind a socket: for the demo, for development, for the tests.
//!
//! # Several replicas
//!
//! Where the store is shared, any replica does steps 1 to 5, and answers the admin API. The workers run in the one that
//! holds the lease [`Duty::Work`](store::Duty), and each sink is delivered to by the one that holds its lease: `app::duties`
//! begins and ends both with the leases. A lease is trusted for less time than it lasts. [`store::Replicas`] is what the
//! replicas have in common: leases, a clock, and signals, which `app::replicas` passes between [`worker::Wake`] and the
//! store. Nothing that must not be lost or done twice depends on a lease, a clock or a signal.
//!
//! # Direction
//!
//! `main → cli → app → { http, worker } → { store, wecom, sink, intake } → domain`, and
//! `intake → callback → domain`, where an arrow means "may import"; `clock`, `reach`, `machine`,
//! `certificate` and `telemetry` may be used outside `domain`, and `at_rest`, which imports `domain` only, by `app`, `http` and `worker`. `store`,
//! `wecom` and `sink` do not know each other. `http` and `worker` meet in the store and in what they share:
//! the rules of the apps ([`worker::apps::AppRules`]), the wake-up signals ([`worker::Wake`]), the circuit
//! breakers ([`worker::breaker`]), the status of the sinks ([`worker::sink_status`]) and WeCom's list of the
//! addresses that it sends callbacks from ([`worker::callback_ips`]). [`config`] is known to `cli` and `app`
//! only; everything else receives the narrow struct it needs. No two files import each other, directly or in
//! a circle.
//!
//! # Invariants
//!
//! 1. A callback is acknowledged only after its event is durable: it survives power loss, not only `kill -9`.
//! 2. Order and repetition do not matter: any interleaving, duplication or replay of the same inputs ends in
//!    the same links.
//! 3. A change of the store is made once; a feed entry is delivered at least once, with a stable id by which
//!    receivers drop repeats.
//! 4. No call to WeCom without a permit from the limiter; quotas survive a restart and are never exceeded. Only `doctor`
//!    makes a few from outside the service, none of which has a quota unless somebody asks for it.
//! 5. Nothing is dropped silently. What cannot be processed becomes a dead letter or is quarantined, is
//!    counted and visible, and can be redriven.
//! 6. Only [`callback`] decrypts what WeCom sends and holds the decoded AES key; only [`at_rest`] decrypts
//!    what we keep. Nothing unverified reaches the store.
//! 7. [`domain`] reads no clock and does no I/O.
//! 8. Every queue, batch and wait has a bound, and so has the part of a body that is in memory.
//! 9. Tokens, secrets and personal ids never reach logs, metrics, error texts or printed URLs. The
//!    secrets of agency-developed apps are stored encrypted.
//!
//! # Deliberately absent
//!
//! No clustering of our own: past one machine, a database server takes the place of the embedded store. No messages
//! to customers, no customer profiles, no plugin system.

pub mod app;
pub mod at_rest;
pub mod callback;
mod certificate;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
pub mod http;
pub mod intake;
pub mod lifecycle;
pub mod machine;
#[cfg(test)]
#[path = "../tests/peers/mod.rs"]
mod peers;
#[cfg(test)]
#[path = "../tests/peers/postgres.rs"]
mod postgres_server;
#[cfg(any(test, fuzzing))]
pub mod properties;
pub mod reach;
pub mod simulator;
pub mod sink;
pub mod store;
pub mod telemetry;
pub mod wecom;
pub mod worker;
