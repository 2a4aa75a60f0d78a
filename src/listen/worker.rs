//! One worker thread: accepts connections, serves them, and winds them up at shutdown.

use std::convert::Infallible;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection;
use super::doors::Doors;
use super::redirect;
use super::service::{Behind, Program};
use super::socket::Place;
use super::tls::TlsReloader;
use crate::forward::Pool;
use crate::gateway::Gateway;
use crate::http::Services;

/// How long accepting rests after the system refused (out of file descriptors, for one).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a worker accepts from, and what all workers share.
pub(super) struct Sockets {
    pub(super) main: TcpListener,
    pub(super) redirect: Option<TcpListener>,
    pub(super) tls: Option<Arc<TlsReloader>>,
    pub(super) permits: Arc<Semaphore>,
}

/// The whole life of a worker thread.
pub(super) fn run(
    sockets: Sockets,
    services: Arc<Services>,
    gateway: Arc<Gateway>,
    doors: fn(&mut actix_web::web::ServiceConfig),
    shutdown: watch::Receiver<bool>,
) {
    run_with(sockets, shutdown, async move || Program {
        doors: Doors::build(Arc::clone(&services), Arc::clone(&gateway), doors).await,
        pool: Pool::new(),
        services,
        gateway,
    });
}

/// The same with anything behind the sockets.
pub(super) fn run_with<N: Behind>(
    sockets: Sockets,
    shutdown: watch::Receiver<bool>,
    behind: impl AsyncFnOnce() -> N,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "a worker has no runtime");
            return;
        }
    };
    let local = LocalSet::new();
    local.block_on(&runtime, async move {
        let behind = Rc::new(behind().await);
        if let Err(error) = work(sockets, shutdown, behind).await {
            tracing::error!(%error, "a worker ended");
        }
    });
}

async fn work<N: Behind>(
    sockets: Sockets,
    mut shutdown: watch::Receiver<bool>,
    behind: Rc<N>,
) -> std::io::Result<()> {
    let stop = CancellationToken::new();
    let tracker = TaskTracker::new();
    let main = tokio::net::TcpListener::from_std(sockets.main)?;
    if let Some(redirect) = sockets.redirect {
        let redirect = tokio::net::TcpListener::from_std(redirect)?;
        let (behind, stop, permits) = (Rc::clone(&behind), stop.clone(), Arc::clone(&sockets.permits));
        tokio::task::spawn_local(async move { redirects(redirect, behind, stop, permits).await });
    }
    let admit = |stream: TcpStream| {
        let Ok(permit) = Arc::clone(&sockets.permits).try_acquire_owned() else {
            return;
        };
        let place = Place { _permit: permit, _tracked: tracker.token() };
        let tls = sockets.tls.as_ref().map(|tls| tls.current());
        tokio::task::spawn_local(connection::run(Rc::clone(&behind), stream, tls, place, stop.clone()));
    };
    loop {
        tokio::select! {
            accepted = main.accept() => match accepted {
                Ok((stream, _)) => admit(stream),
                Err(error) => {
                    tracing::warn!(%error, "accepting failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            _ = shutdown.wait_for(|stop| *stop) => break,
        }
    }
    // Closing the socket would reset the connections that wait to be accepted.
    let mut waiting = std::pin::pin!(main.accept());
    while let Some(accepted) = futures_util::FutureExt::now_or_never(waiting.as_mut()) {
        if let Ok((stream, _)) = accepted {
            admit(stream);
        }
        waiting.set(main.accept());
    }
    stop.cancel();
    tracker.close();
    let drain = behind.listen(|listen| listen.limits.drain);
    if tokio::time::timeout(drain, tracker.wait()).await.is_err() {
        tracing::warn!(connections = tracker.len(), "connections were cut at the end of limits.drain");
    }
    Ok(())
}

/// The plain listener of `listen.redirect_http`: HTTP/1, one answer.
async fn redirects<N: Behind>(
    listener: tokio::net::TcpListener,
    behind: Rc<N>,
    stop: CancellationToken,
    permits: Arc<Semaphore>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            continue;
        };
        let behind = Rc::clone(&behind);
        tokio::task::spawn_local(async move {
            let _permit = permit;
            let limits = behind.listen(|listen| listen.limits.clone());
            let service = service_fn(move |request| {
                let answer = redirect::answer(&*behind, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.head_timeout)
                .max_headers(limits.fields)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(limits.head_timeout * 2, served).await;
        });
    }
}
