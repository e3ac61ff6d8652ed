//! The dealer's side: what is known about one customer.
//!
//! Events arrive in any order and more than once. Every change is a maximum over a total order ("the newest
//! `CreateTime` wins"), so it is commutative and idempotent by construction; the tests at the end check it on
//! random histories.
//!
//! Deliberately absent: the queue of customers to be looked up again, which is the store's.

use serde::{Deserialize, Serialize};

use super::event::{ContactEvent, WELCOME_CODE_LIFE_MS};
use super::ids::{ContactKey, PendingId, UserId};
use super::link::{ChangeType, Claim, FollowerData, Link, LinkData, Source};
use super::time::Timestamp;

/// Maximum number of followers kept for one customer. Beyond it those who have left are dropped first, then
/// those who still follow; within each group the one with the oldest event first.
pub const FOLLOWERS_MAX: usize = 48;

/// Maximum number of earlier pending ids kept for one customer; normally there are none.
const EARLIER_PENDING_IDS_MAX: usize = 4;

/// What is known about a customer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// Members who follow, or used to follow, this customer.
    followers: Vec<Follower>,
    /// How this customer first became known.
    pub source: Source,
    /// When this customer first became known.
    pub first_seen_at: Timestamp,
    /// The pending id that WeCom returned last.
    pub pending_id: Option<PendingId>,
    /// Those it returned before, newest last; a fan minted with one of these is this customer too.
    pub earlier_pending_ids: Vec<PendingId>,
    /// The lookups that found no pending id; `None` before the first one and once the customer is identified.
    pub lookup_retry: Option<LookupRetry>,
    /// The newest welcome code.
    welcome: Option<Welcome>,
    /// The link to a fan, once there is one.
    pub link: Option<Link>,
}

/// The lookups of a customer for whom WeCom returned no pending id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookupRetry {
    /// Number of lookups so far.
    pub asked: u32,
    /// When the next lookup is due; `None` after the last one of the schedule.
    pub due_at: Option<Timestamp>,
}

/// A member's relation to the customer, as of one event. The derived `Ord` decides which of two events about
/// the same member wins, so the order of the fields is the order of precedence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Relation {
    at: Timestamp,
    // Within one second an add beats a removal: a follower shown too long does less harm than one lost.
    present: bool,
    state: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Follower {
    user_id: UserId,
    relation: Relation,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Welcome {
    at: Timestamp,
    code: String,
}

impl Contact {
    /// A customer about whom nothing else is known yet.
    #[must_use]
    pub const fn new(source: Source, first_seen_at: Timestamp) -> Self {
        Self {
            followers: Vec::new(),
            source,
            first_seen_at,
            pending_id: None,
            earlier_pending_ids: Vec::new(),
            lookup_retry: None,
            welcome: None,
            link: None,
        }
    }

    /// Applies an event about a follower. Returns the change to report on the feed, if the customer is linked
    /// and the event changes anything.
    pub fn apply(&mut self, event: &ContactEvent, created_at: Timestamp) -> Option<ChangeType> {
        let present = event.change.is_add();
        if let Some(code) = event.welcome_code.as_ref().filter(|_| present) {
            let welcome = Welcome { at: created_at, code: code.clone() };
            if self.welcome.as_ref().is_none_or(|known| *known < welcome) {
                self.welcome = Some(welcome);
            }
        }
        let relation = Relation { at: created_at, present, state: event.state.clone().filter(|_| present) };
        let change = match self.followers.iter_mut().find(|f| f.user_id == event.user_id) {
            Some(known) if known.relation >= relation => return None,
            Some(known) => {
                let before = std::mem::replace(&mut known.relation, relation);
                match (before.present, known.relation.present) {
                    (false, true) => Some(ChangeType::FollowerAdded),
                    (true, false) => Some(ChangeType::FollowerRemoved),
                    (true, true) if before.state != known.relation.state => Some(ChangeType::Changed),
                    (true, true) | (false, false) => None,
                }
            }
            None => {
                self.followers.push(Follower { user_id: event.user_id.clone(), relation });
                self.prune();
                // With too many followers, the new one may be the one that was dropped.
                let kept = self.followers.iter().any(|f| f.user_id == event.user_id);
                (present && kept).then_some(ChangeType::FollowerAdded)
            }
        };
        // In canonical order, so that records with the same content are equal.
        self.followers.sort_by(|a, b| a.user_id.cmp(&b.user_id));
        change.filter(|_| self.link.is_some())
    }

    /// Records the pending id that WeCom returned. Returns an earlier one that was dropped because there are
    /// too many: the customer is no longer found under it.
    pub fn set_pending_id(&mut self, pending_id: &PendingId) -> Option<PendingId> {
        if self.pending_id.as_ref() == Some(pending_id) {
            return None;
        }
        self.earlier_pending_ids.retain(|earlier| earlier != pending_id);
        self.earlier_pending_ids.extend(self.pending_id.replace(pending_id.clone()));
        let too_many = self.earlier_pending_ids.len() > EARLIER_PENDING_IDS_MAX;
        too_many.then(|| self.earlier_pending_ids.remove(0))
    }

    fn prune(&mut self) {
        if self.followers.len() <= FOLLOWERS_MAX {
            return;
        }
        let oldest = (0..self.followers.len()).min_by_key(|i| {
            let follower = &self.followers[*i];
            (follower.relation.present, follower.relation.at, follower.user_id.clone())
        });
        if let Some(index) = oldest {
            self.followers.remove(index);
        }
    }

    /// Applies a claim about who this customer is. Returns the change to report on the feed, if the link
    /// changes.
    ///
    /// A contact is one person: should two fans ever claim it, the fresher evidence wins, in whatever order
    /// the claims arrive.
    pub fn accept(&mut self, claim: &Claim, link_id: String, now: Timestamp) -> Option<ChangeType> {
        let Some(link) = &mut self.link else {
            self.link = Some(Link {
                link_id,
                unionid: claim.unionid.clone(),
                pending_id: claim.pending_id.clone(),
                source: claim.source.unwrap_or(self.source),
                linked_at: now,
                evidence_at: claim.evidence_at,
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

    /// The members who follow the customer now, earliest first.
    #[must_use]
    pub fn followers_now(&self) -> Vec<FollowerData> {
        let mut present: Vec<_> = self
            .followers
            .iter()
            .filter(|f| f.relation.present)
            .map(|f| FollowerData {
                user_id: f.user_id.clone(),
                state: f.relation.state.clone(),
                added_at: f.relation.at,
            })
            .collect();
        present.sort_by(|a, b| (a.added_at, &a.user_id).cmp(&(b.added_at, &b.user_id)));
        present
    }

    /// This customer's link as reported to the brand at `now`, if there is one; without the dealer's name,
    /// which the store adds.
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
            followers: self.followers_now(),
            welcome_code: self.welcome_code(now).map(str::to_owned),
            linked_at: link.linked_at,
        })
    }

    /// The welcome code, while it can still be used.
    #[must_use]
    pub fn welcome_code(&self, now: Timestamp) -> Option<&str> {
        self.welcome
            .as_ref()
            .filter(|_| self.welcome_until() > Some(now))
            .map(|welcome| welcome.code.as_str())
    }

    /// Until when the newest welcome code can be used.
    #[must_use]
    pub fn welcome_until(&self) -> Option<Timestamp> {
        self.welcome.as_ref().map(|welcome| welcome.at.plus_ms(WELCOME_CODE_LIFE_MS))
    }

    /// Drops a welcome code that can no longer be used.
    pub fn drop_expired_welcome_code(&mut self, now: Timestamp) {
        if self.welcome_code(now).is_none() {
            self.welcome = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::ContactChange;
    use super::super::ids::{AppName, CorpId, ExternalUserid, Unionid};
    use super::*;
    use proptest::prelude::*;

    fn event(user: u8, change: ContactChange, state: Option<u8>) -> ContactEvent {
        ContactEvent {
            change,
            user_id: UserId::new(format!("member{user}")).unwrap(),
            external_userid: ExternalUserid::new("wmINVENTED").unwrap(),
            state: state.map(|s| format!("state{s}")),
            welcome_code: None,
        }
    }

    fn histories() -> impl Strategy<Value = Vec<(ContactEvent, Timestamp)>> {
        let change = prop_oneof![
            Just(ContactChange::Added),
            Just(ContactChange::HalfAdded),
            Just(ContactChange::DeletedByMember),
            Just(ContactChange::DeletedByCustomer),
        ];
        let one = (0_u8..3, change, proptest::option::of(0_u8..2), 0_i64..5)
            .prop_map(|(user, change, state, at)| (event(user, change, state), Timestamp::from_secs(at)));
        proptest::collection::vec(one, 0..12)
    }

    fn after(history: &[(ContactEvent, Timestamp)]) -> Contact {
        let mut contact = Contact::new(Source::Callback, Timestamp::EPOCH);
        for (event, at) in history {
            contact.apply(event, *at);
        }
        contact
    }

    proptest! {
        #[test]
        fn any_order_and_repetition_of_the_same_events_gives_the_same_contact(
            history in histories(), shuffle in proptest::collection::vec(any::<usize>(), 24)
        ) {
            let mut other = history.clone();
            other.extend(history.iter().rev().cloned());
            for (i, j) in shuffle.iter().enumerate() {
                if !other.is_empty() {
                    let (a, b) = (i % other.len(), j % other.len());
                    other.swap(a, b);
                }
            }
            prop_assert_eq!(after(&history), after(&other));
        }
    }

    #[test]
    fn an_older_add_does_not_bring_back_a_follower_who_left() {
        let mut contact = Contact::new(Source::Callback, Timestamp::EPOCH);
        contact.apply(&event(1, ContactChange::DeletedByMember, None), Timestamp::from_secs(20));
        contact.apply(&event(1, ContactChange::Added, None), Timestamp::from_secs(10));
        assert!(contact.followers_now().is_empty());
        contact.apply(&event(1, ContactChange::Added, Some(1)), Timestamp::from_secs(30));
        assert_eq!(contact.followers_now().len(), 1);
    }

    #[test]
    fn a_welcome_code_can_be_used_for_twenty_seconds() {
        let mut contact = Contact::new(Source::Callback, Timestamp::EPOCH);
        let mut add = event(1, ContactChange::Added, None);
        add.welcome_code = Some("CODE".to_owned());
        contact.apply(&add, Timestamp::from_secs(100));
        assert_eq!(contact.welcome_code(Timestamp::from_secs(119)), Some("CODE"));
        assert_eq!(contact.welcome_code(Timestamp::from_secs(120)), None);
    }

    #[test]
    fn the_number_of_followers_kept_is_bounded_and_those_who_left_go_first() {
        let mut contact = Contact::new(Source::Callback, Timestamp::EPOCH);
        contact.apply(&event(0, ContactChange::DeletedByMember, None), Timestamp::from_secs(1_000));
        for n in 0..FOLLOWERS_MAX {
            let mut add = event(1, ContactChange::Added, None);
            add.user_id = UserId::new(format!("m{n}")).unwrap();
            contact.apply(&add, Timestamp::from_secs(i64::try_from(n).unwrap()));
        }
        assert_eq!(contact.followers_now().len(), FOLLOWERS_MAX);
        // An add that is older than all of them changes nothing, not even for a linked customer.
        let claim = Claim {
            contact: ContactKey {
                app: AppName::new("brand").unwrap(),
                corp_id: CorpId::new("wpDEALER").unwrap(),
                external_userid: ExternalUserid::new("wmINVENTED").unwrap(),
            },
            unionid: Unionid::new("oFAN").unwrap(),
            pending_id: None,
            source: None,
            evidence_at: Timestamp::EPOCH,
        };
        contact.accept(&claim, "lnk_1".to_owned(), Timestamp::EPOCH);
        let before = contact.clone();
        assert_eq!(contact.apply(&event(9, ContactChange::Added, None), Timestamp::from_secs(-1)), None);
        assert_eq!(contact, before);
        assert!(contact.apply(&event(9, ContactChange::Added, None), Timestamp::from_secs(2_000)).is_some());
    }
}
