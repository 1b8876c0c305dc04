//! Runs `peer` of `format::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| holdfast::format::fuzz::run("peer", data));
