//! Arbitrary callbacks: a query, then a body. The property is `unionlink::properties::door`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unionlink::properties::door(data));
