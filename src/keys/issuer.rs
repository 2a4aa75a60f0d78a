//! The keys of another issuer, from a file or fetched from its `jwks_uri`, kept while the issuer is away.
//!
//! `tokens::trusted` asks for them. At most one fetch a minute, whatever tokens name: a fetch that nobody waits for any
//! longer still ends, and what it found counts for all.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use jsonwebtoken::Algorithm;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::set::KeySet;
use crate::config::TrustedIssuer;
use crate::model::{SharedClock, Timestamp};
use crate::outbound::Outbound;

/// Between two fetches.
const AGAIN: Duration = Duration::from_secs(60);
/// A set of this age is fetched again beside the request that uses it.
const AGING: Duration = Duration::from_secs(5 * 60);
/// A set of this age is fetched again before it is used.
const OLD: Duration = Duration::from_secs(60 * 60);
/// A set that could not be fetched again for so long counts no more: its keys may have been withdrawn.
const DEAD: Duration = Duration::from_secs(24 * 60 * 60);
/// For connecting, and for the whole fetch.
const LIMITS: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(5));
/// How many requests wait for one fetch.
const WAITING: usize = 256;

/// A set as it was last seen.
pub struct Held {
    /// The keys.
    pub set: KeySet,
    /// Grows when the keys change.
    pub generation: u64,
    bytes: Vec<u8>,
    fetched: Timestamp,
}

/// The keys of one issuer.
pub struct IssuerKeys {
    name: String,
    algorithms: Vec<Algorithm>,
    /// `None`: the keys are a file's, and change with the configuration alone.
    remote: Option<(http::Uri, Outbound)>,
    clock: SharedClock,
    held: ArcSwapOption<Held>,
    fetching: Mutex<Fetching>,
    waiting: Semaphore,
}

#[derive(Default)]
struct Fetching {
    tried: Option<Timestamp>,
    running: Option<(AbortHandle, Shared<BoxFuture<'static, ()>>)>,
}

impl IssuerKeys {
    /// The keys of a configured issuer; a file is read now, a URI when the first token comes. `before` are the keys of the
    /// same issuer under the previous configuration: a set that was fetched from the same place is kept.
    ///
    /// # Errors
    /// When the file, the CA or an algorithm cannot be used.
    pub fn open(
        config: &TrustedIssuer,
        before: Option<&Arc<Self>>,
        clock: SharedClock,
    ) -> Result<Arc<Self>, String> {
        let algorithms = config.algorithms.iter().map(|name| name.parse::<Algorithm>());
        let algorithms: Vec<_> =
            algorithms.collect::<Result<_, _>>().map_err(|error| format!("algorithms: {error}"))?;
        let now = clock.now();
        let (remote, held) = match (&config.jwks_file, &config.jwks_uri) {
            (Some(file), _) => {
                let named = |why: &dyn std::fmt::Display| format!("{}: {why}", file.display());
                let bytes = std::fs::read(file).map_err(|error| named(&error))?;
                let set = KeySet::parse(&bytes, &algorithms).map_err(|error| named(&error))?;
                let same = before.and_then(|keys| keys.held.load_full());
                let generation = same.map_or(1, |held| held.generation + u64::from(held.bytes != bytes));
                (None, Some(Arc::new(Held { set, generation, bytes, fetched: now })))
            }
            (None, Some(url)) => {
                let uri: http::Uri = url.as_str().parse().map_err(|error| format!("jwks_uri: {error}"))?;
                let http = Outbound::new(config.ca.as_deref(), config.allow_private)
                    .map_err(|error| error.to_string())?
                    .timeouts(LIMITS.0, LIMITS.1);
                let same = before.filter(|keys| {
                    keys.algorithms == algorithms && keys.remote.as_ref().is_some_and(|(of, _)| *of == uri)
                });
                (Some((uri, http)), same.and_then(|keys| keys.held.load_full()))
            }
            (None, None) => return Err("neither `jwks_file` nor `jwks_uri` is set".to_owned()),
        };
        let tried = held.as_ref().map(|held| held.fetched);
        Ok(Arc::new(Self {
            name: config.name.clone(),
            algorithms,
            remote,
            clock,
            held: ArcSwapOption::new(held),
            fetching: Mutex::new(Fetching { tried, running: None }),
            waiting: Semaphore::new(WAITING),
        }))
    }

    /// The set for a token with this `kid`: the one at hand when it has the key and is young, else after a fetch, if one
    /// may be made now. `None`: no set was ever seen, or none for a day.
    pub async fn for_kid(self: &Arc<Self>, kid: &str) -> Option<Arc<Held>> {
        let held = self.current();
        match &held {
            Some(held) if held.set.has(kid) && self.age(held) < OLD => self.renew(held),
            _ => self.fetched().await,
        }
        self.current()
    }

    /// The set at hand, when it may be used without a fetch before; begins one beside when the set is aging.
    pub fn at_hand(self: &Arc<Self>) -> Option<Arc<Held>> {
        let held = self.current().filter(|held| self.age(held) < OLD)?;
        self.renew(&held);
        Some(held)
    }

    /// Seconds until the next fetch may be made, at least one.
    pub fn retry_after(&self) -> u32 {
        let fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        let since = fetching.tried.map_or(AGAIN, |at| self.clock.now().since(at));
        u32::try_from(AGAIN.saturating_sub(since).as_secs()).unwrap_or(1).max(1)
    }

    fn current(&self) -> Option<Arc<Held>> {
        self.held.load_full().filter(|held| self.age(held) < DEAD)
    }

    fn age(&self, held: &Held) -> Duration {
        if self.remote.is_none() { Duration::ZERO } else { self.clock.now().since(held.fetched) }
    }

    fn renew(self: &Arc<Self>, held: &Held) {
        if self.age(held) >= AGING {
            // Nobody waits for it.
            drop(self.fetch());
        }
    }

    /// Waits for a fetch, when one runs or may be made. More requests than may wait go on with what is at hand.
    async fn fetched(self: &Arc<Self>) {
        let Ok(_waiting) = self.waiting.try_acquire() else { return };
        if let Some(running) = self.fetch() {
            running.await;
        }
    }

    /// The fetch that runs, or a new one when the last was long enough ago.
    fn fetch(self: &Arc<Self>) -> Option<Shared<BoxFuture<'static, ()>>> {
        let (uri, http) = self.remote.clone()?;
        let now = self.clock.now();
        let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, running)) = fetching.running.as_ref().filter(|(task, _)| !task.is_finished()) {
            return Some(running.clone());
        }
        // A clock that was set back does not stop it.
        if fetching.tried.is_some_and(|at| now >= at && now.since(at) < AGAIN) {
            return None;
        }
        fetching.tried = Some(now);
        let issuer = Arc::clone(self);
        let task = tokio::spawn(async move { issuer.load(uri, &http, now).await });
        let handle = task.abort_handle();
        let running = task.map(|_ended| ()).boxed().shared();
        fetching.running = Some((handle, running.clone()));
        Some(running)
    }

    async fn load(&self, uri: http::Uri, http: &Outbound, now: Timestamp) {
        match get(uri, http).await.and_then(|bytes| Ok((KeySet::parse(&bytes, &self.algorithms)?, bytes))) {
            Ok((set, bytes)) => {
                let before = self.held.load_full();
                let generation = before.map_or(1, |held| held.generation + u64::from(held.bytes != bytes));
                self.held.store(Some(Arc::new(Held { set, generation, bytes, fetched: now })));
            }
            Err(error) => {
                tracing::warn!(issuer = %self.name, "the keys of a trusted issuer cannot be fetched: {error}");
            }
        }
    }
}

async fn get(uri: http::Uri, http: &Outbound) -> Result<Vec<u8>, String> {
    let request = http::Request::get(uri).header("accept", "application/jwk-set+json, application/json");
    let request = request.body(Vec::new()).map_err(|error| error.to_string())?;
    let answer = http.send(request).await.map_err(|error| error.to_string())?;
    if answer.status() != http::StatusCode::OK {
        return Err(format!("the answer is {}", answer.status()));
    }
    Ok(answer.into_body())
}
