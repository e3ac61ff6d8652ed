//! What people may read with SQL: links, fans and dealers, as tables of a stable shape behind the views `link`, `fan_state`
//! and `dealer_state`. They follow the rows, in the same transaction, and nothing here reads them.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::domain::contact::Contact;
use crate::domain::dealer::{Dealer, DealerState};
use crate::domain::fan::FanState;
use crate::domain::ids::{AppName, ContactKey, CorpId, ExternalUserid, PendingId, Unionid};
use crate::domain::link::{FollowerData, Link, Source};
use crate::domain::time::Timestamp;
use crate::store::StoreError;
use crate::store::business::roll::{self, Entry};
use crate::store::rows::keys::Parts;
use crate::store::rows::records::{Record, decode};
use crate::store::rows::source::{Batch, Source as _};
use crate::store::shared::known::Known;

/// A table: its name, its columns with their types in JSON, those of the key first, and how many these are.
pub(super) struct ShownTable {
    name: &'static str,
    columns: &'static [(&'static str, &'static str)],
    key_columns: usize,
}

/// The tables.
pub(super) const TABLES: [ShownTable; 3] = [
    ShownTable {
        name: "link_row",
        columns: &[
            ("external_userid", "text"),
            ("app", "text"),
            ("corp_id", "text"),
            ("unionid", "text"),
            ("pending_id", "text"),
            ("link_id", "text"),
            ("source", "text"),
            ("linked_at_ms", "bigint"),
            ("followers", "jsonb"),
        ],
        key_columns: 3,
    },
    ShownTable {
        name: "fan_row",
        columns: &[
            ("unionid", "text"),
            ("app", "text"),
            ("state", "text"),
            ("registered_at_ms", "bigint"),
            ("pending_id", "text"),
            ("minted_at_ms", "bigint"),
            ("expires_at_ms", "bigint"),
        ],
        key_columns: 2,
    },
    ShownTable {
        name: "dealer_row",
        columns: &[
            ("app", "text"),
            ("corp_id", "text"),
            ("name", "text"),
            ("state", "text"),
            ("listed_at_ms", "bigint"),
            ("left_at_ms", "bigint"),
        ],
        key_columns: 2,
    },
];

impl ShownTable {
    /// Writes rows: an array of objects, as JSON text.
    pub(super) fn put(&self, schema: &str) -> String {
        let Self { name, columns, key_columns } = self;
        let names: Vec<_> = columns.iter().map(|(column, _)| *column).collect();
        let typed: Vec<_> = columns.iter().map(|(column, of)| format!("{column} {of}")).collect();
        let set: Vec<_> =
            names[*key_columns..].iter().map(|column| format!("{column} = EXCLUDED.{column}")).collect();
        format!(
            "INSERT INTO {schema}.{name} ({}) SELECT {0} FROM json_to_recordset($1::text::json) AS r ({}) \
             ON CONFLICT ({}) DO UPDATE SET {}",
            names.join(", "),
            typed.join(", "),
            names[..*key_columns].join(", "),
            set.join(", ")
        )
    }

    /// Deletes rows: an array of objects with their keys, as JSON text.
    pub(super) fn delete(&self, schema: &str) -> String {
        let Self { name, columns, key_columns } = self;
        let keys = &columns[..*key_columns];
        let typed: Vec<_> = keys.iter().map(|(column, of)| format!("{column} {of}")).collect();
        let equal: Vec<_> = keys.iter().map(|(column, _)| format!("t.{column} = r.{column}")).collect();
        format!(
            "DELETE FROM {schema}.{name} t USING json_to_recordset($1::text::json) AS r ({}) WHERE {}",
            typed.join(", "),
            equal.join(" AND ")
        )
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct LinkRow {
    external_userid: ExternalUserid,
    app: AppName,
    corp_id: CorpId,
    unionid: Unionid,
    pending_id: Option<PendingId>,
    link_id: String,
    source: Source,
    linked_at_ms: i64,
    followers: Vec<FollowerData>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct FanRow {
    unionid: Unionid,
    app: AppName,
    /// Once its pending id has expired.
    state: &'static str,
    registered_at_ms: i64,
    pending_id: Option<PendingId>,
    minted_at_ms: Option<i64>,
    expires_at_ms: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct DealerRow {
    app: AppName,
    corp_id: CorpId,
    name: String,
    state: &'static str,
    listed_at_ms: i64,
    left_at_ms: Option<i64>,
}

/// The changes of one table, each an array of objects as JSON text; `None` if there are none.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) put: Option<String>,
    pub(super) deleted: Option<String>,
}

/// The changes of each of the [`TABLES`].
pub(super) type Changes = [Change; 3];

/// The names of the [`TABLES`].
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TABLES.iter().map(|table| table.name)
}

/// How these writes change what is shown, with the rows before them at hand. A record that cannot be read is not shown.
pub(super) fn changes(writes: &Batch, known: &Known) -> Changes {
    let (mut links, mut fans, mut dealers) = <(Rows<_>, Rows<_>, Rows<_>)>::default();
    for (key, after) in writes {
        let rows = match key.first() {
            Some(b'c') => links.change(&link, key, after.as_deref(), known),
            Some(b'n') => fans.change(&fans_of, key, after.as_deref(), known),
            Some(b'h') => dealers.change(&dealer, key, after.as_deref(), known),
            _ => Ok(()),
        };
        if let Err(error) = rows {
            tracing::debug!(%error, "a record is not shown to SQL");
        }
    }
    // What was not wanted for a decision is not wanted now.
    known.take_wanted();
    [links.finish(), fans.finish(), dealers.finish()]
}

/// Rows before and after, without those that stay.
struct Rows<R> {
    before: Vec<R>,
    after: Vec<R>,
}

impl<R> Default for Rows<R> {
    fn default() -> Self {
        Self { before: Vec::new(), after: Vec::new() }
    }
}

/// The rows that a record is shown as.
type ShownAs<R> = dyn Fn(&[u8], &[u8]) -> Result<Vec<R>, StoreError>;

trait Keyed: PartialEq + Serialize {
    /// The columns of the key, as a JSON object.
    fn key(&self) -> serde_json::Value;
}

impl Keyed for LinkRow {
    fn key(&self) -> serde_json::Value {
        let Self { external_userid, app, corp_id, .. } = self;
        serde_json::json!({"external_userid": external_userid, "app": app, "corp_id": corp_id})
    }
}

impl Keyed for FanRow {
    fn key(&self) -> serde_json::Value {
        serde_json::json!({"unionid": self.unionid, "app": self.app})
    }
}

impl Keyed for DealerRow {
    fn key(&self) -> serde_json::Value {
        serde_json::json!({"app": self.app, "corp_id": self.corp_id})
    }
}

impl<R: Keyed> Rows<R> {
    fn change(
        &mut self,
        shown: &ShownAs<R>,
        key: &[u8],
        after: Option<&[u8]>,
        known: &Known,
    ) -> Result<(), StoreError> {
        let before = known.get(key)?.map_or(Ok(Vec::new()), |value| shown(key, &value))?;
        let after = after.map_or(Ok(Vec::new()), |value| shown(key, value))?;
        let (mut before, mut after) = (before, after);
        before.retain(|row| {
            let place = after.iter().position(|other| other == row);
            if let Some(place) = place {
                after.swap_remove(place);
            }
            place.is_none()
        });
        self.before.extend(before);
        self.after.extend(after);
        Ok(())
    }

    fn finish(self) -> Change {
        let text = |value: serde_json::Result<String>| value.ok().filter(|text| text != "[]");
        let there: BTreeSet<_> = self.after.iter().map(|row| row.key().to_string()).collect();
        let keys = self.before.iter().map(Keyed::key);
        let gone: Vec<_> = keys.filter(|key| !there.contains(&key.to_string())).collect();
        Change { put: text(serde_json::to_string(&self.after)), deleted: text(serde_json::to_string(&gone)) }
    }
}

/// Text that the database takes: it refuses a NUL, which ids do not have.
fn readable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn record<R: Record>(key: &[u8], value: &[u8]) -> Result<R, StoreError> {
    decode(key, value)
}

fn link(key: &[u8], value: &[u8]) -> Result<Vec<LinkRow>, StoreError> {
    let contact: Contact = record(key, value)?;
    let ContactKey { app, corp_id, external_userid } = Parts::of(key).contact()?;
    let mut followers = contact.followers_now();
    for state in followers.iter_mut().filter_map(|follower| follower.state.as_mut()) {
        *state = readable(state);
    }
    let row = contact.link.map(|link| {
        let Link { link_id, unionid, pending_id, source, linked_at, .. } = link;
        let linked_at_ms = linked_at.as_millis();
        LinkRow {
            external_userid,
            app,
            corp_id,
            unionid,
            pending_id,
            link_id,
            source,
            linked_at_ms,
            followers,
        }
    });
    Ok(row.into_iter().collect())
}

fn fans_of(key: &[u8], value: &[u8]) -> Result<Vec<FanRow>, StoreError> {
    let row = |Entry { key, fan, .. }: Entry| {
        let newest = fan.newest();
        let minted_at_ms = newest.map(|newest| newest.minted_at.as_millis());
        let expires_at_ms = newest.map(|newest| newest.expires_at().as_millis());
        let state = match fan.state(Timestamp::from_millis(i64::MAX)) {
            FanState::Queued => "queued",
            FanState::Minted => "minted",
            FanState::Expired => "expired",
            FanState::Rejected => "rejected",
        };
        FanRow {
            unionid: key.unionid,
            app: key.app,
            state,
            registered_at_ms: fan.registered_at.as_millis(),
            pending_id: newest.map(|newest| newest.pending_id.clone()),
            minted_at_ms,
            expires_at_ms,
        }
    };
    Ok(roll::entries(key, value)?.into_iter().map(row).collect())
}

fn dealer(key: &[u8], value: &[u8]) -> Result<Vec<DealerRow>, StoreError> {
    let dealer: Dealer = record(key, value)?;
    let (app, corp_id) = Parts::of(key).corp()?;
    let state = match dealer.state() {
        DealerState::Shared => "shared",
        DealerState::Left => "left",
        DealerState::Unverified => "unverified",
    };
    let (listed_at_ms, left_at_ms) = (dealer.listed_at.as_millis(), dealer.left_at.map(Timestamp::as_millis));
    Ok(vec![DealerRow { app, corp_id, name: readable(&dealer.name), state, listed_at_ms, left_at_ms }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::postgres::PostgresStore;
    use crate::store::row_store::Backend as _;
    use crate::store::rows::keys;

    impl PostgresStore {
        /// The tables whose content is not what the rows say.
        pub(in crate::store) async fn shown_wrongly(&self) -> Vec<String> {
            let of_kind = async |kind: u8| {
                let all = |view: &crate::store::rows::view::View<'_>| {
                    view.rows(&[kind], &keys::after(&[kind]), usize::MAX, |key, value| {
                        Ok(Some((key.to_vec(), value.to_vec())))
                    })
                };
                self.backend().read(all).await.unwrap()
            };
            let json = |rows: Vec<serde_json::Value>| rows.into_iter().map(|row| row.to_string()).collect();
            let mut expected: Vec<BTreeSet<String>> = Vec::new();
            let links = of_kind(b'c')
                .await
                .into_iter()
                .flat_map(|(key, value)| link(&key, &value).unwrap_or_default());
            expected.push(json(links.map(|row| serde_json::to_value(row).unwrap()).collect()));
            let fans = of_kind(b'n')
                .await
                .into_iter()
                .flat_map(|(key, value)| fans_of(&key, &value).unwrap_or_default());
            expected.push(json(fans.map(|row| serde_json::to_value(row).unwrap()).collect()));
            let dealers = of_kind(b'h')
                .await
                .into_iter()
                .flat_map(|(key, value)| dealer(&key, &value).unwrap_or_default());
            expected.push(json(dealers.map(|row| serde_json::to_value(row).unwrap()).collect()));
            let Some(shown) = self.backend().database().shown().await else { return Vec::new() };
            let mut wrong = Vec::new();
            for ((ShownTable { name, .. }, expected), found) in TABLES.iter().zip(expected).zip(shown) {
                if found != expected {
                    wrong.push(format!("{name} is {found:?} instead of {expected:?}"));
                }
            }
            wrong
        }
    }
}
