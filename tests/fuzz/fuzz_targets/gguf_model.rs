#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fitment_tests::oracle::gguf_model(bytes));
