//! Connections to servers: made, kept while idle, thrown away at the first doubt.
//!
//! Used by `forward` only. A connection is kept after a complete exchange and at no other time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ahash::AHashMap;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::socket::{Handle, Socket, Stream};
use super::upstreams::Server;
use crate::model::Body;

/// Idle connections per server.
const MAX_IDLE: usize = 64;
/// How long a connection may be idle.
const IDLE_LIFE: Duration = Duration::from_secs(30);
/// How long a finished exchange may take to make its connection ready again.
const SETTLE: Duration = Duration::from_secs(1);

/// One connection. Dropping it closes it, whatever is in flight.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sender: SendRequest<Body>,
    pub(super) socket: Arc<Socket>,
    /// True when an exchange was completed on it before.
    pub(super) reused: bool,
    server: u64,
    since: Instant,
    task: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why a server could not be connected to.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Failed(String),
}

impl Connection {
    /// Connects, with TLS where the server wants it, within `limit`.
    pub(super) async fn open(server: &Server, limit: Duration) -> Result<Self, ConnectError> {
        let opening = async {
            let tcp = TcpStream::connect((server.host.as_str(), server.port)).await.map_err(text)?;
            tcp.set_nodelay(true).map_err(text)?;
            let socket = Socket::new(tcp);
            let plain = Handle(Arc::clone(&socket));
            let stream = match &server.tls {
                None => Stream::Plain(plain),
                Some((config, name)) => {
                    let connector = TlsConnector::from(Arc::clone(config));
                    Stream::Tls(Box::new(connector.connect(name.clone(), plain).await.map_err(text)?))
                }
            };
            let (sender, connection) =
                http1::Builder::new().handshake(TokioIo::new(stream)).await.map_err(text)?;
            let task = tokio::spawn(async move {
                if let Err(error) = connection.with_upgrades().await {
                    tracing::debug!(%error, "an upstream connection ended");
                }
            });
            Ok(Self {
                sender,
                socket,
                reused: false,
                server: server.id,
                since: Instant::now(),
                task: task.abort_handle(),
            })
        };
        timeout(limit, opening).await.unwrap_or(Err(ConnectError::Timeout(limit)))
    }

    /// True when a request can be sent and nothing came that nobody asked for.
    fn is_usable(&self) -> bool {
        self.sender.is_ready() && self.socket.is_quiet()
    }
}

fn text(error: impl std::fmt::Display) -> ConnectError {
    ConnectError::Failed(error.to_string())
}

/// The idle connections of one worker, newest first.
#[derive(Debug, Default)]
pub(super) struct Idle {
    by_server: Mutex<AHashMap<u64, VecDeque<Connection>>>,
}

impl Idle {
    /// The newest usable connection to the server.
    pub(super) fn take(&self, server: &Server) -> Option<Connection> {
        let mut by_server = self.by_server.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = by_server.get_mut(&server.id)?;
        while let Some(connection) = connections.pop_back() {
            if connection.since.elapsed() >= IDLE_LIFE {
                connections.clear();
                return None;
            }
            if connection.is_usable() {
                return Some(connection);
            }
        }
        None
    }

    fn put(&self, mut connection: Connection) {
        connection.since = Instant::now();
        connection.reused = true;
        let mut by_server = self.by_server.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = by_server.entry(connection.server).or_default();
        if connections.len() >= MAX_IDLE {
            connections.pop_front();
        }
        connections.push_back(connection);
    }

    /// Takes back a connection after a complete exchange, once it is ready for the next.
    pub(super) fn settle(self: &Arc<Self>, mut connection: Connection) {
        if connection.sender.is_closed() {
            return;
        }
        if connection.sender.is_ready() {
            return self.put(connection);
        }
        let idle = Arc::clone(self);
        tokio::spawn(async move {
            if matches!(timeout(SETTLE, connection.sender.ready()).await, Ok(Ok(()))) {
                idle.put(connection);
            }
        });
    }

    /// Closes what was idle for too long, also connections to servers that are no longer configured.
    pub(super) fn sweep(&self) {
        let mut by_server = self.by_server.lock().unwrap_or_else(PoisonError::into_inner);
        by_server.retain(|_, connections| {
            connections.retain(|c| c.since.elapsed() < IDLE_LIFE && !c.sender.is_closed());
            !connections.is_empty()
        });
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_server.lock().unwrap_or_else(PoisonError::into_inner).values().map(VecDeque::len).sum()
    }
}
