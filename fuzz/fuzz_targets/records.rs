//! Arbitrary stored records: decoding and checksums. The property is `unionlink::properties::records`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unionlink::properties::records(data));
