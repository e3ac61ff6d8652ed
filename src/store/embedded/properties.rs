//! Properties that hold for stored records of any bytes; see [`crate::properties`].

use std::collections::BTreeSet;

use crate::domain::contact::Contact;
use crate::domain::dealer::Dealer;
use crate::domain::quota::Ledger;
use crate::store::business::feed::StoredEntry;
use crate::store::business::forgotten::Forgotten;
use crate::store::business::inbox::{MessagePart, Seen, SetAside};
use crate::store::business::queues::{Books, Waiting};
use crate::store::business::roll::{self, Clues, Entry, Sheet};
use crate::store::rows::clue::Clue;
use crate::store::rows::ids::FanNumber;
use crate::store::rows::keys::Parts;
use crate::store::rows::records::{Record, checked, decode, encode};
use crate::store::rows::txn::Meta;
use crate::store::rows::view::Read;
use crate::store::{Cursor, InboxEvent, Receipt, StoreError};

const KEY: &[u8] = b"kind and key";

/// The first byte of `data` selects the type of record, the rest is its body. A record that can be read is
/// the same after it is written and read again. With any byte changed, or without its checksum, it cannot be
/// read.
///
/// # Panics
/// When that does not hold.
pub fn records(data: &[u8]) {
    const TYPES: [fn(&[u8]); 15] = [
        record::<Books>,
        record::<Contact>,
        record::<Cursor>,
        record::<Dealer>,
        record::<Forgotten>,
        record::<InboxEvent>,
        record::<Ledger>,
        record::<MessagePart>,
        record::<Meta>,
        record::<Receipt>,
        record::<Seen>,
        record::<SetAside>,
        record::<Sheet>,
        record::<StoredEntry>,
        record::<Waiting>,
    ];
    let Some((which, body)) = data.split_first() else { return };
    TYPES[usize::from(*which) % TYPES.len()](body);
    sheet(body);
    let mut parts = Parts::of(body);
    let _ = (parts.instant(), parts.contact(), parts.number(), parts.id());
}

fn sealed<R: Record>(body: &[u8]) -> Vec<u8> {
    checked(KEY, [&[R::VERSION], body].concat())
}

fn record<R: Record>(body: &[u8]) {
    assert!(decode::<R>(KEY, body).is_err(), "read without a checksum");
    let Ok(read) = decode::<R>(KEY, &sealed::<R>(body)) else { return };
    let written = match encode(KEY, &read) {
        Ok(written) => written,
        Err(error) => panic!("read, and yet not written: {error}"),
    };
    match decode::<R>(KEY, &written).and_then(|again| encode(KEY, &again)) {
        Ok(again) => assert_eq!(again, written),
        Err(error) => panic!("written, and yet not read: {error}"),
    }
    assert!(decode::<R>(b"another key", &written).is_err(), "read under another's key");
    // Changes one byte, chosen by the body.
    let somewhere =
        body.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    let (mut changed, at) = (written.clone(), somewhere % written.len());
    changed[at] ^= u8::try_from(somewhere % 255).unwrap_or_default() + 1;
    assert!(decode::<R>(KEY, &changed).is_err(), "read although byte {at} has changed");
}

/// One sheet of the roll, on which every fan is a candidate.
struct OneSheet(Vec<u8>);

impl Read for OneSheet {
    fn record<R: Record>(&self, _: &[u8]) -> Result<Option<R>, StoreError> {
        decode(KEY, &self.0).map(Some)
    }

    fn under(&self, _: &[u8], _: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        Ok(Vec::new())
    }

    fn candidates(&self, _: &Clue<'_>) -> Result<Vec<FanNumber>, StoreError> {
        Ok((0..16).map(FanNumber).collect())
    }
}

/// A sheet that can be read leads to its fans, and so does what the index reads of it.
fn sheet(body: &[u8]) {
    let sheet = OneSheet(sealed::<Sheet>(body));
    if decode::<Sheet>(KEY, &sheet.0).is_err() {
        return;
    }
    let mut clues = BTreeSet::new();
    match Clues::read(KEY, &sheet.0) {
        Ok(found) => found.for_each(0, |_, number| clues.extend([number])),
        Err(error) => panic!("a sheet can be read, but not what leads to its fans: {error}"),
    }
    for number in (0..16).map(FanNumber) {
        if let Ok(Some(Entry { key, .. })) = roll::fan_at(&sheet, number) {
            assert!(clues.contains(&number), "nothing leads to a fan");
            let _ = roll::fans_of(&sheet, &key.unionid);
        }
    }
}
