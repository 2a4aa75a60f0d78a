//! Audit events in the embedded store, by node and `seq`.
//!
//! Called through [`AuditStore`]. The event is kept as the text that it came as.

use std::sync::Arc;

use async_trait::async_trait;
use redb::{ReadableTable as _, TableDefinition, WriteTransaction};

use super::{Shared, away};
use crate::model::Timestamp;
use crate::store::{AuditEntry, AuditStore, StoreError};

/// Node and `seq` to the time in microseconds and the event.
pub(super) const EVENTS: TableDefinition<'static, (&str, u64), (i64, &str)> = TableDefinition::new("audit");

/// The audit face.
pub(super) struct Embedded(pub(super) Arc<Shared>);

#[async_trait]
impl AuditStore for Embedded {
    async fn last(&self, node: &str) -> Result<Option<AuditEntry>, StoreError> {
        Ok(self.read_back(node, None, 1).await?.pop())
    }

    async fn append(&self, node: &str, _epoch_ms: u64, entries: &[AuditEntry]) -> Result<(), StoreError> {
        let node = node.to_owned();
        let entries = entries.to_vec();
        let job = move |transaction: &WriteTransaction| {
            let mut events = transaction.open_table(EVENTS).map_err(away)?;
            for entry in entries {
                let key = (node.as_str(), entry.seq);
                let there = events.get(key).map_err(away)?.is_some();
                if !there {
                    events.insert(key, (entry.time.micros(), entry.json.as_str())).map_err(away)?;
                }
            }
            Ok(())
        };
        self.0.writer.run(job).await
    }

    async fn read(&self, node: &str, from: u64, limit: usize) -> Result<Vec<AuditEntry>, StoreError> {
        let transaction = self.0.read()?;
        let events = transaction.open_table(EVENTS).map_err(away)?;
        let mut found = Vec::new();
        for stored in events.range((node, from)..=(node, u64::MAX)).map_err(away)?.take(limit) {
            let (key, value) = stored.map_err(away)?;
            found.push(entry(key.value().1, value.value()));
        }
        Ok(found)
    }

    async fn read_back(
        &self,
        node: &str,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        let transaction = self.0.read()?;
        let events = transaction.open_table(EVENTS).map_err(away)?;
        let range = (node, 0)..(node, before.unwrap_or(u64::MAX));
        let mut found = Vec::new();
        for stored in events.range(range).map_err(away)?.rev().take(limit) {
            let (key, value) = stored.map_err(away)?;
            found.push(entry(key.value().1, value.value()));
        }
        Ok(found)
    }

    async fn nodes(&self) -> Result<Vec<String>, StoreError> {
        let transaction = self.0.read()?;
        let events = transaction.open_table(EVENTS).map_err(away)?;
        let mut nodes = Vec::new();
        let mut from = String::new();
        // Jumps from node to node instead of reading every event.
        while let Some(stored) = events.range((from.as_str(), 0)..).map_err(away)?.next() {
            let (key, _) = stored.map_err(away)?;
            let node = key.value().0.to_owned();
            from = format!("{node}\0");
            nodes.push(node);
        }
        Ok(nodes)
    }
}

fn entry(seq: u64, (time, json): (i64, &str)) -> AuditEntry {
    AuditEntry { seq, time: Timestamp::from_micros(time), json: json.to_owned() }
}
