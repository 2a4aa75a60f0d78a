//! Reads the log in order, joins outcomes with their decisions and chains the events. Called by `ship` and for
//! events that are not shipped yet.

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::AHashMap;

use super::chain::{self, Place};
use super::codec::{self, BOTH, DECISION, Decision, End, Ended, OUTCOME};
use super::segment::{HEADER, Segment};
use super::state::Shipped;
use crate::model::Timestamp;
use crate::store::AuditEntry;

/// An event that is ready to be shipped.
#[derive(Clone, Debug)]
pub struct Built {
    /// Final.
    pub entry: AuditEntry,
    /// The node's start that it belongs to.
    pub epoch: u64,
    /// The oldest segment that it still needs.
    pub oldest: u64,
    /// Where shipping stands once this is shipped.
    pub at: At,
}

/// A place in the chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct At {
    /// The log's number.
    pub seq: u64,
    /// What to add for the event's `seq`.
    pub base: i64,
    /// The event's hash.
    pub hash: Arc<str>,
}

impl At {
    /// Where `shipped` stands.
    pub fn of(shipped: &Shipped) -> Self {
        Self { seq: shipped.seq, base: shipped.base, hash: shipped.hash.clone() }
    }

    /// The event's `seq`.
    pub fn event(&self) -> u64 {
        self.seq.saturating_add_signed(self.base)
    }
}

/// A reader of the log.
#[derive(Clone)]
pub struct Tail {
    node: Arc<str>,
    number: u64,
    offset: usize,
    pending: AHashMap<u64, (u64, Box<[u8]>)>,
    /// The last event that was built.
    pub at: At,
    /// Built, not yet taken, in order.
    pub queue: VecDeque<Built>,
    /// Where the chain stood at the first event that was built from each segment.
    starts: VecDeque<(u64, At)>,
}

impl Tail {
    /// A reader from the log's beginning that skips what `at` has already.
    pub fn new(node: &str, at: At) -> Self {
        Self {
            node: Arc::from(node),
            number: 0,
            offset: HEADER,
            pending: AHashMap::new(),
            at,
            queue: VecDeque::new(),
            starts: VecDeque::new(),
        }
    }

    /// Reads on until `limit` events are in the queue or the log ends. Segments as they are in the ring, oldest first.
    pub fn read(&mut self, live: &[Arc<Segment>], limit: usize) {
        for segment in live {
            if segment.number() < self.number {
                continue;
            }
            if segment.number() > self.number {
                self.number = segment.number();
                self.offset = HEADER;
            }
            let end = segment.end();
            while self.queue.len() < limit
                && let Some(frame) = segment.next(self.offset, end)
            {
                self.offset = frame.next;
                self.take(frame.kind, frame.payload);
            }
            if self.queue.len() >= limit {
                return;
            }
        }
    }

    fn take(&mut self, kind: u8, payload: &[u8]) {
        match kind {
            DECISION => {
                if let Some(local) = codec::local_of(payload) {
                    self.pending.insert(local, (self.number, payload.into()));
                }
            }
            OUTCOME => {
                let Some(ended) = Ended::read(payload) else { return };
                let pending = self.pending.remove(&ended.local);
                if ended.seq > self.at.seq {
                    let number = self.number;
                    let (oldest, decision) =
                        pending.as_ref().map_or((number, None), |(n, bytes)| (*n, Decision::read(bytes)));
                    self.build(oldest, decision.as_ref(), &ended);
                }
            }
            BOTH => {
                let Some((decision, end)) = codec::split_both(payload) else { return };
                let Some(ended) = Ended::read(end) else { return };
                if ended.seq > self.at.seq {
                    self.build(self.number, Decision::read(decision).as_ref(), &ended);
                }
            }
            _ => {}
        }
    }

    /// A place in the chain after which the segments from `number` on have every event, as far as it was read.
    pub fn start_of(&self, number: u64) -> At {
        let start = self.starts.iter().find(|(segment, _)| *segment >= number);
        start.map_or_else(|| self.at.clone(), |(_, at)| at.clone())
    }

    /// Segments below `number` are gone.
    pub fn forget(&mut self, number: u64) {
        self.starts.retain(|(segment, _)| *segment >= number);
    }

    fn build(&mut self, oldest: u64, decision: Option<&Decision<'_>>, ended: &Ended<'_>) {
        if self.starts.back().is_none_or(|(segment, _)| *segment < self.number) {
            self.starts.push_back((self.number, self.at.clone()));
        }
        let missing = ended.seq.saturating_sub(self.at.seq + 1);
        if missing > 0 {
            // One event stands for all of them, so that the numbers of events have no gap.
            let at = self.at.seq + missing;
            self.at.base = self.at.base.saturating_sub_unsigned(missing - 1);
            let end = End { count: Some(missing), ..End::default() };
            self.push(oldest, &lost(ended.epoch, at), &Ended { seq: at, end, ..*ended });
        }
        match decision {
            Some(decision) => self.push(oldest, decision, ended),
            None => self.push(oldest, &lost(ended.epoch, ended.seq), ended),
        }
    }

    fn push(&mut self, oldest: u64, decision: &Decision<'_>, ended: &Ended<'_>) {
        let seq = ended.seq.saturating_add_signed(self.at.base);
        let place = Place { node: &self.node, epoch: ended.epoch, seq, prev: &self.at.hash };
        let (json, hash) = chain::event(&place, decision, &ended.end);
        self.at = At { seq: ended.seq, base: self.at.base, hash };
        let entry = AuditEntry { seq, time: decision.time, json };
        self.queue.push_back(Built { entry, epoch: ended.epoch, oldest, at: self.at.clone() });
    }

    /// Segments below this number hold nothing but shipped events and open decisions.
    pub fn needed(&self) -> u64 {
        self.queue.iter().map(|built| built.oldest).min().unwrap_or(u64::MAX).min(self.number)
    }

    /// Decisions without an outcome in segments below `below`.
    pub fn pinning(&self, below: u64) -> Vec<u64> {
        self.pending.iter().filter(|(_, (number, _))| *number < below).map(|(local, _)| *local).collect()
    }

    /// The bytes of an open decision.
    pub fn decision(&self, local: u64) -> Option<&[u8]> {
        self.pending.get(&local).map(|(_, bytes)| &**bytes)
    }

    /// The segment that an open decision stands in.
    pub fn place_of(&self, local: u64) -> u64 {
        self.pending.get(&local).map_or(u64::MAX, |(number, _)| *number)
    }

    /// The decision now also stands in segment `number`.
    pub fn carried(&mut self, local: u64, number: u64) {
        if let Some((place, _)) = self.pending.get_mut(&local) {
            *place = number;
        }
    }

    /// Reads on until the event `seq` is built and drops everything up to it; that event, or `None` when the log ends
    /// before it.
    pub fn skip_to(&mut self, live: &[Arc<Segment>], seq: u64) -> Option<Built> {
        loop {
            match self.queue.pop_front() {
                Some(built) if built.entry.seq == seq => {
                    return self.queue.is_empty().then_some(built);
                }
                Some(_) => {}
                None => {
                    self.read(live, 1);
                    if self.queue.is_empty() {
                        return None;
                    }
                }
            }
        }
    }
}

fn lost(epoch: u64, seq: u64) -> Decision<'static> {
    let millis = i64::try_from(epoch).unwrap_or(0);
    chain::lost(Timestamp::from_micros(millis.saturating_mul(1000)), seq)
}
