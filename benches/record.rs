//! What a recorded decision costs: `cargo bench --bench record`. Prints the time of a decision with its outcome, and of an
//! event that is shipped to a store that keeps nothing.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use portcullis::config::{Audit, Durability};
use portcullis::model::{AuthMethod, Clock as _, Principal, PrincipalKind, RequestId, SystemClock};
use portcullis::record::{Event, Kind, Outcome, Recorder};
use portcullis::store::{AuditEntry, AuditStore, Shipped, StoreError};

const REQUESTS: u32 = 200_000;

/// Takes everything and keeps nothing.
struct Nowhere;

#[async_trait]
impl AuditStore for Nowhere {
    async fn last(&self, _: &str) -> Result<Option<AuditEntry>, StoreError> {
        Ok(None)
    }
    async fn append(&self, _: &str, _: u64, _: u64, _: &[AuditEntry]) -> Result<Shipped, StoreError> {
        Ok(Shipped::There)
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
    async fn set_checkpoint(&self, _: &str, _: &str) -> Result<(), StoreError> {
        Ok(())
    }
    async fn checkpoints(&self) -> Result<Vec<(String, String)>, StoreError> {
        Ok(Vec::new())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for durability in [Durability::Queued, Durability::Written] {
        let directory = tempfile::tempdir()?;
        let audit = Audit { durability, log_size: 1 << 30, ..Audit::default() };
        let clock = Arc::new(SystemClock);
        let recorder = Recorder::open("bench", directory.path(), &audit, Arc::new(Nowhere), clock.clone())?;
        let alice = Principal::new("alice", PrincipalKind::User, AuthMethod::Bearer);
        let began = Instant::now();
        runtime.block_on(async {
            for _ in 0..REQUESTS {
                let now = clock.now();
                let event = Event {
                    principal: Some(&alice),
                    auth: Some("bearer"),
                    user_agent: Some("curl/8"),
                    method: Some("GET"),
                    host: Some("shop.example"),
                    path: Some("/orders/17"),
                    route: Some("shop"),
                    policy: Some("d1"),
                    request_id: Some(RequestId::new(now)),
                    ..Event::new(Kind::Access, Outcome::Allow, now)
                };
                recorder.begin(&event).await?.finish(200, clock.now(), None);
            }
            Ok::<(), portcullis::record::RecordError>(())
        })?;
        println!("{durability:?}: {:?} per request", began.elapsed() / REQUESTS);
        runtime.block_on(recorder.close(Duration::from_secs(60)));
        println!("{durability:?}: {:?} per shipped event", began.elapsed() / REQUESTS);
    }
    Ok(())
}
