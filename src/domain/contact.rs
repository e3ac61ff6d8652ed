//! The dealer's side: what is known of one customer, whatever order and however often the news arrives.
//!
//! Every change is a maximum over a total order ("the newest `CreateTime` wins"), so it is commutative and
//! idempotent by construction; the tests at the end check it on random histories.

use serde::{Deserialize, Serialize};

use super::event::{ContactEvent, WELCOME_CODE_LIFE_MS};
use super::ids::{ContactKey, PendingId, UserId};
use super::link::{ChangeType, Claim, FollowerData, Link, LinkData, Source};
use super::time::Timestamp;

/// The most followers kept for one customer of one dealer, gone ones included. Beyond it the one whose news
/// is oldest goes first, those who left before those who stay.
pub const FOLLOWERS_MAX: usize = 48;

/// Earlier pending ids kept of one customer; in the usual life there is none.
const EARLIER_PENDING_IDS_MAX: usize = 4;

/// What is kept of a customer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// Members who follow, or used to follow, this customer.
    followers: Vec<Follower>,
    /// How we learnt of this customer first.
    pub source: Source,
    /// When we learnt of this customer.
    pub first_seen_at: Timestamp,
    /// What WeCom said this customer's pending id is.
    pub pending_id: Option<PendingId>,
    /// What it said before, newest last; a fan minted with one of these is this customer too.
    pub earlier_pending_ids: Vec<PendingId>,
    /// How often WeCom was asked without an answer, and when the next question is due.
    pub waiting: Option<Waiting>,
    /// The newest welcome code.
    welcome: Option<Welcome>,
    /// Who this is, once known.
    pub link: Option<Link>,
}

/// A customer about whom WeCom had nothing to say yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Questions that found nothing.
    pub asked: u32,
    /// When the next question is due; `None` once enough were asked.
    pub due_at: Option<Timestamp>,
}

/// One member's relation to the customer. The order of the fields is the order of precedence: the derived
/// `Ord` decides which of two pieces of news about the same member stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct News {
    at: Timestamp,
    // Within one second an add beats a removal: a customer shown too long does less harm than one lost.
    present: bool,
    state: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Follower {
    user_id: UserId,
    news: News,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Welcome {
    at: Timestamp,
    code: String,
}

impl Contact {
    /// A customer just heard of.
    #[must_use]
    pub const fn new(source: Source, first_seen_at: Timestamp) -> Self {
        Self {
            followers: Vec::new(),
            source,
            first_seen_at,
            pending_id: None,
            earlier_pending_ids: Vec::new(),
            waiting: None,
            welcome: None,
            link: None,
        }
    }

    /// Takes what an event says about a follower. Returns the change to tell, if this is a linked customer
    /// and the news is new.
    pub fn follow(&mut self, event: &ContactEvent, created_at: Timestamp) -> Option<ChangeType> {
        let present = event.change.is_add();
        if let Some(code) = event.welcome_code.as_ref().filter(|_| present) {
            let welcome = Welcome { at: created_at, code: code.clone() };
            if self.welcome.as_ref().is_none_or(|known| *known < welcome) {
                self.welcome = Some(welcome);
            }
        }
        let news = News { at: created_at, present, state: event.state.clone().filter(|_| present) };
        let change = match self.followers.iter_mut().find(|f| f.user_id == event.user_id) {
            Some(known) if known.news >= news => return None,
            Some(known) => {
                let before = std::mem::replace(&mut known.news, news);
                match (before.present, known.news.present) {
                    (false, true) => Some(ChangeType::FollowerAdded),
                    (true, false) => Some(ChangeType::FollowerRemoved),
                    (true, true) if before.state != known.news.state => Some(ChangeType::Changed),
                    (true, true) | (false, false) => None,
                }
            }
            None => {
                self.followers.push(Follower { user_id: event.user_id.clone(), news });
                self.prune();
                // Where there are too many, old news may be gone again at once.
                let kept = self.followers.iter().any(|f| f.user_id == event.user_id);
                (present && kept).then_some(ChangeType::FollowerAdded)
            }
        };
        // One canonical order, so that equal knowledge is an equal record.
        self.followers.sort_by(|a, b| a.user_id.cmp(&b.user_id));
        change.filter(|_| self.link.is_some())
    }

    /// Takes what WeCom says this customer's pending id is. Returns one that the customer is not found under any more,
    /// because there are too many.
    pub fn resolved(&mut self, pending_id: &PendingId) -> Option<PendingId> {
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
            (follower.news.present, follower.news.at, follower.user_id.clone())
        });
        if let Some(index) = oldest {
            self.followers.remove(index);
        }
    }

    /// Takes a claim about who this is. Returns the change to tell, if it is one.
    ///
    /// A contact is one person: should two fans ever claim it, the fresher evidence stands, in whatever order
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

    /// Who follows the customer now, earliest first.
    #[must_use]
    pub fn followers_now(&self) -> Vec<FollowerData> {
        let mut present: Vec<_> = self
            .followers
            .iter()
            .filter(|f| f.news.present)
            .map(|f| FollowerData {
                user_id: f.user_id.clone(),
                state: f.news.state.clone(),
                added_at: f.news.at,
            })
            .collect();
        present.sort_by(|a, b| (a.added_at, &a.user_id).cmp(&(b.added_at, &b.user_id)));
        present
    }

    /// This customer's link as reported to the brand at `now`, if there is one.
    #[must_use]
    pub fn link_data(&self, key: &ContactKey, now: Timestamp) -> Option<LinkData> {
        let link = self.link.as_ref()?;
        Some(LinkData {
            link_id: link.link_id.clone(),
            app: key.app.clone(),
            unionid: link.unionid.clone(),
            external_userid: key.external_userid.clone(),
            corp_id: key.corp_id.clone(),
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
    pub fn drop_stale_welcome(&mut self, now: Timestamp) {
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
            contact.follow(event, *at);
        }
        contact
    }

    proptest! {
        #[test]
        fn any_order_and_repetition_of_the_same_news_ends_the_same(
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
        contact.follow(&event(1, ContactChange::DeletedByMember, None), Timestamp::from_secs(20));
        contact.follow(&event(1, ContactChange::Added, None), Timestamp::from_secs(10));
        assert!(contact.followers_now().is_empty());
        contact.follow(&event(1, ContactChange::Added, Some(1)), Timestamp::from_secs(30));
        assert_eq!(contact.followers_now().len(), 1);
    }

    #[test]
    fn a_welcome_code_is_told_for_twenty_seconds() {
        let mut contact = Contact::new(Source::Callback, Timestamp::EPOCH);
        let mut add = event(1, ContactChange::Added, None);
        add.welcome_code = Some("CODE".to_owned());
        contact.follow(&add, Timestamp::from_secs(100));
        assert_eq!(contact.welcome_code(Timestamp::from_secs(119)), Some("CODE"));
        assert_eq!(contact.welcome_code(Timestamp::from_secs(120)), None);
    }

    #[test]
    fn the_number_of_followers_kept_is_bounded_and_those_who_left_go_first() {
        let mut contact = Contact::new(Source::Callback, Timestamp::EPOCH);
        contact.follow(&event(0, ContactChange::DeletedByMember, None), Timestamp::from_secs(1_000));
        for n in 0..FOLLOWERS_MAX {
            let mut add = event(1, ContactChange::Added, None);
            add.user_id = UserId::new(format!("m{n}")).unwrap();
            contact.follow(&add, Timestamp::from_secs(i64::try_from(n).unwrap()));
        }
        assert_eq!(contact.followers_now().len(), FOLLOWERS_MAX);
        // Even of a linked customer nothing is told of one who is older than all of them.
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
        assert_eq!(contact.follow(&event(9, ContactChange::Added, None), Timestamp::from_secs(-1)), None);
        assert_eq!(contact, before);
        assert!(contact.follow(&event(9, ContactChange::Added, None), Timestamp::from_secs(2_000)).is_some());
    }
}
