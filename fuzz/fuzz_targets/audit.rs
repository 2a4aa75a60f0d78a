//! The audit log: records, segments of the log, exported events.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::record;

fuzz_target!(|bytes: &[u8]| {
    record::fuzz::record(bytes);
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("segment");
    std::fs::write(&file, bytes).expect("written");
    record::fuzz::segment(&file);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = record::verify(text.lines());
        let _ = record::verify_from(text.lines());
        if let Ok(value) = serde_json::from_str(text) {
            let once = record::canonical(&value);
            let again = serde_json::from_str(&once).expect("JSON");
            assert_eq!(record::canonical(&again), once);
        }
    }
});
