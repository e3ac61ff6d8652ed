//! The rules, as pure values and functions: no clock, no I/O, no tokio.
//!
//! Start with [`join`]: it decides when a fan and a contact become a link. [`contact`] is the record of a
//! customer, independent of the order of events; [`fan`] is the record of a fan and its life cycle; [`quota`]
//! keeps calls within WeCom's budgets. [`suite`], [`authorization`] and [`bindings`] are about
//! agency-developed apps: the events of their template, the corps that have authorised it, and which corp an
//! app serves. [`explain`] and [`finding`] say what is wrong and what to do about it.

pub mod access;
pub mod alarm;
pub mod audit;
pub mod authorization;
pub mod backoff;
pub mod batch;
pub mod bindings;
pub mod chat;
pub mod clock_step;
pub mod contact;
pub mod dealer;
pub mod dealer_activity;
pub mod event;
pub mod explain;
pub mod fan;
pub mod far_off;
pub mod finding;
pub mod forecast;
pub mod history;
pub mod ids;
pub mod instant;
pub mod join;
pub mod link;
pub mod lookup;
pub mod network;
pub mod pace;
pub mod quota;
pub mod reconcile;
pub mod sealed;
pub mod sighting;
pub mod suite;
pub mod sync_times;
pub mod tally;
pub mod text;
pub mod time;
