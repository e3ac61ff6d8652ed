//! Who takes part, and what the outside world may count on: what was acknowledged to whom.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use unionlink::domain::fan::Minted;
use unionlink::domain::ids::{ExternalUserid, FanKey, Unionid};
use unionlink::domain::time::Timestamp;
use unionlink::simulator::{Dealer, Person};

use crate::service::app_name;

/// A person, and what the brand did about them.
pub struct Somebody {
    pub person: Person,
    /// A registration was acknowledged and not taken back since by forgetting.
    pub is_fan: bool,
    /// Was forgotten, or perhaps was: the answer was lost.
    pub forgotten: bool,
    /// Nobody registered them since they were forgotten under their unionid.
    pub stays_forgotten: bool,
    /// What another system minted for them, newest last; the next registration tells the service of the newest.
    pub minted_elsewhere: Vec<Minted>,
}

impl Somebody {
    pub fn unionid(&self) -> Unionid {
        Unionid::new(&self.person.unionid).unwrap()
    }

    pub fn key(&self) -> FanKey {
        FanKey { app: app_name(), unionid: self.unionid() }
    }
}

/// One event that WeCom had to tell.
pub struct Told {
    pub member: String,
    pub at_secs: i64,
    /// An add, half or whole, or a removal.
    pub present: bool,
    /// A whole add.
    pub confirmed: bool,
    pub state: Option<String>,
    acknowledged: Arc<AtomicBool>,
}

impl Told {
    pub fn new(member: &str, at_secs: i64, present: bool, confirmed: bool, state: Option<&str>) -> Self {
        let (member, state) = (member.to_owned(), state.map(str::to_owned));
        Self { member, at_secs, present, confirmed, state, acknowledged: Arc::default() }
    }

    /// To be raised when the service answers 200.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.acknowledged.clone()
    }

    pub fn is_acknowledged(&self) -> bool {
        self.acknowledged.load(Ordering::Relaxed)
    }
}

/// A person as a dealer's customer.
pub struct Pair {
    pub external_userid: ExternalUserid,
    pub told: Vec<Told>,
    /// The pending id that this customer is found by: the newest that was alive when they became friends for good.
    pub found_by: Option<String>,
    /// When that was.
    pub befriended_at: Option<Timestamp>,
    /// Enough questions were asked in vain while WeCom had nothing to say.
    pub given_up: bool,
}

impl Pair {
    pub fn new(external_userid: &str) -> Self {
        let external_userid = ExternalUserid::new(external_userid).unwrap();
        Self { external_userid, told: Vec::new(), found_by: None, befriended_at: None, given_up: false }
    }

    /// The service was told, and said so, that this is a customer.
    pub fn is_known(&self) -> bool {
        self.told.iter().any(|told| told.confirmed && told.is_acknowledged())
    }

    /// The members who follow this customer, if the service was told everything.
    pub fn followers(&self) -> Option<Vec<String>> {
        let mut newest: BTreeMap<&str, (i64, bool, &Option<String>)> = BTreeMap::new();
        for told in &self.told {
            if !told.is_acknowledged() {
                return None;
            }
            let state = if told.present { &told.state } else { &None };
            let news = (told.at_secs, told.present, state);
            newest.entry(&told.member).and_modify(|known| *known = news.max(*known)).or_insert(news);
        }
        let present = newest.into_iter().filter(|(_, (_, present, _))| *present);
        Some(present.map(|(member, _)| member.to_owned()).collect())
    }
}

/// A dealer.
pub struct Shop {
    pub dealer: Dealer,
    /// Did not share the app at some time.
    pub was_unshared: bool,
}

/// Everybody.
#[derive(Default)]
pub struct Cast {
    pub people: Vec<Somebody>,
    pub shops: Vec<Shop>,
    /// By person and dealer.
    pub pairs: BTreeMap<(usize, usize), Pair>,
}
