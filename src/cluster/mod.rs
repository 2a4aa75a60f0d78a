//! Following what other nodes do: the revocation log and the signing keys, each 200 ms; and which nodes live.
//!
//! `app` starts [`follow`], [`follow_keys`] and [`Members`] once per node. Something else to follow is a function beside
//! them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::keys::KeyRing;
use crate::model::Timestamp;
use crate::revocation::Revocations;
use crate::store::{LogPosition, RevocationEntry, RevocationLog, Revoked, StoreError};

mod members;

pub use members::{Member, Members};

/// How often the head of the log is confirmed.
const EVERY: Duration = Duration::from_millis(200);
/// How many entries one read asks for.
const PAGE: usize = 1000;

/// Runs until cancelled: reads everything once, then keeps the view and its lease current.
pub async fn follow(log: Arc<dyn RevocationLog>, view: Arc<Revocations>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut away = false;
    loop {
        ticks.tick().await;
        match catch_up(&*log, &view).await {
            Ok(()) => {
                if away {
                    tracing::info!("the revocation log is followed again");
                }
                away = false;
            }
            Err(error) => {
                if !away {
                    tracing::warn!(%error, "the revocation log cannot be followed");
                }
                away = true;
            }
        }
    }
}

/// Runs until cancelled: keys that another node made, activated or withdrew are known here within a second.
pub async fn follow_keys(keys: Arc<KeyRing>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut away = false;
    loop {
        ticks.tick().await;
        let failed = keys.reload().await.err();
        match &failed {
            Some(error) if !away => {
                tracing::warn!(%error, "the signing keys cannot be read again; the present ones stay");
            }
            None if away => tracing::info!("the signing keys are read again"),
            _ => {}
        }
        away = failed.is_some();
    }
}

/// One round: confirms the head, reads what is new, renews the lease.
///
/// # Errors
/// When the store does not answer; the lease is then not renewed.
pub async fn catch_up(log: &dyn RevocationLog, view: &Revocations) -> Result<(), StoreError> {
    let sent = Instant::now();
    let head = log.head().await?;
    if view.moved_back(head) {
        return rewrite(log, view, head).await;
    }
    read_from(log, view, view.position()).await?;
    view.renew(head, sent);
    Ok(())
}

/// After a head that moved back: reads the whole log and writes again what this node holds and the log lost.
async fn rewrite(log: &dyn RevocationLog, view: &Revocations, head: LogPosition) -> Result<(), StoreError> {
    tracing::error!(
        epoch = head.epoch,
        index = head.index,
        "the revocation log moved back or was rebuilt: writing again what this node holds"
    );
    view.distrust();
    let held = view.held();
    let start = LogPosition { epoch: head.epoch, index: 0 };
    let mut kept: HashMap<Revoked, Timestamp> = HashMap::new();
    for entry in read_from(log, view, start).await? {
        let at = kept.entry(entry.what).or_default();
        *at = entry.not_before.max(*at);
    }
    for entry in held {
        if kept.get(&entry.what).is_none_or(|at| *at < entry.not_before) {
            log.append(&entry).await?;
        }
    }
    view.adopt(head);
    Ok(())
}

/// Applies every entry after `position`, and returns them.
async fn read_from(
    log: &dyn RevocationLog,
    view: &Revocations,
    mut position: LogPosition,
) -> Result<Vec<RevocationEntry>, StoreError> {
    let mut all = Vec::new();
    loop {
        let entries = log.after(position, PAGE).await?;
        view.apply(&entries);
        let Some((last, _)) = entries.last() else { return Ok(all) };
        position = *last;
        let full = entries.len() >= PAGE;
        all.extend(entries.into_iter().map(|(_, entry)| entry));
        if !full {
            return Ok(all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SystemClock;
    use crate::revocation::{Credential, Standing};

    #[tokio::test]
    async fn what_one_node_revokes_another_refuses() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(SystemClock);
        let log = crate::store::embedded::open(folder.path(), clock.clone()).unwrap().revocations;
        let here = Revocations::new(Arc::clone(&log), true, clock.clone());
        let there = Revocations::new(Arc::clone(&log), false, clock.clone());
        let credential = Credential { jti: Some("j"), ..Credential::default() };
        assert_eq!(here.standing(&credential), Standing::Good);
        assert_eq!(there.standing(&credential), Standing::Unknown);
        let following = tokio::spawn(follow(log, Arc::clone(&there)));
        let until = crate::model::Clock::now(&*clock).plus(Duration::from_secs(60));
        here.revoke(Revoked::Token("j".to_owned()), until).await.unwrap();
        let revoked = Instant::now();
        while there.standing(&credential) != Standing::Revoked {
            assert!(revoked.elapsed() < Duration::from_secs(5));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(there.is_fresh());
        following.abort();
    }
}
