//! Bytes for `schemas::fuzz::entry_decoding`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| schemas::fuzz::entry_decoding(bytes));
