//! Refusals without a verified principal beyond [`SEPARATE`] per second and address become one event with a `count`.
//! Called by [`super::Recorder`] for each such refusal and by `ship` every second.
//!
//! The first merged refusal writes an open decision; the end of the second writes its outcome with the count. Until
//! then the count is in [`Counts`] too, which a crash of the process leaves behind.

use std::net::IpAddr;

use ahash::AHashMap;

use super::Event;
use super::codec::{End, clear};
use super::counts::Counts;

/// Refusals per second and address that are events of their own.
pub const SEPARATE: u32 = 100;
/// Addresses that are counted apart; further ones share a count.
const ADDRESSES: usize = 16_384;
/// A time that is this many seconds earlier means that the clock was set back.
const CLOCK_SET_BACK: i64 = 5;

/// The counts of the current second.
pub struct Flood {
    second: i64,
    by: AHashMap<Option<IpAddr>, Bucket>,
    counts: Counts,
}

#[derive(Default)]
struct Bucket {
    seen: u32,
    merged: Option<Merged>,
}

/// A merged event whose outcome is still to be written.
pub struct Merged {
    /// The open decision.
    pub local: u64,
    /// Its place in [`Counts`].
    place: u64,
    count: u64,
    status: Option<u16>,
    clear: u8,
    method: Option<String>,
    host: Option<String>,
    path: Option<String>,
    route: Option<String>,
    user_agent: Option<String>,
    reason: Option<String>,
}

impl Merged {
    /// A merged event of one refusal, written as `local`.
    pub fn new(local: u64, event: &Event<'_>, status: Option<u16>) -> Self {
        Self {
            local,
            place: 0,
            count: 1,
            status,
            clear: 0,
            method: event.method.map(str::to_owned),
            host: event.host.map(str::to_owned),
            path: event.path.map(str::to_owned),
            route: event.route.map(str::to_owned),
            user_agent: event.user_agent.map(str::to_owned),
            reason: event.reason.map(str::to_owned),
        }
    }

    fn add(&mut self, event: &Event<'_>, status: Option<u16>) {
        self.count += 1;
        let pairs = [
            (clear::METHOD, &self.method, event.method),
            (clear::HOST, &self.host, event.host),
            (clear::PATH, &self.path, event.path),
            (clear::ROUTE, &self.route, event.route),
            (clear::AGENT, &self.user_agent, event.user_agent),
            (clear::REASON, &self.reason, event.reason),
        ];
        for (bit, first, this) in pairs {
            if first.as_deref() != this {
                self.clear |= bit;
            }
        }
        if self.status != status {
            self.status = None;
        }
    }

    /// Its outcome.
    pub fn end(&self) -> End<'static> {
        End {
            status: self.status,
            duration_us: None,
            count: Some(self.count),
            clear: self.clear,
            reason: None,
        }
    }
}

/// What to do with a refusal.
pub enum Verdict {
    /// An event of its own.
    Separate,
    /// Counted; nothing to write.
    Merged,
    /// Write an open decision, then [`Flood::opened`] with this address.
    Open(Option<IpAddr>),
}

impl Flood {
    /// Counts that survive the process in `counts`.
    pub fn new(counts: Counts) -> Self {
        Self { second: 0, by: AHashMap::new(), counts }
    }

    /// Ends the counts of an earlier second (`all`: of this one too): what is to be written.
    pub fn turn(&mut self, second: i64, all: bool) -> Vec<Merged> {
        // Workers and the shipping thread cross a second at different moments; a clock that was set back still counts.
        if !all && (self.second - CLOCK_SET_BACK..=self.second).contains(&second) {
            return Vec::new();
        }
        self.second = second;
        self.counts.begin();
        let ended = self.by.drain().filter_map(|(_, bucket)| bucket.merged).collect();
        self.by.shrink_to(1024);
        ended
    }

    /// Counts a refusal.
    pub fn note(&mut self, event: &Event<'_>, status: Option<u16>) -> Verdict {
        let address = event.client_ip.map(|ip| ip.to_canonical());
        let known = self.by.contains_key(&address) || self.by.len() < ADDRESSES;
        let address = if known { address } else { None };
        let bucket = self.by.entry(address).or_default();
        bucket.seen = bucket.seen.saturating_add(1);
        if bucket.seen <= SEPARATE {
            return Verdict::Separate;
        }
        match &mut bucket.merged {
            Some(merged) => {
                merged.add(event, status);
                self.counts.keep(merged.place, merged.local, &merged.end());
                Verdict::Merged
            }
            None => Verdict::Open(address),
        }
    }

    /// The decision that [`Verdict::Open`] asked for is written.
    pub fn opened(&mut self, address: Option<IpAddr>, mut merged: Merged) {
        merged.place = self.counts.place();
        self.counts.keep(merged.place, merged.local, &merged.end());
        self.by.entry(address).or_default().merged = Some(merged);
    }
}
