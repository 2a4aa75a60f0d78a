//! What was decided, always: write-ahead log, hash chain, shipping. The request path begins, finishes and refuses
//! here; operators' endpoints and the command line read ([`fn@verify`], [`Filter`]).
//!
//! `codec` is the binary form, `segment` a mapped file, `ring` the files in order, `commit` the disk, `tail` and `chain`
//! make events, `ship` moves them to the store. A new event kind is one variant of [`Kind`] and its name and code.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, broadcast, watch};

use crate::config;
use crate::model::{SharedClock, Timestamp};
use crate::store::AuditStore;

mod chain;
mod checkpoint;
mod codec;
mod commit;
mod counts;
mod csv;
mod event;
mod filter;
mod flood;
#[cfg(fuzzing)]
pub mod fuzz;
mod ring;
mod segment;
mod shared;
mod ship;
mod state;
mod tail;
#[cfg(test)]
mod tests;
mod verify;

pub use checkpoint::{Checkpoint, Checkpoints, Signer};
pub use csv::{csv_head, csv_line};
pub use event::{Event, Kind, Outcome, RecordError};
pub use filter::{Filter, printable};
pub use verify::{Broken, canonical, verify, verify_chain, verify_from};

use checkpoint::Signing;
use codec::End;
use commit::Committer;
use counts::Counts;
use flood::Flood;
use ring::Ring;
use shared::{Shared, encoded};
use ship::Shipper;
use state::StateFile;
use tail::{At, Tail};

/// A decision that is in the log and whose outcome is not yet. Dropping it writes `interrupted`.
pub struct Pending {
    shared: Arc<Shared>,
    local: u64,
    time: Timestamp,
    finished: bool,
}

impl Pending {
    /// Status of the answer; before its head leaves. `reason`: a failure after the permit (`upstream-failed`).
    pub fn finish(mut self, status: u16, now: Timestamp, reason: Option<&str>) {
        self.finished = true;
        let duration_us = u64::try_from(now.since(self.time).as_micros()).ok();
        self.shared.end(self.local, &End { status: Some(status), duration_us, reason, ..End::default() });
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.finished {
            self.shared.end(self.local, &interrupted());
        }
    }
}

fn interrupted() -> End<'static> {
    End { reason: Some("interrupted"), ..End::default() }
}

/// The node's audit log. Dropping it ends its threads; [`Recorder::close`] waits for them.
pub struct Recorder {
    shared: Arc<Shared>,
    ended: watch::Receiver<bool>,
}

impl Recorder {
    /// Opens the log in `<data_dir>/audit`, recovers, starts the shipping thread.
    ///
    /// # Errors
    /// When the log cannot be made or read, or another process has it.
    pub fn open(
        node: &str,
        data_dir: &Path,
        config: &config::Audit,
        store: Arc<dyn AuditStore>,
        clock: SharedClock,
    ) -> Result<Arc<Self>, RecordError> {
        let io = |error: std::io::Error| RecordError::Io(error.to_string());
        let dir = data_dir.join("audit");
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(io)?;
        let mut lock = OpenOptions::new();
        let lock = lock.create(true).truncate(false).write(true).mode(0o600).open(dir.join("lock"));
        let lock = lock.map_err(io)?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| RecordError::Io(format!("another process uses {}", dir.display())))?;
        let (mut state, known) = StateFile::open(&dir.join("state"), node).map_err(io)?;
        let log_size = if config.log_size == 0 { 64 << 20 } else { config.log_size };
        let lowest = known.as_ref().map_or(0, |shipped| shipped.lowest);
        let (mut ring, found) = Ring::open(&dir, log_size, lowest)?;
        let fresh = known.is_none();
        let mut shipped = known.unwrap_or_default();
        if fresh {
            shipped.seq = found.first_seq.saturating_sub(1);
            shipped.floor = At::of(&shipped);
        }
        ring.next_seq = ring.next_seq.max(shipped.next_seq).max(shipped.seq + 1);
        let millis = u64::try_from(clock.now().micros() / 1000).unwrap_or(0);
        shipped.epoch = millis.max(shipped.epoch + 1);
        ring.epoch = shipped.epoch;
        let (counts, counted) = Counts::open(&dir.join("counts")).map_err(io)?;
        for local in found.orphans {
            let end = counted.get(&local).copied().unwrap_or_else(interrupted);
            if let Err(error) = ring.end(local, &end) {
                tracing::error!(%error, "an interrupted decision waits for the next start");
            }
        }
        shipped.next_seq = ring.next_seq;
        counts.clear().map_err(io)?;
        state.write(&shipped, true).map_err(io)?;
        File::open(&dir).and_then(|dir| dir.sync_all()).map_err(io)?;
        let durable = config.durability == config::Durability::Durable;
        let shared = Arc::new(Shared {
            node: node.to_owned(),
            durable,
            clock,
            ring: Mutex::new(ring),
            flood: Mutex::new(Flood::new(counts)),
            tail: Mutex::new(Tail::new(node, At::of(&shipped))),
            committer: Committer::new(),
            wake: Notify::new(),
            idle: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            halt: Notify::new(),
            deadline: Mutex::new(None),
            shipped: AtomicU64::new(shipped.seq),
            oldest: AtomicI64::new(i64::MAX),
            events: broadcast::Sender::new(1024),
            flowing: AtomicBool::new(false),
            room: Notify::new(),
            signer: OnceLock::new(),
        });
        let (end, ended) = watch::channel(false);
        let committing = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("audit-commit".to_owned())
            .spawn(move || committing.committer.run(&committing.ring))
            .map_err(io)?;
        let shipper = Shipper {
            shared: Arc::clone(&shared),
            store,
            state,
            shipped,
            known: !fresh,
            stands: 0,
            small: false,
            checkpoints: Signing::default(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io)?;
        std::thread::Builder::new()
            .name("audit-ship".to_owned())
            .spawn(move || {
                runtime.block_on(shipper.run());
                drop(lock);
                end.send_replace(true);
            })
            .map_err(io)?;
        Ok(Arc::new(Self { shared, ended }))
    }

    /// From now on the chain's last event is signed whenever all is shipped, at most once a second. Only the first signer
    /// counts.
    pub fn sign_with(&self, signer: Signer) {
        let _first = self.shared.signer.set(signer);
        self.shared.wake.notify_one();
    }

    /// A decision of a request: in the log (as `durability` says) when this returns.
    ///
    /// # Errors
    /// When it is not in the log; nothing may be done on its strength then.
    pub async fn begin(&self, event: &Event<'_>) -> Result<Pending, RecordError> {
        let decide = || {
            encoded(event, |decision| {
                let mut ring = self.shared.ring();
                let local = ring.decide(decision, event.time, event.privileged())?;
                Ok((local, ring.written))
            })
        };
        let (local, written) = self.shared.with_room(decide).await?;
        let pending = Pending { shared: Arc::clone(&self.shared), local, time: event.time, finished: false };
        if self.shared.durable {
            self.shared.committer.wait(written).await?;
        }
        Ok(pending)
    }

    /// A refusal: decision and outcome at once. Merges floods of unidentified refusals (interface §8).
    ///
    /// # Errors
    /// When it is not in the log.
    pub async fn refused(&self, event: &Event<'_>, status: u16) -> Result<(), RecordError> {
        let spent = self.shared.clock.now().since(event.time).as_micros();
        let written = self.shared.write_finished(event, Some(status), u64::try_from(spent).ok())?;
        if self.shared.durable { self.shared.committer.wait(written).await } else { Ok(()) }
    }

    /// A security event (`login`, `token`, `key`, `policy`, `admin`, `node`, `session`): fsynced when this returns.
    ///
    /// # Errors
    /// When it is not on the disk.
    pub async fn security(&self, event: &Event<'_>, status: Option<u16>) -> Result<(), RecordError> {
        let written = self.shared.write_finished(event, status, None)?;
        self.shared.committer.wait(written).await
    }

    /// The end of a stream whose decision is in the log already: written when this returns, on the disk soon after.
    ///
    /// # Errors
    /// When it is not in the log.
    pub fn stream(&self, event: &Event<'_>, status: u16, lasted: Duration) -> Result<(), RecordError> {
        self.shared.write_finished(event, Some(status), u64::try_from(lasted.as_micros()).ok())?;
        self.shared.committer.ask();
        Ok(())
    }

    /// Events not yet in the store, and the age of the oldest.
    pub fn pending(&self) -> (u64, Duration) {
        let written = self.shared.ring().next_seq.saturating_sub(1);
        let waiting = written.saturating_sub(self.shared.shipped.load(Ordering::Acquire));
        let oldest = Timestamp::from_micros(self.shared.oldest.load(Ordering::Acquire));
        (waiting, if waiting == 0 { Duration::ZERO } else { self.shared.clock.now().since(oldest) })
    }

    /// Why nothing can be recorded now, if so.
    pub fn trouble(&self) -> Option<String> {
        let full = self.shared.ring().admit(1024, true).err().map(|error| error.to_string());
        self.shared.committer.broken().or(full)
    }

    /// Joined events not shipped yet (final JSON), for export and tail; [`Recorder::follow`] has every further one.
    pub fn unshipped(&self) -> Vec<String> {
        let tail = self.shared.tail();
        let live = self.shared.live();
        let mut copy = tail.clone();
        copy.read(&live, usize::MAX);
        copy.queue.into_iter().map(|built| built.entry.json).collect()
    }

    /// The final JSON of every event that is shipped from now on; a slow receiver misses some and is told so.
    pub fn follow(&self) -> broadcast::Receiver<Arc<str>> {
        self.shared.events.subscribe()
    }

    /// Ships what is there and stops the thread (bounded wait).
    pub async fn close(&self, wait: Duration) {
        *self.shared.deadline.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + wait);
        self.halt();
        let mut ended = self.ended.clone();
        let _ = tokio::time::timeout(wait, ended.wait_for(|ended| *ended)).await;
    }

    fn halt(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.halt.notify_one();
        self.shared.wake.notify_one();
        self.shared.committer.stop();
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.halt();
    }
}
