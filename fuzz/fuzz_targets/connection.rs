#![no_main]

#[path = "../../server/tests/splits/feed.rs"]
mod feed;

libfuzzer_sys::fuzz_target!(|data: &[u8]| feed::fuzz(data));
