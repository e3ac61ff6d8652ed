//! The business of the store: what each transaction reads and writes, by subject.
//!
//! Deliberately absent: what keeps the rows, be it a folder or a database. A transaction works on a [`Txn`](super::rows::txn::Txn).

pub(crate) mod arrivals;
pub(crate) mod audit;
pub(crate) mod authorizations;
pub(crate) mod chat_members;
pub(crate) mod chats;
pub(crate) mod clock;
pub(crate) mod contacts;
pub(crate) mod corp_names;
pub(crate) mod customer_groups;
pub(crate) mod dealers;
pub(crate) mod events;
pub(crate) mod exchanges;
pub(crate) mod fans;
pub(crate) mod feed;
pub(crate) mod forget;
pub(crate) mod forgotten;
pub(crate) mod history;
pub(crate) mod inbox;
pub(crate) mod ledgers;
pub(crate) mod links;
pub(crate) mod listing;
pub(crate) mod people;
pub(crate) mod queues;
pub(crate) mod reconcile;
pub(crate) mod roll;
pub(crate) mod set_aside;
pub(crate) mod suites;
pub(crate) mod tasks;
pub(crate) mod trail;
pub(crate) mod words;
pub(crate) mod work;
