//! Lists fans in the order of their numbers, a bounded number of records at a time.

use super::roll;
use crate::domain::time::Timestamp;
use crate::store::rows::ids::FanNumber;
use crate::store::rows::keys;
use crate::store::rows::view::View;
use crate::store::{FanFilter, FanPage, StoreError};

/// Records, of up to sixteen fans each, that one page reads.
const RECORDS_READ_MAX: usize = 256;

/// The fans from the number `from` on. The position of the next page is the number at which it begins.
pub(crate) fn fans_from(
    view: &View<'_>,
    filter: &FanFilter,
    from: u64,
    limit: usize,
    now: Timestamp,
) -> Result<FanPage, StoreError> {
    let mut page = FanPage::default();
    // Numbers beyond are never given out.
    let Ok(from) = u32::try_from(from).map(FanNumber) else { return Ok(page) };
    let rows = view.range(&keys::sheet(from.sheet()), &keys::after(b"n"));
    for (records_read, row) in rows.enumerate() {
        let (key, value) = row?;
        if records_read >= RECORDS_READ_MAX {
            // A key that does not parse cannot be where the next page begins; the key after it can.
            let Some(sheet) = view.undamaged(&key, keys::sheet_number(&key))? else { continue };
            page.next = Some(FanNumber::first_on(sheet).0.into());
            break;
        }
        let Some(entries) = view.undamaged(&key, roll::entries(&key, &value))? else { continue };
        for entry in entries {
            if entry.number < from || !filter.matches(&entry.key, &entry.fan, now) {
                continue;
            }
            if page.fans.len() == limit {
                page.next = Some(entry.number.0.into());
                return Ok(page);
            }
            page.fans.push((entry.key, entry.fan));
        }
    }
    Ok(page)
}
