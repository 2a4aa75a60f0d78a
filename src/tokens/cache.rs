//! A bounded cache that many threads read: what was verified once is not verified again.
//!
//! Keys are compared in full; the hash is seeded at random, so that nobody outside chooses collisions. When a shard is
//! full, the second-chance clock takes out what was not read since the hand last passed; nothing is ever cleared at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use ahash::RandomState;

const SHARDS: usize = 16;

/// Values by text.
pub(crate) struct Cache<V> {
    hasher: RandomState,
    shards: Vec<RwLock<Shard<V>>>,
}

struct Shard<V> {
    places: HashMap<Arc<str>, usize, RandomState>,
    entries: Vec<Entry<V>>,
    hand: usize,
    capacity: usize,
}

struct Entry<V> {
    key: Arc<str>,
    value: V,
    read: AtomicBool,
}

impl<V: Clone> Cache<V> {
    /// A cache for about `capacity` values (rounded up to whole shards); with 0 it keeps nothing.
    pub(crate) fn new(capacity: usize) -> Self {
        let shard = || Shard {
            places: HashMap::with_hasher(RandomState::new()),
            entries: Vec::new(),
            hand: 0,
            capacity: capacity.div_ceil(SHARDS),
        };
        Self { hasher: RandomState::new(), shards: (0..SHARDS).map(|_| RwLock::new(shard())).collect() }
    }

    /// The value under exactly this key.
    pub(crate) fn get(&self, key: &str) -> Option<V> {
        let shard = self.read(key)?;
        let entry = shard.entries.get(*shard.places.get(key)?)?;
        if !entry.read.load(Ordering::Relaxed) {
            entry.read.store(true, Ordering::Relaxed);
        }
        Some(entry.value.clone())
    }

    /// Keeps the value, in the place of one that was not read lately when there is no room.
    pub(crate) fn put(&self, key: &str, value: V) {
        let Some(mut shard) = self.write(key) else { return };
        let shard = &mut *shard;
        if let Some(entry) = shard.places.get(key).and_then(|place| shard.entries.get_mut(*place)) {
            entry.value = value;
            return;
        }
        let key: Arc<str> = Arc::from(key);
        let entry = Entry { key: Arc::clone(&key), value, read: AtomicBool::new(false) };
        if shard.entries.len() < shard.capacity {
            shard.places.insert(key, shard.entries.len());
            shard.entries.push(entry);
            return;
        }
        let Some(place) = shard.free() else { return };
        if let Some(old) = shard.entries.get_mut(place) {
            shard.places.remove(&old.key);
            *old = entry;
            shard.places.insert(key, place);
        }
    }

    /// Forgets the key.
    pub(crate) fn remove(&self, key: &str) {
        let Some(mut shard) = self.write(key) else { return };
        let shard = &mut *shard;
        let Some(place) = shard.places.remove(key) else { return };
        if place < shard.entries.len() {
            shard.entries.swap_remove(place);
        }
        if let Some(moved) = shard.entries.get(place) {
            shard.places.insert(Arc::clone(&moved.key), place);
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().unwrap().entries.len()).sum()
    }

    fn shard(&self, key: &str) -> Option<&RwLock<Shard<V>>> {
        let hash = usize::try_from(self.hasher.hash_one(key) >> 32).unwrap_or_default();
        self.shards.get(hash % SHARDS)
    }

    fn read(&self, key: &str) -> Option<RwLockReadGuard<'_, Shard<V>>> {
        Some(self.shard(key)?.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, key: &str) -> Option<RwLockWriteGuard<'_, Shard<V>>> {
        Some(self.shard(key)?.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<V> Shard<V> {
    /// The place of the next entry that was not read since the hand last passed it.
    fn free(&mut self) -> Option<usize> {
        if self.entries.is_empty() {
            return None;
        }
        loop {
            let place = self.hand % self.entries.len();
            self.hand = place + 1;
            let entry = self.entries.get(place)?;
            if !entry.read.swap(false, Ordering::Relaxed) {
                return Some(place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_keeps_what_is_read() {
        let cache = Cache::new(160);
        cache.put("kept", 0);
        for number in 1..5_000 {
            assert_eq!(cache.get("kept"), Some(0), "after {number}");
            cache.put(&number.to_string(), number);
        }
        assert!(cache.len() <= 160);
    }

    #[test]
    fn what_is_removed_is_gone_and_the_rest_stays() {
        let cache = Cache::new(1_600);
        for number in 0..500 {
            cache.put(&number.to_string(), number);
        }
        for number in (0..500).step_by(2) {
            cache.remove(&number.to_string());
        }
        for number in 0..500 {
            assert_eq!(cache.get(&number.to_string()), (number % 2 == 1).then_some(number));
        }
    }

    #[test]
    fn without_capacity_nothing_is_kept() {
        let cache = Cache::new(0);
        cache.put("a", 1);
        assert_eq!(cache.get("a"), None);
    }
}
