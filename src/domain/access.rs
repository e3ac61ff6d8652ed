//! What a token of the admin API allows.

use std::collections::BTreeSet;

use serde::Serialize;
use strum::{EnumString, IntoStaticStr, VariantArray};

/// A part of the admin API that a token may be used for.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, EnumString, IntoStaticStr, VariantArray,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum TokenScope {
    /// Registering and listing fans.
    Fans,
    /// Reading links: one by one, the feed, exports.
    Links,
    /// Explanations of why a person is or is not linked.
    People,
    /// Operating the service: status, inbox, dealers, sinks, comparisons, the audit trail.
    Operate,
    /// Erasing people.
    Erase,
    /// Reading the metrics.
    Metrics,
}

/// The scopes of one token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct TokenScopes(BTreeSet<TokenScope>);

impl TokenScopes {
    /// All scopes.
    #[must_use]
    pub fn all() -> Self {
        TokenScope::VARIANTS.iter().copied().collect()
    }

    /// Whether a token with these scopes may be used for `scope`.
    #[must_use]
    pub fn contain(&self, scope: TokenScope) -> bool {
        self.0.contains(&scope)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<TokenScope> for TokenScopes {
    fn from_iter<I: IntoIterator<Item = TokenScope>>(scopes: I) -> Self {
        Self(scopes.into_iter().collect())
    }
}
