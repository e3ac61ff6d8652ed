//! Texts in both languages, for what an operator reads.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A text in both languages.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Text {
    /// English.
    pub en: String,
    /// Chinese.
    pub zh: String,
}

/// A [`Text`] from two format strings.
macro_rules! text {
    ($en:literal, $zh:literal $(,)?) => {
        $crate::domain::text::Text { en: format!($en), zh: format!($zh) }
    };
}
pub(crate) use text;
