//! The names of dealers in the links that are read. They are not stored with the links, so a renamed dealer
//! has its new name in all of them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::super::StoreError;
use super::engine::Engine;
use super::records::decode;
use super::{DamagedKeys, failed, keys, undamaged};
use crate::domain::dealer::Dealer;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::link::LinkData;

/// The names of the dealers in one page of links; each is looked up once.
pub(super) struct CorpNames<'a> {
    engine: &'a dyn Engine,
    damaged: &'a DamagedKeys,
    known: HashMap<(AppName, CorpId), Option<String>>,
}

impl<'a> CorpNames<'a> {
    pub(super) fn new(engine: &'a dyn Engine, damaged: &'a DamagedKeys) -> Self {
        Self { engine, damaged, known: HashMap::new() }
    }

    /// Sets the dealer's name in a link; none if there is no dealer of this id, or its record is damaged.
    pub(super) fn fill(&mut self, link: &mut LinkData) -> Result<(), StoreError> {
        link.corp_name = match self.known.entry((link.app.clone(), link.corp_id.clone())) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(place) => {
                let key = keys::dealer(&link.app, &link.corp_id);
                let read = self.engine.get(&key).map_err(failed)?;
                let dealer = read.map(|bytes| decode::<Dealer>(&key, &bytes)).transpose();
                let dealer = undamaged(self.damaged, &key, dealer)?.flatten();
                place.insert(dealer.map(|dealer| dealer.name).filter(|name| !name.is_empty())).clone()
            }
        };
        Ok(())
    }
}
