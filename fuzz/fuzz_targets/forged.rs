//! Edited genuine callbacks. The property is `unionlink::properties::forged`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unionlink::properties::forged(data));
