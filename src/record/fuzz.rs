//! What the fuzz targets need of the log's inside. Built by cargo-fuzz alone (`--cfg fuzzing`).

use std::path::Path;

use super::chain::{self, Place};
use super::codec::{self, Decision, End, Ended};
use super::segment::Segment;

/// Reads one record as each kind, and makes an event of it.
pub fn record(bytes: &[u8]) {
    let _ = codec::local_of(bytes);
    let _ = Ended::read(bytes);
    let (first, second) = codec::split_both(bytes).unwrap_or((bytes, &[]));
    let end = Ended::read(second).map_or(End::default(), |ended| ended.end);
    if let Some(decision) = Decision::read(first) {
        let prev = "0".repeat(64);
        let place = Place { node: "fuzz", epoch: 1, seq: 1, prev: &prev };
        let (text, _) = chain::event(&place, &decision, &end);
        assert_eq!(super::verify([text]), Ok(1));
    }
}

/// Reads a file as a segment of the log.
pub fn segment(path: &Path) {
    let Ok(segment) = Segment::open(path, 4096) else { return };
    segment.recover();
    let mut at = super::segment::HEADER;
    while let Some(frame) = segment.next(at, segment.end()) {
        assert!(frame.next > at);
        record(frame.payload);
        at = frame.next;
    }
}
