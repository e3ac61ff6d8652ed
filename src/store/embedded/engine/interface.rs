//! What an engine has to do.

use crate::store::StoreError;
use crate::store::rows::source::Row;

/// A key with its value, or with `None` to delete it.
pub(crate) type Write = (Vec<u8>, Option<Vec<u8>>);

/// Keys that begin with this byte are the engine's own: they are in neither log nor checkpoint.
pub(crate) const PRIVATE: u8 = 0;

/// An I/O error of an engine; final.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(pub String);

impl From<EngineError> for StoreError {
    fn from(error: EngineError) -> Self {
        Self::Failed(error.0)
    }
}

/// Rows of a range, in key order. The first error ends it.
pub(crate) type Rows<'a> = Box<dyn Iterator<Item = Result<Row, EngineError>> + 'a>;

/// An embedded key-value engine.
pub(crate) trait Engine: Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;

    /// The rows with `from <= key < to`.
    fn range<'a>(&'a self, from: &[u8], to: &[u8]) -> Rows<'a>;

    /// Applies one write after the other, each visible at once. After a crash the later ones may be gone, never
    /// an earlier one without them.
    fn apply(&self, writes: &[Write]) -> Result<(), EngineError>;

    /// Durable when it returns `Ok`: everything applied before it was called.
    fn flush(&self) -> Result<(), EngineError>;
}

/// Everything in an engine except what is [`PRIVATE`].
pub(crate) fn records(engine: &dyn Engine) -> Rows<'_> {
    engine.range(&[PRIVATE + 1], &[u8::MAX; 64])
}
