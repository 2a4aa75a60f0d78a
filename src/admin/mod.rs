//! The operators' listener: health, readiness, metrics and the admin API. One file per resource.
//!
//! It is an actix-web server on a socket and thread of its own; nothing of it is reachable through the public
//! listener. A new resource is one file with a `routes()` and one line in [`configure`].

mod audit;
mod guard;
mod health;
mod users;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use actix_web::{App, HttpServer, web};
use tokio::sync::watch;

use crate::http::Services;
use crate::model::{Secret, random_token};

pub use guard::Operator;

/// The token of `<data_dir>/admin.token`.
#[derive(Clone)]
pub struct AdminToken(pub Arc<Secret>);

/// Adds every resource to an actix application.
pub fn configure(config: &mut web::ServiceConfig) {
    health::routes(config);
    config.service(
        web::scope("/api/v1")
            .wrap(actix_web::middleware::from_fn(guard::operators_only))
            .configure(users::routes)
            .configure(audit::routes),
    );
}

/// Binds `[admin] address` and serves it from a thread of its own until `shutdown` turns true: the bound address,
/// the new admin token, the thread.
///
/// # Errors
/// When the socket cannot be bound or the token file not be written.
pub fn start(
    services: Arc<Services>,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(SocketAddr, String, JoinHandle<()>), String> {
    let config = services.config.load_full();
    let token = format!("pa_{}", random_token::<32>());
    write_token(&config.node.data_dir, &token)
        .map_err(|error| format!("{}/admin.token: {error}", config.node.data_dir.display()))?;
    let socket = std::net::TcpListener::bind(config.admin.address)
        .map_err(|error| format!("[admin] address {}: {error}", config.admin.address))?;
    let address = socket.local_addr().map_err(|error| error.to_string())?;
    let guard = AdminToken(Arc::new(Secret::new(token.clone())));
    let tls = config.admin.tls.as_ref().map(admin_tls).transpose()?;

    let serve = move || {
        actix_web::rt::System::new().block_on(async move {
            let server = HttpServer::new(move || {
                App::new()
                    .app_data(web::Data::from(Arc::clone(&services)))
                    .app_data(guard.clone())
                    .app_data(web::JsonConfig::default().limit(64 * 1024))
                    .configure(configure)
            })
            .workers(1)
            .disable_signals()
            .shutdown_timeout(2);
            let bound = match tls {
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
    Ok((address, token, thread))
}

fn admin_tls(tls: &crate::config::AdminTls) -> Result<rustls::ServerConfig, String> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let named = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let chain: Vec<_> = CertificateDer::pem_file_iter(&tls.certificate)
        .and_then(Iterator::collect)
        .map_err(|error| named(&tls.certificate, &error))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| named(&tls.key, &error))?;
    rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| named(&tls.certificate, &error))
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
