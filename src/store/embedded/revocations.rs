//! The revocation log in the embedded store: entries by index, and the index of the last one.
//!
//! Called through [`RevocationLog`]. Entries are JSON, so that a new kind of [`crate::store::Revoked`] needs nothing here.

use std::sync::Arc;

use async_trait::async_trait;
use redb::{ReadableTable as _, TableDefinition, WriteTransaction};

use super::{Shared, away};
use crate::store::{LogPosition, RevocationEntry, RevocationLog, StoreError};

/// Index to entry.
pub(super) const LOG: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("revocations");
/// The log's epoch and the index of its last entry.
pub(super) const META: TableDefinition<'static, &str, u64> = TableDefinition::new("revocations_meta");
/// In [`META`].
pub(super) const EPOCH: &str = "epoch";
const LAST: &str = "last";
/// How many entries that no longer matter one append removes at most.
const FORGET_AT_ONCE: usize = 16;

/// The revocations face.
pub(super) struct Embedded(pub(super) Arc<Shared>);

#[async_trait]
impl RevocationLog for Embedded {
    async fn append(&self, entry: &RevocationEntry) -> Result<LogPosition, StoreError> {
        let bytes = serde_json::to_vec(entry).map_err(|error| corrupt(0, &error))?;
        let now = self.0.clock.now();
        let epoch = self.0.epoch;
        let job = move |transaction: &WriteTransaction| {
            let mut meta = transaction.open_table(META).map_err(away)?;
            let mut log = transaction.open_table(LOG).map_err(away)?;
            let last = meta.get(LAST).map_err(away)?.map_or(0, |guard| guard.value());
            let index = last.saturating_add(1);
            let mut old = Vec::new();
            for stored in log.iter().map_err(away)?.take(FORGET_AT_ONCE) {
                let (at, value) = stored.map_err(away)?;
                match read(at.value(), value.value()) {
                    Ok(entry) if entry.until <= now => old.push(at.value()),
                    _ => break,
                }
            }
            for at in old {
                log.remove(at).map_err(away)?;
            }
            log.insert(index, bytes.as_slice()).map_err(away)?;
            meta.insert(LAST, index).map_err(away)?;
            Ok(LogPosition { epoch, index })
        };
        self.0.writer.run(job).await
    }

    async fn head(&self) -> Result<LogPosition, StoreError> {
        let transaction = self.0.read()?;
        let meta = transaction.open_table(META).map_err(away)?;
        let index = meta.get(LAST).map_err(away)?.map_or(0, |guard| guard.value());
        Ok(LogPosition { epoch: self.0.epoch, index })
    }

    async fn after(
        &self,
        position: LogPosition,
        limit: usize,
    ) -> Result<Vec<(LogPosition, RevocationEntry)>, StoreError> {
        let epoch = self.0.epoch;
        let from = if position.epoch == epoch { position.index.saturating_add(1) } else { 0 };
        let now = self.0.clock.now();
        let transaction = self.0.read()?;
        let log = transaction.open_table(LOG).map_err(away)?;
        let mut found = Vec::new();
        for stored in log.range(from..).map_err(away)? {
            if found.len() >= limit {
                break;
            }
            let (index, value) = stored.map_err(away)?;
            let entry = read(index.value(), value.value())?;
            if entry.until > now {
                found.push((LogPosition { epoch, index: index.value() }, entry));
            }
        }
        Ok(found)
    }
}

fn read(index: u64, bytes: &[u8]) -> Result<RevocationEntry, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| corrupt(index, &error))
}

fn corrupt(index: u64, error: &serde_json::Error) -> StoreError {
    StoreError::Corrupt { key: format!("revocation {index}"), reason: error.to_string() }
}
