//! Arbitrary request bodies: finding the encrypted text in XML or JSON. The property is `unionlink::properties::envelope`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unionlink::properties::envelope(data));
