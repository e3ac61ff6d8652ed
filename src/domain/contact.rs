//! The record of a contact: what is known about one customer of a dealer.
//!
//! Events arrive in any order and more than once, and lists of customers are read in between. Every change
//! takes a maximum over a total order ("the newest `CreateTime` wins"), so changes are commutative and
//! idempotent by construction; `tests` checks it on random histories.
//!
//! Deliberately absent: the schedule of lookups (see [`lookup`](super::lookup)), and their queue, which is
//! part of the store.

use serde::{Deserialize, Serialize};

use super::event::{ContactChange, ContactEvent, WELCOME_CODE_LIFE_MS};
use super::ids::{ChatId, ContactKey, PendingId, UserId};
use super::link::{ChangeType, Claim, FollowerData, Link, LinkData, Source};
use super::lookup::{Haste, Lookup};
use super::sighting::{Listed, Sighting, SightingPlace};
use super::time::Timestamp;

mod follower;
mod version1;

use follower::{Follower, Present, Relation};
pub use version1::ContactVersion1;
use version1::{FollowerVersion1, LinkVersion1, LookupRetry, WelcomeVersion1};

/// Maximum number of followers kept for one customer. Beyond it, members that no longer follow are dropped
/// before those that do, and within each group the one with the oldest news first.
pub const FOLLOWERS_MAX: usize = 48;

/// Maximum number of customer groups kept for one customer: the ones joined last.
pub const CHATS_MAX: usize = 8;

/// Maximum number of earlier pending ids kept for one customer; normally there are none.
const EARLIER_PENDING_IDS_MAX: usize = 4;

/// The record of a customer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// Members that follow, or used to follow, this customer, in the order of their ids.
    followers: Vec<Follower>,
    /// How this customer first became known.
    pub source: Source,
    /// When this customer first became known.
    pub first_seen_at: Timestamp,
    /// The customer group through which this customer first became known; `None` if it was in another way.
    pub found_in: Option<ChatId>,
    /// The customer groups in which this customer was seen, the most recent one last.
    chats: Vec<ChatId>,
    /// The pending id that WeCom returned last; `None` before the first.
    pub pending_id: Option<PendingId>,
    /// Pending ids that WeCom returned before, newest last. A fan with one of these is linked too.
    pub earlier_pending_ids: Vec<PendingId>,
    /// The state of the lookups of the pending id; `None` before the first one is queued, and once the
    /// customer is identified.
    pub lookup: Option<Lookup>,
    /// The newest welcome code.
    welcome: Option<Welcome>,
    /// The link to a fan, once there is one.
    pub link: Option<Link>,
}

/// A welcome code. The derived `Ord` decides which of two is newer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Welcome {
    /// `CreateTime` of its event.
    at: Timestamp,
    code: String,
}

impl Contact {
    /// The record of a customer about whom nothing else is known yet.
    #[must_use]
    pub const fn new(source: Source, first_seen_at: Timestamp) -> Self {
        Self {
            followers: Vec::new(),
            source,
            first_seen_at,
            found_in: None,
            chats: Vec::new(),
            pending_id: None,
            earlier_pending_ids: Vec::new(),
            lookup: None,
            welcome: None,
            link: None,
        }
    }

    /// Whether the customer has a pending id or a link, so that no lookup is needed.
    #[must_use]
    pub const fn is_identified(&self) -> bool {
        self.pending_id.is_some() || self.link.is_some()
    }

    /// Applies an event that was created at `created_at` by WeCom's clock. Returns the change to report on
    /// the feed, if the customer is linked and the event changes the followers.
    pub fn apply(&mut self, event: &ContactEvent, created_at: Timestamp) -> Option<ChangeType> {
        let present = event.change.is_add();
        if let Some(code) = event.welcome_code.as_ref().filter(|_| present) {
            let welcome = Welcome { at: created_at, code: code.clone() };
            if self.welcome.as_ref().is_none_or(|known| *known < welcome) {
                self.welcome = Some(welcome);
            }
        }
        let relation = Relation { at: created_at, present, state: event.state.clone().filter(|_| present) };
        let at_if = |change| (event.change == change).then_some(created_at);
        self.change_follower(&event.user_id, |follower| {
            follower.half_added_at = follower.half_added_at.max(at_if(ContactChange::HalfAdded));
            follower.deleted_at = follower.deleted_at.max(at_if(ContactChange::DeletedByMember));
            if follower.relation.as_ref().is_none_or(|known| *known < relation) {
                follower.relation = Some(relation);
            }
        })
    }

    /// Applies a row of a list that was read at `seen_at` by our clock. Returns the change to report, as
    /// [`apply`](Self::apply) does.
    pub fn see(&mut self, sighting: &Sighting, seen_at: Timestamp) -> Option<ChangeType> {
        match &sighting.place {
            SightingPlace::Chat(chat_id) => {
                self.join(chat_id);
                None
            }
            SightingPlace::Follower { user_id, state } => {
                let since = sighting.since.unwrap_or(seen_at);
                self.change_follower(user_id, |follower| {
                    let row = Listed::new(since, state.clone(), seen_at);
                    follower.listed = Some(match follower.listed.take() {
                        Some(known) => known.merge(row),
                        None => row,
                    });
                })
            }
        }
    }

    /// Records that the customer is in a group, the most recent one.
    fn join(&mut self, chat_id: &ChatId) {
        if self.chats.last() != Some(chat_id) {
            self.chats.retain(|known| known != chat_id);
            self.chats.push(chat_id.clone());
            if self.chats.len() > CHATS_MAX {
                self.chats.remove(0);
            }
        }
    }

    /// The customer groups in which this customer was seen, the most recent one last.
    #[must_use]
    pub fn chats(&self) -> &[ChatId] {
        &self.chats
    }

    /// Records that the customer is not in a group, or that it no longer exists.
    pub fn leave(&mut self, chat_id: &ChatId) {
        self.chats.retain(|known| known != chat_id);
    }

    /// The group through which the next lookup is made; `None` if it is made through a follower. A customer
    /// with both is looked up through each in turn, because only one of them may be visible to the app.
    #[must_use]
    pub fn lookup_chat(&self) -> Option<&ChatId> {
        let chat_id = self.chats.last()?;
        let through_chat = self.lookup.is_some_and(|lookup| lookup.through_chat);
        let is_turn = through_chat || self.followers.iter().all(|follower| follower.now().is_none());
        is_turn.then_some(chat_id)
    }

    /// Whether the customer can be looked up in a way that it could not `before`: through another group, or
    /// through the first follower. `None`: the customer was not known.
    #[must_use]
    pub fn has_another_way_than(&self, before: Option<&Self>) -> bool {
        let chats = before.map_or(&[][..], Self::chats);
        let has_follower = |contact: &Self| contact.followers.iter().any(|follower| follower.now().is_some());
        self.chats.iter().any(|chat_id| !chats.contains(chat_id))
            || has_follower(self) && !before.is_some_and(has_follower)
    }

    /// Whether this customer can be looked up: through a follower or a group.
    #[must_use]
    pub fn can_be_looked_up(&self) -> bool {
        !self.chats.is_empty() || self.followers.iter().any(|follower| follower.now().is_some())
    }

    /// Whether `place` is a member of whom an add or a list is recorded, also if they do not follow the customer
    /// any more.
    #[must_use]
    pub fn knows_follower(&self, place: &SightingPlace) -> bool {
        let SightingPlace::Follower { user_id, .. } = place else { return false };
        let mut followers = self.followers.iter().filter(|follower| follower.user_id == *user_id);
        followers.any(|follower| follower.confirmed_at().is_some())
    }

    /// The instant since when this person is known to be a customer: when the earliest present follower was
    /// added, or when the customer first became known if that was earlier.
    #[must_use]
    pub fn known_since(&self) -> Timestamp {
        let followers = self.followers.iter().filter_map(Follower::now).map(|present| present.since);
        followers.fold(self.first_seen_at, Timestamp::min)
    }

    /// The missing followers after a complete traversal of the lists that began at `begun_at`: those present
    /// that no event and no list has confirmed since. A follower that has yet to confirm is in no list and is
    /// never missing.
    pub fn missing_since(&self, begun_at: Timestamp) -> impl Iterator<Item = &UserId> {
        let missing = move |follower: &&Follower| {
            follower.now().is_some()
                && !follower.is_half()
                && follower.confirmed_at().is_none_or(|at| at < begun_at)
        };
        self.followers.iter().filter(missing).map(|follower| &follower.user_id)
    }

    /// Records that a complete traversal of the lists, begun at `begun_at`, had no row for this follower.
    /// Returns the change to report, as [`apply`](Self::apply) does.
    pub fn miss(&mut self, user_id: &UserId, begun_at: Timestamp) -> Option<ChangeType> {
        self.change_follower(user_id, |follower| {
            follower.missed_at = follower.missed_at.max(Some(begun_at));
        })
    }

    /// Changes the record of one member, created if there is none. The order of the members is canonical, so
    /// that records with the same content are equal.
    fn change_follower(
        &mut self,
        user_id: &UserId,
        change: impl FnOnce(&mut Follower),
    ) -> Option<ChangeType> {
        let place = self.followers.binary_search_by(|follower| follower.user_id.cmp(user_id));
        let index = match place {
            Ok(index) => index,
            Err(index) => {
                self.followers.insert(index, Follower::new(user_id.clone()));
                index
            }
        };
        let follower = &mut self.followers[index];
        let before = follower.now();
        change(follower);
        let after = follower.now();
        self.prune();
        // With too many members, this one may have been dropped.
        let is_kept = self.followers.iter().any(|follower| follower.user_id == *user_id);
        let news = match (before, after) {
            (None, Some(_)) if is_kept => Some(ChangeType::FollowerAdded),
            (Some(_), None) => Some(ChangeType::FollowerRemoved),
            (Some(before), Some(after)) if before.state != after.state => Some(ChangeType::Changed),
            (None | Some(_), Some(_)) | (None, None) => None,
        };
        news.filter(|_| self.link.is_some())
    }

    /// Records the pending id that WeCom returned. Returns an earlier one that was dropped because too many
    /// are kept: the customer is no longer to be found under it.
    pub fn set_pending_id(&mut self, pending_id: &PendingId) -> Option<PendingId> {
        if self.pending_id.as_ref() == Some(pending_id) {
            return None;
        }
        self.earlier_pending_ids.retain(|earlier| earlier != pending_id);
        self.earlier_pending_ids.extend(self.pending_id.replace(pending_id.clone()));
        let too_many = self.earlier_pending_ids.len() > EARLIER_PENDING_IDS_MAX;
        too_many.then(|| self.earlier_pending_ids.remove(0))
    }

    /// Drops one member if there are more than [`FOLLOWERS_MAX`].
    fn prune(&mut self) {
        if self.followers.len() <= FOLLOWERS_MAX {
            return;
        }
        let oldest = (0..self.followers.len()).min_by_key(|index| {
            let follower = &self.followers[*index];
            (follower.now().is_some(), follower.newest_at(), follower.user_id.clone())
        });
        if let Some(index) = oldest {
            self.followers.remove(index);
        }
    }

    /// Applies a claim about who this customer is. Returns the change to report on the feed, if the link
    /// changes.
    ///
    /// A contact is one person: if two fans claim it, the fresher evidence wins, in whatever order the claims
    /// arrive.
    pub fn accept(&mut self, claim: &Claim, link_id: String, now: Timestamp) -> Option<ChangeType> {
        let Some(link) = &mut self.link else {
            self.link = Some(Link {
                link_id,
                unionid: claim.unionid.clone(),
                pending_id: claim.pending_id.clone(),
                source: claim.source.unwrap_or(self.source),
                linked_at: now,
                evidence_at: claim.evidence_at,
                chat_id: self.found_in.clone().filter(|_| claim.source.is_none()),
            });
            return Some(ChangeType::Created);
        };
        if link.unionid == claim.unionid {
            link.evidence_at = link.evidence_at.max(claim.evidence_at);
            if link.pending_id.is_none() {
                link.pending_id.clone_from(&claim.pending_id);
            }
            return None;
        }
        if (link.evidence_at, &link.unionid) >= (claim.evidence_at, &claim.unionid) {
            return None;
        }
        link.unionid = claim.unionid.clone();
        link.pending_id.clone_from(&claim.pending_id);
        link.evidence_at = claim.evidence_at;
        Some(ChangeType::Changed)
    }

    /// The members that follow the customer now, in the order in which they were added.
    #[must_use]
    pub fn followers_now(&self) -> Vec<FollowerData> {
        let data = |follower: &Follower| {
            let Present { since, state } = follower.now()?;
            Some(FollowerData { user_id: follower.user_id.clone(), state, added_at: since })
        };
        let mut present: Vec<_> = self.followers.iter().filter_map(data).collect();
        present.sort_by(|a, b| (a.added_at, &a.user_id).cmp(&(b.added_at, &b.user_id)));
        present
    }

    /// This customer's link as reported to the brand at `now`; `None` if there is none. Without the dealer's
    /// name, which the store adds.
    #[must_use]
    pub fn link_data(&self, key: &ContactKey, now: Timestamp) -> Option<LinkData> {
        let link = self.link.as_ref()?;
        Some(LinkData {
            link_id: link.link_id.clone(),
            app: key.app.clone(),
            unionid: link.unionid.clone(),
            external_userid: key.external_userid.clone(),
            corp_id: key.corp_id.clone(),
            corp_name: None,
            pending_id: link.pending_id.clone(),
            source: link.source,
            chat_id: link.chat_id.clone(),
            followers: self.followers_now(),
            welcome_code: self.welcome_code(now).map(str::to_owned),
            linked_at: link.linked_at,
        })
    }

    /// The newest welcome code, if it can still be used at `now`.
    #[must_use]
    pub fn welcome_code(&self, now: Timestamp) -> Option<&str> {
        self.welcome
            .as_ref()
            .filter(|_| self.welcome_until() > Some(now))
            .map(|welcome| welcome.code.as_str())
    }

    /// The instant until which the newest welcome code can be used; `None` without one.
    #[must_use]
    pub fn welcome_until(&self) -> Option<Timestamp> {
        self.welcome.as_ref().map(|welcome| welcome.at.plus_ms(WELCOME_CODE_LIFE_MS))
    }

    /// Removes the welcome code if it can no longer be used at `now`.
    pub fn drop_expired_welcome_code(&mut self, now: Timestamp) {
        if self.welcome_code(now).is_none() {
            self.welcome = None;
        }
    }
}

impl From<ContactVersion1> for Contact {
    fn from(old: ContactVersion1) -> Self {
        let follower = |FollowerVersion1 { user_id, relation }| Follower {
            user_id,
            relation: Some(relation),
            half_added_at: None,
            deleted_at: None,
            listed: None,
            missed_at: None,
        };
        let lookup = |LookupRetry { asked, due_at }| Lookup {
            asked,
            due_at,
            refused: None,
            haste: Haste::Background,
            task: None,
            through_chat: false,
        };
        let link = |old: LinkVersion1| Link {
            link_id: old.link_id,
            unionid: old.unionid,
            pending_id: old.pending_id,
            source: old.source,
            linked_at: old.linked_at,
            evidence_at: old.evidence_at,
            chat_id: None,
        };
        Self {
            followers: old.followers.into_iter().map(follower).collect(),
            source: old.source,
            first_seen_at: old.first_seen_at,
            found_in: None,
            chats: Vec::new(),
            pending_id: old.pending_id,
            earlier_pending_ids: old.earlier_pending_ids,
            // Without a lookup, the customer is looked up again when one of WeCom's lists has them.
            lookup: old.lookup_retry.filter(|retry| retry.due_at.is_some()).map(lookup),
            welcome: old.welcome.map(|WelcomeVersion1 { at, code }| Welcome { at, code }),
            link: old.link.map(link),
        }
    }
}

#[cfg(test)]
mod tests;
