//! Lists fans in the order of their numbers, a bounded number of records at a time.

use super::super::{FanFilter, FanPage, StoreError};
use super::EmbeddedStore;
use super::business::roll::{self};
use super::rows::keys;
use super::rows::txn::failed;
use crate::domain::time::Timestamp;
use crate::store::embedded::rows::ids::FanNumber;

/// Records, of up to sixteen fans each, that one page reads.
const RECORDS_READ_MAX: usize = 256;

impl EmbeddedStore {
    /// The fans from the number `from` on. The position of the next page is the number at which it begins.
    pub(super) fn fans_from(
        &self,
        filter: &FanFilter,
        from: u64,
        limit: usize,
        now: Timestamp,
    ) -> Result<FanPage, StoreError> {
        let mut page = FanPage::default();
        // Numbers beyond are never given out.
        let Ok(from) = u32::try_from(from).map(FanNumber) else { return Ok(page) };
        let rows = self.engine.range(&keys::sheet(from.sheet()), &keys::after(b"n"));
        for (records_read, row) in rows.enumerate() {
            let (key, value) = row.map_err(failed)?;
            if records_read == RECORDS_READ_MAX {
                page.next = Some(FanNumber::first_on(keys::sheet_number(&key)?).0.into());
                break;
            }
            let Some(entries) = self.undamaged(&key, roll::entries(&key, &value))? else { continue };
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
}
