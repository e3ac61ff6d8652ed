//! The option of an API that WeCom may or may not allow.

/// Whether an API may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Permission {
    /// It may.
    #[default]
    Allowed,
    /// It answers this `errcode`, 48002 for instance.
    Refused(i64),
}
