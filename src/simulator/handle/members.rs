//! The methods of [`Simulator`] about a corp: its members, its verification and the errors it answers.
//!
//! Deliberately absent: the members' customers, which are in the parent, and their groups (`groups`).

use super::{Simulator, known};
use crate::domain::time::Timestamp;
use crate::simulator::model::Person;

/// A corp and its members. No event is sent: see [`Change::Member`](super::super::Change::Member).
impl Simulator {
    /// Puts a member into the visible range of the app, or takes them out of it. The member is created if
    /// there is none of that name.
    pub fn set_member_visible(&self, corp_id: &str, user_id: &str, is_visible: bool) {
        known(self.world().member_mut(corp_id, user_id)).is_visible = is_visible;
    }

    /// Gives a member the permission to have customers (客户联系), or withdraws it. The member is created if
    /// there is none of that name.
    pub fn set_customer_contact(&self, corp_id: &str, user_id: &str, has_customer_contact: bool) {
        known(self.world().member_mut(corp_id, user_id)).has_customer_contact = has_customer_contact;
    }

    /// A member leaves the corp, and no longer follows any customer. Groups that they own stay without a
    /// visible owner.
    pub fn remove_member(&self, corp_id: &str, user_id: &str) {
        known(self.world().remove_member(corp_id, user_id));
    }

    /// Sets the `qualification_status` of a corp: 1 unverified, 2 verified (验证), 3 certified (认证), which is
    /// the default. Conversions of an unverified corp answer 43009.
    pub fn set_qualification(&self, corp_id: &str, qualification: u8) {
        known(self.world().corp_mut(corp_id)).qualification = qualification;
    }

    /// Makes conversions of a dealer's ids answer `errcode`, until it is set to `None`.
    pub fn set_dealer_error(&self, dealer_corp_id: &str, errcode: Option<i64>) {
        known(self.world().corp_mut(dealer_corp_id)).error = errcode;
    }

    /// Makes all three conversions of an app, its dealers' included, answer `errcode`, until it is set to
    /// `None`.
    pub fn set_app_error(&self, upstream_corp_id: &str, errcode: Option<i64>) {
        let mut world = self.world();
        let upstream = known(world.upstream(upstream_corp_id));
        world.corps[upstream].error = errcode;
    }

    /// The `pending_id` that converting this person, as a customer of this corp, returns now, if any.
    #[must_use]
    pub fn resolves_to(&self, corp_id: &str, person: &Person) -> Option<String> {
        let world = self.world();
        let key = (known(world.corp(corp_id)), known(world.person(&person.unionid)));
        let customer = &world.customers[*world.customer_of.get(&key)?];
        world.resolve(customer).map(str::to_owned)
    }

    /// The members of a corp who are a person's friends now, sorted: user id, when they became friends, and
    /// the `state` of the contact-me way. A member who has deleted the person, or was deleted by them, is no
    /// friend.
    #[must_use]
    pub fn followers(&self, corp_id: &str, person: &Person) -> Vec<(String, Timestamp, Option<String>)> {
        let world = self.world();
        let key = (known(world.corp(corp_id)), known(world.person(&person.unionid)));
        let customer = world.customer_of.get(&key).map(|index| &world.customers[*index]);
        let followers = customer.into_iter().flat_map(|customer| &customer.followers);
        followers
            .filter(|(_, follower)| follower.is_friend())
            .map(|(user_id, follower)| (user_id.clone(), follower.since, follower.state.clone()))
            .collect()
    }
}
