//! The open file, which is opened again after a failure: redb refuses everything after one failed write (a full disk).
//!
//! Used by the reads of the faces and by the writer.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use redb::{Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase as _, WriteTransaction};

use super::away;
use crate::store::StoreError;

/// The file of the embedded store.
pub(super) struct File {
    path: PathBuf,
    /// `None` after a failure, until it could be opened again.
    database: RwLock<Option<Database>>,
}

/// How much of the file is kept in memory, in bytes: the parts in use are few, and the system keeps the rest.
const CACHE: usize = 8 << 20;

/// From this length in bytes each commit also writes which pages are free. Without that, opening the file after a kill
/// reads all of it: a second and more for each GiB.
const LARGE: u64 = 64 << 20;

/// Opens the file, or makes it.
pub(super) fn open(path: &Path) -> Result<Database, StoreError> {
    let name = path.display();
    Database::builder().set_cache_size(CACHE).create(path).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::Refused(format!(
            "{name} is in use: another process holds it; stop that process or ask it through its admin address"
        )),
        DatabaseError::Storage(redb::StorageError::Corrupted(reason)) => {
            StoreError::Corrupt { key: name.to_string(), reason }
        }
        other => StoreError::Refused(format!("cannot open {name}: {other}")),
    })
}

/// A transaction whose commit reaches the disk.
pub(super) fn begin(database: &Database, path: &Path) -> Result<WriteTransaction, StoreError> {
    let mut transaction = database.begin_write().map_err(away)?;
    transaction.set_durability(Durability::Immediate).map_err(|error| {
        StoreError::Unavailable(format!("the embedded store cannot write durably: {error}"))
    })?;
    transaction.set_quick_repair(std::fs::metadata(path).is_ok_and(|file| file.len() >= LARGE));
    Ok(transaction)
}

impl File {
    pub(super) fn new(path: PathBuf, database: Database) -> Self {
        Self { path, database: RwLock::new(Some(database)) }
    }

    /// A snapshot of what is committed.
    pub(super) fn read(&self) -> Result<ReadTransaction, StoreError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        database.as_ref().ok_or_else(closed)?.begin_read().map_err(away)
    }

    /// A transaction whose commit reaches the disk; opens the file again if that is needed.
    pub(super) fn write(&self) -> Result<WriteTransaction, StoreError> {
        if self.database.read().unwrap_or_else(PoisonError::into_inner).is_none() {
            self.reopen();
        }
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        begin(database.as_ref().ok_or_else(closed)?, &self.path)
    }

    /// After a failure: closes the file, also for reads that are under way, and opens it again. When that fails the next
    /// write tries again.
    pub(super) fn reopen(&self) {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        *database = None;
        match open(&self.path) {
            Ok(opened) => *database = Some(opened),
            Err(error) => tracing::error!(%error, "the embedded store could not be opened again"),
        }
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the embedded store's file failed and is not open again yet".to_owned())
}
