//! One connection from accept to close: TLS, HTTP version, limits on quiet, drain.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_util::sync::CancellationToken;

use super::activity::{Activity, AnswerBody};
use super::certificate;
use super::service::{self, Behind, Peer};
use super::socket::{Place, Socket, read_preface};
use super::tls::TlsConfigs;
use crate::config::Limits;
use crate::model::Connection;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a new connection may take to send its first request once the drain has begun.
const FRESH_GRACE: Duration = Duration::from_millis(250);
const H2_STREAM_WINDOW: u32 = 256 * 1024;
const H2_CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Requests that were reset before they were looked at; more of them end the connection (CVE-2023-44487).
const H2_PENDING_RESETS: usize = 20;
const H2_PING_INTERVAL: Duration = Duration::from_secs(20);
const H2_PING_TIMEOUT: Duration = Duration::from_secs(10);
/// The smallest read buffer of HTTP/1; the head has its own limit inside it.
const H1_BUFFER: usize = 64 * 1024;

/// Serves one connection until it ends. Faults of the client end it; they are nobody else's concern.
pub(super) async fn run<N: Behind>(
    behind: Rc<N>,
    stream: TcpStream,
    tls: Option<Arc<TlsConfigs>>,
    place: Place,
    shutdown: CancellationToken,
) {
    let limits = behind.listen(|listen| listen.limits.clone());
    if let Err(error) = serve(Rc::clone(&behind), stream, tls, place, shutdown, limits).await {
        if is_malformed(&error) {
            behind.malformed();
        }
        tracing::debug!(error = %error, "connection ended");
    }
}

/// True when the bytes were no request, or one that has two readings.
fn is_malformed(error: &io::Error) -> bool {
    let Some(cause) = error.get_ref().and_then(|cause| cause.downcast_ref::<hyper::Error>()) else {
        return false;
    };
    let broken_off = std::error::Error::source(cause).and_then(|source| source.downcast_ref::<io::Error>());
    cause.is_parse() || broken_off.is_some_and(|error| error.kind() == io::ErrorKind::InvalidData)
}

async fn serve<N: Behind>(
    behind: Rc<N>,
    stream: TcpStream,
    tls: Option<Arc<TlsConfigs>>,
    place: Place,
    shutdown: CancellationToken,
    limits: Limits,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = Connection {
        peer: stream.peer_addr()?,
        local: stream.local_addr()?,
        secure: tls.is_some(),
        server_name: None,
        client_rule: None,
        certificate: None,
    };
    let Some(configs) = tls else {
        let activity = Activity::new(limits.head_timeout, limits.keep_alive);
        let mut stream = stream;
        let late = async {
            shutdown.cancelled().await;
            tokio::time::sleep(FRESH_GRACE).await;
        };
        let (h2, early) = tokio::select! {
            read = timeout(limits.head_timeout, read_preface(&mut stream)) => read??,
            () = late => return Ok(()),
        };
        let socket = Socket::new(stream, early, Arc::clone(&activity), place);
        let peer = Rc::new(Peer { connection: Arc::new(connection), tls: None });
        return speak(h2, socket, activity, behind, peer, &limits, shutdown).await;
    };
    let handshake = async {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
        let name = start.client_hello().server_name().map(|name| {
            let name = name.to_ascii_lowercase();
            Arc::<str>::from(name.strip_suffix('.').unwrap_or(&name))
        });
        let rule = configs.client_rule(name.as_deref());
        let stream = start.into_stream(configs.server_config(rule)).await?;
        io::Result::Ok((stream, name, rule))
    };
    let (stream, name, rule) = timeout(HANDSHAKE_TIMEOUT, handshake).await??;
    connection.server_name = name;
    connection.client_rule = rule;
    let session = stream.get_ref().1;
    if let Some(end) = session.peer_certificates().and_then(|chain| chain.first()) {
        let read = certificate::read(end);
        let read = read.ok_or_else(|| io::Error::other("the client certificate cannot be read"))?;
        connection.certificate = Some(Arc::new(read));
    }
    let h2 = session.alpn_protocol() == Some(b"h2");
    let activity = Activity::new(limits.head_timeout, limits.keep_alive);
    let socket = Socket::new(stream, Bytes::new(), Arc::clone(&activity), place);
    let peer = Rc::new(Peer { connection: Arc::new(connection), tls: Some(configs) });
    speak(h2, socket, activity, behind, peer, &limits, shutdown).await
}

/// Speaks HTTP/1 or HTTP/2 on the socket until it ends.
async fn speak<N, S>(
    h2: bool,
    socket: Socket<S>,
    activity: Arc<Activity>,
    behind: Rc<N>,
    peer: Rc<Peer>,
    limits: &Limits,
    shutdown: CancellationToken,
) -> io::Result<()>
where
    N: Behind,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let requests = Arc::clone(&activity);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (behind, peer) = (Rc::clone(&behind), Rc::clone(&peer));
        let (activity, active) = (Arc::clone(&requests), requests.begin());
        async move {
            let answer = service::answer(&*behind, &peer, request).await;
            if answer.status() == http::StatusCode::SWITCHING_PROTOCOLS {
                activity.upgraded();
            }
            Ok::<_, Infallible>(answer.map(|body| AnswerBody::new(body, active)))
        }
    });
    let io = TokioIo::new(socket);
    if h2 {
        activity.multiplexed();
        let mut builder = http2::Builder::new(OnThisThread);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.h2_streams)
            .max_header_list_size(u32::try_from(limits.head).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(H2_PENDING_RESETS)
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .keep_alive_interval(H2_PING_INTERVAL)
            .keep_alive_timeout(H2_PING_TIMEOUT);
        drive(
            builder.serve_connection(io, service),
            http2::Connection::graceful_shutdown,
            &activity,
            shutdown,
        )
        .await
    } else {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .max_headers(limits.fields)
            .max_buf_size(limits.head.max(H1_BUFFER))
            .max_header_size(limits.head);
        let connection = builder.serve_connection(io, service).with_upgrades();
        drive(connection, http1::UpgradeableConnection::graceful_shutdown, &activity, shutdown).await
    }
}

/// Runs a connection to its end, cuts it when it is quiet for too long, and winds it up at shutdown.
async fn drive<C>(
    connection: C,
    wind_up: fn(Pin<&mut C>),
    activity: &Activity,
    shutdown: CancellationToken,
) -> io::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut connection = pin!(connection);
    let mut stop = pin!(async {
        shutdown.cancelled().await;
        // A connection that has just been made has its first request on the way.
        if activity.is_fresh() {
            tokio::time::sleep(FRESH_GRACE).await;
        }
    });
    let mut winding_up = false;
    let mut armed = activity.deadline().unwrap_or_else(Instant::now);
    let mut alarm = pin!(sleep_until(armed));
    poll_fn(|cx| {
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(ended.map_err(io::Error::other));
        }
        if !winding_up && stop.as_mut().poll(cx).is_ready() {
            winding_up = true;
            wind_up(connection.as_mut());
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(ended.map_err(io::Error::other));
            }
        }
        let deadline = activity.deadline();
        if let Some(earlier) = deadline.filter(|deadline| *deadline < armed) {
            armed = earlier;
            alarm.as_mut().reset(earlier);
        }
        while alarm.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            match deadline {
                Some(deadline) if deadline <= now => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "quiet for too long")));
                }
                later => {
                    armed = later.unwrap_or_else(|| now + activity.pause());
                    alarm.as_mut().reset(armed);
                }
            }
        }
        Poll::Pending
    })
    .await
}

/// Runs the streams of an HTTP/2 connection on its own thread.
#[derive(Clone, Copy, Debug)]
struct OnThisThread;

impl<F: Future + 'static> hyper::rt::Executor<F> for OnThisThread {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}
