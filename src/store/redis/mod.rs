//! The Redis store: what several nodes share, on one server (Redis 6.2 or later).
//!
//! Opened by `app` when `[store] kind = "redis"`. Each step that must be atomic is a script in [`scripts`]; another way to
//! reach Redis (Sentinel, Cluster) is a branch in [`connection`]; a new kind of data is a file beside `records`,
//! `revocations` and `audit`.

mod audit;
mod connection;
mod records;
mod revocations;
mod scripts;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::{Store, StoreError};
use crate::config;
use crate::model::SharedClock;
use connection::Connection;

/// Connects, and checks that the server is usable: version, no eviction policy that can drop security state.
/// `audit`: how events are put into stream entries. `runtime`: where connections live; callers may await from any
/// runtime.
///
/// # Errors
/// `Unavailable` when the server does not answer; `Refused`, saying what to do, when it cannot be used as it is set up.
pub async fn open(
    config: &config::Redis,
    audit: &config::Audit,
    runtime: tokio::runtime::Handle,
    clock: SharedClock,
) -> Result<Store, StoreError> {
    let client = connection::client(config)?;
    // A confirmation by replicas holds up everything on its connection, and speaks for its connection alone.
    let shared = Connection::open(&client, config, &runtime).await?;
    let confirmed = Connection::open(&client, config, &runtime).await?;
    connection::check(&shared).await?;
    let prefix: Arc<str> = Arc::from(config.prefix.as_str());
    Ok(Store {
        records: Arc::new(records::Redis::new(shared.clone(), &prefix, Arc::clone(&clock))),
        revocations: Arc::new(revocations::Redis::new(shared.clone(), confirmed.clone(), &prefix, clock)),
        audit: Arc::new(audit::Redis::new(shared, confirmed, prefix, super::pack::Form::of(audit))),
        kind: "redis",
    })
}
