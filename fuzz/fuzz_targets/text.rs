#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| oncelog_tests::parse::parsers::text(data));
