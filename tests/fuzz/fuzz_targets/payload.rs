#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fitment_tests::oracle::payload(bytes));
