//! The applied mark: where the index stands in the log. The index keeps it, beside the records.

use serde::{Deserialize, Serialize};

use crate::store::StoreError;
use crate::store::embedded::engine::{Engine, EngineError, Write};
use crate::store::embedded::wal::Lineage;
use crate::store::embedded::watchdog::step;
use crate::store::rows::records::{Record, decode, encode};

const MARK_KEY: &[u8] = b"\0journal";

/// The index has every record up to `seq` for good, and perhaps parts of later ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) lineage: Lineage,
    pub(crate) seq: u64,
}

impl Record for Mark {}

impl Mark {
    /// Of a store of a version before 0.3 that was written without a log.
    pub(crate) const OFF: Self = Self { lineage: [0; 16], seq: 0 };

    /// The mark of an index, if it has one.
    pub(crate) fn read(engine: &dyn Engine) -> Result<Option<Self>, EngineError> {
        let stored = engine.get(MARK_KEY)?.map(|bytes| decode(MARK_KEY, &bytes)).transpose();
        stored.map_err(|error: StoreError| EngineError(error.to_string()))
    }

    pub(crate) fn to_write(self) -> Result<Write, EngineError> {
        let bytes = encode(MARK_KEY, &self).map_err(|error| EngineError(error.to_string()))?;
        Ok((MARK_KEY.to_vec(), Some(bytes)))
    }
}

/// Moves the mark, and makes it durable with everything that was written before.
pub(super) fn set_mark(engine: &dyn Engine, mark: Mark) -> Result<(), EngineError> {
    step("the flush of the index", || {
        engine.apply(&[mark.to_write()?])?;
        engine.flush()
    })
}
