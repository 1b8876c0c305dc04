//! Runs `log_record` of `format::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| holdfast::format::fuzz::run("log_record", data));
