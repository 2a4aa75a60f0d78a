//! The live policy of a node: opened, asked, reloaded beside and swapped, watched.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::ask::{Asked, ask, decided, decision};
use super::load::{Settings, load};
use super::pool::Pool;
use super::recheck::Recheck;
use super::snapshot::{INLINE_ROWS, Snapshot};
use super::source::{Sources, error};
use super::{Decision, Explanation, Problem, Query, Question, explain, suite};
use crate::config;
use crate::model::{Principal, SharedClock};

/// Time between the two scans of the watcher that must agree.
const SETTLE: Duration = Duration::from_millis(500);

/// Hears of each change and of each failure.
type Report = Arc<dyn Fn(&Result<(), Vec<Problem>>) + Send + Sync>;

/// What was read of the directory: the files' fingerprint, or why they could not be read.
type Scan = Result<[u8; 32], Vec<Problem>>;

/// What became of the files that were read last.
struct Loaded {
    /// The fingerprint of the live ones.
    live: [u8; 32],
    /// What was refused since, whoever asked for it: the watcher does not try it again.
    refused: Option<Scan>,
}

/// The live policy.
pub struct Decider {
    directory: PathBuf,
    settings: Settings,
    allow_by_default: bool,
    clock: SharedClock,
    live: ArcSwap<Snapshot>,
    loading: Mutex<Loaded>,
    pool: Pool,
    recheck: Recheck,
    reloads: AtomicU64,
    failures: AtomicU64,
    trouble: ArcSwapOption<String>,
    report: OnceLock<Report>,
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
        let threads = Pool::start().and_then(|pool| Ok((pool, Recheck::start()?)));
        let (pool, recheck) = threads.map_err(|cause| {
            vec![error(&directory, "model.conf", 1, "threads", format!("no threads for the policy: {cause}"))]
        })?;
        Ok(Arc::new(Self {
            directory,
            settings,
            allow_by_default,
            clock,
            live: ArcSwap::from_pointee(snapshot),
            loading: Mutex::new(Loaded { live: sources.fingerprint(), refused: None }),
            pool,
            recheck,
            reloads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            trouble: ArcSwapOption::empty(),
            report: OnceLock::new(),
        }))
    }

    /// Asks the live policy. Every failure is a deny with `error` set.
    pub async fn decide(&self, principal: &Arc<Principal>, question: &Question<'_>) -> Decision {
        let snapshot = self.live.load_full();
        let at = self.clock.now();
        let decision = match ask(&snapshot, principal, question, at) {
            Asked::Decided(decision) => decision,
            Asked::Many(prepared, key) => {
                let roles = Arc::clone(&prepared.subject.roles);
                let verdict = self.pool.evaluate(&snapshot, *prepared).await;
                decided(&snapshot, principal, key, verdict, roles)
            }
        };
        self.recheck.look_at(&snapshot, &decision, || snapshot.prepare(principal, question, at));
        decision
    }

    /// The same for a principal that does not come again: nothing of it is kept.
    pub async fn decide_once(&self, principal: &Arc<Principal>, question: &Question<'_>) -> Decision {
        let snapshot = self.live.load_full();
        let prepared = snapshot.prepare_once(principal, question, self.clock.now());
        let roles = Arc::clone(&prepared.subject.roles);
        let verdict = if prepared.cost <= INLINE_ROWS {
            snapshot.evaluate(&prepared)
        } else {
            self.pool.evaluate(&snapshot, prepared).await
        };
        decision(&snapshot, verdict, roles)
    }

    /// Loads the directory again beside and swaps; on problems keeps the live one. `confirmed`: also when most rows vanish.
    /// True when something changed.
    ///
    /// # Errors
    /// Every mistake of the directory; the last good policy stays.
    pub fn reload(&self, confirmed: bool) -> Result<bool, Vec<Problem>> {
        self.take(confirmed, || Sources::read(&self.directory, self.settings.node.as_deref()))
    }

    /// The same with these files. Whoever asks: what came of it is reported to who watches.
    fn take(
        &self,
        confirmed: bool,
        sources: impl FnOnce() -> Result<Sources, Vec<Problem>>,
    ) -> Result<bool, Vec<Problem>> {
        let mut loaded = self.loaded();
        let sources = sources();
        let scan = sources.as_ref().map(Sources::fingerprint).map_err(Clone::clone);
        let result = sources.and_then(|sources| self.load_beside(&sources, confirmed));
        match (&result, scan) {
            (Ok(_), Ok(fingerprint)) => *loaded = Loaded { live: fingerprint, refused: None },
            (_, scan) => loaded.refused = Some(scan),
        }
        match &result {
            Ok(true) => self.reloads.fetch_add(1, Ordering::Relaxed),
            Ok(false) => 0,
            Err(_) => self.failures.fetch_add(1, Ordering::Relaxed),
        };
        let trouble = result.as_ref().err().and_then(|problems| problems.first()).map(ToString::to_string);
        self.trouble.store(trouble.map(Arc::new));
        drop(loaded);
        match (&result, self.report.get()) {
            (Ok(false), _) | (_, None) => {}
            (Ok(true), Some(report)) => report(&Ok(())),
            (Err(problems), Some(report)) => report(&Err(problems.clone())),
        }
        result
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        // A thread that panicked while it loaded leaves the live snapshot whole, so its lock may be taken over.
        self.loading.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn load_beside(&self, sources: &Sources, confirmed: bool) -> Result<bool, Vec<Problem>> {
        let snapshot = accept(&self.directory, sources, &self.settings, self.allow_by_default)?;
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
        if changed {
            self.live.store(Arc::new(snapshot));
        }
        Ok(changed)
    }

    /// Two equal scans half a second apart, then reload: the policy watcher. Runs on its own thread, which this starts,
    /// until the decider is dropped. `report` hears of each change and of each failure once, whoever asked for the reload;
    /// the first one given stays.
    pub fn watch(self: &Arc<Self>, report: Report) {
        let report = self.report.get_or_init(|| report);
        let decider = Arc::downgrade(self);
        let builder = std::thread::Builder::new().name("policy-watch".to_owned());
        if let Err(cause) = builder.spawn(move || watch(&decider)) {
            let message = format!("no thread watches the policy: {cause}");
            report(&Err(vec![error(&self.directory, "model.conf", 1, "threads", message)]));
        }
    }

    /// Explains what the live policy says to a query.
    pub fn explain(&self, query: &Query) -> Explanation {
        explain::of_snapshot(&self.live.load(), &self.directory, query)
    }

    /// Every role of a principal by the live policy, inherited ones included.
    pub fn roles_of(&self, principal: &Principal) -> Vec<Arc<str>> {
        self.live.load().closure(principal).roles.into_iter().collect()
    }

    /// The attributes of principals that the live policy reads.
    pub fn attributes_read(&self) -> Vec<String> {
        let live = self.live.load();
        let read = live.fields.get("sub").and_then(Option::as_ref);
        let own = ["name", "kind", "roles", "dom", "acr", "amr"];
        read.into_iter().flatten().filter(|field| !own.contains(&field.as_str())).cloned().collect()
    }

    /// The text of a row of the live policy.
    pub fn row_text(&self, file: &str, line: u32) -> Option<String> {
        let live = self.live.load();
        let row = live.rows.iter().find(|row| row.line == line && *row.file == *file)?;
        Some(row.text.clone())
    }

    /// The live snapshot's digest.
    pub fn digest(&self) -> Arc<str> {
        Arc::clone(&self.live.load().digest)
    }

    /// Live `p` rows.
    pub fn rows(&self) -> usize {
        self.live.load().rows.len()
    }

    /// Texts of a column of the live `p` rows that `wanted` takes, the first `most` after `after` in order, each once.
    pub fn texts_of(
        &self,
        column: &str,
        after: &str,
        most: usize,
        wanted: &dyn Fn(&str) -> bool,
    ) -> BTreeSet<String> {
        let live = self.live.load();
        let Some(column) = live.definition.policy.iter().position(|name| name == column) else {
            return BTreeSet::new();
        };
        let symbols: HashSet<_> =
            (0..live.rows.len()).filter_map(|row| live.rows.symbol(row, column)).collect();
        let texts = symbols.into_iter().map(|symbol| live.rows.texts().text(symbol));
        first(texts.filter(|text| wanted(text)), after, most)
    }

    /// Names that `g` rows of the live policy give roles, the first `most` after `after` in order, each once.
    pub fn names_with_roles(&self, after: &str, most: usize) -> BTreeSet<String> {
        let live = self.live.load();
        let links = live.links.iter().filter(|row| row.kind == "g");
        first(links.filter_map(|row| row.values.first()).map(String::as_str), after, most)
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

    /// Decisions that plain casbin would have made otherwise, of those that were checked.
    pub fn mismatches(&self) -> u64 {
        self.recheck.mismatches()
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

/// The first `most` texts after `after`, in order.
fn first<'a>(texts: impl Iterator<Item = &'a str>, after: &str, most: usize) -> BTreeSet<String> {
    let mut kept: BTreeSet<&str> = BTreeSet::new();
    for text in texts.filter(|text| *text > after) {
        if kept.len() < most || kept.last().is_some_and(|last| text < *last) {
            kept.insert(text);
            if kept.len() > most {
                kept.pop_last();
            }
        }
    }
    kept.into_iter().map(str::to_owned).collect()
}

/// How many of the live rows (`p` and `g`) the new snapshot has no longer, and how many there are.
fn vanished(live: &Snapshot, next: &Snapshot) -> (usize, usize) {
    let kept: HashSet<(&str, Vec<&str>)> = next.all_rows().collect();
    let gone = live.all_rows().filter(|row| !kept.contains(row)).count();
    (gone, live.all_rows().count())
}

/// What the watcher remembers between two scans.
#[derive(Default)]
pub(super) struct Watch {
    /// The last scan.
    previous: Option<Scan>,
}

impl Watch {
    /// One scan; reloads when it equals the one before and differs from what is live.
    pub(super) fn step(&mut self, decider: &Decider) -> Option<Result<(), Vec<Problem>>> {
        let sources = Sources::read(&decider.directory, decider.settings.node.as_deref());
        let seen = Some(sources.as_ref().map(Sources::fingerprint).map_err(Clone::clone));
        let settled = self.previous == seen;
        self.previous.clone_from(&seen);
        let mut loaded = decider.loaded();
        if seen == Some(Ok(loaded.live)) {
            loaded.refused = None;
            decider.trouble.store(None);
            return None;
        }
        if !settled || loaded.refused == seen {
            return None;
        }
        drop(loaded);
        // What both scans saw, not what a third reading would find half exchanged.
        Some(decider.take(false, || sources).map(drop))
    }
}

fn watch(decider: &Weak<Decider>) {
    let mut watch = Watch::default();
    loop {
        let Some(decider) = decider.upgrade() else { return };
        drop(watch.step(&decider));
        drop(decider);
        std::thread::sleep(SETTLE);
    }
}
