//! Decryption with the right key of arbitrary text or blocks. The property is `unionlink::properties::cipher`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unionlink::properties::cipher(data));
