//! The layout of the store's records, and how a transaction reads and writes them.

pub(crate) mod clue;
pub(crate) mod expiry;
pub(crate) mod ids;
pub(crate) mod keys;
pub(crate) mod records;
pub(crate) mod source;
pub(crate) mod txn;
pub(crate) mod view;
pub(crate) mod watch;
pub(crate) mod work_queue;
