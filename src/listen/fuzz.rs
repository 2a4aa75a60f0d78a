//! What the fuzz targets need of the listener's inside. Built by cargo-fuzz alone (`--cfg fuzzing`).

use super::framing::{Ambiguous, Framing};

/// True when the framing becomes ambiguous, the bytes coming in pieces of this size.
pub fn framing(bytes: &[u8], piece: usize) -> bool {
    let mut framing = Framing::new();
    bytes.chunks(piece).any(|piece| matches!(framing.feed(piece), Err(Ambiguous::Head(_) | Ambiguous::Body)))
}
