//! The operators' listener: health, readiness, metrics and the admin API. One file per resource.
//!
//! It is an actix-web server on a socket and thread of its own; nothing of it is reachable through the public
//! listener. A new resource is one file with its `ENDPOINTS` and one line in `endpoint::all`. Commands that hold the
//! store themselves call the same resources in process, with an [`Operator`] of their own.

mod audit;
mod change;
mod clients;
mod endpoint;
mod guard;
mod health;
mod keys;
mod openapi;
mod policy;
mod problem;
mod recorded;
mod sessions;
#[cfg(test)]
mod tests;
mod tls;
mod tokens;
mod users;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use actix_web::{App, HttpServer, web};
use tokio::sync::watch;

use crate::http::Services;
use crate::model::{Secret, random_token};
use crate::store::{Revoked, StoreError};

pub use guard::{Operator, Rank};
pub use recorded::{Recalled, with_hints};
pub use tls::AdminTls;

/// The token of `<data_dir>/admin.token`.
#[derive(Clone)]
pub struct AdminToken(pub Arc<Secret>);

/// Adds every resource to an actix application.
pub fn configure(config: &mut web::ServiceConfig) {
    problem::configure(config);
    health::routes(config);
    config.service(
        web::scope(endpoint::PREFIX)
            .wrap(actix_web::middleware::from_fn(guard::operators_only))
            .configure(endpoint::routes),
    );
    config.default_service(web::to(|| async {
        let detail = "this listener has /healthz, /readyz, /metrics and /api/v1/openapi.json";
        Err::<&str, _>(problem::Problem::new(crate::model::RefusalKind::NotFound, detail))
    }));
}

/// Ends everything that a principal holds.
async fn revoke_subject(services: &Services, name: &str) -> Result<(), StoreError> {
    let config = services.config.load();
    let until = services.clock.now().plus(config.tokens.refresh_ttl.max(config.session.absolute));
    services.revocations.revoke(Revoked::Subject(name.to_owned()), until).await
}

/// The operators' listener as it runs.
pub struct Started {
    /// Where it listens.
    pub address: SocketAddr,
    /// The new token of `admin.token`.
    pub token: String,
    /// Its certificate; none on plain HTTP.
    pub tls: Option<Arc<AdminTls>>,
    /// Ends after `shutdown`.
    pub thread: JoinHandle<()>,
}

/// Binds `[admin] address` and serves it from a thread of its own until `shutdown` turns true.
///
/// # Errors
/// When the socket cannot be bound or the token file not be written.
pub fn start(services: Arc<Services>, mut shutdown: watch::Receiver<bool>) -> Result<Started, String> {
    let config = services.config.load_full();
    let token = format!("pa_{}", random_token::<32>());
    write_token(&config.node.data_dir, &token)
        .map_err(|error| format!("{}/admin.token: {error}", config.node.data_dir.display()))?;
    let socket = std::net::TcpListener::bind(config.admin.address).map_err(|error| {
        format!(
            "cannot listen on {} ({error}); choose a free address in [admin], or end what has it",
            config.admin.address
        )
    })?;
    let address = socket.local_addr().map_err(|error| error.to_string())?;
    let guard = AdminToken(Arc::new(Secret::new(token.clone())));
    let tls = config.admin.tls.as_ref().map(AdminTls::load).transpose()?.map(Arc::new);
    let encrypted = tls.as_ref().map(AdminTls::server_config);

    let serve = move || {
        actix_web::rt::System::new().block_on(async move {
            let server = HttpServer::new(move || {
                App::new()
                    .app_data(web::Data::from(Arc::clone(&services)))
                    .app_data(guard.clone())
                    .wrap(actix_web::middleware::from_fn(guard::own_names_only))
                    .configure(configure)
            })
            .workers(1)
            .disable_signals()
            .shutdown_timeout(2);
            let bound = match encrypted {
                Some(tls) => server.listen_rustls_0_23(socket, tls),
                None => server.listen(socket),
            };
            let running = match bound {
                Ok(server) => server.run(),
                Err(error) => {
                    tracing::error!("the operators' listener did not start: {error}");
                    return;
                }
            };
            let handle = running.handle();
            actix_web::rt::spawn(async move {
                // An error means that the sender is gone: the node is ending.
                let _gone = shutdown.wait_for(|stop| *stop).await.is_err();
                handle.stop(true).await;
            });
            if let Err(error) = running.await {
                tracing::error!("the operators' listener ended: {error}");
            }
        });
    };
    let thread =
        std::thread::Builder::new().name("admin".into()).spawn(serve).map_err(|error| error.to_string())?;
    Ok(Started { address, token, tls, thread })
}

fn write_token(data_dir: &Path, token: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let beside = data_dir.join("admin.token.new");
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(token.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(beside, data_dir.join("admin.token"))
}
