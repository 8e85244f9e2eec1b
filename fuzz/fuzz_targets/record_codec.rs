#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backhaul_fuzz::record_codec(bytes));
