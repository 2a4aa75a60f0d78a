//! A store in memory for the tests of credentials: the same promises as the real ones, one lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use crate::model::{SharedClock, Timestamp};
use crate::store::{Expect, LogPosition, Record, Records, RevocationEntry, RevocationLog, StoreError, Table};

#[derive(Debug)]
pub(crate) struct Memory {
    clock: SharedClock,
    state: Mutex<State>,
}

#[derive(Default, Debug)]
struct State {
    records: HashMap<Table, BTreeMap<String, (Record, Option<Timestamp>)>>,
    log: Vec<RevocationEntry>,
    away: bool,
    reads: u64,
}

impl Memory {
    pub(crate) fn new(clock: SharedClock) -> Arc<Self> {
        Arc::new(Self { clock, state: Mutex::default() })
    }

    pub(crate) fn go_away(&self, away: bool) {
        self.state.lock().unwrap().away = away;
    }

    /// How many `get` calls there were.
    pub(crate) fn reads(&self) -> u64 {
        self.state.lock().unwrap().reads
    }

    pub(crate) fn count(&self, table: Table) -> usize {
        self.state.lock().unwrap().records.get(&table).map_or(0, BTreeMap::len)
    }

    fn with<T>(&self, act: impl FnOnce(&mut State, Timestamp) -> T) -> Result<T, StoreError> {
        let mut state = self.state.lock().unwrap();
        if state.away {
            return Err(StoreError::Unavailable("away".to_owned()));
        }
        let now = self.clock.now();
        for table in state.records.values_mut() {
            table.retain(|_, (_, expires)| expires.is_none_or(|at| now < at));
        }
        Ok(act(&mut state, now))
    }
}

fn holds(found: Option<&Record>, expect: Expect) -> bool {
    match expect {
        Expect::Anything => true,
        Expect::Absent => found.is_none(),
        Expect::Version(version) => found.is_some_and(|record| record.version == version),
    }
}

#[async_trait]
impl Records for Memory {
    async fn get(&self, table: Table, key: &str) -> Result<Option<Record>, StoreError> {
        // Others run between a read and the write that depends on it, as with a store elsewhere.
        tokio::task::yield_now().await;
        self.with(|state, _| {
            state.reads += 1;
            state.records.get(&table).and_then(|table| table.get(key)).map(|(record, _)| record.clone())
        })
    }

    async fn put(
        &self,
        table: Table,
        key: &str,
        value: &[u8],
        expires: Option<Timestamp>,
        expect: Expect,
    ) -> Result<Option<u64>, StoreError> {
        self.with(|state, _| {
            let table = state.records.entry(table).or_default();
            let found = table.get(key).map(|(record, _)| record);
            if !holds(found, expect) {
                return None;
            }
            let version = found.map_or(0, |record| record.version) + 1;
            table.insert(key.to_owned(), (Record { value: value.to_vec(), version }, expires));
            Some(version)
        })
    }

    async fn delete(&self, table: Table, key: &str, expect: Expect) -> Result<bool, StoreError> {
        self.with(|state, _| {
            let table = state.records.entry(table).or_default();
            holds(table.get(key).map(|(record, _)| record), expect) && table.remove(key).is_some()
        })
    }

    async fn take(&self, table: Table, key: &str) -> Result<Option<Record>, StoreError> {
        self.with(|state, _| state.records.entry(table).or_default().remove(key).map(|(record, _)| record))
    }

    async fn list(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Record)>, StoreError> {
        self.with(|state, _| {
            let table = state.records.entry(table).or_default();
            let mine = table
                .iter()
                .filter(|(key, _)| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after));
            mine.take(limit).map(|(key, (record, _))| (key.clone(), record.clone())).collect()
        })
    }

    async fn increment(&self, key: &str, by: u64, window: Duration) -> Result<u64, StoreError> {
        self.with(|state, now| {
            let table = state.records.entry(Table::Counters).or_default();
            let fresh = (Record { value: b"0".to_vec(), version: 0 }, Some(now.plus(window)));
            let (record, _) = table.entry(key.to_owned()).or_insert(fresh);
            let value = String::from_utf8_lossy(&record.value).parse::<u64>().unwrap() + by;
            record.value = value.to_string().into_bytes();
            record.version += 1;
            value
        })
    }

    async fn remaining(&self, key: &str) -> Result<Duration, StoreError> {
        self.with(|state, now| {
            let found = state.records.get(&Table::Counters).and_then(|table| table.get(key));
            found.and_then(|(_, expires)| *expires).map_or(Duration::ZERO, |expires| expires.since(now))
        })
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.with(|_, _| ())
    }
}

#[async_trait]
impl RevocationLog for Memory {
    async fn append(&self, entry: &RevocationEntry) -> Result<LogPosition, StoreError> {
        self.with(|state, _| {
            state.log.push(entry.clone());
            LogPosition { epoch: 1, index: state.log.len() as u64 }
        })
    }

    async fn head(&self) -> Result<LogPosition, StoreError> {
        self.with(|state, _| LogPosition { epoch: 1, index: state.log.len() as u64 })
    }

    async fn after(
        &self,
        position: LogPosition,
        limit: usize,
    ) -> Result<Vec<(LogPosition, RevocationEntry)>, StoreError> {
        self.with(|state, _| {
            let numbered = state.log.iter().cloned().zip(1..);
            let later = numbered.filter(|(_, index)| *index > position.index).take(limit);
            later.map(|(entry, index)| (LogPosition { epoch: 1, index }, entry)).collect()
        })
    }
}
