//! Versioned records in the embedded store: one redb table per [`Table`], and an index of expiries for the purge.
//!
//! Called through [`Records`]. A new kind of record is a variant of [`Table`] and a line in [`TABLES`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redb::{ReadableTable, TableDefinition, WriteTransaction};

use super::{Shared, away};
use crate::model::Timestamp;
use crate::store::{Expect, Record, Records, StoreError, Table};

type Definition = TableDefinition<'static, &'static str, &'static [u8]>;

/// Every table of records; [`definition`] picks from it.
pub(super) const TABLES: [Definition; 9] = [
    TableDefinition::new("accounts"),
    TableDefinition::new("principals"),
    TableDefinition::new("sessions"),
    TableDefinition::new("families"),
    TableDefinition::new("once"),
    TableDefinition::new("keys"),
    TableDefinition::new("counters"),
    TableDefinition::new("nodes"),
    TableDefinition::new("clients"),
];

/// Expiry in microseconds, table, key: what the purge looks through.
pub(super) const EXPIRIES: TableDefinition<'static, (i64, &str, &str), ()> = TableDefinition::new("expiries");

const NEVER: i64 = i64::MAX;

/// The records face.
pub(super) struct Embedded(pub(super) Arc<Shared>);

/// A record as it lies in the file: version and expiry (both 8 bytes, little endian), then the value.
struct Stored {
    version: u64,
    expires: i64,
    value: Vec<u8>,
}

impl Stored {
    fn read(key: &str, bytes: &[u8]) -> Result<Self, StoreError> {
        let corrupt = || StoreError::Corrupt { key: key.to_owned(), reason: "it is too short".to_owned() };
        let (version, rest) = bytes.split_first_chunk::<8>().ok_or_else(corrupt)?;
        let (expires, value) = rest.split_first_chunk::<8>().ok_or_else(corrupt)?;
        Ok(Self {
            version: u64::from_le_bytes(*version),
            expires: i64::from_le_bytes(*expires),
            value: value.to_vec(),
        })
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16 + self.value.len());
        bytes.extend_from_slice(&self.version.to_le_bytes());
        bytes.extend_from_slice(&self.expires.to_le_bytes());
        bytes.extend_from_slice(&self.value);
        bytes
    }

    fn record(self) -> Record {
        Record { value: self.value, version: self.version }
    }

    fn alive(&self, now: i64) -> bool {
        self.expires > now
    }
}

fn definition(table: Table) -> Definition {
    let [accounts, principals, sessions, families, once, keys, counters, nodes, clients] = TABLES;
    match table {
        Table::Accounts => accounts,
        Table::Principals => principals,
        Table::Sessions => sessions,
        Table::Families => families,
        Table::Once => once,
        Table::Keys => keys,
        Table::Counters => counters,
        Table::Nodes => nodes,
        Table::Clients => clients,
    }
}

fn find(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<Option<Stored>, StoreError> {
    match table.get(key).map_err(away)? {
        Some(guard) => Stored::read(key, guard.value()).map(Some),
        None => Ok(None),
    }
}

fn holds(expect: Expect, live: Option<&Stored>) -> bool {
    match expect {
        Expect::Anything => true,
        Expect::Absent => live.is_none(),
        Expect::Version(version) => live.is_some_and(|stored| stored.version == version),
    }
}

/// Writes `next` in place of `old`, and keeps the index of expiries in step.
fn replace(
    transaction: &WriteTransaction,
    table: Table,
    key: &str,
    old: Option<&Stored>,
    next: Option<&Stored>,
) -> Result<(), StoreError> {
    let definition = definition(table);
    let name = redb::TableHandle::name(&definition);
    let mut records = transaction.open_table(definition).map_err(away)?;
    let mut expiries = transaction.open_table(EXPIRIES).map_err(away)?;
    if let Some(old) = old.filter(|old| old.expires != NEVER) {
        expiries.remove((old.expires, name, key)).map_err(away)?;
    }
    match next {
        Some(next) => {
            records.insert(key, next.bytes().as_slice()).map_err(away)?;
            if next.expires != NEVER {
                expiries.insert((next.expires, name, key), ()).map_err(away)?;
            }
        }
        None => {
            records.remove(key).map_err(away)?;
        }
    }
    Ok(())
}

/// The record in a write transaction, alive or not.
fn current(transaction: &WriteTransaction, table: Table, key: &str) -> Result<Option<Stored>, StoreError> {
    find(&transaction.open_table(definition(table)).map_err(away)?, key)
}

/// For the purge: removes the record when its time has passed (it may have been written again since).
pub(super) fn remove_if_expired(
    transaction: &WriteTransaction,
    table: &str,
    key: &str,
    now: i64,
) -> Result<(), StoreError> {
    let Some(definition) = TABLES.into_iter().find(|known| redb::TableHandle::name(known) == table) else {
        return Ok(());
    };
    let mut records = transaction.open_table(definition).map_err(away)?;
    if find(&records, key)?.is_some_and(|stored| !stored.alive(now)) {
        records.remove(key).map_err(away)?;
    }
    Ok(())
}

#[async_trait]
impl Records for Embedded {
    async fn get(&self, table: Table, key: &str) -> Result<Option<Record>, StoreError> {
        let transaction = self.0.read()?;
        let records = transaction.open_table(definition(table)).map_err(away)?;
        let now = self.0.clock.now().micros();
        Ok(find(&records, key)?.filter(|stored| stored.alive(now)).map(Stored::record))
    }

    async fn put(
        &self,
        table: Table,
        key: &str,
        value: &[u8],
        expires: Option<Timestamp>,
        expect: Expect,
    ) -> Result<Option<u64>, StoreError> {
        let (key, value) = (key.to_owned(), value.to_vec());
        let expires = expires.map_or(NEVER, Timestamp::micros);
        let clock = Arc::clone(&self.0.clock);
        let job = move |transaction: &WriteTransaction| {
            let old = current(transaction, table, &key)?;
            let now = clock.now().micros();
            let live = old.as_ref().filter(|stored| stored.alive(now));
            if !holds(expect, live) {
                return Ok(None);
            }
            let version = live.map_or(1, |stored| stored.version.saturating_add(1));
            let next = Stored { version, expires, value };
            replace(transaction, table, &key, old.as_ref(), Some(&next))?;
            Ok(Some(version))
        };
        self.0.writer.run(job).await
    }

    async fn delete(&self, table: Table, key: &str, expect: Expect) -> Result<bool, StoreError> {
        let key = key.to_owned();
        let clock = Arc::clone(&self.0.clock);
        let job = move |transaction: &WriteTransaction| {
            let old = current(transaction, table, &key)?;
            let now = clock.now().micros();
            let live = old.as_ref().filter(|stored| stored.alive(now));
            if live.is_none() || !holds(expect, live) {
                return Ok(false);
            }
            replace(transaction, table, &key, live, None)?;
            Ok(true)
        };
        self.0.writer.run(job).await
    }

    async fn take(&self, table: Table, key: &str) -> Result<Option<Record>, StoreError> {
        let key = key.to_owned();
        let clock = Arc::clone(&self.0.clock);
        let job = move |transaction: &WriteTransaction| {
            let now = clock.now().micros();
            let Some(live) = current(transaction, table, &key)?.filter(|stored| stored.alive(now)) else {
                return Ok(None);
            };
            replace(transaction, table, &key, Some(&live), None)?;
            Ok(Some(live.record()))
        };
        self.0.writer.run(job).await
    }

    async fn list(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Record)>, StoreError> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let transaction = self.0.read()?;
        let records = transaction.open_table(definition(table)).map_err(away)?;
        let now = self.0.clock.now().micros();
        let from = match after {
            Some(after) if after >= prefix => Excluded(after),
            _ => Included(prefix),
        };
        let mut found = Vec::new();
        for entry in records.range::<&str>((from, Unbounded)).map_err(away)? {
            let (key, value) = entry.map_err(away)?;
            if found.len() >= limit || !key.value().starts_with(prefix) {
                break;
            }
            let stored = Stored::read(key.value(), value.value())?;
            if stored.alive(now) {
                found.push((key.value().to_owned(), stored.record()));
            }
        }
        Ok(found)
    }

    async fn increment(&self, key: &str, by: u64, window: Duration) -> Result<u64, StoreError> {
        let key = key.to_owned();
        let clock = Arc::clone(&self.0.clock);
        let job = move |transaction: &WriteTransaction| {
            let old = current(transaction, Table::Counters, &key)?;
            let now = clock.now();
            let live = old.as_ref().filter(|stored| stored.alive(now.micros()));
            let count = match live {
                Some(stored) => count_of(&key, &stored.value)?,
                None => 0,
            };
            let count = count.saturating_add(by);
            let next = Stored {
                version: live.map_or(1, |stored| stored.version.saturating_add(1)),
                expires: live.map_or(now.plus(window).micros(), |stored| stored.expires),
                value: count.to_string().into_bytes(),
            };
            replace(transaction, Table::Counters, &key, old.as_ref(), Some(&next))?;
            Ok(count)
        };
        self.0.writer.run(job).await
    }

    async fn remaining(&self, key: &str) -> Result<Duration, StoreError> {
        let transaction = self.0.read()?;
        let counters = transaction.open_table(definition(Table::Counters)).map_err(away)?;
        let expires = find(&counters, key)?.map_or(0, |stored| stored.expires);
        Ok(Timestamp::from_micros(expires).since(self.0.clock.now()))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.0.read().map(drop)
    }
}

/// Counters are decimal text, as in Redis.
fn count_of(key: &str, value: &[u8]) -> Result<u64, StoreError> {
    let text = std::str::from_utf8(value).ok();
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| StoreError::Corrupt { key: key.to_owned(), reason: "it is not a counter".to_owned() })
}
