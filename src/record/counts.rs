//! The counts of merged refusals, on the way to their outcomes, in one small file: what `flood` counts in this second is
//! there when the process is killed. Called by `flood`, and by [`super::Recorder`] at open.
//!
//! A place is one write of less than a page, whole or not there after a kill; after a crash of the machine its checksum
//! tells. Places of a second that has ended say nothing: their decisions have outcomes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use ahash::AHashMap;

use super::codec::End;

/// Local id, count (8 bytes each), status (0: none), bits to clear, nothing, checksum.
const PLACE: usize = 24;

/// The file.
pub struct Counts {
    file: File,
    next: u64,
}

impl Counts {
    /// Opens or makes the file, emptied: what it said, by local id.
    ///
    /// # Errors
    /// When the file cannot be read or made.
    pub fn open(path: &Path) -> io::Result<(Self, AHashMap<u64, End<'static>>)> {
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let found = bytes.chunks_exact(PLACE).filter_map(read).collect();
        Ok((Self { file, next: 0 }, found))
    }

    /// Forgets what an earlier process counted.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn clear(&self) -> io::Result<()> {
        self.file.set_len(0)
    }

    /// A new second: all places are free.
    pub fn begin(&mut self) {
        self.next = 0;
    }

    /// A place that nobody has in this second.
    pub fn place(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// Keeps what the outcome of `local` would be now.
    pub fn keep(&self, place: u64, local: u64, end: &End<'_>) {
        let mut bytes = Vec::with_capacity(PLACE);
        bytes.extend_from_slice(&local.to_le_bytes());
        bytes.extend_from_slice(&end.count.unwrap_or(0).to_le_bytes());
        bytes.extend_from_slice(&end.status.unwrap_or(0).to_le_bytes());
        bytes.extend_from_slice(&[end.clear, 0]);
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        // A disk that refuses costs the count when this process is killed before the second ends, and nothing else.
        let _kept = self.file.write_all_at(&bytes, place * PLACE as u64);
    }
}

fn read(place: &[u8]) -> Option<(u64, End<'static>)> {
    let (body, sum) = place.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
        return None;
    }
    let (local, rest) = body.split_first_chunk::<8>()?;
    let (count, rest) = rest.split_first_chunk::<8>()?;
    let (status, rest) = rest.split_first_chunk::<2>()?;
    let status = Some(u16::from_le_bytes(*status)).filter(|status| *status != 0);
    let count = Some(u64::from_le_bytes(*count));
    Some((u64::from_le_bytes(*local), End { status, count, clear: *rest.first()?, ..End::default() }))
}
