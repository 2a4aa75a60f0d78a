//! The ring of segments and the one append. Called by [`super::Recorder`] (write) and `ship` (carry over, recycle).
//!
//! Everything here runs under one lock and does no I/O but page faults. Room for the outcome of every open decision,
//! and one whole segment for carrying decisions over, are never given to new decisions: an outcome always fits.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ahash::{AHashMap, AHashSet};

use super::RecordError;
use super::codec::{self, BOTH, DECISION, End, Ended, OUTCOME, OUTCOME_SIZE};
use super::segment::{HEADER, Segment, framed};
use crate::model::Timestamp;

const SEGMENT: usize = 4 << 20;
const SMALLEST: usize = 64 << 10;

/// The log: segments in use in order, free ones, and the counters.
pub struct Ring {
    dir: PathBuf,
    size: usize,
    /// How many segments there shall be.
    total: usize,
    /// How many files exist.
    made: usize,
    /// In use, oldest first; the last one is written to.
    pub live: VecDeque<Arc<Segment>>,
    free: Vec<Arc<Segment>>,
    next_number: u64,
    next_local: u64,
    /// The number that the next outcome gets, from 1.
    pub next_seq: u64,
    /// Written into each outcome: milliseconds of the node's start.
    pub epoch: u64,
    salt: u128,
    /// Decisions without an outcome.
    open: AHashSet<u64>,
    /// Bytes ever appended by this process.
    pub written: u64,
    /// Nothing is written any more.
    pub closed: bool,
    scratch: Vec<u8>,
}

/// What recovery found.
#[derive(Default)]
pub struct Found {
    /// Decisions that have no outcome.
    pub orphans: Vec<u64>,
    /// Sequence numbers of the oldest and newest outcome in the log; 0 when there is none.
    pub first_seq: u64,
    pub last_seq: u64,
}

impl Ring {
    /// Maps the segments in `dir` and finds what is in those numbered `lowest` and above.
    ///
    /// # Errors
    /// When not even one segment can be had.
    pub fn open(dir: &Path, log_size: u64, lowest: u64) -> Result<(Self, Found), RecordError> {
        let log_size = usize::try_from(log_size).unwrap_or(usize::MAX).clamp(8 * SMALLEST, 1 << 40);
        let size = (log_size / 8).clamp(SMALLEST, SEGMENT) & !4095;
        let total = (log_size / size).max(4);
        let mut ring = Self {
            dir: dir.to_owned(),
            size,
            total,
            made: 0,
            live: VecDeque::new(),
            free: Vec::new(),
            next_number: lowest.max(1),
            next_local: 1,
            next_seq: 1,
            epoch: 0,
            salt: u128::from_le_bytes(crate::model::random_bytes::<16>()) >> 49,
            open: AHashSet::new(),
            written: 0,
            closed: false,
            scratch: Vec::with_capacity(1024),
        };
        let mut used = Vec::new();
        while ring.made < total || ring.path(ring.made).exists() {
            match Segment::open(&ring.path(ring.made), size) {
                Ok(segment) if segment.number() >= lowest.max(1) => used.push(Arc::new(segment)),
                Ok(segment) => ring.free.push(Arc::new(segment)),
                Err(error) if ring.made == 0 => return Err(RecordError::Io(error.to_string())),
                Err(_) => break,
            }
            ring.made += 1;
        }
        used.sort_by_key(|segment| segment.number());
        ring.live = used.into();
        let found = ring.recover();
        Ok((ring, found))
    }

    fn path(&self, index: usize) -> PathBuf {
        self.dir.join(format!("segment-{index:04}.log"))
    }

    fn recover(&mut self) -> Found {
        let mut found = Found::default();
        let mut decisions = AHashMap::new();
        let mut ended = AHashSet::new();
        let mut outcome = |payload: &[u8], ring_seq: &mut u64| {
            if let Some(outcome) = Ended::read(payload) {
                ended.insert(outcome.local);
                found.first_seq =
                    if found.first_seq == 0 { outcome.seq } else { found.first_seq.min(outcome.seq) };
                found.last_seq = found.last_seq.max(outcome.seq);
                *ring_seq = (*ring_seq).max(outcome.seq + 1);
            }
        };
        for segment in &self.live {
            segment.recover();
            self.next_number = self.next_number.max(segment.number() + 1);
            let mut at = HEADER;
            while let Some(frame) = segment.next(at, segment.end()) {
                at = frame.next;
                match frame.kind {
                    DECISION => {
                        if let Some(local) = codec::local_of(frame.payload) {
                            decisions.insert(local, decisions.len());
                            self.next_local = self.next_local.max(local + 1);
                        }
                    }
                    OUTCOME => outcome(frame.payload, &mut self.next_seq),
                    BOTH => {
                        if let Some((decision, end)) = codec::split_both(frame.payload) {
                            let local = codec::local_of(decision).unwrap_or(0);
                            self.next_local = self.next_local.max(local + 1);
                            outcome(end, &mut self.next_seq);
                        }
                    }
                    _ => {}
                }
            }
        }
        let mut orphans: Vec<(u64, usize)> =
            decisions.into_iter().filter(|(local, _)| !ended.contains(local)).collect();
        orphans.sort_by_key(|(_, order)| *order);
        found.orphans = orphans.into_iter().map(|(local, _)| local).collect();
        self.open.extend(found.orphans.iter());
        found
    }

    /// Makes the segments that could not be made before; true when all are there.
    pub fn grow(&mut self) -> bool {
        while self.made < self.total {
            match Segment::open(&self.path(self.made), self.size) {
                Ok(segment) => self.free.push(Arc::new(segment)),
                Err(_) => return false,
            }
            self.made += 1;
        }
        true
    }

    fn body(&self) -> usize {
        self.size.saturating_sub(HEADER)
    }

    /// Whether a frame of `payload` bytes may be written; `identified`: also into the last tenth.
    ///
    /// # Errors
    /// [`RecordError::Full`] until more has been shipped.
    pub fn admit(&self, payload: usize, identified: bool) -> Result<(), RecordError> {
        let full =
            || RecordError::Full("events wait for the store; free disk space or bring it back".to_owned());
        let frame = framed(payload);
        let room = self.live.back().map_or(0, |segment| segment.room());
        let (room, free) = if frame <= room {
            (room - frame, self.free.len())
        } else {
            (
                self.body().checked_sub(frame).ok_or_else(full)?,
                self.free.len().checked_sub(1).ok_or_else(full)?,
            )
        };
        let spare = free.checked_sub(1).ok_or_else(full)?;
        let outcomes = (self.open.len() + free + 2) * OUTCOME_SIZE;
        let kept = if identified { 0 } else { self.total * self.body() / 10 };
        if room + spare * self.body() < outcomes + kept { Err(full()) } else { Ok(()) }
    }

    fn append(&mut self, kind: u8, payload: &[u8]) -> Result<(), RecordError> {
        if self.closed {
            return Err(RecordError::Io("the log is closed".to_owned()));
        }
        self.written += framed(payload.len()) as u64;
        if self.live.back().is_some_and(|segment| segment.append(kind, payload)) {
            return Ok(());
        }
        let segment = self
            .free
            .pop()
            .ok_or_else(|| RecordError::Full("no segment is free until events are shipped".to_owned()))?;
        segment.begin(self.next_number);
        self.next_number += 1;
        let fits = segment.append(kind, payload);
        self.live.push_back(segment);
        if fits { Ok(()) } else { Err(RecordError::Io("a record is larger than a segment".to_owned())) }
    }

    fn stamp(&mut self, decision: &mut [u8], time: Timestamp) -> u64 {
        let local = self.next_local;
        self.next_local += 1;
        let millis = u64::try_from(time.micros() / 1000).unwrap_or(0);
        let id = ulid::Ulid::from_parts(millis, self.salt.wrapping_add(u128::from(local)));
        codec::stamp(decision, local, id.to_bytes());
        local
    }

    /// Writes a decision; its local id.
    ///
    /// # Errors
    /// [`RecordError::Full`].
    pub fn decide(
        &mut self,
        decision: &mut [u8],
        time: Timestamp,
        identified: bool,
    ) -> Result<u64, RecordError> {
        self.admit(decision.len(), identified)?;
        let local = self.stamp(decision, time);
        self.append(DECISION, decision)?;
        self.open.insert(local);
        Ok(local)
    }

    /// Writes the outcome of an open decision; nothing when it has one.
    ///
    /// # Errors
    /// Only when [`Ring::admit`] miscounted.
    pub fn end(&mut self, local: u64, end: &End<'_>) -> Result<(), RecordError> {
        if !self.open.remove(&local) {
            return Ok(());
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        codec::write_outcome(local, self.next_seq, self.epoch, end, &mut scratch);
        let done = self.append(OUTCOME, &scratch);
        self.scratch = scratch;
        match done {
            Ok(()) => self.next_seq += 1,
            Err(_) => drop(self.open.insert(local)),
        }
        done
    }

    /// Writes a decision and its outcome at once.
    ///
    /// # Errors
    /// [`RecordError::Full`].
    pub fn both(
        &mut self,
        decision: &mut [u8],
        time: Timestamp,
        end: &End<'_>,
        identified: bool,
    ) -> Result<(), RecordError> {
        self.admit(decision.len() + 4 + OUTCOME_SIZE, identified)?;
        let local = self.stamp(decision, time);
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.extend_from_slice(&u32::try_from(decision.len()).unwrap_or(0).to_le_bytes());
        scratch.extend_from_slice(decision);
        codec::write_outcome(local, self.next_seq, self.epoch, end, &mut scratch);
        let done = self.append(BOTH, &scratch);
        self.scratch = scratch;
        if done.is_ok() {
            self.next_seq += 1;
        }
        done
    }

    /// Copies an open decision to the newest segment, whose number is returned; `None` when it has its outcome, or
    /// there is no room.
    pub fn carry(&mut self, local: u64, decision: &[u8]) -> Option<u64> {
        if !self.open.contains(&local) {
            return None;
        }
        self.append(DECISION, decision).ok()?;
        self.live.back().map(|segment| segment.number())
    }

    /// The number below which segments are to be freed so that half of them are free.
    pub fn surplus(&self) -> u64 {
        let over = self.live.len().saturating_sub(self.total / 2);
        self.live.get(over).or(self.live.back()).map_or(0, |segment| segment.number())
    }

    /// Makes the oldest segment free when its number is below `below`; the newest is never.
    pub fn recycle(&mut self, below: u64) {
        while self.live.len() > 1 && self.live.front().is_some_and(|segment| segment.number() < below) {
            if let Some(segment) = self.live.pop_front() {
                segment.begin(0);
                self.free.push(segment);
            }
        }
    }

    /// The number of the oldest segment in use.
    pub fn lowest(&self) -> u64 {
        self.live.front().map_or(self.next_number, |segment| segment.number())
    }
}
