//! Tokens: without a key of ours nothing is valid.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::model::Timestamp;
use portcullis::tokens::{Expected, Signature, inspect};

fuzz_target!(|token: &str| {
    let audience = ["https://api.example".to_owned()];
    let now = Timestamp::from_seconds(1_800_000_000);
    let expected = Expected { issuer: "https://gate.example", audience: &audience, now };
    let seen = inspect(token, &|_| None, &expected);
    assert_ne!(seen.signature, Signature::Valid);
    assert!(!seen.problems.is_empty());
});
