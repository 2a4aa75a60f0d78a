//! The whole log against a store in memory.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use super::*;
use crate::config::{Audit, Durability};
use crate::model::{Clock as _, ManualClock, Principal, PrincipalKind, RequestId, RuleRef};
use crate::store::{AuditEntry, Shipped, StoreError};

mod log;
mod proof;

/// An audit store that can go away, and forget.
#[derive(Default)]
pub struct Memory {
    pub away: AtomicBool,
    /// Takes the events, but fails to say so.
    pub mute: AtomicBool,
    pub events: Mutex<BTreeMap<u64, AuditEntry>>,
    pub checkpoint: Mutex<Option<String>>,
}

impl Memory {
    fn check(&self) -> Result<(), StoreError> {
        let away = self.away.load(Ordering::SeqCst);
        if away { Err(StoreError::Unavailable("away".to_owned())) } else { Ok(()) }
    }

    pub fn texts(&self) -> Vec<String> {
        self.events.lock().unwrap().values().map(|entry| entry.json.clone()).collect()
    }

    pub fn values(&self) -> Vec<Value> {
        self.texts().iter().map(|text| serde_json::from_str(text).unwrap()).collect()
    }
}

#[async_trait]
impl AuditStore for Memory {
    async fn last(&self, _node: &str) -> Result<Option<AuditEntry>, StoreError> {
        self.check()?;
        Ok(self.events.lock().unwrap().values().next_back().cloned())
    }
    async fn append(
        &self,
        _node: &str,
        _epoch_ms: u64,
        after: u64,
        entries: &[AuditEntry],
    ) -> Result<Shipped, StoreError> {
        self.check()?;
        let mut events = self.events.lock().unwrap();
        let last = events.keys().next_back().copied().unwrap_or(0);
        if last < after {
            return Ok(Shipped::Behind(last));
        }
        for entry in entries.iter() {
            let there = events.entry(entry.seq).or_insert_with(|| entry.clone());
            assert_eq!(there.json, entry.json, "an event was shipped twice and differs");
        }
        if self.mute.load(Ordering::SeqCst) {
            Err(StoreError::Unavailable("mute".to_owned()))
        } else {
            Ok(Shipped::There)
        }
    }
    async fn read(&self, _: &str, _: u64, _: usize) -> Result<Vec<AuditEntry>, StoreError> {
        Ok(Vec::new())
    }
    async fn read_back(&self, _: &str, _: Option<u64>, _: usize) -> Result<Vec<AuditEntry>, StoreError> {
        Ok(Vec::new())
    }
    async fn nodes(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }
    async fn set_checkpoint(&self, _: &str, checkpoint: &str) -> Result<(), StoreError> {
        self.check()?;
        *self.checkpoint.lock().unwrap() = Some(checkpoint.to_owned());
        Ok(())
    }
    async fn checkpoints(&self) -> Result<Vec<(String, String)>, StoreError> {
        Ok(Vec::new())
    }
}

pub const WAIT: Duration = Duration::from_secs(10);
pub const START: i64 = 1_767_607_200;

pub fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(Timestamp::from_seconds(START)))
}

pub fn open(dir: &Path, store: &Arc<Memory>, clock: &Arc<ManualClock>) -> Arc<Recorder> {
    open_with(dir, store, clock, 1)
}

pub fn open_with(dir: &Path, store: &Arc<Memory>, clock: &Arc<ManualClock>, log_size: u64) -> Arc<Recorder> {
    let audit = Audit { durability: Durability::Written, log_size, ..Audit::default() };
    Recorder::open("gate-1", dir, &audit, Arc::clone(store) as _, Arc::clone(clock) as _).unwrap()
}

pub fn event<'a>(principal: Option<&'a Principal>, decision: Outcome, path: &'a str) -> Event<'a> {
    Event {
        kind: Kind::Access,
        decision,
        reason: (decision == Outcome::Deny).then_some("forbidden"),
        time: Timestamp::from_seconds(START),
        principal,
        roles: &[],
        auth: Some("bearer"),
        client_ip: Some(IpAddr::from([10, 0, 0, 1])),
        user_agent: Some("curl/8"),
        method: Some("GET"),
        host: Some("shop.example"),
        path: Some(path),
        route: Some("shop"),
        rule: None,
        policy: Some("d1"),
        shadow: None,
        request_id: Some(RequestId::new(Timestamp::from_seconds(START))),
        client_request_id: None,
        trace_id: None,
        count: None,
    }
}

pub fn alice() -> Principal {
    Principal::new("alice", PrincipalKind::User, crate::model::AuthMethod::Bearer)
}

/// The log as it is now, as after `kill -9`.
pub fn crashed(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    std::fs::create_dir(copy.path().join("audit")).unwrap();
    for entry in std::fs::read_dir(dir.join("audit")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join("audit").join(entry.file_name())).unwrap();
    }
    copy
}

/// Seqs run from 1 without a gap, nothing is there twice, and the chain holds.
pub fn assert_whole(store: &Memory, count: u64) {
    assert_eq!(verify(store.texts()), Ok(count));
    let mut ids: Vec<String> =
        store.values().iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len() as u64, count);
}
