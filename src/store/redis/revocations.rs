//! The revocation log in Redis: a stream, and the epoch in a key beside it, see `scripts`.
//!
//! Called through [`RevocationLog`]. Entries are JSON, so that a new kind of [`crate::store::Revoked`] needs nothing here.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::connection::Connection;
use super::scripts;
use crate::model::SharedClock;
use crate::store::{LogPosition, RevocationEntry, RevocationLog, StoreError};

/// How many entries one call reads at most.
const PAGE: usize = 1000;

/// The revocations face.
pub(super) struct Redis {
    connection: Connection,
    confirmed: Connection,
    log: String,
    epoch: String,
    clock: SharedClock,
    /// The last position that the server told: a server that is behind it lost entries.
    seen: Mutex<LogPosition>,
}

/// A stream entry: its id and its fields.
type Stored = (String, Vec<String>);

impl Redis {
    pub(super) fn new(
        connection: Connection,
        confirmed: Connection,
        prefix: &str,
        clock: SharedClock,
    ) -> Self {
        let (log, epoch) = (format!("{prefix}revocations"), format!("{prefix}revocations-epoch"));
        Self { connection, confirmed, log, epoch, clock, seen: Mutex::default() }
    }

    /// A script on the log as one command, for a pipeline.
    fn command(&self, code: &str) -> redis::Cmd {
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut command = redis::cmd("EVAL");
        command.arg(code).arg(2).arg(&self.log).arg(&self.epoch).arg(seen.epoch).arg(seen.index);
        command
    }

    fn saw(&self, (epoch, index): (u64, u64)) -> LogPosition {
        let position = LogPosition { epoch, index };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Answers may overtake each other; epochs only grow but where an old backup was restored.
        if seen.epoch != epoch || seen.index < index {
            *seen = position;
        }
        position
    }
}

#[async_trait]
impl RevocationLog for Redis {
    async fn append(&self, entry: &RevocationEntry) -> Result<LogPosition, StoreError> {
        let json = serde_json::to_string(entry)
            .map_err(|error| StoreError::Corrupt { key: self.log.clone(), reason: error.to_string() })?;
        let mut command = self.command(&scripts::APPEND);
        command.arg(json).arg(entry.until.micros());
        Ok(self.saw(self.confirmed.send_confirmed(command).await?))
    }

    async fn head(&self) -> Result<LogPosition, StoreError> {
        let head = self.command(&scripts::HEAD);
        let (position, role): ((u64, u64), Vec<redis::Value>) = self
            .connection
            .run(async move |mut manager| {
                redis::pipe().add_command(head).cmd("ROLE").query_async(&mut manager).await
            })
            .await?;
        let role: Option<String> = role.first().and_then(|role| redis::from_redis_value_ref(role).ok());
        if role.as_deref() != Some("master") {
            return Err(self.connection.away("it is a replica now: its state may be old".to_owned()));
        }
        Ok(self.saw(position))
    }

    async fn after(
        &self,
        position: LogPosition,
        limit: usize,
    ) -> Result<Vec<(LogPosition, RevocationEntry)>, StoreError> {
        let now = self.clock.now();
        let mut position = position;
        let mut found = Vec::new();
        while found.len() < limit {
            let count = PAGE.min(limit - found.len());
            let keys = vec![self.log.clone(), self.epoch.clone()];
            let numbers = [position.epoch, position.index, u64::try_from(count).unwrap_or(u64::MAX)];
            let arguments = numbers.iter().map(|number| number.to_string().into_bytes()).collect();
            let (epoch, page): (u64, Vec<Stored>) =
                self.connection.script(&scripts::AFTER, keys, arguments).await?;
            if found.first().is_some_and(|(at, _): &(LogPosition, _)| at.epoch != epoch) {
                return Err(self
                    .connection
                    .away("the revocation log was rebuilt while it was read".to_owned()));
            }
            let complete = page.len() < count;
            for stored in page {
                let (index, entry) = read(&self.log, &stored)?;
                position = LogPosition { epoch, index };
                if entry.until > now {
                    found.push((position, entry));
                }
            }
            if complete {
                break;
            }
        }
        Ok(found)
    }
}

fn read(log: &str, (id, fields): &Stored) -> Result<(u64, RevocationEntry), StoreError> {
    let corrupt = |reason: String| StoreError::Corrupt { key: format!("{log} {id}"), reason };
    let index = id.split_once('-').and_then(|(index, _)| index.parse().ok());
    let index = index.ok_or_else(|| corrupt("its id is not `<index>-0`".to_owned()))?;
    let json = fields.get(1).ok_or_else(|| corrupt("it has no entry".to_owned()))?;
    Ok((index, serde_json::from_str(json).map_err(|error| corrupt(error.to_string()))?))
}
