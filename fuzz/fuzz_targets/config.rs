//! A configuration file: loaded, or refused with problems.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::config;

fuzz_target!(|text: &[u8]| {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("portcullis.toml");
    std::fs::write(&file, text).expect("written");
    if let Err(problems) = config::load(&file, &Vec::new) {
        assert!(!problems.is_empty());
    }
});
