//! Policy rows under the repository's model.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::decide;

fuzz_target!(|rows: &[u8]| {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes).expect("written");
    write("model.conf", include_bytes!("../../policies/model.conf"));
    write("policy.csv", rows);
    for problem in decide::check(directory.path(), None, false) {
        assert!(!problem.message.is_empty());
    }
});
