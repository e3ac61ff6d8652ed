//! What an operator can do about a failure, as text.

/// What to do about a failure, and why: one line in each language for an operator, which begins with the
/// action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remedy {
    /// English, with the admin console's own words for its menus.
    pub en: &'static str,
    /// Chinese.
    pub zh: &'static str,
}
