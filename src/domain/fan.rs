//! The brand's side: a person known by unionid and openid, and the pending id minted for them.

use serde::{Deserialize, Serialize};

use super::ids::{Openid, PendingId};
use super::time::{DAY_MS, Timestamp};

/// How long a pending id can be exchanged (document 97357).
pub const PENDING_ID_LIFE_MS: i64 = 90 * DAY_MS;

/// What is kept of a fan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fan {
    /// The person inside the brand's mini program.
    pub openid: Openid,
    /// When the brand first told us.
    pub registered_at: Timestamp,
    /// How far the mint is.
    pub mint: Mint,
    /// Whether WeCom was asked which dealers have this person already.
    pub existing: Existing,
    /// Failed tries of the current step in a row.
    pub attempts: u32,
}

/// How far the mint of a fan is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mint {
    /// Waiting for quota or for a retry.
    Queued,
    /// A pending id was obtained.
    Minted(Minted),
    /// WeCom refuses this pair for good.
    Rejected {
        /// WeCom's code.
        errcode: i64,
        /// When it said so.
        at: Timestamp,
    },
}

/// A pending id and its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Minted {
    /// The bridge to the dealers' side.
    pub pending_id: PendingId,
    /// When it was obtained.
    pub minted_at: Timestamp,
    /// When WeCom stops exchanging it.
    pub expires_at: Timestamp,
}

impl Minted {
    /// A pending id obtained at `minted_at`.
    #[must_use]
    pub const fn new(pending_id: PendingId, minted_at: Timestamp) -> Self {
        Self { pending_id, minted_at, expires_at: minted_at.plus_ms(PENDING_ID_LIFE_MS) }
    }
}

/// Whether WeCom was asked which dealers already have this fan as a customer. Such customers cannot be found
/// through a pending id minted afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Existing {
    /// The app does not want this question asked.
    Off,
    /// Not yet asked.
    Due,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FanStep {
    /// `unionid_to_pending_id`.
    Mint,
    /// `unionid_to_external_userid`.
    AskExisting,
}

impl FanStep {
    /// Both steps.
    pub const ALL: [Self; 2] = [Self::Mint, Self::AskExisting];
}

impl Fan {
    /// A fan just registered.
    #[must_use]
    pub const fn new(openid: Openid, registered_at: Timestamp, ask_existing: bool) -> Self {
        Self {
            openid,
            registered_at,
            mint: Mint::Queued,
            existing: if ask_existing { Existing::Due } else { Existing::Off },
            attempts: 0,
        }
    }

    /// What has to be done next, if anything. The mint comes first: it is what makes tomorrow's adds
    /// recognisable, while the question about existing customers can wait.
    #[must_use]
    pub const fn next_step(&self) -> Option<FanStep> {
        match (&self.mint, self.existing) {
            (Mint::Queued, _) => Some(FanStep::Mint),
            (Mint::Minted(_), Existing::Due) => Some(FanStep::AskExisting),
            (Mint::Minted(_) | Mint::Rejected { .. }, _) => None,
        }
    }

    /// Takes a repeated registration. Returns whether anything changed.
    ///
    /// A new openid replaces the old one. A fan that was rejected gets another chance either way: the brand
    /// may have mended what WeCom complained about.
    pub fn register_again(&mut self, openid: &Openid) -> bool {
        let rejected = matches!(self.mint, Mint::Rejected { .. });
        let refused = matches!(self.existing, Existing::Refused { .. });
        if self.openid == *openid && !rejected && !refused {
            return false;
        }
        self.openid = openid.clone();
        self.attempts = 0;
        if rejected {
            self.mint = Mint::Queued;
        }
        if refused {
            self.existing = Existing::Due;
        }
        true
    }

    /// The pending id, if one was minted.
    #[must_use]
    pub const fn minted(&self) -> Option<&Minted> {
        match &self.mint {
            Mint::Minted(minted) => Some(minted),
            Mint::Queued | Mint::Rejected { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fan(ask_existing: bool) -> Fan {
        Fan::new(Openid::new("oOPENID").unwrap(), Timestamp::EPOCH, ask_existing)
    }

    #[test]
    fn mint_comes_before_the_question_about_existing_customers() {
        let mut fan = fan(true);
        assert_eq!(fan.next_step(), Some(FanStep::Mint));
        fan.mint = Mint::Minted(Minted::new(PendingId::new("p").unwrap(), Timestamp::EPOCH));
        assert_eq!(fan.next_step(), Some(FanStep::AskExisting));
        fan.existing = Existing::Asked { at: Timestamp::EPOCH, found: 0 };
        assert_eq!(fan.next_step(), None);
    }

    #[test]
    fn registering_a_rejected_fan_again_gives_another_chance() {
        let mut fan = fan(false);
        assert!(!fan.register_again(&Openid::new("oOPENID").unwrap()));
        for openid in ["oOPENID", "oOTHER"] {
            fan.mint = Mint::Rejected { errcode: 610_018, at: Timestamp::EPOCH };
            assert_eq!(fan.next_step(), None);
            assert!(fan.register_again(&Openid::new(openid).unwrap()));
            assert_eq!(fan.next_step(), Some(FanStep::Mint));
        }
    }

    #[test]
    fn a_pending_id_lives_ninety_days() {
        let minted = Minted::new(PendingId::new("p").unwrap(), Timestamp::EPOCH);
        assert_eq!(minted.expires_at.millis_since(minted.minted_at), 90 * DAY_MS);
    }
}
