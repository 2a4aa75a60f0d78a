//! Audit events in the embedded store, by node and `seq`.
//!
//! Called through [`AuditStore`]. What is appended together is kept together, as [`Packed`] makes it: one event as its
//! text, several as one compressed batch, which is what keeps the cost of an event low.

use std::sync::Arc;

use async_trait::async_trait;
use redb::{ReadableTable as _, TableDefinition, WriteTransaction};

use super::{Shared, away};
use crate::store::pack::{self, Form, Packed};
use crate::store::{AuditEntry, AuditStore, Shipped, StoreError};

/// Node and `seq` of the last event to the `seq` of the first, the field and the value of [`Packed`].
pub(super) const EVENTS: TableDefinition<'static, (&str, u64), (u64, &str, &[u8])> =
    TableDefinition::new("audit");

/// Node to its newest signed checkpoint.
pub(super) const CHECKPOINTS: TableDefinition<'static, &str, &str> =
    TableDefinition::new("audit_checkpoints");

/// The audit face.
pub(super) struct Embedded(pub(super) Arc<Shared>);

#[async_trait]
impl AuditStore for Embedded {
    async fn last(&self, node: &str) -> Result<Option<AuditEntry>, StoreError> {
        Ok(self.read_back(node, None, 1).await?.pop())
    }

    async fn append(
        &self,
        node: &str,
        _epoch_ms: u64,
        after: u64,
        entries: &[AuditEntry],
    ) -> Result<Shipped, StoreError> {
        let packed = packed(entries)?;
        let node = node.to_owned();
        let job = move |transaction: &WriteTransaction| {
            let mut table = transaction.open_table(EVENTS).map_err(away)?;
            let last = match table
                .range((node.as_str(), 0)..=(node.as_str(), u64::MAX))
                .map_err(away)?
                .next_back()
            {
                Some(stored) => stored.map_err(away)?.0.value().1,
                None => 0,
            };
            if last < after {
                return Ok(Shipped::Behind(last));
            }
            for page in packed {
                for page in if page.first > last { vec![page] } else { after_last(page, last)? } {
                    let value = (page.first, page.field, page.value.as_slice());
                    table.insert((node.as_str(), page.last), value).map_err(away)?;
                }
            }
            Ok(Shipped::There)
        };
        self.0.writer.run(job).await
    }

    async fn read(&self, node: &str, from: u64, limit: usize) -> Result<Vec<AuditEntry>, StoreError> {
        let transaction = self.0.read()?;
        let table = transaction.open_table(EVENTS).map_err(away)?;
        let mut found = Vec::new();
        for stored in table.range((node, from)..=(node, u64::MAX)).map_err(away)? {
            let (key, value) = stored.map_err(away)?;
            let page = unpack(key.value(), value.value());
            found.extend(page.into_iter().filter(|entry| entry.seq >= from).take(limit - found.len()));
            if found.len() == limit {
                break;
            }
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
        let table = transaction.open_table(EVENTS).map_err(away)?;
        let before = before.unwrap_or(u64::MAX);
        // The page with the event before `before` may end with a later one.
        let top = match table.range((node, before.saturating_sub(1))..=(node, u64::MAX)).map_err(away)?.next()
        {
            Some(stored) => stored.map_err(away)?.0.value().1,
            None => u64::MAX,
        };
        let mut found = Vec::new();
        for stored in table.range((node, 0)..=(node, top)).map_err(away)?.rev() {
            let (key, value) = stored.map_err(away)?;
            let page = unpack(key.value(), value.value()).into_iter().rev();
            found.extend(page.filter(|entry| entry.seq < before).take(limit - found.len()));
            if found.len() == limit {
                break;
            }
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

    async fn set_checkpoint(&self, node: &str, checkpoint: &str) -> Result<(), StoreError> {
        let (node, checkpoint) = (node.to_owned(), checkpoint.to_owned());
        let job = move |transaction: &WriteTransaction| {
            let mut checkpoints = transaction.open_table(CHECKPOINTS).map_err(away)?;
            checkpoints.insert(node.as_str(), checkpoint.as_str()).map_err(away)?;
            Ok(())
        };
        self.0.writer.run(job).await
    }

    async fn checkpoints(&self) -> Result<Vec<(String, String)>, StoreError> {
        let transaction = self.0.read()?;
        let checkpoints = transaction.open_table(CHECKPOINTS).map_err(away)?;
        let mut found = Vec::new();
        for stored in checkpoints.iter().map_err(away)? {
            let (node, checkpoint) = stored.map_err(away)?;
            found.push((node.value().to_owned(), checkpoint.value().to_owned()));
        }
        Ok(found)
    }
}

fn packed(entries: &[AuditEntry]) -> Result<Vec<Packed>, StoreError> {
    let form = if entries.len() > 1 { Form::Compressed } else { Form::Event };
    Packed::of(form, entries)
}

fn unpack((_, last): (&str, u64), (_, field, value): (u64, &str, &[u8])) -> Vec<AuditEntry> {
    pack::events(last, field.as_bytes(), value.to_vec())
}

/// What of a page the store does not have.
fn after_last(page: Packed, last: u64) -> Result<Vec<Packed>, StoreError> {
    let mut entries = pack::events(page.last, page.field.as_bytes(), page.value);
    entries.retain(|entry| entry.seq > last);
    packed(&entries)
}
