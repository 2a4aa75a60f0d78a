//! Versioned records in Redis: a hash per record, see `scripts`.
//!
//! Called through [`Records`]. A new kind of record is a variant of [`Table`] and a line in [`name`].

use std::time::Duration;

use async_trait::async_trait;

use super::connection::Connection;
use super::scripts;
use crate::model::{SharedClock, Timestamp};
use crate::store::{Expect, Record, Records, StoreError, Table};

/// How many records one call of the script reads at most, so that it does not hold up the server.
const PAGE: usize = 500;

/// The records face.
pub(super) struct Redis {
    connection: Connection,
    prefix: String,
    clock: SharedClock,
}

const fn name(table: Table) -> &'static str {
    match table {
        Table::Accounts => "accounts",
        Table::Principals => "principals",
        Table::Sessions => "sessions",
        Table::Families => "families",
        Table::Once => "once",
        Table::Keys => "keys",
        Table::Counters => "counters",
        Table::Nodes => "nodes",
        Table::Clients => "clients",
    }
}

fn expectation(expect: Expect) -> Vec<u8> {
    match expect {
        Expect::Anything => b"any".to_vec(),
        Expect::Absent => b"absent".to_vec(),
        Expect::Version(version) => version.to_string().into_bytes(),
    }
}

fn record((value, version): (Vec<u8>, u64)) -> Record {
    Record { value, version }
}

impl Redis {
    pub(super) fn new(connection: Connection, prefix: &str, clock: SharedClock) -> Self {
        Self { connection, prefix: prefix.to_owned(), clock }
    }

    /// What the key of each record of the table begins with.
    fn base(&self, table: Table) -> String {
        format!("{}r:{}:", self.prefix, name(table))
    }

    /// The sets of names of the table: all, and by expiry.
    fn keys(&self, table: Table) -> Vec<String> {
        let (prefix, name) = (&self.prefix, name(table));
        vec![format!("{prefix}i:{name}"), format!("{prefix}x:{name}")]
    }

    /// Milliseconds until `expires`, as the given clock has it: the server counts them down on its own.
    fn time_to_live(&self, expires: Option<Timestamp>) -> Vec<u8> {
        let Some(expires) = expires else { return Vec::new() };
        expires.since(self.clock.now()).as_micros().div_ceil(1000).to_string().into_bytes()
    }
}

#[async_trait]
impl Records for Redis {
    async fn get(&self, table: Table, key: &str) -> Result<Option<Record>, StoreError> {
        let key = format!("{}{key}", self.base(table));
        let command = redis::cmd("HMGET").arg(key).arg("v").arg("n").take();
        let (value, version): (Option<Vec<u8>>, Option<u64>) = self.connection.read(command).await?;
        Ok(value.zip(version).map(record))
    }

    async fn put(
        &self,
        table: Table,
        key: &str,
        value: &[u8],
        expires: Option<Timestamp>,
        expect: Expect,
    ) -> Result<Option<u64>, StoreError> {
        let arguments = vec![
            self.base(table).into_bytes(),
            key.as_bytes().to_vec(),
            expectation(expect),
            value.to_vec(),
            self.time_to_live(expires),
        ];
        self.connection.script(&scripts::PUT, self.keys(table), arguments).await
    }

    async fn delete(&self, table: Table, key: &str, expect: Expect) -> Result<bool, StoreError> {
        let arguments = vec![self.base(table).into_bytes(), key.as_bytes().to_vec(), expectation(expect)];
        self.connection.script(&scripts::DELETE, self.keys(table), arguments).await
    }

    async fn take(&self, table: Table, key: &str) -> Result<Option<Record>, StoreError> {
        let arguments = vec![self.base(table).into_bytes(), key.as_bytes().to_vec()];
        let found: Option<(Vec<u8>, u64)> =
            self.connection.script(&scripts::TAKE, self.keys(table), arguments).await?;
        Ok(found.map(record))
    }

    async fn list(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Record)>, StoreError> {
        let mut lowest = match after {
            Some(after) if after >= prefix => format!("({after}"),
            _ => format!("[{prefix}"),
        };
        // No text holds the byte 0xff, so that this is after every key with the prefix.
        let highest = [b"(", prefix.as_bytes(), b"\xff"].concat();
        let mut all = Vec::new();
        while all.len() < limit {
            let count = PAGE.min(limit - all.len());
            let arguments = vec![
                self.base(table).into_bytes(),
                lowest.clone().into_bytes(),
                highest.clone(),
                count.to_string().into_bytes(),
            ];
            let found: Vec<(String, Vec<u8>, u64)> =
                self.connection.script(&scripts::LIST, self.keys(table), arguments).await?;
            let complete = found.len() < count;
            all.extend(found.into_iter().map(|(key, value, version)| (key, record((value, version)))));
            match all.last() {
                Some((key, _)) if !complete => lowest = format!("({key}"),
                _ => break,
            }
        }
        Ok(all)
    }

    async fn increment(&self, key: &str, by: u64, window: Duration) -> Result<u64, StoreError> {
        let window = window.as_micros().div_ceil(1000).max(1);
        let arguments = vec![
            self.base(Table::Counters).into_bytes(),
            key.as_bytes().to_vec(),
            by.to_string().into_bytes(),
            window.to_string().into_bytes(),
        ];
        self.connection.script(&scripts::INCREMENT, self.keys(Table::Counters), arguments).await
    }

    async fn remaining(&self, key: &str) -> Result<Duration, StoreError> {
        let key = format!("{}{key}", self.base(Table::Counters));
        let millis: i64 = self.connection.read(redis::cmd("PTTL").arg(key).take()).await?;
        Ok(Duration::from_millis(u64::try_from(millis).unwrap_or(0)))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.connection.read::<String>(redis::cmd("PING")).await.map(drop)
    }
}
