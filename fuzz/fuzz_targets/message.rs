//! Arbitrary decrypted messages: parsing. The property is `unionlink::properties::message`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unionlink::properties::message(data));
