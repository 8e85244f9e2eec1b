#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backhaul_fuzz::http_reuse(bytes));
