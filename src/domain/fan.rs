//! The brand's side: a person known by unionid and openid, the pending ids minted for them, and what time does
//! to both.
//!
//! A fan's life is a function of what is kept and the instant passed in: [`Fan::review`] says what time alone
//! changes, [`Fan::review_at`] when to look again. The store keeps each fan in a queue for every call to be made
//! ([`Fan::queued_for`]) and on a timeline for its next review; nobody ever walks through all fans.

mod priority;

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

pub use priority::{Priority, QuotaClass};

use super::ids::{Openid, PendingId};
use super::time::{DAY_MS, Timestamp};

/// How long a pending id can be exchanged (document 97357).
pub const PENDING_ID_LIFE_MS: i64 = 90 * DAY_MS;
/// The age at which a fan is minted again, so that the old pending id covers the wait.
pub const RENEW_AFTER_MS: i64 = 85 * DAY_MS;
/// How long a pending id still joins after its end: WeCom may have exchanged it in its last minute, for an event
/// that was held up since.
pub const KEPT_AFTER_END_MS: i64 = 7 * DAY_MS;
/// Pending ids kept of one fan at once; in the usual life there are two for a few days in ninety.
const IDS_MAX: usize = 4;
/// The age given to an imported pending id of unknown age: it joins at once, and is renewed from the fifth day on.
const ASSUMED_AGE_MS: i64 = 80 * DAY_MS;

/// What is kept of a fan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fan {
    /// The person inside the brand's mini program.
    pub openid: Openid,
    /// When the brand told us: for the first time, or again after somebody was forgotten.
    pub registered_at: Timestamp,
    /// The pending ids that join, newest last.
    pub ids: Vec<Minted>,
    /// Whether the newest of them was within its life when last looked at.
    pub live: bool,
    /// What is next for the pending id.
    pub mint: Mint,
    /// Whether WeCom was asked which dealers have this person already.
    pub existing: Existing,
    /// Failed tries of the current call in a row.
    pub attempts: u32,
}

/// A pending id and its age.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Minted {
    /// The bridge to the dealers' side.
    pub pending_id: PendingId,
    /// When it was obtained.
    pub minted_at: Timestamp,
}

impl Minted {
    /// A pending id obtained at `minted_at`.
    #[must_use]
    pub const fn new(pending_id: PendingId, minted_at: Timestamp) -> Self {
        Self { pending_id, minted_at }
    }

    /// A pending id somebody else obtained, `minted_at` if that is known.
    #[must_use]
    pub fn imported(pending_id: PendingId, minted_at: Option<Timestamp>, now: Timestamp) -> Self {
        let minted_at = minted_at.unwrap_or(now.plus_ms(-ASSUMED_AGE_MS));
        Self { pending_id, minted_at: minted_at.min(now) }
    }

    /// When WeCom stops exchanging it.
    #[must_use]
    pub const fn expires_at(&self) -> Timestamp {
        self.minted_at.plus_ms(PENDING_ID_LIFE_MS)
    }

    const fn renew_at(&self) -> Timestamp {
        self.minted_at.plus_ms(RENEW_AFTER_MS)
    }

    const fn forgotten_at(&self) -> Timestamp {
        self.expires_at().plus_ms(KEPT_AFTER_END_MS)
    }
}

/// What is next for a fan's pending id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mint {
    /// Nothing before the newest pending id is due for renewal.
    Idle,
    /// Nothing before its end: it is not to be renewed, or WeCom gave the same one again and may not have
    /// prolonged it.
    UntilEnd,
    /// To be minted, for the first time or again.
    Queued(Priority),
    /// Over, and not to be minted again unless the fan is registered again.
    Expired,
    /// WeCom refuses this pair of ids for good.
    Rejected {
        /// WeCom's code.
        errcode: i64,
        /// When it said so.
        at: Timestamp,
    },
}

/// Whether WeCom was asked which dealers already have this fan as a customer. Such customers cannot be found
/// through a pending id minted afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Existing {
    /// The app does not want this question asked.
    Off,
    /// Not yet asked.
    Due(Priority),
    /// Asked.
    Asked {
        /// When.
        at: Timestamp,
        /// How many customers came back.
        found: u32,
    },
    /// Refused for good.
    Refused {
        /// WeCom's code.
        errcode: i64,
        /// When it said so.
        at: Timestamp,
    },
}

/// The two calls made for a fan, each with a queue and a quota of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum FanStep {
    /// `unionid_to_pending_id`.
    Mint,
    /// `unionid_to_external_userid`.
    AskExisting,
}

impl FanStep {
    /// Both, in the order in which they are made.
    pub const ALL: [Self; 2] = [Self::Mint, Self::AskExisting];
}

/// Whose pending ids are renewed before their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Renew {
    /// Everybody's.
    #[default]
    All,
    /// Of those whom no dealer has added yet.
    Unlinked,
    /// Nobody's.
    Never,
}

impl Renew {
    const fn wants(self, linked: bool) -> bool {
        match self {
            Self::All => true,
            Self::Unlinked => !linked,
            Self::Never => false,
        }
    }
}

/// How far a fan is, as told to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum FanState {
    /// Waiting to be minted.
    Queued,
    /// A pending id is within its life.
    Minted,
    /// There was one, and it is over.
    Expired,
    /// WeCom refuses this pair of ids.
    Rejected,
}

/// What became of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// Not known before.
    New,
    /// Known, and nothing the brand said was new.
    Known,
    /// Known; the openid was replaced, a pending id was added, or a rejected or expired fan got another chance.
    Changed,
    /// The record of this fan is damaged; it was left alone.
    Damaged,
}

impl Fan {
    /// A fan just registered.
    #[must_use]
    pub const fn new(openid: Openid, now: Timestamp, ask_existing: bool, priority: Priority) -> Self {
        Self {
            openid,
            registered_at: now,
            ids: Vec::new(),
            live: false,
            mint: Mint::Queued(priority),
            existing: if ask_existing { Existing::Due(priority) } else { Existing::Off },
            attempts: 0,
        }
    }

    /// In which queue of `step` this fan has to be, if in any. The mint comes first: it is what makes tomorrow's
    /// adds recognisable, while the question about existing customers can wait.
    #[must_use]
    pub const fn queued_for(&self, step: FanStep) -> Option<Priority> {
        match (step, self.mint, self.existing) {
            (FanStep::Mint, Mint::Queued(priority), _) => Some(priority),
            (FanStep::AskExisting, _, Existing::Due(priority)) if !self.ids.is_empty() => Some(priority),
            _ => None,
        }
    }

    /// The newest pending id.
    #[must_use]
    pub fn newest(&self) -> Option<&Minted> {
        self.ids.last()
    }

    /// How far the fan is.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> FanState {
        match (self.newest(), self.mint) {
            (Some(newest), _) if now < newest.expires_at() => FanState::Minted,
            (_, Mint::Rejected { .. }) => FanState::Rejected,
            (None, Mint::Queued(_)) => FanState::Queued,
            (_, Mint::Queued(_) | Mint::Idle | Mint::UntilEnd | Mint::Expired) => FanState::Expired,
        }
    }

    /// Takes a repeated registration. Returns whether it said anything new.
    ///
    /// A new openid replaces the old one. A fan that was rejected or whose pending id is over gets another chance
    /// either way, and one that waits moves up if `priority` is more urgent.
    pub fn register_again(&mut self, openid: &Openid, priority: Priority) -> bool {
        let again = matches!(self.mint, Mint::Rejected { .. } | Mint::Expired);
        let refused = matches!(self.existing, Existing::Refused { .. });
        let more_urgent = |waits: Priority| priority < waits;
        if again || matches!(self.mint, Mint::Queued(waits) if !self.live && more_urgent(waits)) {
            self.mint = Mint::Queued(priority);
        }
        if refused || matches!(self.existing, Existing::Due(waits) if more_urgent(waits)) {
            self.existing = Existing::Due(priority);
        }
        let news = self.openid != *openid || again || refused;
        if news {
            self.openid = openid.clone();
            self.attempts = 0;
        }
        news
    }

    /// Takes a pending id that somebody else obtained. Returns whether it is of use: live at `now`, and new.
    pub fn adopt(&mut self, minted: Minted, now: Timestamp) -> bool {
        let known = self.ids.iter().any(|known| known.pending_id == minted.pending_id);
        let no_room = self.ids.len() >= IDS_MAX && self.ids.iter().all(|id| minted.minted_at < id.minted_at);
        if minted.expires_at() <= now || known || no_room {
            return false;
        }
        if self.newest().is_none_or(|newest| newest.minted_at < minted.minted_at) {
            self.look_for_missed(&minted);
        }
        self.ids.push(minted);
        self.in_order();
        self.live = true;
        self.attempts = 0;
        self.mint = Mint::Idle;
        true
    }

    /// WeCom is asked about existing customers again, unless the newest pending id is still one held to be alive. Whoever
    /// was added meanwhile may be known by one that never came here: the answer to a call was lost, one ended before it
    /// was thought to, or there was none.
    fn look_for_missed(&mut self, minted: &Minted) {
        let goes_on = |id: &Minted| id.pending_id == minted.pending_id && minted.minted_at < id.expires_at();
        if matches!(self.existing, Existing::Asked { .. }) && !self.ids.iter().any(goes_on) {
            self.existing = Existing::Due(Priority::Renew);
        }
    }

    /// Takes WeCom's answer to a mint. `same_id_extends` says what the same pending id means when it is given
    /// again before its end, which is not documented: another 90 days, or nothing, so that it has to be asked
    /// for again when it has ended.
    pub fn minted(&mut self, minted: Minted, same_id_extends: bool) {
        self.look_for_missed(&minted);
        self.attempts = 0;
        self.live = true;
        self.mint = Mint::Idle;
        match self.ids.iter_mut().find(|known| known.pending_id == minted.pending_id) {
            Some(known) if same_id_extends || known.expires_at() <= minted.minted_at => {
                known.minted_at = minted.minted_at;
            }
            Some(_) => self.mint = Mint::UntilEnd,
            None => self.ids.push(minted),
        }
        self.in_order();
    }

    /// WeCom refuses this pair of ids. What was minted before keeps joining.
    pub const fn rejected(&mut self, errcode: i64, now: Timestamp) {
        self.attempts = 0;
        self.mint = Mint::Rejected { errcode, at: now };
    }

    fn in_order(&mut self) {
        self.ids.sort_by_key(|id| id.minted_at);
        let too_many = self.ids.len().saturating_sub(IDS_MAX);
        self.ids.drain(..too_many);
    }

    /// When time alone next changes something, if ever.
    #[must_use]
    pub fn review_at(&self) -> Option<Timestamp> {
        let (newest, older) = self.ids.split_last()?;
        let next = match (self.live, self.mint) {
            (true, Mint::Idle) => newest.renew_at(),
            (true, _) => newest.expires_at(),
            (false, _) => newest.forgotten_at(),
        };
        older.iter().map(Minted::forgotten_at).chain([next]).min()
    }

    /// Does what time alone does up to `now`: pending ids are due for renewal, end, and are forgotten. `linked`
    /// says whether any dealer has this person.
    pub fn review(&mut self, now: Timestamp, linked: bool, renew: Renew) {
        let priority = if linked { Priority::Renew } else { Priority::RenewUnlinked };
        let wanted = renew.wants(linked);
        if let Some(newest) = self.ids.last() {
            let over = newest.expires_at() <= now;
            self.mint = match self.mint {
                Mint::Idle if newest.renew_at() <= now && wanted => Mint::Queued(priority),
                Mint::Idle | Mint::UntilEnd if over && wanted => Mint::Queued(priority),
                Mint::Idle | Mint::UntilEnd if over => Mint::Expired,
                Mint::Idle if newest.renew_at() <= now => Mint::UntilEnd,
                other => other,
            };
            self.live = !over;
        }
        self.ids.retain(|id| now < id.forgotten_at());
    }

    /// The day from which this fan waits for renewal, as far as is known: whole days since the epoch.
    #[must_use]
    pub fn renewal_day(&self) -> Option<i64> {
        let newest = self.newest().filter(|_| self.live && self.mint == Mint::Idle)?;
        Some(newest.renew_at().as_millis().div_euclid(DAY_MS))
    }
}

#[cfg(test)]
mod tests;
