//! The names of dealers in the links that are read. They are not stored with the links, so a renamed dealer
//! has its new name in all of them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::domain::dealer::Dealer;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::link::LinkData;
use crate::store::StoreError;
use crate::store::rows::keys;
use crate::store::rows::view::View;

/// The names of the dealers in one page of links; each is looked up once.
pub(crate) struct CorpNames<'a> {
    view: &'a View<'a>,
    known: HashMap<(AppName, CorpId), Option<String>>,
}

impl<'a> CorpNames<'a> {
    pub(crate) fn new(view: &'a View<'a>) -> Self {
        Self { view, known: HashMap::new() }
    }

    /// Sets the dealer's name in a link; none if there is no dealer of this id, or its record is damaged.
    pub(crate) fn fill(&mut self, link: &mut LinkData) -> Result<(), StoreError> {
        link.corp_name = match self.known.entry((link.app.clone(), link.corp_id.clone())) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(place) => {
                let key = keys::dealer(&link.app, &link.corp_id);
                let dealer = self.view.read_undamaged::<Dealer>(&key)?;
                place.insert(dealer.map(|dealer| dealer.name).filter(|name| !name.is_empty())).clone()
            }
        };
        Ok(())
    }
}
