//! What changes while a node runs: the configuration with every file it names, and the policies.
//!
//! `app::run` starts [`Reloader::watch`]; SIGHUP calls [`Reloader::everything`]. A change is taken as a whole or not at
//! all: read and checked beside what is live, then swapped. What a setting needs to change while running is one line in
//! [`Reloader::apply`]; a setting that cannot is compared in [`needs_restart`].

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;

use super::holders::{self, Said};
use crate::accounts::AccountError;
use crate::admin::AdminTls;
use crate::config::{self, Config, Listen, Loaded};
use crate::decide;
use crate::gateway::Gateway;
use crate::http::Services;
use crate::listen::TlsReloader;
use crate::record::{Event, Kind, Outcome};

/// Time between the two scans of the watcher that must agree.
const SETTLE: Duration = Duration::from_millis(500);

/// Length, times of change, inode and device of a file behind its links; `None`: it cannot be seen.
type Stamp = Option<(u64, i64, i64, i64, i64, u64, u64)>;

/// Takes changed files into the running node.
pub(super) struct Reloader {
    path: PathBuf,
    services: Arc<Services>,
    gateway: Arc<Gateway>,
    tls: Certificates,
    runtime: Handle,
    files: Mutex<Files>,
}

/// Who shows certificates; `None`: on plain HTTP.
pub(super) struct Certificates {
    pub(super) public: Option<Arc<TlsReloader>>,
    pub(super) admin: Option<Arc<AdminTls>>,
}

/// The files that the live configuration was read from.
struct Files {
    watched: Vec<PathBuf>,
    /// As they were when they were last read, taken or refused.
    read: Vec<Stamp>,
    /// Whether what was read then was refused.
    refused: bool,
    /// Whether that was only because the store was away: it is tried again when the store is back.
    again: bool,
    /// What was said of principals before, while what those hold who are gone could not be ended yet.
    unsettled: Option<Said>,
}

/// Why a configuration is not taken.
enum Refused {
    Wrong(Vec<config::Problem>),
    StoreAway(Vec<config::Problem>),
}

impl From<Vec<config::Problem>> for Refused {
    fn from(problems: Vec<config::Problem>) -> Self {
        Self::Wrong(problems)
    }
}

impl Reloader {
    pub(super) fn new(
        files: super::Files,
        services: Arc<Services>,
        gateway: Arc<Gateway>,
        tls: Certificates,
    ) -> Arc<Self> {
        let read = files.watched.iter().map(|file| stamp(file)).collect();
        let watched = Files { watched: files.watched, read, refused: false, again: false, unsettled: None };
        Arc::new(Self {
            path: files.path,
            services,
            gateway,
            tls,
            runtime: Handle::current(),
            files: Mutex::new(watched),
        })
    }

    /// Loads configuration and policies again, also a policy of which most rows would vanish.
    pub(super) fn everything(&self) {
        self.configuration(&mut self.files());
        // What comes of it is reported to `policy_taken`.
        drop(self.services.decider.reload(true));
    }

    /// Starts the threads that look for changes, until the process ends.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub(super) fn watch(self: &Arc<Self>) -> Result<(), String> {
        let reloader = Arc::downgrade(self);
        self.services.decider.watch(Arc::new(move |outcome| {
            if let Some(reloader) = reloader.upgrade() {
                reloader.policy_taken(outcome);
            }
        }));
        let reloader = Arc::downgrade(self);
        std::thread::Builder::new()
            .name("config-watch".to_owned())
            .spawn(move || {
                let mut previous = Vec::new();
                while let Some(reloader) = reloader.upgrade() {
                    reloader.look(&mut previous);
                    drop(reloader);
                    std::thread::sleep(SETTLE);
                }
            })
            .map(drop)
            .map_err(|error| format!("no thread watches the configuration: {error}"))
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        // A thread that panicked in here left a list that is at worst read once more.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One scan: reads again what two scans saw alike and differs from what was read last.
    fn look(&self, previous: &mut Vec<Stamp>) {
        let mut files = self.files();
        let seen: Vec<Stamp> = files.watched.iter().map(|file| stamp(file)).collect();
        let settled = *previous == seen;
        previous.clone_from(&seen);
        let back = self.services.revocations.is_fresh();
        if back && files.unsettled.is_some() {
            self.settle(&mut files);
        }
        let due = (settled && seen != files.read) || (back && files.again);
        if due && self.configuration(&mut files) {
            drop(files);
            // The accounts file may have freed a name that a policy wants as a role.
            drop(self.services.decider.reload(false));
        }
    }

    /// Loads the configuration; true when it is live.
    fn configuration(&self, files: &mut Files) -> bool {
        // Before reading: what changes meanwhile is seen as a change by the next scan.
        files.read = files.watched.iter().map(|file| stamp(file)).collect();
        let loaded = config::load(&self.path, &config::environment).map_err(Refused::Wrong);
        let outcome = loaded.and_then(|loaded| self.apply(loaded, files));
        files.refused = outcome.is_err();
        files.again = matches!(outcome, Err(Refused::StoreAway(_)));
        self.services.metrics.config_reload(outcome.is_ok());
        match outcome {
            Ok(watched) => {
                if files.watched != watched {
                    files.read = watched.iter().map(|file| stamp(file)).collect();
                    files.watched = watched;
                }
                tracing::info!(file = %self.path.display(), "the configuration was loaded again");
                self.record(Kind::Node, Outcome::Allow, "configuration_loaded");
                true
            }
            Err(Refused::Wrong(problems) | Refused::StoreAway(problems)) => {
                for problem in problems {
                    tracing::error!("configuration not loaded, the running one stays: {problem}");
                }
                self.record(Kind::Node, Outcome::Deny, "configuration_refused");
                false
            }
        }
    }

    /// Takes a loaded configuration, all of it or nothing; the files to watch from now on.
    fn apply(&self, loaded: Loaded, files: &mut Files) -> Result<Vec<PathBuf>, Refused> {
        let problem = |message: String| vec![config::Problem { file: self.path.clone(), line: 0, message }];
        let unfit = |error: AccountError| match error {
            AccountError::Store(error) => Refused::StoreAway(problem(error.to_string())),
            error => Refused::Wrong(problem(error.to_string())),
        };
        let config = loaded.config;
        let live = self.services.config.load_full();
        if let Some(setting) = needs_restart(&live, &config) {
            return Err(Refused::Wrong(problem(format!(
                "{setting} changed, which needs a restart of the node"
            ))));
        }
        let roles = self.services.decider.role_names();
        if let Some(account) = loaded.accounts.iter().find(|account| roles.contains(account.name.as_str())) {
            let name = &account.name;
            return Err(Refused::Wrong(problem(format!(
                "the account {name} has the name of a role of the policies; rename one"
            ))));
        }
        let identities = self.services.identifier.prepare(&config).map_err(problem)?;
        let routing = Gateway::prepare(&config).map_err(problem)?;
        let public = self.tls.public.as_ref().map(|tls| tls.prepare(&config.listen.tls)).transpose();
        let public = public.map_err(problem)?;
        let admin = config.admin.tls.as_ref().map(AdminTls::prepare).transpose().map_err(problem)?;
        let (directory, given) = (&self.services.directory, config.given_roles());
        self.runtime.block_on(directory.examine_configured_roles(&given)).map_err(unfit)?;
        let before = holders::said(&live, &directory.file_accounts());
        let adopted = self.runtime.block_on(directory.adopt_file_accounts(loaded.accounts)).map_err(unfit)?;
        // From here on nothing fails.
        super::say_hidden(&adopted);
        self.gateway.commit(routing);
        if let (Some(tls), Some(prepared)) = (&self.tls.public, public) {
            tls.commit(prepared);
        }
        if let (Some(tls), Some(prepared)) = (&self.tls.admin, admin) {
            tls.commit(prepared);
        }
        directory.set_configured_roles(given);
        for route in &config.routes {
            self.services.metrics.declare_route(&route.name);
        }
        self.services.identifier.commit(&config, identities);
        self.services.config.store(Arc::new(config));
        files.unsettled.get_or_insert(before);
        self.settle(files);
        for warning in loaded.warnings {
            tracing::warn!("{warning}");
        }
        Ok(loaded.watched)
    }

    /// Ends what those hold of whom the configuration no longer says what it said.
    fn settle(&self, files: &mut Files) {
        let Some(before) = &files.unsettled else { return };
        let (services, config) = (&self.services, self.services.config.load_full());
        let now = holders::said(&config, &services.directory.file_accounts());
        let (records, clock) = (&*services.store.records, &*services.clock);
        let settled = holders::settle(records, &services.revocations, clock, &config, &now, Some(before));
        match self.runtime.block_on(settled) {
            Ok(ended) => {
                files.unsettled = None;
                if ended > 0 {
                    tracing::info!(ended, "accounts or clients changed: what they held has ended");
                }
            }
            Err(error) => {
                tracing::error!(%error, "what changed accounts or clients hold counts until the store is back");
            }
        }
    }

    /// Says what became of a changed policy, whoever had it loaded: the watcher, SIGHUP or the admin API.
    fn policy_taken(&self, outcome: &Result<(), Vec<decide::Problem>>) {
        let (decider, directory) = (&self.services.decider, &self.services.directory);
        match outcome {
            Ok(()) => {
                directory.set_policy_roles(decider.role_names());
                tracing::info!(digest = %decider.digest(), rows = decider.rows(), "a new policy is live");
                self.record(Kind::Policy, Outcome::Allow, "policy_loaded");
                let mut files = self.files();
                if files.refused {
                    // The policies may have freed a name that the accounts file wanted.
                    self.configuration(&mut files);
                }
            }
            Err(problems) => {
                for problem in problems {
                    let decide::Problem { file, line, message, .. } = problem;
                    tracing::error!(file, line, "policy not loaded, the last good one stays: {message}");
                }
                self.record(Kind::Policy, Outcome::Deny, "policy_refused");
            }
        }
    }

    fn record(&self, kind: Kind, outcome: Outcome, reason: &str) {
        let digest = self.services.decider.digest();
        let event = Event {
            reason: Some(reason),
            policy: Some(&digest),
            ..Event::new(kind, outcome, self.services.clock.now())
        };
        if let Err(error) = self.runtime.block_on(self.services.recorder.security(&event, None)) {
            tracing::error!(reason, "a reload is not in the audit: {error}");
        }
    }
}

/// The first setting that differs and is only read at the start.
fn needs_restart(live: &Config, next: &Config) -> Option<&'static str> {
    let fixed = |listen: &Listen| Listen {
        trusted_proxies: Vec::new(),
        strip_headers: Vec::new(),
        return_to_hosts: Vec::new(),
        tls: config::Tls::default(),
        ..listen.clone()
    };
    let encrypted = |config: &Config| !config.listen.tls.certificates.is_empty();
    let differs = [
        ("[node]", live.node != next.node),
        ("[listen]", fixed(&live.listen) != fixed(&next.listen)),
        ("[listen] with or without TLS", encrypted(live) != encrypted(next)),
        ("[admin]", live.admin != next.admin),
        ("[store]", live.store != next.store),
        ("[tokens]", live.tokens != next.tokens),
        ("[session]", live.session != next.session),
        ("[policy]", live.policy != next.policy),
        ("[audit]", live.audit != next.audit),
        ("[passwords.hashing] threads", live.passwords.hashing.threads != next.passwords.hashing.threads),
        ("[passwords.hashing] queue", live.passwords.hashing.queue != next.passwords.hashing.queue),
    ];
    differs.into_iter().find_map(|(setting, differs)| differs.then_some(setting))
}

fn stamp(file: &Path) -> Stamp {
    let data = std::fs::metadata(file).ok()?;
    Some((
        data.len(),
        data.mtime(),
        data.mtime_nsec(),
        data.ctime(),
        data.ctime_nsec(),
        data.ino(),
        data.dev(),
    ))
}
