//! Bytes for `data_plane::fuzz::header_rewriting`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| data_plane::fuzz::header_rewriting(bytes));
