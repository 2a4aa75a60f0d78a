//! What the store said lately of cookies: bounded, believed for a second.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Session;
use crate::model::Timestamp;

const SHARDS: usize = 16;

/// Sessions per shard; beyond it, half of them are dropped, the longest unread first.
const LIMIT: usize = 1_024;

/// A session, when it was read, and the revocation epoch then.
#[derive(Clone)]
pub(super) struct Seen {
    pub(super) session: Session,
    pub(super) at: Timestamp,
    pub(super) epoch: u64,
}

pub(super) struct Recent {
    hasher: ahash::RandomState,
    shards: [Mutex<HashMap<String, Seen, ahash::RandomState>>; SHARDS],
}

impl Default for Recent {
    fn default() -> Self {
        Self { hasher: ahash::RandomState::new(), shards: Default::default() }
    }
}

impl Recent {
    pub(super) fn get(&self, key: &str) -> Option<Seen> {
        self.shard(key)?.get(key).cloned()
    }

    pub(super) fn put(&self, key: String, seen: Seen) {
        let Some(mut shard) = self.shard(&key) else { return };
        if shard.len() >= LIMIT {
            let mut times: Vec<_> = shard.values().map(|seen| seen.at).collect();
            let middle = times.len() / 2;
            let (_, median, _) = times.select_nth_unstable(middle);
            let (median, mut room) = (*median, middle);
            shard.retain(|_, seen| {
                let old = seen.at <= median && room > 0;
                room -= usize::from(old);
                !old
            });
        }
        shard.insert(key, seen);
    }

    pub(super) fn remove(&self, key: &str) {
        if let Some(mut shard) = self.shard(key) {
            shard.remove(key);
        }
    }

    fn shard(&self, key: &str) -> Option<MutexGuard<'_, HashMap<String, Seen, ahash::RandomState>>> {
        let hash = usize::try_from(self.hasher.hash_one(key) >> 32).unwrap_or_default();
        Some(self.shards.get(hash % SHARDS)?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
