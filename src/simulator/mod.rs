//! A working model of the `WeCom` platform over real HTTP: it has corps with members, people, friendships,
//! customer groups, tokens and quotas, answers the APIs that unionlink uses, sends sealed callbacks, or loses
//! them, and fails on demand.
//!
//! Used by `unionlink demo`, by `unionlink simulate` and by the tests. It is written from the documents
//! alone and shares no wire code with [`crate`]'s client or callback verification: if both did, one
//! misreading of a document would hide itself.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use std::sync::Arc;
//! use unionlink::clock::SystemClock;
//! use unionlink::simulator::{Api, Fault, Options, Simulator};
//!
//! let sim = Simulator::start(Options::default(), Arc::new(SystemClock)).await?;
//! let mut app = sim.invent_app();
//! app.callback = Some(sim.invent_callback("http://127.0.0.1:8080/callback/brand"));
//! sim.add_app(app.clone());
//! let dealer = sim.add_dealer(&app.corp_id, "Dealer One");
//! let person = sim.add_person();
//! // … unionlink, pointed at `sim.base_url()`, mints the person …
//! let friendship = sim.befriend(&dealer.corp_id, &person, "zhangsan", Some("poster"));
//! sim.inject(Api::ExternalUseridToPendingId, Fault::Reset, Some(1));
//! assert!(sim.deliver(&friendship.event).await.acknowledged);
//! # Ok(())
//! # }
//! ```
//!
//! The time of tokens, quotas, the 90 days, `CreateTime` and signatures comes from the
//! [`Clock`](crate::clock::Clock) that is passed in; waits (latency, retry intervals, time-outs) are real.
//!
//! A dealer's members exist from their first mention on, visible to the app and with customers of their own,
//! until a method says otherwise. Lists and conversions answer what the visible range allows.
//!
//! Methods that name a corp, person or group panic if it does not exist: callers are tests and tools that got
//! the name from the simulator. The HTTP control routes under `/sim/` answer 400 instead.
//!
//! Layout, from the bottom up: `model` and `world` are the state, `members`, `relations` and `groups` change
//! it; `agency` has the templates and authorizations of agency-developed apps, and the templates' APIs;
//! `quota` has the call limits; the other APIs are `endpoints` (admission, tokens), `convert`, `directory`
//! (the dealers), `lists` (members and customers) and `chats` (customer groups), the pages of the last two
//! go on at a `cursor`; `event`, `xml`, `seal` and `delivery` are one callback; `fault` and `server` are
//! the HTTP side, `control` the `/sim/` routes; `handle` and `sender` are the methods of [`Simulator`].
//!
//! Deliberately absent: everything of `WeCom` that unionlink does not use, limits per IP address (one machine
//! has one address), several apps in one upstream corp, corps that are invited to the chain and have not
//! joined, reviews and licences of agency-developed apps, TLS, and persistence.

mod agency;
mod api;
mod chats;
mod control;
mod convert;
mod counters;
mod cursor;
mod delivery;
mod directory;
mod endpoints;
mod error;
mod event;
mod fault;
mod groups;
mod handle;
mod ids;
mod lists;
mod members;
mod model;
mod options;
mod platform;
pub(crate) mod quota;
mod relations;
mod seal;
mod sender;
mod server;
#[cfg(test)]
mod tests;
mod world;
mod xml;

pub use agency::Scanned;
pub use api::Api;
pub use counters::{Call, CallbackCounters, Counters};
pub use delivery::Delivery;
pub use event::{
    AppChange, Change, ChatChange, ChatMembers, ContactChange, Event, Leave, MemberChange, Sending,
};
pub use fault::{Fault, Target};
pub use handle::{QuotaUse, Simulator, Truth};
pub use model::{AppSpec, CallbackSpec, Dealer, Person, TemplateSpec};
pub use options::{
    AgencyOptions, AppUrlCheck, ConversionQuota, EventUrl, Invisible, ItemForm, Options, PageFill,
    Permission, ReceiveId, Remint, ResetEndsOld, SenderOptions, ShareChange, SharedFrom, TicketRule,
    TokenRule, UnknownId, Unminted,
};
pub use relations::{By, Friendship};
pub use seal::SealedCallback;
pub use sender::{Copies, Forgery};
pub use server::InProcess;
