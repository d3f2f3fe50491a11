//! Bytes for `data_plane::fuzz::key_extraction`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| data_plane::fuzz::key_extraction(bytes));
