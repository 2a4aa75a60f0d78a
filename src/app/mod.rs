//! The only module that names concrete backends: build, bind, run, reload, drain.
//!
//! Called by `cli::serve` and `cli::demo`, and by commands that work on a store without a node ([`open`]).

mod holders;
mod reload;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::watch;

use self::reload::Reloader;
use crate::accounts::{AccountError, Directory};
use crate::admin;
use crate::cluster::{self, Members};
use crate::config::{Config, Loaded, StoreKind};
use crate::decide::{Decider, Problem};
use crate::gateway::Gateway;
use crate::http::Services;
use crate::identify::Identifier;
use crate::keys::{KeyError, KeyRing, Sealer};
use crate::listen::Listener;
use crate::metrics::Metrics;
use crate::model::{SharedClock, SystemClock};
use crate::record::{RecordError, Recorder, Signer};
use crate::revocation::Revocations;
use crate::sessions::Sessions;
use crate::store::{self, Store, StoreError};
use crate::tokens::Tokens;

/// How long the audit log may take to reach the store at the end.
const SHIP_AT_END: Duration = Duration::from_secs(5);

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A directory or file of ours.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The signing keys.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The audit log.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The policy directory.
    #[error("the policies cannot be used")]
    Policy(Vec<Problem>),
    /// Routes, upstreams, certificates or sockets.
    #[error("{0}")]
    Setup(String),
}

impl AppError {
    /// 3 when a store could not be reached, else 2.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Store(_) | Self::Keys(KeyError::Store(_)) => 3,
            _ => 2,
        }
    }
}

/// The files of the running configuration: what a reload reads.
#[derive(Clone, Debug)]
pub struct Files {
    /// The configuration.
    pub path: PathBuf,
    /// Every file that it was read from ([`Loaded::watched`]).
    pub watched: Vec<PathBuf>,
}

/// Opens everything that a node consists of, except its sockets.
///
/// # Errors
/// The first thing that cannot be used.
pub async fn open(loaded: Loaded) -> Result<Arc<Services>, AppError> {
    let Loaded { config, accounts: file_accounts, .. } = loaded;
    let clock: SharedClock = Arc::new(SystemClock);
    private_directory(&config.node.data_dir)?;
    let store = open_store(&config, &clock).await?;
    let sealer = Sealer::open(&config.node.data_dir)
        .map_err(|source| AppError::File { path: config.node.data_dir.join("master.key"), source })?;
    let keys = KeyRing::open(
        Arc::clone(&store.records),
        sealer,
        config.tokens.algorithm,
        config.tokens.access_ttl,
        Arc::clone(&clock),
    )
    .await?;
    let embedded = config.store.kind == StoreKind::Embedded;
    let revocations = Revocations::new(Arc::clone(&store.revocations), embedded, Arc::clone(&clock));
    tokio::spawn(cluster::follow(Arc::clone(&store.revocations), Arc::clone(&revocations)));
    tokio::spawn(cluster::follow_keys(Arc::clone(&keys)));
    let (node, records) = (&config.node, Arc::clone(&store.records));
    let members = Members::open(records, &node.name, &node.data_dir, Arc::clone(&clock)).await?;
    tokio::spawn(Arc::clone(&members).keep());

    let directory = Arc::new(Directory::new(Arc::clone(&store.records), Arc::clone(&clock)));
    let said = holders::said(&config, &file_accounts);
    let roles = config.given_roles();
    directory.examine_configured_roles(&roles).await.map_err(unusable)?;
    adopt(&directory, file_accounts).await?;
    directory.set_configured_roles(roles);
    let ended = holders::settle(&*store.records, &revocations, &*clock, &config, &said, None).await?;
    if ended > 0 {
        tracing::info!(
            ended,
            "accounts or clients differ from those of the last start: what they held has ended"
        );
    }
    let decider = open_policies(&config, &clock, &directory).await?;
    directory.set_policy_roles(decider.role_names());

    let tokens = Tokens::new(
        &config.tokens,
        Arc::clone(&keys),
        Arc::clone(&revocations),
        Arc::clone(&store.records),
        Arc::clone(&clock),
    );
    let sessions = Sessions::new(
        &config.session,
        Arc::clone(&store.records),
        Arc::clone(&revocations),
        Arc::clone(&clock),
    );
    let identifier = Identifier::new(
        &config,
        Arc::clone(&tokens),
        Arc::clone(&sessions),
        Arc::clone(&directory),
        Arc::clone(&revocations),
        Arc::clone(&clock),
    )
    .map_err(AppError::Setup)?;
    let recorder = Recorder::open(
        &config.node.name,
        &config.node.data_dir,
        &config.audit,
        Arc::clone(&store.audit),
        Arc::clone(&clock),
    )?;
    recorder.sign_with(Signer::of(&keys).map_err(AppError::Setup)?);
    let metrics = Metrics::new();
    for route in &config.routes {
        metrics.declare_route(&route.name);
    }
    Ok(Arc::new(Services {
        config: ArcSwap::from_pointee(config),
        directory,
        keys,
        members,
        tokens,
        sessions,
        identifier,
        decider,
        recorder,
        revocations,
        store,
        metrics,
        clock,
    }))
}

/// Takes the accounts of the file, and says which of the store they hide.
async fn adopt(directory: &Directory, accounts: Vec<crate::model::Account>) -> Result<(), AppError> {
    match directory.adopt_file_accounts(accounts).await {
        Ok(hidden) => {
            say_hidden(&hidden);
            Ok(())
        }
        Err(AccountError::Store(error)) => Err(AppError::Store(error)),
        Err(error) => Err(AppError::Setup(format!("accounts file: {error}"))),
    }
}

fn say_hidden(names: &[String]) {
    for name in names {
        tracing::warn!("the account `{name}` of the accounts file hides the one of the store");
    }
}

/// A role that the configuration may not give.
fn unusable(error: AccountError) -> AppError {
    match error {
        AccountError::Store(error) => AppError::Store(error),
        error => AppError::Setup(format!("roles of clients, providers, issuers or certificates: {error}")),
    }
}

fn private_directory(path: &Path) -> Result<(), AppError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| AppError::File { path: path.to_owned(), source })
}

async fn open_store(config: &Config, clock: &SharedClock) -> Result<Store, StoreError> {
    match config.store.kind {
        StoreKind::Embedded => store::embedded::open(&config.node.data_dir, Arc::clone(clock)),
        StoreKind::Redis => {
            store::redis::open(&config.store.redis, &config.audit, Handle::current(), Arc::clone(clock)).await
        }
    }
}

async fn open_policies(
    config: &Config,
    clock: &SharedClock,
    directory: &Arc<Directory>,
) -> Result<Arc<Decider>, AppError> {
    let (config, clock, directory) = (config.clone(), Arc::clone(clock), Arc::clone(directory));
    let runtime = Handle::current();
    let is_principal = Arc::new(move |name: &str| {
        // An unanswered question counts as yes: the policy is not loaded rather than loaded wrongly.
        runtime.block_on(directory.principal_exists(name)).unwrap_or(true)
    });
    tokio::task::spawn_blocking(move || Decider::open(&config, clock, is_principal))
        .await
        .map_err(|error| AppError::Setup(format!("loading the policies failed: {error}")))?
        .map_err(AppError::Policy)
}

/// A node that runs.
pub struct Running {
    /// Where the gateway listens.
    pub public: SocketAddr,
    /// Where the operators' listener listens.
    pub admin: SocketAddr,
    /// The token of `<data_dir>/admin.token`.
    pub admin_token: String,
    services: Arc<Services>,
    reloader: Arc<Reloader>,
    shutdown: watch::Sender<bool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

/// Binds the sockets, starts the workers and the operators' listener, and watches the files for changes.
///
/// # Errors
/// When a socket, certificate, route or upstream cannot be used.
pub fn run(services: Arc<Services>, files: Files) -> Result<Running, AppError> {
    let config = services.config.load_full();
    let listener = Listener::bind(&config).map_err(AppError::Setup)?;
    let public = listener.local_addr();
    let gateway = Gateway::new(Arc::clone(&services)).map_err(AppError::Setup)?;
    let (shutdown, signal) = watch::channel(false);
    let admin = admin::start(Arc::clone(&services), signal.clone()).map_err(AppError::Setup)?;
    let tls = reload::Certificates { public: listener.tls(), admin: admin.tls };
    let reloader = Reloader::new(files, Arc::clone(&services), Arc::clone(&gateway), tls);
    reloader.watch().map_err(AppError::Setup)?;
    let mut threads = listener.start(Arc::clone(&services), gateway, doors, signal);
    threads.push(admin.thread);
    let (admin, admin_token) = (admin.address, admin.token);
    Ok(Running { public, admin, admin_token, services, reloader, shutdown, threads })
}

/// The endpoints of every door.
fn doors(config: &mut actix_web::web::ServiceConfig) {
    crate::portal::routes(config);
    crate::oidc::routes(config);
    crate::verify::routes(config);
    crate::authzen::routes(config);
    crate::sso::routes(config);
    // What is ours and not registered above is not there.
    config.default_service(actix_web::web::to(crate::http::answer::not_found));
}

impl Running {
    /// What the node consists of.
    pub fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// Loads configuration and policies again; a held policy (most rows would vanish) is confirmed by this.
    pub async fn reload(&self) {
        let reloader = Arc::clone(&self.reloader);
        if let Err(error) = tokio::task::spawn_blocking(move || reloader.everything()).await {
            tracing::error!("reloading failed: {error}");
        }
    }

    /// Stops accepting, lets calls in flight finish, ships the audit.
    pub async fn stop(self) {
        self.shutdown.send_replace(true);
        let threads = self.threads;
        let joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().filter_map(|thread| thread.join().err()).count()
        });
        if joined.await.unwrap_or(1) > 0 {
            tracing::error!("a worker ended with a panic");
        }
        self.services.recorder.close(SHIP_AT_END).await;
        if let Err(error) = self.services.members.leave().await {
            tracing::warn!(%error, "the other nodes see that this one ended in 5 seconds");
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::{TestRequest, call_service, init_service};
    use actix_web::{App, http::StatusCode};

    #[actix_web::test]
    async fn every_endpoint_is_registered_and_nothing_outside_the_prefix() {
        let app = init_service(App::new().configure(super::doors)).await;
        for path in [
            "/auth/login",
            "/auth/session",
            "/auth/certificate",
            "/auth/logout",
            "/auth/token",
            "/auth/revoke",
            "/auth/verify",
            "/auth/verify/nginx",
            "/auth/verify/forward",
            "/auth/verify/envoy/a/b",
            "/auth/sso/corp",
            "/auth/sso/corp/callback",
            "/auth",
            "/auth/unknown/thing",
            "/.well-known/jwks.json",
            "/.well-known/openid-configuration",
            "/.well-known/oauth-authorization-server",
            "/.well-known/oauth-protected-resource",
        ] {
            // Without the caller in the extensions no handler runs.
            let answer = call_service(&app, TestRequest::get().uri(path).to_request()).await;
            assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR, "{path}");
        }
    }
}
