//! Sockets, TLS by name, HTTP/1.1 and 2, limits, drain; hands canonical requests to gateway or doors.
//!
//! `app` binds a [`Listener`] and starts it. One thread per worker, each with its own single-threaded runtime and its own
//! socket on the same port: a request stays on the thread that accepted it. The files, in the order of a request:
//! `worker` (accept), `connection` (TLS, HTTP version, quiet), `socket` (bytes), `service` (one request), `doors` (our
//! own endpoints). A new limit is a field of `config::Limits` and one line in the file that it limits.

mod activity;
mod address;
mod certificate;
mod connection;
mod doors;
mod framing;
#[cfg(fuzzing)]
pub mod fuzz;
mod rate;
mod redirect;
mod service;
mod socket;
#[cfg(test)]
mod tests;
mod tls;
mod worker;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{Semaphore, watch};

pub use self::address::{client_ip, is_secure};
pub use self::rate::RatedBody;
pub use self::tls::{Prepared, TlsReloader};

use self::tls::TlsConfigs;
use self::worker::Sockets;
use crate::config::Config;
use crate::gateway::Gateway;
use crate::http::Services;

/// How many connections may wait to be accepted, per worker.
const BACKLOG: i32 = 1024;

/// Bound sockets, one per worker.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    sockets: Vec<TcpListener>,
    redirect: Option<TcpListener>,
    tls: Option<Arc<TlsReloader>>,
    connections: usize,
}

impl Listener {
    /// Binds (`SO_REUSEPORT`, port 0: one free port for all workers) and loads TLS.
    ///
    /// # Errors
    /// The address that cannot be bound, or the file that cannot be used, and what to do.
    pub fn bind(config: &Config) -> Result<Self, String> {
        let listen = &config.listen;
        let tls = match listen.tls.certificates.is_empty() {
            true => None,
            false => Some(Arc::new(TlsReloader::new(TlsConfigs::load(&listen.tls)?))),
        };
        let workers = match config.node.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        };
        let (address, sockets) = bind_all(listen.address, workers)?;
        let redirect = listen.redirect_http.map(|address| bind_one(address, false)).transpose()?;
        Ok(Self { address, sockets, redirect, tls, connections: listen.limits.connections })
    }

    /// Where it listens, with the port that was found when 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What reloads certificates; `None` without TLS.
    pub fn tls(&self) -> Option<Arc<TlsReloader>> {
        self.tls.clone()
    }

    /// Starts the worker threads (one single-threaded runtime each). `doors` adds the endpoints of all doors to each
    /// worker's actix application. When `shutdown` turns true (or its sender goes): stop accepting, GOAWAY, drain up to
    /// `limits.drain`, return.
    pub fn start(
        self,
        services: Arc<Services>,
        gateway: Arc<Gateway>,
        doors: fn(&mut actix_web::web::ServiceConfig),
        shutdown: watch::Receiver<bool>,
    ) -> Vec<JoinHandle<()>> {
        let permits = Arc::new(Semaphore::new(self.connections.min(Semaphore::MAX_PERMITS)));
        let mut redirect = self.redirect;
        let mut threads = Vec::new();
        for (number, main) in self.sockets.into_iter().enumerate() {
            let sockets = Sockets {
                main,
                redirect: redirect.take(),
                tls: self.tls.clone(),
                permits: Arc::clone(&permits),
            };
            let (services, gateway, shutdown) =
                (Arc::clone(&services), Arc::clone(&gateway), shutdown.clone());
            let thread = std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || worker::run(sockets, services, gateway, doors, shutdown));
            match thread {
                Ok(thread) => threads.push(thread),
                Err(error) => tracing::error!(%error, "a worker thread could not be started"),
            }
        }
        threads
    }
}

/// One socket per worker on one port; port 0 is chosen by the first.
fn bind_all(address: SocketAddr, workers: usize) -> Result<(SocketAddr, Vec<TcpListener>), String> {
    // Refused where somebody else listens: with `SO_REUSEPORT` alone, both would get some of the connections.
    drop(bound(address, false).map_err(|error| cannot(address, &error))?);
    let first = bind_one(address, true)?;
    let bound = first.local_addr().map_err(|error| format!("{address}: {error}"))?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(bind_one(bound, true)?);
    }
    Ok((bound, sockets))
}

fn bind_one(address: SocketAddr, shared: bool) -> Result<TcpListener, String> {
    let listening = || {
        let socket = bound(address, shared)?;
        socket.listen(BACKLOG)?;
        std::io::Result::Ok(TcpListener::from(socket))
    };
    listening().map_err(|error| cannot(address, &error))
}

/// A socket with an address that does not listen yet.
fn bound(address: SocketAddr, shared: bool) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn cannot(address: SocketAddr, error: &std::io::Error) -> String {
    format!("cannot listen on {address} ({error}); choose a free address in [listen], or end what has it")
}
