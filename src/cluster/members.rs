//! Which nodes live: each writes a heartbeat to the store, and reads those of the others.
//!
//! `app` opens [`Members`] before the audit log (two nodes with one name would write one chain) and spawns
//! [`Members::keep`]. Another fact about a node is a field of [`Member`].

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{SharedClock, Timestamp, random_token};
use crate::store::{Expect, Records, StoreError, Table};

/// How often a node says that it lives.
const EVERY: Duration = Duration::from_secs(1);
/// How long that counts.
const LIVES: Duration = Duration::from_secs(5);
/// The most nodes that are listed.
const MOST: usize = 1000;
/// The file of `data_dir` that tells a node's next start from another node.
const FILE: &str = "node.id";

/// A node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// `[node] name`
    pub name: String,
    /// Of its `data_dir`.
    pub id: String,
    /// The program's version.
    pub version: String,
    /// When it started, RFC 3339 in UTC.
    pub started: String,
}

/// The nodes as this one knows them.
pub struct Members {
    records: Arc<dyn Records>,
    clock: SharedClock,
    own: Member,
    live: RwLock<Vec<Member>>,
}

impl Members {
    /// Takes the name for this node and writes the first heartbeat.
    ///
    /// # Errors
    /// `Refused` when a node with another `data_dir` lives under this name, `Unavailable` when the store is away.
    pub async fn open(
        records: Arc<dyn Records>,
        name: &str,
        data_dir: &Path,
        clock: SharedClock,
    ) -> Result<Arc<Self>, StoreError> {
        let own = Member {
            name: name.to_owned(),
            id: own_id(data_dir).map_err(|error| {
                StoreError::Refused(format!("{}: {error}", data_dir.join(FILE).display()))
            })?,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: clock.now().rfc3339(),
        };
        let members = Self { records, clock, live: RwLock::new(vec![own.clone()]), own };
        loop {
            let there = members.records.get(Table::Nodes, name).await?;
            let expect = match &there {
                None => Expect::Absent,
                Some(record) => {
                    let other = read(name, &record.value)?;
                    if other.id != members.own.id {
                        let started = other.started;
                        return Err(StoreError::Refused(format!(
                            "a node named `{name}` lives already (started {started}); give this one another \
                             [node] name, or wait 5 seconds after the other ended"
                        )));
                    }
                    Expect::Version(record.version)
                }
            };
            if members.write(expect).await? {
                return Ok(Arc::new(members));
            }
        }
    }

    /// Runs until cancelled: heartbeats.
    pub async fn keep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // A store that is away is reported by who follows the revocation log; the list stays as it was.
            let _away = self.beat().await;
        }
    }

    /// The nodes that live, by name; this one is always there.
    pub fn live(&self) -> Vec<Member> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The heartbeat goes at once instead of after its time: the node ends.
    ///
    /// # Errors
    /// When the store is away; it goes by itself then.
    pub async fn leave(&self) -> Result<(), StoreError> {
        self.records.delete(Table::Nodes, &self.own.name, Expect::Anything).await.map(drop)
    }

    async fn beat(&self) -> Result<(), StoreError> {
        self.write(Expect::Anything).await?;
        let all = self.records.list(Table::Nodes, "", None, MOST).await?;
        let mut live = Vec::with_capacity(all.len());
        for (name, record) in all {
            live.push(read(&name, &record.value)?);
        }
        if !live.iter().any(|member| member.name == self.own.name) {
            live.push(self.own.clone());
        }
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = live;
        Ok(())
    }

    async fn write(&self, expect: Expect) -> Result<bool, StoreError> {
        let corrupt = |error: serde_json::Error| StoreError::Corrupt {
            key: format!("node {}", self.own.name),
            reason: error.to_string(),
        };
        let value = serde_json::to_vec(&self.own).map_err(corrupt)?;
        let expires: Timestamp = self.clock.now().plus(LIVES);
        let put = self.records.put(Table::Nodes, &self.own.name, &value, Some(expires), expect).await?;
        Ok(put.is_some())
    }
}

fn read(name: &str, value: &[u8]) -> Result<Member, StoreError> {
    serde_json::from_slice(value)
        .map_err(|error| StoreError::Corrupt { key: format!("node {name}"), reason: error.to_string() })
}

/// The id of this `data_dir`, made at first use.
fn own_id(data_dir: &Path) -> std::io::Result<String> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = data_dir.join(FILE);
    let known = std::fs::read_to_string(&path).map(|text| text.trim().to_owned());
    match known {
        Ok(id) if !id.is_empty() => Ok(id),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => {
            let id = random_token::<16>();
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all(id.as_bytes())?;
            file.sync_all()?;
            Ok(id)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ManualClock, SystemClock};

    #[tokio::test]
    async fn a_name_belongs_to_one_data_dir_while_its_node_lives() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_seconds(1_800_000_000)));
        let records = crate::accounts::memory::Memory::new(clock.clone());
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let open = async |name: &str, dir: usize| {
            Members::open(records.clone(), name, dirs[dir].path(), clock.clone()).await
        };
        let first = open("gate-1", 0).await.unwrap();
        open("gate-1", 0).await.unwrap();
        let Err(StoreError::Refused(text)) = open("gate-1", 1).await else { panic!("must be refused") };
        assert!(text.contains("`gate-1` lives already"), "{text}");
        let second = open("gate-2", 1).await.unwrap();
        first.beat().await.unwrap();
        second.beat().await.unwrap();
        let names = |of: &Members| of.live().into_iter().map(|member| member.name).collect::<Vec<_>>();
        assert_eq!(names(&first), ["gate-1", "gate-2"]);
        assert_eq!(names(&second), ["gate-1", "gate-2"]);
        clock.advance(LIVES);
        second.beat().await.unwrap();
        assert_eq!(names(&second), ["gate-2"]);
        open("gate-1", 1).await.unwrap();
        second.leave().await.unwrap();
        open("gate-2", 0).await.unwrap();
    }

    #[tokio::test]
    async fn an_unreadable_id_is_told() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(FILE)).unwrap();
        let records = crate::accounts::memory::Memory::new(Arc::new(SystemClock));
        let opened = Members::open(records, "gate-1", dir.path(), Arc::new(SystemClock)).await;
        assert!(matches!(opened, Err(StoreError::Refused(text)) if text.contains(FILE)));
    }
}
