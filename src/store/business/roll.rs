//! The roll of fans: sixteen to a sheet, in the order they came.
//!
//! A brand has up to 22.5 million live fans, each found in two ways: by unionid, and by pending id. What that
//! costs is decided by sled, which pays memory per page (a page holds at most sixteen records of whatever size, and
//! keeps some 500 bytes about it for ever) and disk per write (an update appends the whole record, every tenth
//! rewrites its page, a full page is rewritten to be split, and a segment is not cleaned before half of it is
//! dead). What was tried, as bytes on disk for each fan of about 100 bytes and one pending id:
//!
//! | layout | fans loaded | disk | resident |
//! | --- | --- | --- | --- |
//! | one record per fan, one per pending id, under random keys | 1.5 million | 580 and rising | 450, most of it for ever |
//! | five fans, ten pending ids to a record, found by hash | 3.5 million | 890 and rising | 340 MiB in all |
//! | two fans, four pending ids to a record, found by hash | 4.5 million | 580 and rising | 230 MiB in all |
//! | fans in the order they came, both indexes in sled by hash | 1.5 million | 580 | 340 MiB in all |
//!
//! Random keys are what costs, however they are packed. So none are left: fans are appended, sixteen to a sheet,
//! which is what sled does best, and are found through an index in memory, read from the
//! sheets when the store is opened. `benches/fans.rs` measures what that takes.
//!
//! Ids that are base64url, as WeCom's are, take three quarters of their text.

use serde::{Deserialize, Serialize};

use crate::domain::fan::{Existing, Fan, Mint, Minted};
use crate::domain::ids::{AppName, FanKey, Openid, PendingId, Unionid};
use crate::domain::join::FanSide;
use crate::domain::time::Timestamp;
use crate::store::StoreError;
use crate::store::rows::clue::Clue;
use crate::store::rows::ids::{FanNumber, PackedId, PackedRef};
use crate::store::rows::keys;
use crate::store::rows::records::{Record, decode, decode_as};
use crate::store::rows::txn::Txn;
use crate::store::rows::view::{Read, View};

/// Fans of one app.
#[derive(Serialize, Deserialize)]
pub(crate) struct Sheet {
    app: AppName,
    fans: Vec<Option<StoredFan>>,
}

impl Record for Sheet {}

#[derive(Serialize, Deserialize)]
struct StoredFan {
    unionid: PackedId,
    openid: PackedId,
    registered_at: Timestamp,
    ids: Vec<(PackedId, Timestamp)>,
    live: bool,
    mint: Mint,
    existing: Existing,
    attempts: u32,
}

/// A fan with who it is and where.
pub(crate) struct Entry {
    pub(crate) number: FanNumber,
    pub(crate) key: FanKey,
    pub(crate) fan: Fan,
}

/// The fan of this number.
pub(crate) fn fan_at(read: &impl Read, number: FanNumber) -> Result<Option<Entry>, StoreError> {
    let Some(sheet) = read.record::<Sheet>(&keys::sheet(number.sheet()))? else { return Ok(None) };
    let Sheet { app, fans } = sheet;
    let Some(stored) = fans.into_iter().nth(number.line()).flatten() else { return Ok(None) };
    let (unionid, fan) = stored.unpack()?;
    Ok(Some(Entry { number, key: FanKey { app, unionid }, fan }))
}

/// The fans of one record, by number.
pub(crate) fn entries(key: &[u8], value: &[u8]) -> Result<Vec<Entry>, StoreError> {
    let first = FanNumber::first_on(keys::sheet_number(key)?);
    let Sheet { app, fans } = decode::<Sheet>(key, value)?;
    let numbered = (first.0..).zip(fans).filter_map(|(number, stored)| Some((FanNumber(number), stored?)));
    numbered
        .map(|(number, stored)| {
            let (unionid, fan) = stored.unpack()?;
            Ok(Entry { number, key: FanKey { app: app.clone(), unionid }, fan })
        })
        .collect()
}

/// A fan in every app that knows it.
pub(crate) fn fans_of(read: &impl Read, unionid: &Unionid) -> Result<Vec<Entry>, StoreError> {
    fans_by(read, unionid, |number| fan_at(read, number))
}

/// The same without the apps in which the fan's record is damaged.
pub(crate) fn undamaged_fans_of(view: &View<'_>, unionid: &Unionid) -> Result<Vec<Entry>, StoreError> {
    fans_by(view, unionid, |number| {
        Ok(view.undamaged(&keys::sheet(number.sheet()), fan_at(view, number))?.flatten())
    })
}

fn fans_by(
    read: &impl Read,
    unionid: &Unionid,
    fan_at: impl Fn(FanNumber) -> Result<Option<Entry>, StoreError>,
) -> Result<Vec<Entry>, StoreError> {
    let mut found = Vec::new();
    let packed = PackedId::of(unionid.as_str());
    for number in read.candidates(&Clue::unionid(packed.borrowed()))? {
        found.extend(fan_at(number)?.filter(|entry| entry.key.unionid == *unionid));
    }
    found.sort_by(|a, b| a.key.app.cmp(&b.key.app));
    Ok(found)
}

/// One fan.
pub(crate) fn fan(read: &impl Read, key: &FanKey) -> Result<Option<Entry>, StoreError> {
    Ok(fans_of(read, &key.unionid)?.into_iter().find(|entry| entry.key.app == key.app))
}

/// The fan that has this pending id; the one minted last, should there be several.
pub(crate) fn fan_with(
    read: &impl Read,
    app: &AppName,
    pending_id: &PendingId,
) -> Result<Option<FanSide>, StoreError> {
    let mut newest = None;
    let packed = PackedId::of(pending_id.as_str());
    for number in read.candidates(&Clue::pending_id(packed.borrowed()))? {
        let Some(Entry { key, fan, .. }) = fan_at(read, number)? else { continue };
        let minted = fan.ids.iter().find(|id| id.pending_id == *pending_id && key.app == *app);
        let side = minted.map(|id| FanSide { minted_at: id.minted_at, unionid: key.unionid });
        newest = newest.max(side);
    }
    Ok(newest)
}

/// Writes a fan at its number, and keeps the index in step.
pub(crate) fn write(
    txn: &mut Txn<'_>,
    number: FanNumber,
    key: &FanKey,
    before: Option<&Fan>,
    after: &Fan,
) -> Result<(), StoreError> {
    let sheet_key = keys::sheet(number.sheet());
    let known = txn.get::<Sheet>(&sheet_key)?;
    let mut sheet = known.unwrap_or_else(|| Sheet { app: key.app.clone(), fans: Vec::new() });
    if sheet.fans.len() <= number.line() {
        sheet.fans.resize_with(number.line() + 1, || None);
    }
    if let Some(line) = sheet.fans.get_mut(number.line()) {
        *line = Some(StoredFan::pack(&key.unionid, after));
    }
    if before.is_none() {
        txn.index(&Clue::unionid(PackedId::of(key.unionid.as_str()).borrowed()), number, true);
    }
    let old = before.map_or(&[][..], |fan| &fan.ids);
    let has = |ids: &[Minted], id: &Minted| ids.iter().any(|other| other.pending_id == id.pending_id);
    for id in old.iter().filter(|id| !has(&after.ids, id)) {
        txn.index(&Clue::pending_id(PackedId::of(id.pending_id.as_str()).borrowed()), number, false);
    }
    for id in after.ids.iter().filter(|id| !has(old, id)) {
        txn.index(&Clue::pending_id(PackedId::of(id.pending_id.as_str()).borrowed()), number, true);
    }
    txn.put(sheet_key, &sheet)
}

/// Takes a fan off the roll. Its line stays empty: numbers left behind in queues must not lead to anybody else.
pub(crate) fn erase(txn: &mut Txn<'_>, number: FanNumber, key: &FanKey, fan: &Fan) -> Result<(), StoreError> {
    txn.change(keys::sheet(number.sheet()), |sheet: &mut Sheet| {
        if let Some(line) = sheet.fans.get_mut(number.line()) {
            *line = None;
        }
    })?;
    txn.index(&Clue::unionid(PackedId::of(key.unionid.as_str()).borrowed()), number, false);
    for id in &fan.ids {
        txn.index(&Clue::pending_id(PackedId::of(id.pending_id.as_str()).borrowed()), number, false);
    }
    Ok(())
}

/// A sheet as far as the index has to know it, read without a copy: there are millions when the store is opened.
#[derive(Deserialize)]
pub(crate) struct Clues<'a> {
    #[serde(borrow)]
    _app: &'a str,
    #[serde(borrow)]
    fans: Vec<Option<CluesOfFan<'a>>>,
}

/// The fields of a [`StoredFan`], in its order.
#[derive(Deserialize)]
struct CluesOfFan<'a> {
    #[serde(borrow)]
    unionid: PackedRef<'a>,
    #[serde(borrow)]
    _openid: PackedRef<'a>,
    _registered_at: Timestamp,
    #[serde(borrow)]
    ids: Vec<(PackedRef<'a>, Timestamp)>,
    _live: bool,
    _mint: Mint,
    _existing: Existing,
    _attempts: u32,
}

impl<'a> Clues<'a> {
    pub(crate) fn read(key: &[u8], bytes: &'a [u8]) -> Result<Self, StoreError> {
        decode_as::<Sheet, Self>(key, bytes)
    }

    pub(crate) fn for_each(&self, sheet: u32, mut add: impl FnMut(&Clue<'_>, FanNumber)) {
        for (number, fan) in (FanNumber::first_on(sheet).0..).zip(&self.fans) {
            let Some(fan) = fan else { continue };
            add(&Clue::unionid(fan.unionid), FanNumber(number));
            fan.ids.iter().for_each(|(id, _)| add(&Clue::pending_id(*id), FanNumber(number)));
        }
    }
}

impl StoredFan {
    fn pack(unionid: &Unionid, fan: &Fan) -> Self {
        let Fan { openid, registered_at, ids, live, mint, existing, attempts } = fan;
        Self {
            unionid: PackedId::of(unionid.as_str()),
            openid: PackedId::of(openid.as_str()),
            registered_at: *registered_at,
            ids: ids.iter().map(|id| (PackedId::of(id.pending_id.as_str()), id.minted_at)).collect(),
            live: *live,
            mint: *mint,
            existing: *existing,
            attempts: *attempts,
        }
    }

    fn unpack(self) -> Result<(Unionid, Fan), StoreError> {
        let Self { unionid, openid, registered_at, ids, live, mint, existing, attempts } = self;
        let minted = |(id, minted_at): (PackedId, Timestamp)| {
            id.unpack(PendingId::new).map(|pending_id| Minted::new(pending_id, minted_at))
        };
        let fan = Fan {
            openid: openid.unpack(Openid::new)?,
            registered_at,
            ids: ids.into_iter().map(minted).collect::<Result<_, _>>()?,
            live,
            mint,
            existing,
            attempts,
        };
        Ok((unionid.unpack(Unionid::new)?, fan))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_id_comes_back_as_it_was(id in "[A-Za-z0-9_=+/-]{1,64}") {
            let back = PackedId::of(&id).unpack(Unionid::new).unwrap();
            prop_assert_eq!(back.as_str(), id);
        }
    }

    #[test]
    fn wecoms_ids_take_three_quarters_of_their_text() {
        let packed = postcard::to_stdvec(&PackedId::of("oqsZYKZsnL2zl2L6dbDqJNCAOcDk")).unwrap();
        assert_eq!(packed.len(), 2 + 21);
    }
}
