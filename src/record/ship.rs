//! The shipping thread: tails the log, appends to the audit store, recycles segments. Started by [`super::Recorder`].
//!
//! Nothing is lost and nothing doubled: events are a function of the log, the store skips what it has, and after a
//! restart the store's last event says where to go on.

use std::mem;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::store::{self, AuditEntry, AuditStore, StoreError};

use super::Shared;
use super::checkpoint::Signing;
use super::segment::Segment;
use super::state::{self, Shipped, StateFile};
use super::tail::{At, Tail};

/// Events per append.
const BATCH: usize = 2048;
/// How long events gather before they are shipped.
const GATHER: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(10);

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Ask the store where it stands.
    Contact,
    /// Ship on.
    Ship,
    /// Wait for more.
    Rest,
}

/// What the thread owns.
pub struct Shipper {
    pub shared: Arc<Shared>,
    pub store: Arc<dyn AuditStore>,
    pub state: StateFile,
    pub shipped: Shipped,
    /// The state file existed.
    pub known: bool,
    /// The last event that the store is known to have.
    pub stands: u64,
    /// The log does not have all of its size.
    pub small: bool,
    /// Signs where the chain stands.
    pub checkpoints: Signing,
}

impl Shipper {
    /// Runs until the log is closed.
    pub async fn run(mut self) {
        let mut backoff = Duration::from_millis(50);
        let mut contacted = false;
        let mut away = false;
        loop {
            let stopping = self.shared.stop.load(Ordering::Acquire);
            self.shared.end_floods(stopping);
            let step = if contacted { self.ship().await } else { self.contact().await };
            self.recycle();
            self.shared.flowing.store(step.is_ok(), Ordering::Release);
            self.shared.room.notify_waiters();
            match step {
                Ok(next) => {
                    contacted = next != Step::Contact;
                    if mem::take(&mut away) {
                        tracing::info!("audit events are shipped again");
                    }
                    backoff = Duration::from_millis(50);
                    if next != Step::Rest {
                        continue;
                    }
                    self.checkpoints.sign(&self.shared, &*self.store, &self.shipped, stopping).await;
                    if stopping {
                        break;
                    }
                    self.rest().await;
                }
                Err(error) => {
                    if stopping && self.late() {
                        break;
                    }
                    if !mem::replace(&mut away, true) {
                        tracing::warn!(%error, "audit events wait in the log until the store takes them");
                    }
                    self.shared.committer.ask();
                    let pause = if stopping { Duration::from_millis(50) } else { backoff };
                    let _ = tokio::time::timeout(pause, self.shared.stopped()).await;
                    backoff = (backoff * 2).min(Duration::from_secs(2));
                }
            }
        }
        self.shared.ring().closed = true;
        if let Err(error) = self.shared.flush_all() {
            tracing::error!(%error, "the audit log could not be flushed");
        }
        self.save(true);
    }

    fn late(&self) -> bool {
        let deadline = *self.shared.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        deadline.is_none_or(|deadline| Instant::now() >= deadline)
    }

    /// Waits for something to ship, at most a second (for the floods), then a little for more of it.
    async fn rest(&self) {
        self.shared.idle.store(true, Ordering::SeqCst);
        if self.unshipped() == 0 {
            let _ = tokio::time::timeout(Duration::from_secs(1), self.shared.wake.notified()).await;
        }
        self.shared.idle.store(false, Ordering::SeqCst);
        if !self.shared.stop.load(Ordering::Acquire) {
            let _ = tokio::time::timeout(GATHER, self.shared.stopped()).await;
        }
    }

    fn unshipped(&self) -> u64 {
        self.shared.ring().next_seq.saturating_sub(self.shipped.seq + 1)
    }

    /// Learns where the store stands and sets the reader to go on after it.
    async fn contact(&mut self) -> Result<Step, StoreError> {
        let last = within(self.store.last(&self.shared.node)).await.inspect_err(|_| {
            let mut tail = self.shared.tail();
            let live = self.shared.live();
            tail.read(&live, 1);
            let oldest = tail.queue.front().map_or(i64::MAX, |built| built.entry.time.micros());
            self.shared.oldest.store(oldest, Ordering::Release);
        })?;
        let live = self.shared.live();
        let tail = place(&self.shared.node, &live, &self.shipped, last.as_ref(), self.known);
        self.stands = last.map_or(0, |entry| entry.seq);
        if self.stands < tail.at.event() {
            let (from, upto) = (self.stands + 1, tail.at.event());
            tracing::error!(from, upto, "the audit store lost events that the log no longer has");
        } else if tail.at.event() < At::of(&self.shipped).event() {
            let (from, upto) = (self.stands + 1, At::of(&self.shipped).event());
            tracing::error!(from, upto, "the audit store lost events; they are shipped again");
        }
        let At { seq, base, hash } = tail.at.clone();
        self.shipped = Shipped { seq, base, hash, ..self.shipped.clone() };
        self.shared.shipped.store(seq, Ordering::Release);
        self.known = true;
        *self.shared.tail() = tail;
        self.save(true);
        Ok(Step::Ship)
    }

    /// Ships one batch, if there is one.
    async fn ship(&mut self) -> Result<Step, StoreError> {
        let (epoch, entries, at) = {
            // Nothing is recycled while the tail is held, so these segments stay what they are.
            let mut tail = self.shared.tail();
            let live = self.shared.live();
            tail.read(&live, BATCH);
            batch(&tail)
        };
        let written = self.shared.ring().written;
        let oldest = entries.first().map_or(i64::MAX, |entry| entry.time.micros());
        self.shared.oldest.store(oldest, Ordering::Release);
        let count = entries.len();
        if let Some(at) = at {
            self.flush_first(written).await?;
            let shipped = self.store.append(&self.shared.node, epoch, self.stands, &entries);
            if let store::Shipped::Behind(has) = within(shipped).await? {
                let had = self.stands;
                tracing::error!(had, has, "the audit store lost events");
                return Ok(Step::Contact);
            }
            self.stands = at.event();
            let At { seq, base, hash } = at;
            self.shipped = Shipped { seq, base, hash, ..self.shipped.clone() };
            self.shared.tail().queue.drain(..count);
            self.shared.shipped.store(seq, Ordering::Release);
            self.save(false);
            if self.shared.events.receiver_count() > 0 {
                for entry in entries {
                    let _ = self.shared.events.send(Arc::from(entry.json));
                }
            }
        }
        let more = count == BATCH || !self.shared.tail().queue.is_empty();
        if !more {
            self.shared.oldest.store(i64::MAX, Ordering::Release);
        }
        let more = more || self.shared.stop.load(Ordering::Acquire) && count > 0;
        Ok(if more { Step::Ship } else { Step::Rest })
    }

    /// With `durable`, nothing is in the store that a crash of the machine could still take from the log: its decision
    /// would ship again as interrupted.
    async fn flush_first(&self, written: u64) -> Result<(), StoreError> {
        let away = |error: String| StoreError::Unavailable(error);
        if !self.shared.durable {
            return Ok(());
        }
        if self.shared.stop.load(Ordering::Acquire) {
            return self.shared.flush_all().map_err(|error| away(error.to_string()));
        }
        self.shared.committer.wait(written).await.map_err(|error| away(error.to_string()))
    }

    /// Frees segments that nothing needs any more, when less than half are free: what was shipped stays as long as there
    /// is room, for a store that loses it. Open decisions in them move to the newest one.
    fn recycle(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut tail = shared.tail();
        let mut below = tail.needed().min(shared.ring().surplus());
        let mut carrying = false;
        if shared.ring().lowest() < below {
            for local in tail.pinning(below) {
                let Some(bytes) = tail.decision(local) else { continue };
                let carried = shared.ring().carry(local, bytes);
                carrying |= carried.is_some();
                match carried {
                    Some(number) => tail.carried(local, number),
                    None => below = below.min(tail.place_of(local)),
                }
            }
            if shared.ring().lowest() < below {
                // What was carried must be on the disk, and the state must say that the old segments are gone,
                // before they are used again.
                if carrying && let Err(error) = shared.flush_all() {
                    tracing::error!(%error, "the audit log could not be flushed");
                    return;
                }
                self.shipped.lowest = below;
                self.shipped.floor = tail.start_of(below);
                tail.forget(below);
                if self.save(true) {
                    shared.ring().recycle(below);
                }
            }
        }
        drop(tail);
        if shared.ring().grow() == self.small {
            self.small = !self.small;
            if self.small {
                tracing::warn!("the audit log cannot have all of its size; free disk space");
            }
        }
    }

    fn save(&mut self, sync: bool) -> bool {
        self.shipped.next_seq = self.shared.ring().next_seq;
        self.state
            .write(&self.shipped, sync)
            .inspect_err(|error| tracing::error!(%error, "the audit log's state could not be written"))
            .is_ok()
    }
}

/// The first events of one epoch, and where the last of them stands.
fn batch(tail: &Tail) -> (u64, Vec<AuditEntry>, Option<At>) {
    let epoch = tail.queue.front().map_or(0, |built| built.epoch);
    let first = || tail.queue.iter().take(BATCH).take_while(|built| built.epoch == epoch);
    (epoch, first().map(|built| built.entry.clone()).collect(), first().last().map(|built| built.at.clone()))
}

/// Where to go on, given what is in the log and what the store has.
fn place(
    node: &str,
    live: &[Arc<Segment>],
    shipped: &Shipped,
    theirs: Option<&AuditEntry>,
    known: bool,
) -> Tail {
    let ours = At::of(shipped);
    let seq = theirs.map_or(0, |entry| entry.seq);
    let hash = theirs.map_or_else(state::none, |entry| Arc::from(member(&entry.json, "hash")));
    if seq == ours.event() && hash == ours.hash {
        return walk(node, live, &shipped.floor, &ours).unwrap_or_else(|| Tail::new(node, ours));
    }
    if let Some(theirs) = theirs.filter(|_| seq > ours.event()) {
        // The store took events that the state file does not know of: a crash came between.
        let mut tail =
            walk(node, live, &shipped.floor, &ours).unwrap_or_else(|| Tail::new(node, ours.clone()));
        let same = tail.skip_to(live, seq);
        if same.is_some_and(|built| member(&built.entry.json, "id") == member(&theirs.json, "id")) {
            tail.at.hash = hash;
            return tail;
        }
    } else if known && seq < ours.event() {
        return again(node, live, shipped, seq, hash);
    }
    // The log began, or was put back, without knowing of these events: its own follow them.
    let base = i64::try_from(seq).unwrap_or(i64::MAX).saturating_sub_unsigned(ours.seq);
    Tail::new(node, At { seq: ours.seq, base, hash })
}

/// The store lost its newest events, those after `seq`: what the log still makes, the very same, is shipped again. The
/// chain goes on in any case.
fn again(node: &str, live: &[Arc<Segment>], shipped: &Shipped, seq: u64, hash: Arc<str>) -> Tail {
    let (ours, floor) = (At::of(shipped), &shipped.floor);
    let from = seq.checked_add_signed(ours.base.saturating_neg());
    let start = from.map(|from| At { seq: from, base: ours.base, hash });
    if let Some(start) = start.filter(|start| walk(node, live, start, &ours).is_some()) {
        return walk(node, live, floor, &start).unwrap_or_else(|| Tail::new(node, start));
    }
    if walk(node, live, floor, &ours).is_none() {
        return Tail::new(node, ours);
    }
    // The store's last event is not this chain's, or older than all that the log has.
    let mut tail = Tail::new(node, floor.clone());
    let there = seq <= floor.event() || tail.skip_to(live, seq).is_some();
    if there { tail } else { Tail::new(node, ours) }
}

/// A reader at `end` that began at `from`; `None` when the log does not lead there.
fn walk(node: &str, live: &[Arc<Segment>], from: &At, end: &At) -> Option<Tail> {
    let mut tail = Tail::new(node, from.clone());
    if from == end {
        return Some(tail);
    }
    tail.skip_to(live, end.event()).filter(|built| built.at == *end).map(|_| tail)
}

fn member(json: &str, name: &str) -> String {
    serde_json::from_str::<serde_json::Value>(json)
        .ok()
        .and_then(|event| event.get(name).and_then(|value| value.as_str()).map(str::to_owned))
        .unwrap_or_default()
}

async fn within<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(PATIENCE, call)
        .await
        .unwrap_or_else(|_| Err(StoreError::Unavailable("no answer within 10 seconds".to_owned())))
}
