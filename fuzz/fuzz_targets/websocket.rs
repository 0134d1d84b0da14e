//! libFuzzer drives [`lobby_fuzz::codec::websocket`].
#![no_main]
#![allow(unsafe_code, missing_docs, reason = "libFuzzer's entry point is exported by its name")]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lobby_fuzz::codec::websocket(data));
