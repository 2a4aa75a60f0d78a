//! What is revoked, as this node knows it, and the lease that says how fresh that knowledge is.
//!
//! Read by everyone that checks a credential; fed by `cluster`, which follows the log. A new kind of revocation is a
//! variant of [`Revoked`], a map in `known` and a member of [`Credential`].

mod known;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;

use crate::model::{SharedClock, Timestamp};
use crate::store::{LogPosition, RevocationEntry, RevocationLog, Revoked, StoreError};
use known::Known;

/// How long a confirmed read of the log's head counts, from its sending.
pub const LEASE: Duration = Duration::from_secs(1);
/// How long a node waits after the log moved back, so that every live node has written again what it holds.
const SETTLE: Duration = Duration::from_secs(1);
/// How often what no longer matters is forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(1);

/// What a credential is known by: everything that could have been revoked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Credential<'a> {
    /// The token's `jti`.
    pub jti: Option<&'a str>,
    /// The sign-in session that it was issued in.
    pub sid: Option<&'a str>,
    /// The principal's name.
    pub subject: Option<&'a str>,
    /// The client that it was issued to.
    pub client: Option<&'a str>,
    /// The key that signed it.
    pub kid: Option<&'a str>,
    /// `<issuer>#<serial>`
    pub certificate: Option<&'a str>,
    /// When it was issued (for a session: when it began).
    pub issued: Timestamp,
}

/// Why a credential may not be used now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// not revoked, and the view is fresh
    Good,
    /// revoked
    Revoked,
    /// the lease lapsed: this node cannot know
    Unknown,
}

/// The view. All methods are cheap and synchronous but [`revoke`](Self::revoke), which writes the log.
pub struct Revocations {
    log: Arc<dyn RevocationLog>,
    always_fresh: bool,
    clock: SharedClock,
    known: RwLock<Known>,
    applied: AtomicU64,
    started: Instant,
    /// Nanoseconds after `started` at which the last confirmed read was sent, plus one; 0: none counts.
    confirmed: AtomicU64,
    following: Mutex<Following>,
}

/// Where this node stands in the log.
#[derive(Default)]
struct Following {
    position: LogPosition,
    /// The log moved back, and what this node holds is not written again yet.
    distrusted: bool,
    /// Reads sent before this moment do not count.
    settled: Option<Instant>,
    forgotten: Option<Instant>,
}

impl Revocations {
    /// `always_fresh`: the embedded store, where this node writes every entry itself; what it holds is read here.
    pub fn new(log: Arc<dyn RevocationLog>, always_fresh: bool, clock: SharedClock) -> Arc<Self> {
        let view = Arc::new(Self {
            log,
            always_fresh,
            clock,
            known: RwLock::default(),
            applied: AtomicU64::new(0),
            started: Instant::now(),
            confirmed: AtomicU64::new(0),
            following: Mutex::default(),
        });
        if always_fresh {
            // Reads of the embedded log never wait; a log that does is read by `cluster`, and the view not fresh until then.
            if let Some(Err(error)) = view.load().now_or_never() {
                tracing::error!(%error, "the revocation log cannot be read: nothing is accepted until it can");
            }
        }
        view
    }

    /// Reads the whole log once.
    async fn load(&self) -> Result<(), StoreError> {
        let sent = Instant::now();
        let head = self.log.head().await?;
        loop {
            let entries = self.log.after(self.position(), 1000).await?;
            if entries.is_empty() {
                break;
            }
            self.apply(&entries);
        }
        self.renew(head, sent);
        Ok(())
    }

    /// Whether the credential may be used now: revoked is told apart from not knowing also when the lease lapsed.
    pub fn standing(&self, credential: &Credential<'_>) -> Standing {
        if self.known().revokes(credential, &*self.clock) {
            Standing::Revoked
        } else if self.is_fresh() {
            Standing::Good
        } else {
            Standing::Unknown
        }
    }

    /// True while the lease holds (1 s from the sending of the last confirmed read).
    pub fn is_fresh(&self) -> bool {
        match self.confirmed.load(Ordering::Acquire) {
            0 => false,
            _ if self.always_fresh => true,
            sent => self.since(sent) < LEASE,
        }
    }

    /// Seconds since the last confirmed read was sent.
    pub fn lag(&self) -> Duration {
        match self.confirmed.load(Ordering::Acquire) {
            0 => self.started.elapsed(),
            _ if self.always_fresh => Duration::ZERO,
            sent => self.since(sent),
        }
    }

    /// How long ago this view was current, when that is known and the log has not moved back since: what stands on it
    /// although the lease lapsed (`allow_known`) asks for this.
    pub fn trusted_for(&self) -> Option<Duration> {
        (self.confirmed.load(Ordering::Acquire) != 0).then(|| self.lag())
    }

    /// Grows with every applied entry: caches compare it.
    pub fn epoch(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// Appends to the log and applies here; returns when the store confirmed it. What was issued until now is refused;
    /// the entry may be forgotten after `until`.
    ///
    /// # Errors
    /// When the store did not confirm it: the caller must say that it is not certain, and try again.
    pub async fn revoke(&self, what: Revoked, until: Timestamp) -> Result<(), StoreError> {
        let entry = RevocationEntry { what, not_before: self.clock.now(), until };
        self.log.append(&entry).await?;
        // The position stays: entries of other nodes before this one may not have been read yet.
        self.learn(std::iter::once(&entry));
        Ok(())
    }

    /// Applies entries read from the log.
    pub fn apply(&self, entries: &[(LogPosition, RevocationEntry)]) {
        let Some((last, _)) = entries.last() else { return };
        self.learn(entries.iter().map(|(_, entry)| entry));
        self.following().reach(*last);
    }

    /// The head was confirmed by a read *sent* at `sent`.
    pub fn renew(&self, head: LogPosition, sent: Instant) {
        if self.moved_back(head) {
            self.distrust();
            return;
        }
        let mut following = self.following();
        following.reach(head);
        if following.settled.is_some_and(|settled| sent < settled) {
            return;
        }
        following.settled = None;
        let due = following.forgotten.is_none_or(|at| sent.saturating_duration_since(at) >= FORGET_EVERY);
        if due {
            following.forgotten = Some(sent);
        }
        drop(following);
        let since = sent.saturating_duration_since(self.started);
        let nanos = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX - 1).saturating_add(1);
        self.confirmed.fetch_max(nanos, Ordering::AcqRel);
        if due {
            self.known_mut().forget(self.clock.now());
        }
    }

    /// The last entry of the log that this view has seen.
    pub fn position(&self) -> LogPosition {
        self.following().position
    }

    /// True when a log with this head lost entries that this view has seen, or was rebuilt (`threats.md`); it stays true
    /// until [`adopt`](Self::adopt).
    pub fn moved_back(&self, head: LogPosition) -> bool {
        let following = self.following();
        let known = following.position;
        let behind = head.epoch != known.epoch || head.index < known.index;
        following.distrusted || (known != LogPosition::default() && behind)
    }

    /// The log moved back: this view is not fresh until what it holds is written again and [`adopt`](Self::adopt) says so.
    pub fn distrust(&self) {
        self.following().distrusted = true;
        self.confirmed.store(0, Ordering::Release);
    }

    /// Follows the log from `head`, after what this view holds was written again; fresh once every live node had the
    /// time to do the same.
    pub fn adopt(&self, head: LogPosition) {
        let mut following = self.following();
        following.position = head;
        following.distrusted = false;
        following.settled = Instant::now().checked_add(SETTLE);
    }

    /// Everything that this view holds and that still matters.
    pub fn held(&self) -> Vec<RevocationEntry> {
        self.known().entries(self.clock.now())
    }

    fn learn<'a>(&self, entries: impl Iterator<Item = &'a RevocationEntry>) {
        let mut known = self.known_mut();
        let mut count = 0;
        for entry in entries {
            known.add(entry);
            count += 1;
        }
        // Before the lock is released: whoever reads the new entries can compare the new number.
        self.applied.fetch_add(count, Ordering::AcqRel);
    }

    fn since(&self, sent: u64) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_nanos(sent.saturating_sub(1)))
    }

    // The maps are whole after every statement, so that a poisoned lock holds nothing half done.
    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_mut(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn following(&self) -> MutexGuard<'_, Following> {
        self.following.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Following {
    fn reach(&mut self, at: LogPosition) {
        if at.epoch != self.position.epoch || at.index > self.position.index {
            self.position = at;
        }
    }
}

#[cfg(test)]
mod tests;
