//! Runs `key_ring` of `format::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| holdfast::format::fuzz::run("key_ring", data));
