//! The members of a corp, and which of them are in the app's visible range.
//!
//! Deliberately absent: their customers (`relations`) and their groups (`groups`).

use super::error::SimulatorError;
use super::model::{CorpIdx, Member};
use super::world::World;

impl World {
    /// A member, created if there is none of that name.
    pub(super) fn member_mut(&mut self, corp_id: &str, user_id: &str) -> Result<&mut Member, SimulatorError> {
        let corp = self.corp(corp_id)?;
        let user_id = self.user_id(corp, user_id);
        Ok(self.corps[corp].members.entry(user_id).or_default())
    }

    /// A member leaves the corp, and no longer follows any customer.
    pub(super) fn remove_member(&mut self, corp_id: &str, user_id: &str) -> Result<(), SimulatorError> {
        let corp = self.corp(corp_id)?;
        let user_id = &self.user_id(corp, user_id);
        let member = self.corps[corp].members.remove(user_id);
        let member = member.ok_or_else(|| SimulatorError::UnknownMember {
            corp_id: corp_id.to_owned(),
            user_id: user_id.to_owned(),
        })?;
        for index in member.customers {
            self.customers[index].followers.remove(user_id);
        }
        Ok(())
    }

    /// Whether the app sees the customers and groups of a member, even one that has left.
    pub(super) fn is_in_range(&self, corp: CorpIdx, user_id: &str) -> bool {
        self.corps[corp].members.get(user_id).is_some_and(Member::is_in_range)
    }
}
