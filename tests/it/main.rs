//! Integration tests: the real program on free ports, one file per behaviour.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod demo;
mod layers;
mod support;
