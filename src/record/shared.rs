//! What the recorder and its two threads share, and how a finished event is written. Called by [`super::Recorder`] and
//! `ship`.
//!
//! Locks are taken in this order: flood or tail, then ring. A new shared value is one field of [`Shared`].

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, broadcast};

use super::checkpoint::Signer;
use super::codec::{self, End};
use super::commit::Committer;
use super::flood::{Flood, Merged, Verdict};
use super::ring::Ring;
use super::segment::Segment;
use super::tail::Tail;
use super::{Event, Outcome, RecordError};
use crate::model::SharedClock;

/// How long a decision waits for room in a full log.
const ROOM: Duration = Duration::from_secs(1);

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Encodes the event into this thread's buffer and hands it on.
pub fn encoded<T>(event: &Event<'_>, then: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.clear();
        codec::write_decision(event, buffer);
        then(buffer)
    })
}

/// What the recorder and its threads share.
pub struct Shared {
    pub node: String,
    pub durable: bool,
    pub clock: SharedClock,
    pub ring: Mutex<Ring>,
    pub flood: Mutex<Flood>,
    pub tail: Mutex<Tail>,
    pub committer: Committer,
    pub wake: Notify,
    pub idle: AtomicBool,
    pub stop: AtomicBool,
    pub halt: Notify,
    pub deadline: Mutex<Option<Instant>>,
    /// The log's number of the last event in the store.
    pub shipped: AtomicU64,
    /// Time of the oldest event that the store refused so far, microseconds.
    pub oldest: AtomicI64,
    pub events: broadcast::Sender<Arc<str>>,
    /// The store took the last batch: a full log will soon have room again.
    pub flowing: AtomicBool,
    /// Told when there may be room.
    pub room: Notify,
    /// Signs checkpoints, once it is known.
    pub signer: OnceLock<Signer>,
}

impl Shared {
    pub fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn live(&self) -> Vec<Arc<Segment>> {
        self.ring().live.iter().cloned().collect()
    }

    /// Tells the shipping thread that there is something to ship.
    pub fn nudge(&self) {
        if self.idle.swap(false, Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    /// Writes, and when the log is full while events flow into the store, waits a little for room: whoever asks faster
    /// than the store takes is slowed down, and refused only when that does not help.
    pub async fn with_room<T>(&self, write: impl Fn() -> Result<T, RecordError>) -> Result<T, RecordError> {
        let mut done = write();
        let deadline = tokio::time::Instant::now() + ROOM;
        while matches!(done, Err(RecordError::Full(_))) && self.flowing.load(Ordering::Acquire) {
            let mut room = std::pin::pin!(self.room.notified());
            // From here on it is told; what was freed before is seen by the next try.
            room.as_mut().enable();
            done = write();
            if done.is_ok() || tokio::time::timeout_at(deadline, room).await.is_err() {
                break;
            }
        }
        done
    }

    pub async fn stopped(&self) {
        if !self.stop.load(Ordering::Acquire) {
            self.halt.notified().await;
        }
    }

    pub fn end_floods(&self, all: bool) {
        let second = self.clock.now().seconds();
        let mut flood = self.flood.lock().unwrap_or_else(PoisonError::into_inner);
        self.write_merged(flood.turn(second, all));
    }

    pub fn write_merged(&self, ended: Vec<Merged>) {
        if ended.is_empty() {
            return;
        }
        let mut ring = self.ring();
        for merged in ended {
            if let Err(error) = ring.end(merged.local, &merged.end()) {
                tracing::error!(%error, "a merged refusal has no outcome");
            }
        }
        drop(ring);
        self.nudge();
    }

    /// Writes the outcome of a decision.
    pub fn end(&self, local: u64, end: &End<'_>) {
        let done = self.ring().end(local, end);
        if let Err(error) = done {
            tracing::error!(%error, "a decision has no outcome");
        }
        self.nudge();
    }

    pub fn flush_all(&self) -> std::io::Result<()> {
        for segment in self.live() {
            segment.flush(0, segment.end())?;
        }
        Ok(())
    }

    /// Writes a finished event: how many bytes are to be on the disk before it counts as durable.
    pub fn write_finished(
        &self,
        event: &Event<'_>,
        status: Option<u16>,
        duration_us: Option<u64>,
    ) -> Result<u64, RecordError> {
        if event.decision != Outcome::Allow && !event.privileged() && event.count.is_none() {
            let mut flood = self.flood.lock().unwrap_or_else(PoisonError::into_inner);
            self.write_merged(flood.turn(event.time.seconds(), false));
            match flood.note(event, status) {
                Verdict::Separate => {}
                Verdict::Merged => return Ok(self.ring().written),
                Verdict::Open(address) => {
                    let merged = Event {
                        client_ip: address,
                        request_id: None,
                        client_request_id: None,
                        trace_id: None,
                        ..*event
                    };
                    return encoded(&merged, |decision| {
                        let mut ring = self.ring();
                        let local = ring.decide(decision, event.time, false)?;
                        flood.opened(address, Merged::new(local, &merged, status));
                        Ok(ring.written)
                    });
                }
            }
        }
        let end = End { status, duration_us, ..End::default() };
        let written = encoded(event, |decision| {
            let mut ring = self.ring();
            ring.both(decision, event.time, &end, event.privileged())?;
            Ok(ring.written)
        })?;
        self.nudge();
        Ok(written)
    }
}
