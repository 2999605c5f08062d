#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nodemend_fuzz::named("pipeline").run(bytes));
