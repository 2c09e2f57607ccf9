#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| walmend_proof::targets::run("cli", data));
