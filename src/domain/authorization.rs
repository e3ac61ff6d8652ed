//! Authorisations: the corps that have authorised a suite, each a brand or a dealer. The record of one ends
//! the same in whatever order its events and the answers to calls about it arrive.
//!
//! Deliberately absent: obtaining an authorisation (see [`suite`](super::suite)), which app serves a brand
//! (see [`bindings`](super::bindings)), the calls, and the store.

use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};
use utoipa::ToSchema;

use super::ids::CorpId;
use super::sealed::Sealed;
use super::time::{MINUTE_MS, Timestamp};

/// Maximum characters of a corp's name that are kept.
const NAME_CHARS: usize = 128;

/// `shared_from.share_type` of an app that a corp shares through 上下游.
const SHARED_DOWNSTREAM: i64 = 1;

/// How long after its last change an authorisation whose app has not been read may turn out to be a brand's.
/// A reading takes a second; where it keeps failing for longer, that is shown, and nothing waits for it.
pub const READING_MS: i64 = 10 * MINUTE_MS;

/// The record of a corp that has authorised a suite. The order of the fields is the stored format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorization {
    /// The corp, as the provider's apps see it (`wp…`).
    pub corp_id: CorpId,
    /// Its name.
    pub name: String,
    /// The newest permanent code, which is the secret of the app there.
    pub code: Sealed,
    /// When WeCom sent the auth code of that permanent code, by WeCom's clock.
    pub granted_at: Timestamp,
    /// The permanent codes so far: the generation of the tokens obtained with them.
    pub codes: u32,
    /// The app at the corp; `None` until it has been read.
    pub agent: Option<Agent>,
    /// When WeCom sent the newest cancellation, by WeCom's clock, while that holds; the time of the grant
    /// where only the refusal of a call shows that it was cancelled.
    pub cancelled_at: Option<Timestamp>,
    /// When this record last changed, by our clock.
    pub changed_at: Timestamp,
    /// Counts what makes a reading of the app out of date. A reading is of the count at its begin.
    pub changes: u32,
    /// Whether the app is to be read (`v2/get_auth_info`).
    pub check_due: bool,
    /// The corp that shared the app, by the last reading that named one, if this corp is its dealer. It
    /// remains one when it authorises by QR code too: as a brand, its customers would no longer be looked up.
    pub dealer_of: Option<SharedFrom>,
}

/// An app at the corp that authorised it, as `v2/get_auth_info` describes it (document 100795).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its agent id there.
    pub agent_id: i64,
    /// The corp that shared the app, if it was installed that way.
    pub shared_from: Option<SharedFrom>,
    /// Whether WeCom has verified the corp; `None` if the answer does not say.
    pub is_verified: Option<bool>,
    /// Whether the app may read customers; `None` if that could not be read.
    pub may_read_customers: Option<bool>,
    /// When it was read, by our clock.
    pub read_at: Timestamp,
}

/// The corp that shared an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedFrom {
    /// The corp; where WeCom names none that can be used, the corp that the app is shared with.
    pub corp_id: CorpId,
    /// 0: 企业互联, 1: 上下游.
    pub share_type: i64,
}

impl SharedFrom {
    /// Whether an app shared with this corp makes it a dealer.
    fn has_dealer(&self, with: &CorpId) -> bool {
        self.share_type == SHARED_DOWNSTREAM && !self.corp_id.same_corp(with.as_str())
    }
}

/// The state of an authorisation, derived from its record.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, IntoStaticStr, VariantArray, ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum AuthorizationState {
    /// The app at the corp has not been read yet.
    Incomplete,
    /// It can be used.
    Active,
    /// The corp has cancelled it.
    Cancelled,
}

/// What a corp is to the provider's apps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// It authorised the app itself.
    Brand,
    /// It has the app from this corp, through 上下游.
    Dealer(CorpId),
    /// It has the app another way, such as 企业互联, or from a corp that is not known. Shown, not used.
    Other,
}

/// A permanent code that WeCom gave for an auth code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// The corp that authorised.
    pub corp_id: CorpId,
    /// Its name.
    pub name: String,
    /// The permanent code.
    pub code: Sealed,
    /// When WeCom sent the auth code, by WeCom's clock.
    pub sent_at: Timestamp,
}

impl Authorization {
    /// The record after a grant. The newest grant counts, in whatever order they are answered; it ends a
    /// cancellation unless that is newer. An app may be another one after a grant, so it is read again.
    #[must_use]
    pub fn granted(known: Option<Self>, granted: Granted, now: Timestamp) -> Self {
        let Granted { corp_id, name, code, sent_at } = granted;
        let dealer_of = known.as_ref().and_then(|known| known.dealer_of.clone());
        let fresh = |codes, changes, cancelled_at| Self {
            corp_id,
            name: bounded(name),
            code: code.clone(),
            granted_at: sent_at,
            codes,
            agent: None,
            cancelled_at,
            changed_at: now,
            changes,
            check_due: true,
            dealer_of,
        };
        match known {
            None => fresh(1, 1, None),
            Some(known) if known.granted_at > sent_at => known,
            Some(known) if known.granted_at == sent_at && known.code == code => known,
            Some(known) => fresh(
                known.codes.saturating_add(1),
                known.changes.saturating_add(1),
                known.cancelled_at.filter(|cancelled_at| *cancelled_at > sent_at),
            ),
        }
    }

    /// Records a cancellation that WeCom sent at `sent_at`. One older than the grant is of an earlier
    /// authorisation. WeCom's times are whole seconds: whether one of the same second came before the grant
    /// or after it is read from WeCom. Returns whether it had an effect.
    pub fn cancelled(&mut self, sent_at: Timestamp, now: Timestamp) -> bool {
        if sent_at < self.granted_at || self.cancelled_at >= Some(sent_at) {
            return false;
        }
        if sent_at == self.granted_at {
            self.changed(now);
        } else {
            self.cancelled_at = Some(sent_at);
            self.changed_at = now;
        }
        true
    }

    /// Records that WeCom refused a call, begun when the corp had had `codes` permanent codes, because the
    /// corp has cancelled (48003, 48004). Nothing if it has another code by now. Returns whether it had an
    /// effect.
    pub fn refused(&mut self, codes: u32, now: Timestamp) -> bool {
        if self.codes != codes {
            return false;
        }
        self.check_due = false;
        if self.cancelled_at.is_some() {
            return false;
        }
        self.cancelled_at = Some(self.granted_at);
        self.changes = self.changes.saturating_add(1);
        self.changed_at = now;
        true
    }

    /// Records that something about the app changed at the corp, which is to be read.
    pub const fn changed(&mut self, now: Timestamp) {
        self.changes = self.changes.saturating_add(1);
        self.check_due = true;
        self.changed_at = now;
    }

    /// Records what `v2/get_auth_info` answered to a call begun when the record had these `codes` and
    /// `changes`. Nothing if the corp has another code by now; after another change, the app is to be read
    /// once more. Ends a cancellation that only a refused call had shown, unless the call began before that
    /// refusal. Returns whether it had an effect.
    pub fn read(&mut self, codes: u32, changes: u32, name: String, agent: Agent) -> bool {
        if self.codes != codes {
            return false;
        }
        self.changed_at = agent.read_at;
        if !name.is_empty() {
            self.name = bounded(name);
        }
        self.set_agent(agent);
        self.check_due = self.changes != changes;
        if !self.check_due && self.is_cancellation_inferred() {
            self.cancelled_at = None;
        }
        true
    }

    /// Sets the app at the corp as it was read, and the brand whose dealer that makes the corp.
    pub fn set_agent(&mut self, agent: Agent) {
        if let Some(shared_from) = &agent.shared_from {
            self.dealer_of = shared_from.has_dealer(&self.corp_id).then(|| shared_from.clone());
        }
        self.agent = Some(agent);
    }

    /// Whether only the refusal of a call shows that the corp has cancelled.
    #[must_use]
    pub fn is_cancellation_inferred(&self) -> bool {
        self.cancelled_at == Some(self.granted_at)
    }

    /// When the corp cancelled; where only the refusal of a call shows that, when this record last changed.
    #[must_use]
    pub fn cancellation_noticed_at(&self) -> Option<Timestamp> {
        let cancelled_at = self.cancelled_at?;
        Some(if self.is_cancellation_inferred() { self.changed_at } else { cancelled_at })
    }

    /// Its state.
    #[must_use]
    pub const fn state(&self) -> AuthorizationState {
        match (self.cancelled_at, &self.agent) {
            (Some(_), _) => AuthorizationState::Cancelled,
            (None, Some(_)) => AuthorizationState::Active,
            (None, None) => AuthorizationState::Incomplete,
        }
    }

    /// Whether the app at the corp is being read, so that the corp may turn out to be a brand.
    #[must_use]
    pub fn is_being_read(&self, now: Timestamp) -> bool {
        self.state() == AuthorizationState::Incomplete
            && (0..READING_MS).contains(&now.millis_since(self.changed_at))
    }

    /// What the corp is; `None` until the app has been read. A corp that cancelled remains what it was.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        self.agent.as_ref()?;
        Some(match self.shared_from() {
            None => Role::Brand,
            Some(shared_from) if shared_from.has_dealer(&self.corp_id) => {
                Role::Dealer(shared_from.corp_id.clone())
            }
            Some(_) => Role::Other,
        })
    }

    /// The corp that shared the app, or did so before the corp authorised by QR code too.
    #[must_use]
    pub fn shared_from(&self) -> Option<&SharedFrom> {
        self.agent.as_ref()?.shared_from.as_ref().or(self.dealer_of.as_ref())
    }
}

fn bounded(name: String) -> String {
    match name.char_indices().nth(NAME_CHARS) {
        Some((end, _)) => name[..end].to_owned(),
        None => name,
    }
}

/// The dealers among `all` authorisations of a suite that have the app from `brand`, cancelled ones too. `held`
/// are those that had it before.
///
/// It is not documented that the corp that shared an app is named by the id under which it authorised. A
/// dealer whose app comes from a corp that is not among `all` therefore belongs to `brand` if that is the
/// only brand. While a corp is being read, which may be another brand, only those held belong to it. Nor may
/// `brand`'s app be one of several of the suite: the brand of another may have yet to authorise.
#[must_use]
pub fn dealers_of<'a>(
    brand: &CorpId,
    is_only_app: bool,
    all: &'a [Authorization],
    held: &[Authorization],
    now: Timestamp,
) -> Vec<&'a Authorization> {
    let mut brands = all.iter().filter(|one| one.role() == Some(Role::Brand));
    let is_only_brand = is_only_app
        && brands.next().is_some_and(|first| first.corp_id.same_corp(brand.as_str()))
        && brands.next().is_none();
    let is_being_read = all.iter().any(|one| one.is_being_read(now));
    let was_held = |dealer: &Authorization| held.iter().any(|one| one.corp_id == dealer.corp_id);
    let is_known = |corp_id: &CorpId| all.iter().any(|one| one.corp_id.same_corp(corp_id.as_str()));
    let is_of_only_brand = |dealer: &Authorization| is_only_brand && (!is_being_read || was_held(dealer));
    all.iter()
        .filter(|one| match one.role() {
            Some(Role::Dealer(of)) => {
                brand.same_corp(of.as_str()) || (!is_known(&of) && is_of_only_brand(one))
            }
            Some(Role::Brand | Role::Other) | None => false,
        })
        .collect()
}

#[cfg(test)]
mod tests;
