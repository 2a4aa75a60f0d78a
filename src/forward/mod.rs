//! Permit + request -> upstream: a pool per worker, server choice, streaming, timeouts.
//!
//! Called by `gateway` alone, with headers that it has cleaned and set. [`Pool::send`] is the story; another
//! balancing or transport goes to `upstreams` or `socket`.

mod bodies;
mod connection;
pub mod hop;
mod socket;
mod upstreams;

#[cfg(test)]
mod tests;

pub use upstreams::Upstreams;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT, TRANSFER_ENCODING, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;

use self::bodies::{Downloading, Lease, Upload, Uploading};
use self::connection::{ConnectError, Connection, Idle};
use self::upstreams::Group;
use crate::config;
use crate::decide::Permit;
use crate::model::{Body, BoxError, Refusal, RefusalKind, Target, body};

/// How often idle connections are looked through.
const SWEEP: Duration = Duration::from_secs(10);

/// One worker's connections to all upstreams. Not shared between threads.
pub struct Pool {
    idle: Arc<Idle>,
    sweeping: AtomicBool,
}

/// The server's end of a connection that speaks another protocol now, in the extensions of a 101.
#[derive(Clone)]
pub struct Switched {
    /// The bytes after the head.
    pub upgrade: OnUpgrade,
    /// The connection lives as long as this does.
    pub alive: Alive,
}

/// What keeps a connection alive.
#[derive(Clone)]
pub struct Alive {
    _connection: Arc<Connection>,
}

/// Why an exchange gave no answer.
enum Failed {
    /// The request never left: it can go over another connection, whatever it is.
    Unsent(Box<Request<Body>>),
    /// The connection ended before any byte of an answer.
    Closed(hyper::Error),
    Broken(hyper::Error),
    Timeout,
    Refused(Refusal),
}

impl Pool {
    /// An empty pool.
    pub fn new() -> Rc<Self> {
        Rc::new(Self { idle: Arc::default(), sweeping: AtomicBool::new(false) })
    }

    /// Sends the request (method, canonical path and query of `target`; headers as `gateway` set them) and returns
    /// the answer's head with its streamed body. A body that breaks off is an error of the returned body, never an end.
    ///
    /// # Errors
    /// `UpstreamFailed`, `UpstreamTimeout`, or the refusal with which the request's own body broke off.
    pub async fn send<B>(
        &self,
        _permit: Permit,
        upstreams: &Upstreams,
        upstream: &str,
        timeouts: &config::Timeouts,
        target: &Target,
        request: Request<B>,
    ) -> Result<Response<Body>, Refusal>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        self.exchange(upstreams, upstream, timeouts, target, request).await
    }

    async fn exchange<B>(
        &self,
        upstreams: &Upstreams,
        upstream: &str,
        timeouts: &config::Timeouts,
        target: &Target,
        request: Request<B>,
    ) -> Result<Response<Body>, Refusal>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        self.keep_sweeping();
        let group = upstreams.group(upstream).ok_or_else(|| failed(format!("no upstream `{upstream}`")))?;
        let (request, upload) = outgoing(target, request)?;
        let switches = request.headers().contains_key(UPGRADE);
        let mut connection = self.connection(group, timeouts, true).await?;
        let repeatable = connection.reused && upload.is_none() && target.method.is_idempotent();
        let spare = repeatable.then(|| repeat(&request));
        let reused = connection.reused;
        let mut answer = ask(&mut connection, request, upload.as_deref(), timeouts).await;
        let again = match answer {
            Err(Failed::Unsent(request)) if reused => Ok(*request),
            Err(Failed::Closed(error)) => spare.ok_or(Err(Failed::Closed(error))),
            other => Err(other),
        };
        match again {
            Ok(request) => {
                connection = self.connection(group, timeouts, false).await?;
                answer = ask(&mut connection, request, upload.as_deref(), timeouts).await;
            }
            Err(first) => answer = first,
        }
        let response = answer.map_err(|why| refusal(why, upload.as_deref(), upstream, timeouts))?;
        let lease = Lease { connection, idle: Arc::clone(&self.idle), upload };
        incoming(response, lease, timeouts, switches)
    }

    /// An idle connection to the server whose turn it is, or a new one to it or, when that fails, to the next.
    async fn connection(
        &self,
        group: &Group,
        timeouts: &config::Timeouts,
        reuse: bool,
    ) -> Result<Connection, Refusal> {
        let mut last = failed("the upstream has no servers");
        for server in group.order() {
            if reuse && let Some(connection) = self.idle.take(server) {
                return Ok(connection);
            }
            match Box::pin(Connection::open(server, timeouts.connect)).await {
                Ok(connection) => {
                    server.opened();
                    return Ok(connection);
                }
                Err(error) => {
                    server.shun();
                    let kind = match error {
                        ConnectError::Timeout(_) => RefusalKind::UpstreamTimeout,
                        ConnectError::Failed(_) => RefusalKind::UpstreamFailed,
                    };
                    last = Refusal::new(kind, format!("{}:{}: {error}", server.host, server.port));
                }
            }
        }
        Err(last)
    }

    /// Starts the task that closes old idle connections; it ends with the pool.
    fn keep_sweeping(&self) {
        if self.sweeping.swap(true, Ordering::Relaxed) {
            return;
        }
        let idle = Arc::downgrade(&self.idle);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                let Some(idle) = idle.upgrade() else { return };
                idle.sweep();
            }
        });
    }
}

fn failed(detail: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::new(RefusalKind::UpstreamFailed, detail)
}

/// The request as it goes out: HTTP/1.1, origin form of exactly the target's text, framed anew.
fn outgoing<B>(target: &Target, request: Request<B>) -> Result<(Request<Body>, Option<Arc<Upload>>), Refusal>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let (parts, inner) = request.into_parts();
    let mut headers = parts.headers;
    headers.remove(EXPECT);
    headers.remove(TRANSFER_ENCODING);
    let announced = headers.remove(CONTENT_LENGTH).is_some();
    let (body, upload) = if inner.is_end_stream() {
        if announced {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        (body::empty(), None)
    } else {
        match inner.size_hint().exact() {
            Some(length) => headers.insert(CONTENT_LENGTH, HeaderValue::from(length)),
            None => headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked")),
        };
        let upload = Upload::new(inner.size_hint().exact().is_some());
        (Uploading { inner, upload: Arc::clone(&upload) }.boxed_unsync(), Some(upload))
    };
    let mut outgoing = Request::new(body);
    *outgoing.method_mut() = target.method.clone();
    *outgoing.uri_mut() = origin_form(target, &parts.uri)?;
    *outgoing.version_mut() = Version::HTTP_11;
    *outgoing.headers_mut() = headers;
    Ok((outgoing, upload))
}

/// The path and query of the target, taken from the client's URI when that is the same text.
fn origin_form(target: &Target, came: &Uri) -> Result<Uri, Refusal> {
    let (path, query) = (target.path.as_str(), target.query.as_deref());
    if let Some(same) = came.path_and_query().filter(|pq| pq.path() == path && pq.query() == query) {
        return Ok(Uri::from(same.clone()));
    }
    let text = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let parsed = PathAndQuery::from_maybe_shared(Bytes::from(text.clone())).ok();
    parsed.filter(|parsed| parsed.as_str() == text).map(Uri::from).ok_or_else(|| {
        Refusal::new(RefusalKind::NotCanonical, "the target cannot be sent on as it was authorized")
    })
}

/// The same request once more; it has no body.
fn repeat(request: &Request<Body>) -> Request<Body> {
    let mut again = Request::new(body::empty());
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.headers_mut() = request.headers().clone();
    again
}

/// Sends the request and waits for the head of the final answer; interim answers are consumed.
async fn ask(
    connection: &mut Connection,
    request: Request<Body>,
    upload: Option<&Upload>,
    timeouts: &config::Timeouts,
) -> Result<Response<Incoming>, Failed> {
    let before = connection.socket.bytes_read();
    let sending = connection.sender.try_send_request(request);
    tokio::pin!(sending);
    let mut wait = timeouts.first_byte;
    loop {
        match tokio::time::timeout(wait, sending.as_mut()).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(mut error)) => {
                return Err(match error.take_message() {
                    Some(request) => Failed::Unsent(Box::new(request)),
                    None if connection.socket.bytes_read() == before => Failed::Closed(error.into_error()),
                    None => Failed::Broken(error.into_error()),
                });
            }
            Err(_) => wait = patience(upload, timeouts)?,
        }
    }
}

/// How much longer to wait: the server has `first_byte` from the last byte of the request, not from its first.
fn patience(upload: Option<&Upload>, timeouts: &config::Timeouts) -> Result<Duration, Failed> {
    let upload = upload.ok_or(Failed::Timeout)?;
    let (limit, late) = if upload.is_sent() {
        (Some(timeouts.first_byte), Failed::Timeout)
    } else {
        let (limit, refusal) = upload.patience(timeouts.idle, timeouts.stream_idle);
        (limit, Failed::Refused(refusal))
    };
    let Some(limit) = limit else { return Ok(timeouts.first_byte) };
    limit.checked_sub(upload.quiet_for()).filter(|more| !more.is_zero()).ok_or(late)
}

fn refusal(why: Failed, upload: Option<&Upload>, upstream: &str, timeouts: &config::Timeouts) -> Refusal {
    if let Some(own) = upload.and_then(Upload::failure) {
        return own;
    }
    match why {
        Failed::Refused(refusal) => refusal,
        Failed::Timeout => Refusal::new(
            RefusalKind::UpstreamTimeout,
            format!("upstream `{upstream}` sent no answer within {:?}", timeouts.first_byte),
        ),
        Failed::Unsent(_) => failed(format!("upstream `{upstream}` closed the connection")),
        Failed::Closed(error) | Failed::Broken(error) => {
            let cause =
                std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            failed(format!("upstream `{upstream}`: {error}{cause}"))
        }
    }
}

/// The answer as it goes to the client.
fn incoming(
    response: Response<Incoming>,
    lease: Lease,
    timeouts: &config::Timeouts,
    switches: bool,
) -> Result<Response<Body>, Refusal> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return if switches { switched(response, lease) } else { Err(failed("a 101 that nobody asked for")) };
    }
    let (mut parts, incoming) = response.into_parts();
    // The version is that of each connection, and this gateway speaks its own (RFC 9112 §2.3).
    parts.version = Version::HTTP_11;
    hop::remove(&mut parts.headers);
    parts.extensions.clear();
    let body = if incoming.is_end_stream() {
        lease.complete();
        body::empty()
    } else {
        let idle = if is_stream(&parts.headers) { timeouts.stream_idle } else { timeouts.idle };
        Downloading::new(incoming, lease, idle).boxed_unsync()
    };
    Ok(Response::from_parts(parts, body))
}

/// A 101 to a request for a WebSocket, and the bytes that come after it.
fn switched(mut response: Response<Incoming>, lease: Lease) -> Result<Response<Body>, Refusal> {
    let websocket = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"websocket");
    if !response.headers().get(UPGRADE).is_some_and(websocket) {
        return Err(failed("the upstream switched to another protocol than was asked for"));
    }
    let upgrade = hyper::upgrade::on(&mut response);
    let alive = Alive { _connection: Arc::new(lease.connection) };
    let (mut parts, _) = response.into_parts();
    hop::remove(&mut parts.headers);
    parts.extensions.clear();
    parts.extensions.insert(Switched { upgrade, alive });
    Ok(Response::from_parts(parts, body::empty()))
}

/// True for answers that may rightly be silent for long: event streams and gRPC.
pub fn is_stream(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| {
        let kind = kind.as_bytes();
        kind.starts_with(b"text/event-stream") || kind.starts_with(b"application/grpc")
    })
}
