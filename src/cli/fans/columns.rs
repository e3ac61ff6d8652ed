//! Recognises columns by the English and Chinese names that exports use.

use strum::{EnumCount, VariantArray};

/// How many names of a header an error lists, and how many characters of each.
const NAMES_SHOWN_MAX: usize = 12;
const NAME_CHARS_MAX: usize = 32;

/// A value that a row can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumCount, VariantArray)]
pub(super) enum Column {
    Unionid,
    Openid,
    PendingId,
    MintedAt,
    App,
}

impl Column {
    /// Its names in exports, separated by spaces; the first is the admin API's.
    const fn names(self) -> &'static str {
        match self {
            Self::Unionid => {
                "unionid 微信unionid 用户unionid 客户unionid 粉丝unionid 会员unionid 开放平台unionid \
                 微信开放平台unionid"
            }
            Self::Openid => {
                "openid 小程序openid 微信小程序openid 微信openid 用户openid 客户openid 粉丝openid 会员openid \
                 公众号openid"
            }
            Self::PendingId => "pending_id 临时外部联系人id 待确认id",
            Self::MintedAt => "minted_at pending_id获取时间 pending_id生成时间 获取时间 生成时间",
            Self::App => "app 应用 应用名称",
        }
    }

    /// Its name in the admin API.
    pub(super) fn name(self) -> &'static str {
        self.names().split(' ').next().unwrap_or_default()
    }

    /// The column with this name. Case, white space, hyphens and underscores are ignored.
    pub(super) fn of(name: &str) -> Option<Self> {
        let is_named = |column: &Self| column.names().split(' ').any(|known| plain(known).eq(plain(name)));
        Self::VARIANTS.iter().copied().find(is_named)
    }
}

fn plain(name: &str) -> impl Iterator<Item = char> {
    let noise = |c: char| c.is_whitespace() || matches!(c, '_' | '-' | '"' | '\'' | '\u{FEFF}');
    name.chars().filter(move |c| !noise(*c)).flat_map(char::to_lowercase)
}

/// The columns of a CSV file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Columns {
    /// The number of columns, including those that are ignored.
    pub(super) count: usize,
    /// The index of each [`Column`] that is present.
    indices: [Option<usize>; Column::COUNT],
}

impl Columns {
    /// The columns in a header.
    ///
    /// # Errors
    /// When a required column is missing, or a column is there twice.
    pub(super) fn new(names: &[&str]) -> Result<Self, String> {
        let mut indices = [None; Column::COUNT];
        for (index, column) in names.iter().enumerate().filter_map(|(n, name)| Some((n, Column::of(name)?))) {
            if let Some(first) = indices[column as usize].replace(index) {
                return Err(format!(
                    "columns {} ({}) and {} ({}) are both recognised as {}\nhint: rename the wrong one, or \
                     leave it out of the export",
                    first + 1,
                    shown(names[first]),
                    index + 1,
                    shown(names[index]),
                    column.name()
                ));
            }
        }
        for column in [Column::Unionid, Column::Openid] {
            if indices[column as usize].is_none() {
                let header: Vec<_> = names.iter().take(NAMES_SHOWN_MAX).map(|name| shown(name)).collect();
                let more = match names.len().saturating_sub(NAMES_SHOWN_MAX) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                return Err(format!(
                    "there is no column for {0}; the header names {1}{more}\nhint: the first line must name \
                     the columns; {0} is recognised as {2}",
                    column.name(),
                    header.join(", "),
                    column.names().replace(' ', ", ")
                ));
            }
        }
        Ok(Self { count: names.len(), indices })
    }

    pub(super) const fn index(&self, column: Column) -> Option<usize> {
        self.indices[column as usize]
    }
}

/// A name in an error: cut short, without control characters.
fn shown(name: &str) -> String {
    format!("{:?}", name.trim().chars().take(NAME_CHARS_MAX).collect::<String>())
}
