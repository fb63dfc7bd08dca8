//! The target that this binary is named after.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some(target) = malla_fuzz::target(env!("CARGO_BIN_NAME")) {
        (target.run)(bytes);
    }
});
