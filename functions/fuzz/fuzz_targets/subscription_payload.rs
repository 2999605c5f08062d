#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nodemend_functions_fuzz::named("subscription_payload").run(bytes));
