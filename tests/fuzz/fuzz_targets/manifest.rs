#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| fitment_tests::oracle::manifest(text));
