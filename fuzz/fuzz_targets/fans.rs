//! Arbitrary bodies that register fans. The property is `unionlink::properties::fans`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unionlink::properties::fans(data));
