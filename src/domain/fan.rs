//! The brand's side: a fan, known by unionid and openid, and the pending ids minted for it.
//!
//! A fan changes with time alone: [`Fan::review`] makes the changes that are due, [`Fan::review_at`] is when
//! the next one will be. The store keeps each fan in a queue for every call to be made ([`Fan::queued_for`])
//! and in an index by the time of its next review, so that nothing has to scan all fans.

mod priority;

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;
use utoipa::ToSchema;

pub use priority::{Priority, QuotaClass};

use super::ids::{Openid, PendingId};
use super::time::{DAY_MS, Timestamp};

/// How long a pending id is valid (document 97357).
pub const PENDING_ID_LIFE_MS: i64 = 90 * DAY_MS;
/// The age at which a pending id is due for renewal, so that it is still valid while the fan waits for a new
/// one.
pub const RENEW_AFTER_MS: i64 = 85 * DAY_MS;
/// How long a pending id can still link the fan after its expiry: WeCom may have returned it just before, for
/// an event that was delayed.
const KEPT_AFTER_EXPIRY_MS: i64 = 7 * DAY_MS;
/// Maximum number of pending ids kept for one fan. Normally there is one, or two in the days after a renewal.
const IDS_MAX: usize = 4;
/// The assumed age of an imported pending id of unknown age: it is due for renewal in five days.
const ASSUMED_AGE_MS: i64 = 80 * DAY_MS;

/// A fan's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fan {
    /// The person's id in the brand's mini program.
    pub openid: Openid,
    /// When the brand first registered the fan, or first did so since personal data was last erased.
    pub registered_at: Timestamp,
    /// The pending ids through which the fan can be linked, newest last.
    pub ids: Vec<Minted>,
    /// Whether the newest of them was valid at the last change of this record.
    pub live: bool,
    /// What is next for the pending id.
    pub mint: Mint,
    /// The state of the lookup of existing customers.
    pub existing: Existing,
    /// Consecutive failed attempts of the current call.
    pub attempts: u32,
}

/// A pending id of a fan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Minted {
    /// The pending id.
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

    /// An imported pending id, with `minted_at` if that is known.
    #[must_use]
    pub fn imported(pending_id: PendingId, minted_at: Option<Timestamp>, now: Timestamp) -> Self {
        let minted_at = minted_at.unwrap_or(now.plus_ms(-ASSUMED_AGE_MS));
        Self { pending_id, minted_at: minted_at.min(now) }
    }

    /// When it expires.
    #[must_use]
    pub const fn expires_at(&self) -> Timestamp {
        self.minted_at.plus_ms(PENDING_ID_LIFE_MS)
    }

    const fn renew_at(&self) -> Timestamp {
        self.minted_at.plus_ms(RENEW_AFTER_MS)
    }

    /// When it is deleted.
    const fn prune_at(&self) -> Timestamp {
        self.expires_at().plus_ms(KEPT_AFTER_EXPIRY_MS)
    }
}

/// What is next for a fan's pending id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mint {
    /// Nothing until the newest pending id is due for renewal.
    Idle,
    /// Nothing until it expires: it is not to be renewed, or WeCom returned the same one again and may not
    /// have extended it.
    UntilExpiry,
    /// Queued to be minted, for the first time or again.
    Queued(Priority),
    /// Expired, and not minted again unless the fan is registered again.
    Expired,
    /// WeCom rejected the fan's unionid and openid; not tried again unless [`Fan::register_again`] says so.
    Rejected {
        /// WeCom's code.
        errcode: i64,
        /// When it was rejected.
        at: Timestamp,
    },
}

/// The state of the lookup of existing customers: which dealers had already added the person when the pending
/// id was minted. That pending id does not lead to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Existing {
    /// The app does not look up existing customers.
    Off,
    /// Queued.
    Due(Priority),
    /// WeCom answered.
    Asked {
        /// When.
        at: Timestamp,
        /// How many customers it returned.
        found: u32,
    },
    /// WeCom refused; not tried again unless [`Fan::register_again`] says so.
    Refused {
        /// WeCom's code.
        errcode: i64,
        /// When it refused.
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
    /// Both, in the order in which they are made for a fan.
    pub const ALL: [Self; 2] = [Self::Mint, Self::AskExisting];
}

/// Which fans' pending ids are renewed before they expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Renew {
    /// Those of all fans.
    #[default]
    All,
    /// Those of fans whom no dealer has added yet.
    Unlinked,
    /// None.
    Never,
}

impl Renew {
    /// Whether the pending id of a fan is to be renewed; `linked` says whether any dealer has added the fan.
    const fn includes(self, linked: bool) -> bool {
        match self {
            Self::All => true,
            Self::Unlinked => !linked,
            Self::Never => false,
        }
    }
}

/// How to have WeCom asked again about a fan that it refused, in English and in Chinese: the second half of a
/// remedy, after the cause.
pub const ASK_AGAIN: (&str, &str) = (
    "register the fan again with the correct openid or, if the openid is correct, with ?retry=rejected (fans \
     import: --retry-rejected) once the cause is removed",
    "请用正确的 openid 重新登记该粉丝；若 openid 无误，请在排除原因后使用 ?retry=rejected\
     （fans import 使用 --retry-rejected）重新登记",
);

/// A fan's state, as users see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum FanState {
    /// Queued for its first pending id.
    Queued,
    /// It has a valid pending id.
    Minted,
    /// Its last pending id has expired.
    Expired,
    /// WeCom rejected the fan's unionid and openid.
    Rejected,
}

/// The result of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// The fan was not known before.
    New,
    /// The fan was known, and nothing changed.
    Known,
    /// The fan was known; its openid was replaced, a pending id was added, or a call for it is queued again.
    Changed,
    /// The person was erased after the registration began: it is not stored.
    Forgotten,
    /// The fan's record is damaged; it was not changed.
    Damaged,
}

impl Fan {
    /// A newly registered fan.
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

    /// The priority with which this fan is queued for `step`; `None` if it is not. Minting comes first:
    /// without a pending id the next add is not recognised, while the lookup of existing customers can wait.
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

    /// The fan's state at `now`.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> FanState {
        match (self.newest(), self.mint) {
            (Some(newest), _) if now < newest.expires_at() => FanState::Minted,
            (_, Mint::Rejected { .. }) => FanState::Rejected,
            (None, Mint::Queued(_)) => FanState::Queued,
            (_, Mint::Queued(_) | Mint::Idle | Mint::UntilExpiry | Mint::Expired) => FanState::Expired,
        }
    }

    /// WeCom's code, if it rejected the fan or refused to look up its existing customers.
    #[must_use]
    pub const fn errcode(&self) -> Option<i64> {
        match (self.mint, self.existing) {
            (Mint::Rejected { errcode, .. }, _) | (_, Existing::Refused { errcode, .. }) => Some(errcode),
            _ => None,
        }
    }

    /// Applies a repeated registration. Returns whether it changed anything but a priority.
    ///
    /// A new openid replaces the old one. An expired fan is queued again. What WeCom refused, the fan or the
    /// lookup of its existing customers, is queued again only with a new openid or if `retry_rejected`:
    /// otherwise WeCom would give the same answer, at the expense of the quota. A fan that is queued without
    /// a valid pending id moves up if `priority` is more urgent, and so does a queued lookup.
    pub fn register_again(&mut self, openid: &Openid, priority: Priority, retry_rejected: bool) -> bool {
        let retry = retry_rejected || self.openid != *openid;
        let mint_again = match self.mint {
            Mint::Expired => true,
            Mint::Rejected { .. } => retry,
            Mint::Idle | Mint::UntilExpiry | Mint::Queued(_) => false,
        };
        let ask_again = retry && matches!(self.existing, Existing::Refused { .. });
        let more_urgent = |queued: Priority| priority < queued;
        let moves_up = matches!(self.mint, Mint::Queued(queued) if !self.live && more_urgent(queued));
        if mint_again || moves_up {
            self.mint = Mint::Queued(priority);
        }
        if ask_again || matches!(self.existing, Existing::Due(queued) if more_urgent(queued)) {
            self.existing = Existing::Due(priority);
        }
        let changed = self.openid != *openid || mint_again || ask_again;
        if changed {
            self.openid = openid.clone();
            self.attempts = 0;
        }
        changed
    }

    /// Adds a pending id that was obtained elsewhere. Returns whether it was added: not if it has expired, is
    /// known already, or is older than the maximum number of ids already kept.
    pub fn adopt(&mut self, minted: Minted, now: Timestamp) -> bool {
        let known = self.ids.iter().any(|known| known.pending_id == minted.pending_id);
        let no_room = self.ids.len() >= IDS_MAX && self.ids.iter().all(|id| minted.minted_at < id.minted_at);
        if minted.expires_at() <= now || known || no_room {
            return false;
        }
        if self.newest().is_none_or(|newest| newest.minted_at < minted.minted_at) {
            self.requeue_existing_lookup(&minted);
        }
        self.ids.push(minted);
        self.sort_and_prune();
        self.live = true;
        self.attempts = 0;
        self.mint = Mint::Idle;
        true
    }

    /// Queues the lookup of existing customers again, unless `minted` is a known pending id that is still
    /// valid. A dealer may have added the person under a pending id that never arrived here (the answer to a
    /// call was lost), after the last one expired (earlier than assumed, perhaps), or while there was none.
    fn requeue_existing_lookup(&mut self, minted: &Minted) {
        let still_valid =
            |id: &Minted| id.pending_id == minted.pending_id && minted.minted_at < id.expires_at();
        if matches!(self.existing, Existing::Asked { .. }) && !self.ids.iter().any(still_valid) {
            self.existing = Existing::Due(Priority::Renew);
        }
    }

    /// Applies WeCom's answer to a mint. `same_id_extends` says what it means if WeCom returns the same
    /// pending id again before it expires, which is not documented: that it is valid for another 90 days, or
    /// that nothing has changed and the fan has to be minted again after the expiry.
    pub fn minted(&mut self, minted: Minted, same_id_extends: bool) {
        self.requeue_existing_lookup(&minted);
        self.attempts = 0;
        self.live = true;
        self.mint = Mint::Idle;
        match self.ids.iter_mut().find(|known| known.pending_id == minted.pending_id) {
            Some(known) if same_id_extends || known.expires_at() <= minted.minted_at => {
                known.minted_at = minted.minted_at;
            }
            Some(_) => self.mint = Mint::UntilExpiry,
            None => self.ids.push(minted),
        }
        self.sort_and_prune();
    }

    /// Records that WeCom rejected the fan's unionid and openid. Its pending ids are kept.
    pub const fn rejected(&mut self, errcode: i64, now: Timestamp) {
        self.attempts = 0;
        self.mint = Mint::Rejected { errcode, at: now };
    }

    fn sort_and_prune(&mut self) {
        self.ids.sort_by_key(|id| id.minted_at);
        let too_many = self.ids.len().saturating_sub(IDS_MAX);
        self.ids.drain(..too_many);
    }

    /// When the next [`review`](Self::review) is due, if ever.
    #[must_use]
    pub fn review_at(&self) -> Option<Timestamp> {
        let (newest, older) = self.ids.split_last()?;
        let next = match (self.live, self.mint) {
            (true, Mint::Idle) => newest.renew_at(),
            (true, _) => newest.expires_at(),
            (false, _) => newest.prune_at(),
        };
        older.iter().map(Minted::prune_at).chain([next]).min()
    }

    /// Makes the changes that are due at `now`: pending ids fall due for renewal, expire, and are deleted.
    /// `linked` says whether any dealer has added this person.
    pub fn review(&mut self, now: Timestamp, linked: bool, renew: Renew) {
        let priority = if linked { Priority::Renew } else { Priority::RenewUnlinked };
        let is_renewed = renew.includes(linked);
        if let Some(newest) = self.ids.last() {
            let expired = newest.expires_at() <= now;
            self.mint = match self.mint {
                Mint::Idle if newest.renew_at() <= now && is_renewed => Mint::Queued(priority),
                Mint::Idle | Mint::UntilExpiry if expired && is_renewed => Mint::Queued(priority),
                Mint::Idle | Mint::UntilExpiry if expired => Mint::Expired,
                Mint::Idle if newest.renew_at() <= now => Mint::UntilExpiry,
                unchanged => unchanged,
            };
            self.live = !expired;
        }
        self.ids.retain(|id| now < id.prune_at());
    }

    /// The day on which this fan falls due for renewal, in whole days since the Unix epoch; `None` if it is
    /// due already or nothing is to be renewed.
    #[must_use]
    pub fn renewal_day(&self) -> Option<i64> {
        let newest = self.newest().filter(|_| self.live && self.mint == Mint::Idle)?;
        Some(newest.renew_at().as_millis().div_euclid(DAY_MS))
    }
}

#[cfg(test)]
mod tests;
