//! The callback URLs at this moment: reloading the configuration replaces all of them at once.

use std::sync::{Arc, PoisonError, RwLock};

use super::doors::Doors;

/// The current callback URLs. A request uses those of its beginning to its end.
#[derive(Debug, Default)]
pub struct DoorSet(RwLock<Arc<Doors>>);

impl DoorSet {
    /// A set of these URLs.
    #[must_use]
    pub fn new(doors: Doors) -> Self {
        Self(RwLock::new(Arc::new(doors)))
    }

    /// The current URLs.
    #[must_use]
    pub fn current(&self) -> Arc<Doors> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces all URLs.
    pub fn replace(&self, doors: Doors) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(doors);
    }
}
