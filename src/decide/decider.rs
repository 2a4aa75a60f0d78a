//! The live policy of a node: opened, asked, reloaded beside and swapped, watched.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::load::{Settings, load};
use super::pool::Pool;
use super::snapshot::{INLINE_ROWS, Snapshot, Verdict};
use super::source::{Sources, error};
use super::{Decision, Explanation, Permit, Problem, Query, Question, explain, suite};
use crate::config;
use crate::model::{Principal, SharedClock};

/// Time between the two scans of the watcher that must agree.
const SETTLE: Duration = Duration::from_millis(500);

/// The live policy.
pub struct Decider {
    directory: PathBuf,
    settings: Settings,
    allow_by_default: bool,
    clock: SharedClock,
    live: ArcSwap<Snapshot>,
    loading: Mutex<[u8; 32]>,
    pool: Pool,
    reloads: AtomicU64,
    failures: AtomicU64,
    trouble: ArcSwapOption<String>,
}

impl Decider {
    /// Loads, checks and tests `config.policy.directory` for this node. `is_principal`: names that may not be roles.
    ///
    /// # Errors
    /// Every mistake of the directory.
    pub fn open(
        config: &config::Config,
        clock: SharedClock,
        is_principal: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    ) -> Result<Arc<Self>, Vec<Problem>> {
        Self::open_policy(&config.policy, &config.node.name, clock, is_principal)
    }

    /// The same from the section alone: `check`, shadow policies and tests have no whole configuration.
    ///
    /// # Errors
    /// Every mistake of the directory.
    pub fn open_policy(
        policy: &config::Policy,
        node: &str,
        clock: SharedClock,
        is_principal: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    ) -> Result<Arc<Self>, Vec<Problem>> {
        let directory = policy.directory.clone();
        let settings = Settings::of(policy, Some(node), is_principal);
        let sources = Sources::read(&directory, settings.node.as_deref())?;
        let allow_by_default = policy.allow_by_default;
        let snapshot = accept(&directory, &sources, &settings, allow_by_default)?;
        let pool = Pool::start().map_err(|cause| {
            vec![error(&directory, "model.conf", 1, "threads", format!("no threads for the policy: {cause}"))]
        })?;
        Ok(Arc::new(Self {
            directory,
            settings,
            allow_by_default,
            clock,
            live: ArcSwap::from_pointee(snapshot),
            loading: Mutex::new(sources.fingerprint()),
            pool,
            reloads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            trouble: ArcSwapOption::empty(),
        }))
    }

    /// Asks the live policy. Every failure is a deny with `error` set.
    pub async fn decide(&self, principal: &Arc<Principal>, question: &Question<'_>) -> Decision {
        let snapshot = self.live.load_full();
        let key = snapshot.memo.key(principal, question);
        if let Some(kept) = key.as_ref().and_then(|key| snapshot.memo.get(key, principal)) {
            return decision(&snapshot, kept.verdict, kept.roles);
        }
        let prepared = snapshot.prepare(principal, question, self.clock.now());
        let roles = Arc::clone(&prepared.subject.roles);
        let verdict = if prepared.cost <= INLINE_ROWS {
            snapshot.evaluate(&prepared)
        } else {
            self.pool.evaluate(&snapshot, prepared).await
        };
        if let Some(key) = key {
            snapshot.memo.put(&key, principal, &verdict, &roles);
        }
        decision(&snapshot, verdict, roles)
    }

    /// Loads the directory again beside and swaps; on problems keeps the live one. `confirmed`: also when most rows vanish.
    /// True when something changed.
    ///
    /// # Errors
    /// Every mistake of the directory; the last good policy stays.
    pub fn reload(&self, confirmed: bool) -> Result<bool, Vec<Problem>> {
        // A thread that panicked while it loaded leaves the live snapshot whole, so its lock may be taken over.
        let mut loaded = self.loading.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let result = self.load_beside(confirmed, &mut loaded);
        match &result {
            Ok(true) => self.reloads.fetch_add(1, Ordering::Relaxed),
            Ok(false) => 0,
            Err(_) => self.failures.fetch_add(1, Ordering::Relaxed),
        };
        let trouble = result.as_ref().err().and_then(|problems| problems.first()).map(ToString::to_string);
        self.trouble.store(trouble.map(Arc::new));
        result
    }

    fn load_beside(&self, confirmed: bool, loaded: &mut [u8; 32]) -> Result<bool, Vec<Problem>> {
        let sources = Sources::read(&self.directory, self.settings.node.as_deref())?;
        let fingerprint = sources.fingerprint();
        let snapshot = accept(&self.directory, &sources, &self.settings, self.allow_by_default)?;
        let live = self.live.load();
        let changed = live.digest != snapshot.digest;
        if changed && !confirmed && sources.manifest.is_none() {
            let (gone, all) = vanished(&live, &snapshot);
            if gone * 2 > all {
                let message = format!(
                    "{gone} of {all} live rows would vanish; held until SIGHUP or the admin API confirms it"
                );
                return Err(vec![error(&self.directory, "model.conf", 1, "held", message)]);
            }
        }
        *loaded = fingerprint;
        if changed {
            self.live.store(Arc::new(snapshot));
        }
        Ok(changed)
    }

    /// Two equal scans half a second apart, then reload: the policy watcher. Runs on its own thread, which this starts,
    /// until the decider is dropped. `on_reload` hears of each change and of each failure once.
    pub fn watch(self: &Arc<Self>, on_reload: Arc<dyn Fn(Result<(), Vec<Problem>>) + Send + Sync>) {
        let decider = Arc::downgrade(self);
        let builder = std::thread::Builder::new().name("policy-watch".to_owned());
        let report = Arc::clone(&on_reload);
        if let Err(cause) = builder.spawn(move || watch(&decider, &*on_reload)) {
            let message = format!("no thread watches the policy: {cause}");
            report(Err(vec![error(&self.directory, "model.conf", 1, "threads", message)]));
        }
    }

    /// Explains what the live policy says to a query.
    pub fn explain(&self, query: &Query) -> Explanation {
        explain::of_snapshot(&self.live.load(), &self.directory, query)
    }

    /// The live snapshot's digest.
    pub fn digest(&self) -> Arc<str> {
        Arc::clone(&self.live.load().digest)
    }

    /// Live `p` rows.
    pub fn rows(&self) -> usize {
        self.live.load().rows.len()
    }

    /// Names used as roles (second column of `g`).
    pub fn role_names(&self) -> HashSet<String> {
        let live = self.live.load();
        live.graphs
            .0
            .get("g")
            .map(|graph| graph.roles().iter().map(|role| role.to_string()).collect())
            .unwrap_or_default()
    }

    /// Why the files in the directory are not the live policy: the first mistake of the last reload.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.load().as_deref().cloned()
    }

    /// Reloads that changed something, and reloads that failed.
    pub fn failures(&self) -> (u64, u64) {
        (self.reloads.load(Ordering::Relaxed), self.failures.load(Ordering::Relaxed))
    }
}

/// Loads and tests; an effect that allows by default needs the setting.
fn accept(
    directory: &std::path::Path,
    sources: &Sources,
    settings: &Settings,
    allow_by_default: bool,
) -> Result<Snapshot, Vec<Problem>> {
    let snapshot = load(directory, sources, settings)?;
    if snapshot.definition.allows_by_default() && !allow_by_default {
        let message =
            "this effect allows what no row denies; set [policy] allow_by_default = true to mean it";
        let line = snapshot.definition.effect_line;
        return Err(vec![error(directory, "model.conf", line, "allows-by-default", message)]);
    }
    let failed = suite::problems(directory, sources, &snapshot, settings.node.as_deref());
    if failed.is_empty() { Ok(snapshot) } else { Err(failed) }
}

fn decision(snapshot: &Snapshot, verdict: Verdict, roles: Arc<[Arc<str>]>) -> Decision {
    Decision {
        permit: (verdict.allow && verdict.error.is_none()).then_some(Permit { _private: () }),
        rule: verdict.row.and_then(|row| snapshot.rule(row)),
        digest: Arc::clone(&snapshot.digest),
        roles,
        error: verdict.error,
    }
}

/// How many of the live rows (`p` and `g`) the new snapshot has no longer, and how many there are.
fn vanished(live: &Snapshot, next: &Snapshot) -> (usize, usize) {
    let kept: HashSet<(&str, &[String])> = next.all_rows().collect();
    let gone = live.all_rows().filter(|row| !kept.contains(row)).count();
    (gone, live.all_rows().count())
}

/// What the watcher remembers between two scans.
#[derive(Default)]
pub(super) struct Watch {
    /// The last scan; its inner `None`: the directory could not be read.
    previous: Option<Option<[u8; 32]>>,
    /// What was refused already, so that it is reported once.
    refused: Option<Option<[u8; 32]>>,
}

impl Watch {
    /// One scan; reloads when it equals the one before and differs from what is live.
    pub(super) fn step(&mut self, decider: &Decider) -> Option<Result<(), Vec<Problem>>> {
        let sources = Sources::read(&decider.directory, decider.settings.node.as_deref());
        let seen = sources.map(|sources| sources.fingerprint()).ok();
        let live = *decider.loading.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let settled = self.previous == Some(seen);
        self.previous = Some(seen);
        if seen == Some(live) {
            self.refused = None;
            decider.trouble.store(None);
            return None;
        }
        if !settled || self.refused == Some(seen) {
            return None;
        }
        let result = decider.reload(false).map(drop);
        self.refused = result.is_err().then_some(seen);
        Some(result)
    }
}

fn watch(decider: &Weak<Decider>, on_reload: &(dyn Fn(Result<(), Vec<Problem>>) + Send + Sync)) {
    let mut watch = Watch::default();
    loop {
        let Some(decider) = decider.upgrade() else { return };
        if let Some(result) = watch.step(&decider) {
            on_reload(result);
        }
        drop(decider);
        std::thread::sleep(SETTLE);
    }
}
