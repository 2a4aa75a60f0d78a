//! What nodes share: narrow traits, and their backends (embedded, redis). One conformance suite for all.
//!
//! [`Records`] keeps small versioned values, [`RevocationLog`] what was revoked, in order, [`AuditStore`] the shipped
//! audit. What a value means belongs to the module that writes it (accounts, keys, tokens, sessions).
//! A new backend is one folder here, one arm in `app.rs`, one line in the conformance suite.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::model::Timestamp;

#[cfg(test)]
mod conformance;
pub mod embedded;
mod pack;
pub mod redis;

/// Why the store did not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Away: a later try can succeed.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// It answered with something that this program did not write.
    #[error("the store holds `{key}` in a form that this version does not read: {reason}")]
    Corrupt {
        /// Which record.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It cannot be used as it is set up; the text says what to do.
    #[error("{0}")]
    Refused(String),
}

/// Kinds of records; each is a name space of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Table {
    /// Accounts by name.
    Accounts,
    /// Every principal name ever given, and its kind.
    Principals,
    /// Browser sessions by the hash of their cookie.
    Sessions,
    /// Refresh token families.
    Families,
    /// Single-use values: codes, state, nonces.
    Once,
    /// Signing keys, sealed.
    Keys,
    /// Counters of failed sign-ins.
    Counters,
    /// Nodes and their heartbeats.
    Nodes,
    /// OAuth clients.
    Clients,
}

/// A stored value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The bytes.
    pub value: Vec<u8>,
    /// From 1; grows with each write of the record.
    pub version: u64,
}

/// What must hold for a write to happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// Nothing.
    Anything,
    /// There is no such record (an expired one is none).
    Absent,
    /// The record has this version.
    Version(u64),
}

/// Versioned records with expiry. Every method is one atomic step. Expired records are never returned.
#[async_trait]
pub trait Records: Send + Sync {
    /// The record, if there is one.
    async fn get(&self, table: Table, key: &str) -> Result<Option<Record>, StoreError>;

    /// Writes the record if `expect` holds: the new version, or `None` when it did not hold.
    async fn put(
        &self,
        table: Table,
        key: &str,
        value: &[u8],
        expires: Option<Timestamp>,
        expect: Expect,
    ) -> Result<Option<u64>, StoreError>;

    /// Deletes the record if `expect` holds; true when a record was deleted.
    async fn delete(&self, table: Table, key: &str, expect: Expect) -> Result<bool, StoreError>;

    /// Returns and deletes the record: of any number of simultaneous calls exactly one gets it.
    async fn take(&self, table: Table, key: &str) -> Result<Option<Record>, StoreError>;

    /// Up to `limit` records whose key begins with `prefix` and is greater than `after`, in key order.
    async fn list(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Record)>, StoreError>;

    /// Adds `by` to a counter of [`Table::Counters`] that vanishes `window` after its first increment; its new value.
    async fn increment(&self, key: &str, by: u64, window: Duration) -> Result<u64, StoreError>;

    /// How long until a counter of [`Table::Counters`] vanishes; zero when there is none.
    async fn remaining(&self, key: &str) -> Result<Duration, StoreError>;

    /// A round trip, for readiness.
    async fn ping(&self) -> Result<(), StoreError>;
}

/// What is revoked.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "id")]
pub enum Revoked {
    /// One access token, by `jti`.
    Token(String),
    /// A sign-in session and everything issued in it, by `sid`.
    Session(String),
    /// All of a principal's credentials issued until then, by principal name.
    Subject(String),
    /// A client and all tokens issued to it until then, by id.
    Client(String),
    /// A signing key, by `kid`.
    Key(String),
    /// A client certificate, by issuer and upper-case hex serial: `<issuer>#<serial>`.
    Certificate(String),
}

/// One entry of the revocation log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RevocationEntry {
    /// What.
    pub what: Revoked,
    /// What was issued at or before this moment is refused.
    pub not_before: Timestamp,
    /// When nothing that it concerns can still be valid, so that it may be forgotten.
    pub until: Timestamp,
}

/// A place in the revocation log. `epoch` changes when the log was rebuilt; positions grow within one epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LogPosition {
    /// Which log.
    pub epoch: u64,
    /// How many entries were ever appended to it.
    pub index: u64,
}

/// The log of revocations that every node follows.
#[async_trait]
pub trait RevocationLog: Send + Sync {
    /// Appends an entry; where it stands.
    async fn append(&self, entry: &RevocationEntry) -> Result<LogPosition, StoreError>;
    /// The position of the last entry.
    async fn head(&self) -> Result<LogPosition, StoreError>;
    /// Up to `limit` entries after `position` that may still matter, with their positions, in order.
    async fn after(
        &self,
        position: LogPosition,
        limit: usize,
    ) -> Result<Vec<(LogPosition, RevocationEntry)>, StoreError>;
}

/// One audit event, chained and final: `json` is the RFC 8785 text that includes `hash`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditEntry {
    /// From 1 per node, without a gap.
    pub seq: u64,
    /// The event's time.
    pub time: Timestamp,
    /// The event.
    pub json: String,
}

/// What became of a shipment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shipped {
    /// Every event is in the store, as durable as the store can make it.
    There,
    /// The store lost events that it had: its last one is this (0: none). Nothing was appended.
    Behind(u64),
}

/// Where shipped events are kept, per node in the order of `seq`.
#[async_trait]
pub trait AuditStore: Send + Sync {
    /// The last event of a node.
    async fn last(&self, node: &str) -> Result<Option<AuditEntry>, StoreError>;
    /// Appends events with consecutive `seq`, in one step; those that are there already are skipped (a repeated shipment
    /// changes nothing). `after`: the last event that the store is known to have; a store that has less took none.
    async fn append(
        &self,
        node: &str,
        epoch_ms: u64,
        after: u64,
        entries: &[AuditEntry],
    ) -> Result<Shipped, StoreError>;
    /// Up to `limit` events of a node with `seq >= from`, in order.
    async fn read(&self, node: &str, from: u64, limit: usize) -> Result<Vec<AuditEntry>, StoreError>;
    /// Up to `limit` events of a node with `seq < before`, newest first; `None`: from the end.
    async fn read_back(
        &self,
        node: &str,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<AuditEntry>, StoreError>;
    /// The nodes that have events.
    async fn nodes(&self) -> Result<Vec<String>, StoreError>;
    /// Keeps a node's newest signed checkpoint, in the place of the one before.
    async fn set_checkpoint(&self, node: &str, checkpoint: &str) -> Result<(), StoreError>;
    /// The newest checkpoint of each node, by node.
    async fn checkpoints(&self) -> Result<Vec<(String, String)>, StoreError>;
}

/// The three faces of one opened store.
#[derive(Clone)]
pub struct Store {
    /// Versioned records.
    pub records: Arc<dyn Records>,
    /// Revocations.
    pub revocations: Arc<dyn RevocationLog>,
    /// Audit events.
    pub audit: Arc<dyn AuditStore>,
    /// `embedded` or `redis`, for messages.
    pub kind: &'static str,
}
