//! Bytes for `schemas::fuzz::frame_decoding`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| schemas::fuzz::frame_decoding(bytes));
