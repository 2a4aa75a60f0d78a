//! The embedded store: one redb file for one node.
//!
//! Opened by `app` when `[store] kind = "embedded"`. Reads go to the file's snapshot directly; writes are jobs for the
//! one thread in [`writer`], which commits several of them in one transaction. A new kind of data is a table here and
//! a file beside `records`, `revocations` and `audit`.

mod audit;
mod file;
mod records;
mod revocations;
mod writer;

use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadTransaction, ReadableTable as _};

use super::{Store, StoreError};
use crate::model::{SharedClock, random_bytes};
use file::File;
use writer::Writer;

/// The name of the file in `data_dir`.
const FILE: &str = "store.redb";

/// What the faces of the embedded store share.
struct Shared {
    // Dropped first: it ends the writer thread, which holds the file too.
    writer: Writer,
    file: Arc<File>,
    clock: SharedClock,
    epoch: u64,
}

impl Shared {
    /// A snapshot of what is committed.
    fn read(&self) -> Result<ReadTransaction, StoreError> {
        self.file.read()
    }
}

/// Opens (or makes) `<data_dir>/store.redb`. redb's own file lock makes a second process fail with `Refused` naming it.
/// Blocking work runs on a thread of its own, never on a worker.
///
/// # Errors
/// `Refused` when another process holds the file or it cannot be made, `Corrupt` when it is damaged.
pub fn open(data_dir: &Path, clock: SharedClock) -> Result<Store, StoreError> {
    let path = data_dir.join(FILE);
    let refused = |error| StoreError::Refused(format!("cannot make {}: {error}", path.display()));
    make_private(data_dir, &path).map_err(refused)?;
    let database = file::open(&path)?;
    let epoch = prepare(&database, &path)?;
    let file = Arc::new(File::new(path, database));
    let writer = Writer::start(Arc::clone(&file), Arc::clone(&clock))?;
    let shared = Arc::new(Shared { writer, file, clock, epoch });
    Ok(Store {
        records: Arc::new(records::Embedded(Arc::clone(&shared))),
        revocations: Arc::new(revocations::Embedded(Arc::clone(&shared))),
        audit: Arc::new(audit::Embedded(shared)),
        kind: "embedded",
    })
}

/// Makes the folder, and the file readable by its owner alone.
fn make_private(data_dir: &Path, path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::create_dir_all(data_dir)?;
    std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    Ok(())
}

/// Makes every table, so that reads find them, and the log's epoch; returns the epoch.
fn prepare(database: &Database, path: &Path) -> Result<u64, StoreError> {
    let transaction = file::begin(database, path)?;
    for definition in records::TABLES {
        transaction.open_table(definition).map_err(away)?;
    }
    transaction.open_table(records::EXPIRIES).map_err(away)?;
    transaction.open_table(revocations::LOG).map_err(away)?;
    transaction.open_table(audit::EVENTS).map_err(away)?;
    transaction.open_table(audit::CHECKPOINTS).map_err(away)?;
    let epoch = {
        let mut meta = transaction.open_table(revocations::META).map_err(away)?;
        let known = meta.get(revocations::EPOCH).map_err(away)?.map(|guard| guard.value());
        match known {
            Some(epoch) => epoch,
            None => {
                let epoch = (u64::from_le_bytes(random_bytes::<8>()) >> 16).max(1);
                meta.insert(revocations::EPOCH, epoch).map_err(away)?;
                epoch
            }
        }
    };
    transaction.commit().map_err(away)?;
    Ok(epoch)
}

/// Any error of redb: away, with its text.
fn away(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Unavailable(format!("{FILE}: {}", error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{SystemClock, Timestamp};
    use crate::store::{Expect, Table, conformance};
    use std::time::Duration;

    #[tokio::test]
    async fn it_conforms() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(crate::model::ManualClock::at(Timestamp::from_seconds(1_800_000_000)));
        let store = open(folder.path(), clock.clone()).unwrap();
        let pass = |by: Duration| {
            clock.advance(by);
            std::future::ready(())
        };
        conformance::run(&store, clock.clone(), pass).await;
    }

    #[tokio::test]
    async fn a_second_opening_is_refused_and_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let _store = open(folder.path(), Arc::new(SystemClock)).unwrap();
        let Err(StoreError::Refused(text)) = open(folder.path(), Arc::new(SystemClock)) else {
            panic!("the second opening must be refused");
        };
        assert!(text.contains("store.redb") && text.contains("another process holds it"), "{text}");
    }

    #[tokio::test]
    async fn what_was_confirmed_is_there_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path(), Arc::new(SystemClock)).unwrap();
        store.records.put(Table::Accounts, "alice", b"1", None, Expect::Absent).await.unwrap();
        let head = store.revocations.head().await.unwrap();
        drop(store);
        let store = open(folder.path(), Arc::new(SystemClock)).unwrap();
        assert_eq!(store.records.get(Table::Accounts, "alice").await.unwrap().unwrap().value, b"1");
        assert_eq!(store.revocations.head().await.unwrap(), head);
    }

    #[tokio::test]
    async fn expired_records_are_purged_from_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(crate::model::ManualClock::at(Timestamp::from_seconds(1_800_000_000)));
        let store = open(folder.path(), clock.clone()).unwrap();
        let soon = Timestamp::from_seconds(1_800_000_001);
        store.records.put(Table::Once, "code", b"1", Some(soon), Expect::Absent).await.unwrap();
        clock.advance(Duration::from_secs(2));
        drop(store);
        let path = folder.path().join(FILE);
        let file = File::new(path.clone(), file::open(&path).unwrap());
        assert_eq!(writer::purge(&file, &*clock).unwrap(), 1);
        assert_eq!(writer::purge(&file, &*clock).unwrap(), 0);
    }

    #[test]
    fn a_file_that_failed_is_opened_again_also_under_a_read() {
        let folder = tempfile::tempdir().unwrap();
        drop(open(folder.path(), Arc::new(SystemClock)).unwrap());
        let path = folder.path().join(FILE);
        let file = File::new(path.clone(), file::open(&path).unwrap());
        let reading = file.read().unwrap();
        file.reopen();
        drop(file.write().unwrap());
        file.read().unwrap();
        drop(reading);
        file.read().unwrap();
    }
}
