//! Audit events in Redis: one stream per node, `<prefix>audit:{<node>}`, with ids `<epoch ms>-<seq>` of the entry's last
//! event. What an entry holds is in `entry`.
//!
//! Called through [`AuditStore`]. Both parts of an id grow together, so that the order of ids is the order of `seq`.

use std::sync::Arc;

use async_trait::async_trait;

use super::connection::Connection;
use super::scripts;
use crate::store::pack::{self, Form, Packed};
use crate::store::{AuditEntry, AuditStore, Shipped, StoreError};

/// How many events one write holds at most, so that it does not hold up the server.
const PAGE: usize = 500;

/// The audit face.
pub(super) struct Redis {
    connection: Connection,
    confirmed: Connection,
    prefix: Arc<str>,
    form: Form,
}

/// A stream entry: its id and its fields.
type Stored = (String, Vec<Vec<u8>>);

impl Redis {
    pub(super) fn new(connection: Connection, confirmed: Connection, prefix: Arc<str>, form: Form) -> Self {
        Self { connection, confirmed, prefix, form }
    }

    fn stream(&self, node: &str) -> String {
        format!("{}audit:{{{node}}}", self.prefix)
    }

    /// The set of nodes; nothing but streams has the prefix `audit:`.
    fn set(&self) -> String {
        format!("{}audit-nodes", self.prefix)
    }

    fn checkpoints_key(&self) -> String {
        format!("{}audit-checkpoints", self.prefix)
    }

    async fn range(
        &self,
        command: &'static str,
        node: &str,
        from: &str,
        to: &str,
        count: usize,
    ) -> Result<Vec<Stored>, StoreError> {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let command =
            redis::cmd(command).arg(self.stream(node)).arg(from).arg(to).arg("COUNT").arg(count).take();
        self.connection.read(command).await
    }

    /// Sends the events of one page that the stream does not have; its last `seq` then.
    async fn ship(
        &self,
        node: &str,
        epoch_ms: u64,
        after: u64,
        page: &[AuditEntry],
    ) -> Result<u64, StoreError> {
        let mut ship = redis::cmd("EVAL");
        ship.arg(scripts::SHIP).arg(2).arg(self.stream(node)).arg(self.set());
        ship.arg(node).arg(epoch_ms).arg(after);
        for packed in Packed::of(self.form, page)? {
            ship.arg(packed.first).arg(packed.last).arg(packed.field).arg(packed.value);
        }
        self.confirmed.send_confirmed(ship).await
    }

    /// The first entry whose last event is `from` or a later one: from epoch to epoch, the first entry of each says
    /// whether it can be there.
    async fn first_from(&self, node: &str, from: u64) -> Result<Option<String>, StoreError> {
        let mut start = "-".to_owned();
        loop {
            let Some((id, _)) = self.range("XRANGE", node, &start, "+", 1).await?.pop() else {
                return Ok(None);
            };
            let (epoch, seq) = parts(&id)?;
            if seq >= from {
                return Ok(Some(id));
            }
            start = format!("{epoch}-{from}");
        }
    }

    /// Events from the entry `start` on in the direction of `command`, until `limit` of those that `keep` takes.
    async fn collect(
        &self,
        command: &'static str,
        node: &str,
        start: String,
        limit: usize,
        keep: impl Fn(u64) -> bool + Send,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        let (backwards, end) = if command == "XREVRANGE" { (true, "-") } else { (false, "+") };
        let (mut found, mut start) = (Vec::new(), start);
        // The first entry tells how many events an entry has.
        let (mut count, mut entries, mut events) = (1, 0, 0);
        while found.len() < limit {
            let page = self.range(command, node, &start, end, count).await?;
            let complete = page.len() < count;
            for (id, fields) in page {
                let mut fields = fields.into_iter();
                let (name, value) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
                let mut held = pack::events(parts(&id)?.1, &name, value);
                (entries, events) = (entries + 1, events + held.len());
                if backwards {
                    held.reverse();
                }
                found.extend(held.into_iter().filter(|event| keep(event.seq)));
                start = format!("({id}");
            }
            if complete {
                break;
            }
            count = (limit.saturating_sub(found.len()) * entries / events.max(1)).clamp(1, 1000);
        }
        found.truncate(limit);
        Ok(found)
    }
}

#[async_trait]
impl AuditStore for Redis {
    async fn last(&self, node: &str) -> Result<Option<AuditEntry>, StoreError> {
        Ok(self.read_back(node, None, 1).await?.pop())
    }

    async fn append(
        &self,
        node: &str,
        epoch_ms: u64,
        after: u64,
        entries: &[AuditEntry],
    ) -> Result<Shipped, StoreError> {
        let mut after = after;
        for page in entries.chunks(PAGE) {
            let (mut page, Some(wanted)) = (page, page.last().map(|entry| entry.seq)) else { continue };
            loop {
                let last = self.ship(node, epoch_ms, after, page).await?;
                if last < after {
                    return Ok(Shipped::Behind(last));
                }
                after = last;
                if last >= wanted {
                    break;
                }
                // The stream had a part of an entry.
                let there = page.partition_point(|entry| entry.seq <= last);
                if there == 0 {
                    return Err(self.connection.away("it took no events and did not say why".to_owned()));
                }
                page = page.get(there..).unwrap_or_default();
            }
        }
        Ok(Shipped::There)
    }

    async fn read(&self, node: &str, from: u64, limit: usize) -> Result<Vec<AuditEntry>, StoreError> {
        match self.first_from(node, from).await? {
            Some(id) => self.collect("XRANGE", node, id, limit, |seq| seq >= from).await,
            None => Ok(Vec::new()),
        }
    }

    async fn read_back(
        &self,
        node: &str,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        let Some(before) = before else {
            return self.collect("XREVRANGE", node, "+".to_owned(), limit, |_| true).await;
        };
        // The entry that holds `before`, or the first after it, may also hold events before it.
        let start = self.first_from(node, before).await?.unwrap_or_else(|| "+".to_owned());
        self.collect("XREVRANGE", node, start, limit, |seq| seq < before).await
    }

    async fn nodes(&self) -> Result<Vec<String>, StoreError> {
        let mut nodes: Vec<String> =
            self.connection.read(redis::cmd("SMEMBERS").arg(self.set()).take()).await?;
        nodes.sort();
        Ok(nodes)
    }

    async fn set_checkpoint(&self, node: &str, checkpoint: &str) -> Result<(), StoreError> {
        let set = redis::cmd("HSET").arg(self.checkpoints_key()).arg(node).arg(checkpoint).take();
        self.connection.send::<u64>(set).await.map(drop)
    }

    async fn checkpoints(&self) -> Result<Vec<(String, String)>, StoreError> {
        let all = redis::cmd("HGETALL").arg(self.checkpoints_key()).take();
        let mut all: Vec<(String, String)> = self.connection.read(all).await?;
        all.sort();
        Ok(all)
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
