//! What one entry of a store's audit holds: an event in the field `event`, or several in the field `events`, one a line,
//! as they are or as an lz4 frame.
//!
//! Used by both stores. One store may hold every form at once, because the setting may change. A new form is a variant
//! of [`Form`] and an arm in [`Packed::of`] and [`events`].

use std::io::{Read as _, Write as _};

use lz4_flex::frame::{FrameDecoder, FrameEncoder};

use crate::config::{self, AuditEntry as Setting};
use crate::model::Timestamp;
use crate::store::{AuditEntry, StoreError};

/// An entry of more than this is not ours (bytes, decompressed): it would be read into memory.
const LARGEST: u64 = 64 << 20;
/// The first bytes of an lz4 frame.
const LZ4: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];

/// How events are put into entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Form {
    /// One each.
    #[default]
    Event,
    /// Several.
    Batch,
    /// Several, compressed.
    Compressed,
}

impl Form {
    /// What the configuration asks for.
    pub(super) fn of(audit: &config::Audit) -> Self {
        match (audit.entry, audit.compress) {
            (Setting::Event, _) => Self::Event,
            (Setting::Batch, false) => Self::Batch,
            (Setting::Batch, true) => Self::Compressed,
        }
    }
}

/// An entry to be written: the events from `first` to `last`.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Packed {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) field: &'static str,
    pub(super) value: Vec<u8>,
}

impl Packed {
    /// Puts a page of events into entries.
    pub(super) fn of(form: Form, page: &[AuditEntry]) -> Result<Vec<Self>, StoreError> {
        let one = |entry: &AuditEntry| Self {
            first: entry.seq,
            last: entry.seq,
            field: "event",
            value: entry.json.clone().into_bytes(),
        };
        if form == Form::Event {
            return Ok(page.iter().map(one).collect());
        }
        let (Some(first), Some(last)) = (page.first(), page.last()) else { return Ok(Vec::new()) };
        let lines = page.iter().map(|entry| entry.json.as_str()).collect::<Vec<_>>().join("\n").into_bytes();
        let value = if form == Form::Compressed { compress(&lines)? } else { lines };
        Ok(vec![Self { first: first.seq, last: last.seq, field: "events", value }])
    }
}

fn compress(lines: &[u8]) -> Result<Vec<u8>, StoreError> {
    let mut encoder = FrameEncoder::new(Vec::new());
    let written = encoder.write_all(lines).map_err(|error| error.to_string());
    written
        .and_then(|()| encoder.finish().map_err(|error| error.to_string()))
        .map_err(|error| StoreError::Unavailable(format!("audit events could not be compressed: {error}")))
}

/// The events of a stored entry whose last event is `last`. The one of `event` is taken as it is, damaged or not: that
/// is for the verification to find; so is an entry that holds nothing readable.
pub(super) fn events(last: u64, field: &[u8], value: Vec<u8>) -> Vec<AuditEntry> {
    let text = if field == b"events" { lines(value) } else { String::from_utf8_lossy(&value).into_owned() };
    if field != b"events" {
        return vec![entry(last, text)];
    }
    let texts: Vec<&str> = text.split('\n').collect();
    let count = u64::try_from(texts.len()).unwrap_or(u64::MAX);
    let first = last.saturating_sub(count.saturating_sub(1));
    texts.into_iter().zip(first..).map(|(json, seq)| entry(seq, json.to_owned())).collect()
}

fn lines(value: Vec<u8>) -> String {
    if !value.starts_with(&LZ4) {
        return String::from_utf8_lossy(&value).into_owned();
    }
    let mut text = Vec::new();
    let read = FrameDecoder::new(value.as_slice()).take(LARGEST).read_to_end(&mut text);
    if let Err(error) = read {
        tracing::error!(%error, "a compressed audit entry is damaged");
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Its time is that of the event; an event that was damaged has none.
fn entry(seq: u64, json: String) -> AuditEntry {
    #[derive(serde::Deserialize)]
    struct Time {
        time: String,
    }
    let time = serde_json::from_str::<Time>(&json).ok();
    let time = time.and_then(|event| Timestamp::parse_rfc3339(&event.time)).unwrap_or_default();
    AuditEntry { seq, time, json }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(count: u64) -> Vec<AuditEntry> {
        (5..5 + count).map(|seq| entry(seq, format!("{{\"seq\":{seq},\"text\":\"a b c ä\"}}"))).collect()
    }

    #[test]
    fn every_form_is_read_as_it_was_written() {
        for form in [Form::Event, Form::Batch, Form::Compressed] {
            for count in [0, 1, 2, 500] {
                let page = page(count);
                let packed = Packed::of(form, &page).unwrap();
                let read: Vec<AuditEntry> = packed
                    .into_iter()
                    .flat_map(|packed| events(packed.last, packed.field.as_bytes(), packed.value))
                    .collect();
                assert_eq!(read, page, "{form:?}");
            }
        }
    }

    #[test]
    fn a_compressed_batch_is_an_lz4_frame_and_smaller() {
        let (plain, small) = (Packed::of(Form::Batch, &page(500)), Packed::of(Form::Compressed, &page(500)));
        let (plain, small) = (plain.unwrap().remove(0), small.unwrap().remove(0));
        assert!(small.value.starts_with(&LZ4));
        assert!(small.value.len() * 3 < plain.value.len());
    }

    #[test]
    fn damage_stays_visible_and_never_hides_the_number_of_the_last_event() {
        let mut packed = Packed::of(Form::Compressed, &page(500)).unwrap().remove(0);
        let middle = packed.value.len() / 2;
        packed.value[middle] ^= 0x55;
        let read = events(packed.last, b"events", packed.value);
        assert_ne!(read, page(500));
        assert_eq!(read.last().unwrap().seq, 504);
        assert_eq!(events(7, b"", Vec::new()), [entry(7, String::new())]);
    }
}
