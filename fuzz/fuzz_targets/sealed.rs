//! Arbitrary bytes encrypted with the right key. The property is `unionlink::properties::sealed`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unionlink::properties::sealed(data));
