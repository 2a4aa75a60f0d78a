//! One mapped, preallocated file of the audit log: frames in, frames out, flush. Called by `ring`, `ship` and `commit`.
//!
//! A file is a header (magic, number) and frames `[len u32][crc32 u32][kind u8][payload]`, little-endian, each at a
//! multiple of eight. The checksum is seeded with the segment's number, so that frames of an earlier use of the file
//! are not frames of this one. A new frame kind is one more constant in `codec`; this file does not look at it.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use memmap2::MmapRaw;

const MAGIC: &[u8; 8] = b"PCAUDIT1";
/// Bytes before the first frame.
pub const HEADER: usize = 32;
const FRAME: usize = 9;

/// Bytes that a frame with a payload of `payload` bytes takes.
pub const fn framed(payload: usize) -> usize {
    (payload + FRAME).next_multiple_of(8)
}

/// A mapped file. Who appends or changes the number holds the ring's lock; bytes below `end` never change until the
/// shipping thread, the only one that recycles, begins the file anew.
pub struct Segment {
    map: MmapRaw,
    number: AtomicU64,
    end: AtomicUsize,
    _file: File,
}

/// One frame: its kind, its payload, and where the next one may begin.
pub struct Frame<'a> {
    pub kind: u8,
    pub payload: &'a [u8],
    pub next: usize,
}

impl Segment {
    /// Opens or makes the file with `len` bytes that are really there, and reads its header.
    ///
    /// # Errors
    /// When the disk has no room for it, or refuses.
    pub fn open(path: &Path, len: usize) -> io::Result<Self> {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let have = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        let len = have.max(len);
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, len as u64) {
            Ok(()) => {}
            Err(rustix::io::Errno::OPNOTSUPP) => fill(&mut file, have, len)?,
            Err(error) => {
                if have == 0 {
                    let _ = std::fs::remove_file(path);
                }
                return Err(error.into());
            }
        }
        let map = MmapRaw::map_raw(&file)?;
        let segment = Self { map, number: AtomicU64::new(0), end: AtomicUsize::new(HEADER), _file: file };
        let number = match segment.bytes(0, HEADER).split_first_chunk::<8>() {
            Some((magic, rest)) if magic == MAGIC => {
                rest.first_chunk::<8>().map_or(0, |number| u64::from_le_bytes(*number))
            }
            _ => 0,
        };
        segment.number.store(number, Ordering::Release);
        Ok(segment)
    }

    /// Its place in the order of the log, from 1; 0 while it is free.
    pub fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// Where the next frame will be written.
    pub fn end(&self) -> usize {
        self.end.load(Ordering::Acquire)
    }

    /// Bytes left.
    pub fn room(&self) -> usize {
        self.map.len().saturating_sub(self.end())
    }

    /// Starts the file's next use (`number` > 0), or marks it free (0).
    pub fn begin(&self, number: u64) {
        let mut header = [0_u8; HEADER];
        if let Some(magic) = header.first_chunk_mut::<8>() {
            *magic = *MAGIC;
        }
        if let Some(place) = header.get_mut(8..16) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        self.end.store(HEADER, Ordering::Release);
        self.number.store(number, Ordering::Release);
        self.write(0, &header);
    }

    /// Appends a frame; false when there is no room.
    pub fn append(&self, kind: u8, payload: &[u8]) -> bool {
        let at = self.end();
        let size = framed(payload.len());
        let Ok(len) = u32::try_from(payload.len() + 1) else { return false };
        if size > self.room() {
            return false;
        }
        let sum = checksum(self.number(), len, kind, payload);
        self.write(at, &len.to_le_bytes());
        self.write(at + 4, &sum.to_le_bytes());
        self.write(at + 8, &[kind]);
        self.write(at + FRAME, payload);
        self.end.store(at + size, Ordering::Release);
        true
    }

    /// The first whole frame at or after `at` (a multiple of eight) and below `end`; damaged ones are stepped over.
    pub fn next(&self, at: usize, end: usize) -> Option<Frame<'_>> {
        let bytes = self.bytes(0, end.min(self.map.len()));
        let number = self.number();
        let mut at = at;
        loop {
            let rest = bytes.get(at..)?;
            let (len, tail) = rest.split_first_chunk::<4>()?;
            let (sum, tail) = tail.split_first_chunk::<4>()?;
            let len = u32::from_le_bytes(*len);
            if let Some((kind, payload)) =
                tail.get(..len as usize).filter(|_| len > 0).and_then(|body| body.split_first())
                && checksum(number, len, *kind, payload) == u32::from_le_bytes(*sum)
            {
                return Some(Frame { kind: *kind, payload, next: at + framed(payload.len()) });
            }
            at += 8;
        }
    }

    /// Finds the end of what an earlier process wrote.
    pub fn recover(&self) {
        let mut at = HEADER;
        while let Some(frame) = self.next(at, self.map.len()) {
            at = frame.next;
        }
        self.end.store(at, Ordering::Release);
    }

    /// Writes the bytes from `from` to `to`, and the header, to the disk and waits for it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn flush(&self, from: usize, to: usize) -> io::Result<()> {
        if from > 4096 {
            self.map.flush_range(from, to.saturating_sub(from))
        } else {
            self.map.flush_range(0, to)
        }
    }

    #[expect(unsafe_code, reason = "the mapping is written through a pointer; the range is checked")]
    fn write(&self, at: usize, bytes: &[u8]) {
        if at.checked_add(bytes.len()).is_none_or(|end| end > self.map.len()) {
            return;
        }
        // SAFETY: the range lies in the mapping, which lives as long as `self`. Whoever writes holds the ring's lock,
        // and readers look only at bytes below `end`, which this does not touch except in `begin` (see the type).
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.map.as_mut_ptr().add(at), bytes.len()) }
    }

    #[expect(unsafe_code, reason = "the mapping is read as a slice; the range is checked")]
    fn bytes(&self, from: usize, to: usize) -> &[u8] {
        let to = to.min(self.map.len());
        let from = from.min(to);
        // SAFETY: the range lies in the mapping, which lives as long as `self`, and these bytes no longer change
        // (see the type): callers ask for what is below `end`, or are alone with the segment while the log opens.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(from), to - from) }
    }
}

fn checksum(number: u64, len: u32, kind: u8, payload: &[u8]) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "the low half tells uses of one file apart")]
    let mut hasher = crc32fast::Hasher::new_with_initial(number as u32);
    hasher.update(&len.to_le_bytes());
    hasher.update(&[kind]);
    hasher.update(payload);
    hasher.finalize()
}

fn fill(file: &mut File, have: usize, len: usize) -> io::Result<()> {
    file.seek(SeekFrom::Start(have as u64))?;
    let zeros = [0_u8; 65_536];
    let mut left = len.saturating_sub(have);
    while left > 0 {
        let part = left.min(zeros.len());
        file.write_all(zeros.get(..part).unwrap_or_default())?;
        left -= part;
    }
    file.sync_all()
}
