//! Bytes for `data_plane::fuzz::target_parsing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| data_plane::fuzz::target_parsing(bytes));
