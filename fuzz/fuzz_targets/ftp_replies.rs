#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backhaul_fuzz::ftp_replies(bytes));
