//! Which column is which: the names exports use, in English and Chinese.

use std::fmt::Write as _;

/// What a row can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    Unionid,
    Openid,
    PendingId,
    MintedAt,
    App,
}

impl Column {
    pub(super) const ALL: [Self; 5] =
        [Self::Unionid, Self::Openid, Self::PendingId, Self::MintedAt, Self::App];

    /// The name the admin API has for it.
    pub(super) const fn name(self) -> &'static str {
        self.names()[0]
    }

    /// All names it goes by, as an export writes them.
    const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Unionid => &[
                "unionid",
                "union_id",
                "微信unionid",
                "用户unionid",
                "客户unionid",
                "粉丝unionid",
                "会员unionid",
                "开放平台unionid",
                "微信开放平台unionid",
            ],
            Self::Openid => &[
                "openid",
                "open_id",
                "小程序openid",
                "微信小程序openid",
                "微信openid",
                "用户openid",
                "客户openid",
                "粉丝openid",
                "会员openid",
                "公众号openid",
            ],
            Self::PendingId => &["pending_id", "pendingid", "临时外部联系人id", "待确认id"],
            Self::MintedAt => {
                &["minted_at", "pending_id获取时间", "pending_id生成时间", "获取时间", "生成时间"]
            }
            Self::App => &["app", "应用", "应用名称"],
        }
    }

    /// The column of this name. Case, spaces, hyphens and underscores do not matter.
    pub(super) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|column| column.names().iter().any(|known| plain(known).eq(plain(name))))
    }
}

fn plain(name: &str) -> impl Iterator<Item = char> {
    let noise = |c: char| c.is_whitespace() || matches!(c, '_' | '-' | '"' | '\'' | '\u{FEFF}');
    name.chars().filter(move |c| !noise(*c)).flat_map(char::to_lowercase)
}

/// The columns of a CSV file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// What each column is, if it concerns us.
    columns: Vec<Option<Column>>,
}

/// Why a header does not do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeaderError {
    #[error(
        "there is no column for {column}; the header names {found}\nhint: its first line must name the columns; \
         {column} is recognised as {known}"
    )]
    Missing { column: &'static str, found: String, known: String },
    #[error(
        "columns {first} and {second} are both recognised as {column}\nhint: rename the one that is not meant, or leave \
         it out of the export"
    )]
    Twice { column: &'static str, first: String, second: String },
}

impl Header {
    pub(super) fn new(names: &[&str]) -> Result<Self, HeaderError> {
        let columns: Vec<_> = names.iter().map(|name| Column::of(name)).collect();
        for column in Column::ALL {
            let mut here = (0..names.len()).filter(|n| columns[*n] == Some(column));
            match (here.next(), here.next()) {
                (Some(first), Some(second)) => {
                    let name = |n: usize| format!("{} ({})", n + 1, shown(names[n]));
                    return Err(HeaderError::Twice {
                        column: column.name(),
                        first: name(first),
                        second: name(second),
                    });
                }
                (None, _) if matches!(column, Column::Unionid | Column::Openid) => {
                    return Err(HeaderError::Missing {
                        column: column.name(),
                        found: listed(names),
                        known: column.names().join(", "),
                    });
                }
                _ => {}
            }
        }
        Ok(Self { columns })
    }

    /// How many columns concern us, out of these.
    pub(super) fn recognised(names: &[&str]) -> usize {
        names.iter().filter(|name| Column::of(name).is_some()).count()
    }

    pub(super) fn column(&self, n: usize) -> Option<Column> {
        self.columns.get(n).copied().flatten()
    }

    pub(super) const fn len(&self) -> usize {
        self.columns.len()
    }
}

/// Header names in an error: the first ones, each cut short, nothing in them that moves a cursor.
fn listed(names: &[&str]) -> String {
    const NAMES_MAX: usize = 12;
    let mut out = names.iter().take(NAMES_MAX).map(|name| shown(name)).collect::<Vec<_>>().join(", ");
    if names.len() > NAMES_MAX {
        // Writing to a String does not fail.
        let _ = write!(out, " and {} more", names.len() - NAMES_MAX);
    }
    out
}

fn shown(name: &str) -> String {
    const CHARS_MAX: usize = 32;
    let short: String = name.trim().chars().take(CHARS_MAX).collect();
    let more = if name.trim().chars().count() > CHARS_MAX { "…" } else { "" };
    format!("{short:?}{more}")
}
