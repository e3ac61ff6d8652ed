//! The first bytes of a connection of a trusted proxy. The property is `unionlink::properties::proxy_header`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unionlink::properties::proxy_header(data));
