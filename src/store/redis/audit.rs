//! Audit events in Redis: one stream per node, `<prefix>audit:{<node>}`, with ids `<epoch ms>-<seq>` and one field `event`.
//!
//! Called through [`AuditStore`]. Both parts of an id grow together, so that the order of ids is the order of `seq`.

use std::sync::Arc;

use async_trait::async_trait;

use super::connection::Connection;
use super::scripts;
use crate::model::Timestamp;
use crate::store::{AuditEntry, AuditStore, StoreError};

/// How many events one write holds at most, so that it does not hold up the server.
const PAGE: usize = 500;

/// The audit face.
pub(super) struct Redis {
    connection: Connection,
    confirmed: Connection,
    prefix: Arc<str>,
}

/// A stream entry: its id and its fields.
type Stored = (String, Vec<String>);

impl Redis {
    pub(super) fn new(connection: Connection, confirmed: Connection, prefix: Arc<str>) -> Self {
        Self { connection, confirmed, prefix }
    }

    fn stream(&self, node: &str) -> String {
        format!("{}audit:{{{node}}}", self.prefix)
    }

    /// The set of nodes; nothing but streams has the prefix `audit:`.
    fn set(&self) -> String {
        format!("{}audit-nodes", self.prefix)
    }

    async fn range(
        &self,
        command: &'static str,
        node: &str,
        from: &str,
        to: &str,
        limit: usize,
    ) -> Result<Vec<Stored>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let command =
            redis::cmd(command).arg(self.stream(node)).arg(from).arg(to).arg("COUNT").arg(limit).take();
        self.connection.send(command).await
    }
}

#[async_trait]
impl AuditStore for Redis {
    async fn last(&self, node: &str) -> Result<Option<AuditEntry>, StoreError> {
        let mut found = self.range("XREVRANGE", node, "+", "-", 1).await?;
        found.pop().map(entry).transpose()
    }

    async fn append(&self, node: &str, epoch_ms: u64, entries: &[AuditEntry]) -> Result<(), StoreError> {
        for page in entries.chunks(PAGE) {
            let mut ship = redis::cmd("EVAL");
            ship.arg(scripts::SHIP).arg(2).arg(self.stream(node)).arg(self.set()).arg(node).arg(epoch_ms);
            for entry in page {
                ship.arg(entry.seq).arg(&entry.json);
            }
            self.confirmed.send_confirmed::<u64>(ship).await?;
        }
        Ok(())
    }

    async fn read(&self, node: &str, from: u64, limit: usize) -> Result<Vec<AuditEntry>, StoreError> {
        let mut start = "-".to_owned();
        // From epoch to epoch: the first entry of each says whether what is wanted can be in it.
        loop {
            let Some((id, _)) = self.range("XRANGE", node, &start, "+", 1).await?.pop() else {
                return Ok(Vec::new());
            };
            let (epoch, seq) = parts(&id)?;
            if seq >= from {
                let found = self.range("XRANGE", node, &id, "+", limit.max(1)).await?;
                return found.into_iter().take(limit).map(entry).collect();
            }
            start = format!("{epoch}-{from}");
        }
    }

    async fn read_back(
        &self,
        node: &str,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        let mut start = "+".to_owned();
        if let Some(before) = before {
            loop {
                let Some((id, _)) = self.range("XREVRANGE", node, &start, "-", 1).await?.pop() else {
                    return Ok(Vec::new());
                };
                let (epoch, seq) = parts(&id)?;
                if seq < before {
                    start = id;
                    break;
                }
                let Some(previous) = before.checked_sub(1) else { return Ok(Vec::new()) };
                start = format!("{epoch}-{previous}");
            }
        }
        let found = self.range("XREVRANGE", node, &start, "-", limit.max(1)).await?;
        found.into_iter().take(limit).map(entry).collect()
    }

    async fn nodes(&self) -> Result<Vec<String>, StoreError> {
        let mut nodes: Vec<String> =
            self.connection.send(redis::cmd("SMEMBERS").arg(self.set()).take()).await?;
        nodes.sort();
        Ok(nodes)
    }
}

/// Epoch and `seq` of an id.
fn parts(id: &str) -> Result<(u64, u64), StoreError> {
    let numbers = id.split_once('-').and_then(|(epoch, seq)| Some((epoch.parse().ok()?, seq.parse().ok()?)));
    numbers.ok_or_else(|| StoreError::Corrupt {
        key: format!("audit event {id}"),
        reason: "its id is not `<epoch ms>-<seq>`".to_owned(),
    })
}

/// The event of a stream entry. Its time is that of the event; an event that was damaged has none, and is for the
/// verification to find.
fn entry((id, fields): Stored) -> Result<AuditEntry, StoreError> {
    #[derive(serde::Deserialize)]
    struct Time {
        time: String,
    }
    let (_, seq) = parts(&id)?;
    let json = fields.into_iter().nth(1).unwrap_or_default();
    let time = serde_json::from_str::<Time>(&json).ok();
    let time = time.and_then(|event| Timestamp::parse_rfc3339(&event.time)).unwrap_or_default();
    Ok(AuditEntry { seq, time, json })
}
