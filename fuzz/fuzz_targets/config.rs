//! Any bytes as a configuration file: an answer, never a panic.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use waltgate::config::Config;

fuzz_target!(|bytes: &[u8]| {
    if let Err(errors) = Config::parse(bytes, Path::new("fuzz.toml"), Path::new("/")) {
        assert!(!errors.problems().is_empty());
        assert!(!errors.to_string().is_empty());
    }
});
