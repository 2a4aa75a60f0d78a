//! The only file that names concrete backends: build, bind, run, reload, drain.
//!
//! Called by `cli::serve` and `cli::demo`, and by commands that work on a store without a node ([`open`]).

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::accounts::{Account, Directory};
use crate::admin;
use crate::config::{Config, StoreKind};
use crate::decide::{Decider, Problem};
use crate::gateway::Gateway;
use crate::http::Services;
use crate::identify::Identifier;
use crate::keys::{KeyError, KeyRing, Sealer};
use crate::listen::Listener;
use crate::metrics::Metrics;
use crate::model::{SharedClock, SystemClock};
use crate::record::{RecordError, Recorder};
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

/// Opens everything that a node consists of, except its sockets.
///
/// # Errors
/// The first thing that cannot be used.
pub async fn open(config: Config, file_accounts: Vec<Account>) -> Result<Arc<Services>, AppError> {
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
    tokio::spawn(crate::cluster::follow(Arc::clone(&store.revocations), Arc::clone(&revocations)));

    let directory = Arc::new(Directory::new(Arc::clone(&store.records), Arc::clone(&clock)));
    directory.set_file_accounts(file_accounts);
    directory.set_configured_roles(configured_roles(&config));
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
    );
    let recorder = Recorder::open(
        &config.node.name,
        &config.node.data_dir,
        &config.audit,
        Arc::clone(&store.audit),
        Arc::clone(&clock),
    )?;
    let metrics = Metrics::new();
    for route in &config.routes {
        metrics.declare_route(&route.name);
    }
    Ok(Arc::new(Services {
        config: ArcSwap::from_pointee(config),
        directory,
        keys,
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
            store::redis::open(&config.store.redis, Handle::current(), Arc::clone(clock)).await
        }
    }
}

/// Roles that mappings, clients and certificate rules give: names that no new principal may have.
fn configured_roles(config: &Config) -> HashSet<String> {
    let mapped = config.providers.iter().flat_map(|provider| provider.roles.values());
    let trusted = config.trusted_issuers.iter().flat_map(|issuer| issuer.roles.values());
    let clients = config.clients.iter().flat_map(|client| &client.roles);
    let certificates = config.certificate_principals.iter().flat_map(|rule| &rule.roles);
    mapped.chain(trusted).chain(clients).chain(certificates).map(ToString::to_string).collect()
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
    shutdown: watch::Sender<bool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

/// Binds the sockets, starts the workers and the operators' listener, and watches the policies.
///
/// # Errors
/// When a socket, certificate, route or upstream cannot be used.
pub fn run(services: Arc<Services>) -> Result<Running, AppError> {
    let config = services.config.load_full();
    let listener = Listener::bind(&config).map_err(AppError::Setup)?;
    let public = listener.local_addr();
    let gateway = Gateway::new(Arc::clone(&services)).map_err(AppError::Setup)?;
    let (shutdown, signal) = watch::channel(false);
    let (admin, admin_token, admin_thread) =
        admin::start(Arc::clone(&services), signal.clone()).map_err(AppError::Setup)?;
    let mut threads = listener.start(Arc::clone(&services), gateway, doors, signal);
    threads.push(admin_thread);
    watch_policies(&services);
    Ok(Running { public, admin, admin_token, services, shutdown, threads })
}

/// The endpoints of every door.
fn doors(config: &mut actix_web::web::ServiceConfig) {
    crate::portal::routes(config);
    crate::oidc::routes(config);
    crate::verify::routes(config);
    crate::sso::routes(config);
    // Last: what is under the prefix and not registered above is not there.
    config.service(actix_web::web::resource("/auth{rest:(/.*)?}").to(crate::http::answer::not_found));
}

fn watch_policies(services: &Arc<Services>) {
    let (decider, directory) = (Arc::clone(&services.decider), Arc::clone(&services.directory));
    services.decider.watch(Arc::new(move |outcome| match outcome {
        Ok(()) => {
            directory.set_policy_roles(decider.role_names());
            tracing::info!(digest = %decider.digest(), rows = decider.rows(), "a new policy is live");
        }
        Err(problems) => report_refused(&problems),
    }));
}

/// Says why a policy did not go live; the last good one stays.
fn report_refused(problems: &[Problem]) {
    for problem in problems {
        tracing::error!(file = problem.file, line = problem.line, "policy not loaded: {}", problem.message);
    }
}

impl Running {
    /// What the node consists of.
    pub fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// Loads the policies again; a held change (most rows would vanish) is confirmed by this.
    pub async fn reload(&self) {
        let decider = Arc::clone(&self.services.decider);
        match tokio::task::spawn_blocking(move || decider.reload(true)).await {
            Ok(Ok(_changed)) => self.services.directory.set_policy_roles(self.services.decider.role_names()),
            Ok(Err(problems)) => report_refused(&problems),
            Err(error) => tracing::error!("reloading the policies failed: {error}"),
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
        ] {
            // Without the caller in the extensions no handler runs.
            let answer = call_service(&app, TestRequest::get().uri(path).to_request()).await;
            assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR, "{path}");
        }
        for path in ["/", "/authx", "/.well-known/other"] {
            let answer = call_service(&app, TestRequest::get().uri(path).to_request()).await;
            assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
        }
    }
}
