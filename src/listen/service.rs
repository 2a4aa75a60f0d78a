//! One request: canonical target, client address, and then a door or the gateway.
//!
//! `connection` calls [`answer`] for each request of HTTP/1 and HTTP/2. What is refused before there is a target is
//! refused here; a new such reason is a line in [`read`].

use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{CONNECTION, COOKIE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as HttpBody;

use super::address;
use super::doors::{Doors, is_envoys, set_own};
use super::rate::RatedBody;
use super::tls::TlsConfigs;
use crate::config::{Listen, is_access, is_reserved};
use crate::forward::Pool;
use crate::gateway::Gateway;
use crate::http::{Caller, Services};
use crate::model::{Body, BoxError, Connection, Refusal, RefusalKind, RequestId, Target, Timestamp, body};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What stands behind the sockets of one worker: the program, or a test's double.
pub(super) trait Behind: 'static {
    fn listen<R>(&self, read: impl FnOnce(&Listen) -> R) -> R;
    fn now(&self) -> Timestamp;
    fn knows_host(&self, host: &str) -> bool;
    /// True for a question of another proxy: it comes under whatever name that proxy has for this gateway.
    fn is_question(&self, connection: &Connection, path: &str) -> bool;
    /// True for paths that are our own.
    fn reserves(&self, path: &str) -> bool {
        self.listen(|listen| is_reserved(path, &listen.prefix))
    }
    /// The HTTP library refused a request as malformed.
    fn malformed(&self);
    async fn refuse(
        &self,
        connection: &Connection,
        client_ip: IpAddr,
        request_id: RequestId,
        method: &Method,
        headers: &HeaderMap,
        refusal: Refusal,
    ) -> Response<Body>;
    async fn own<B>(&self, caller: Caller, request: Request<B>) -> Response<Body>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>;
    async fn serve<B>(&self, caller: Caller, request: Request<B>) -> Response<Body>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>;
}

/// The program behind the sockets.
pub(super) struct Program {
    pub(super) services: Arc<Services>,
    pub(super) gateway: Arc<Gateway>,
    pub(super) pool: Rc<Pool>,
    pub(super) doors: Doors,
}

impl Behind for Program {
    fn listen<R>(&self, read: impl FnOnce(&Listen) -> R) -> R {
        read(&self.services.config.load().listen)
    }

    fn now(&self) -> Timestamp {
        self.services.clock.now()
    }

    fn knows_host(&self, host: &str) -> bool {
        self.gateway.knows_host(host)
    }

    fn is_question(&self, connection: &Connection, path: &str) -> bool {
        let config = self.services.config.load();
        let below =
            path.strip_prefix(config.listen.prefix.as_str()).and_then(|rest| rest.strip_prefix("/verify"));
        below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            && config.forward_auth.answers(connection.peer.ip())
    }

    fn reserves(&self, path: &str) -> bool {
        self.services.config.load().reserves(path)
    }

    fn malformed(&self) {
        self.services.metrics.malformed();
    }

    async fn refuse(
        &self,
        connection: &Connection,
        client_ip: IpAddr,
        request_id: RequestId,
        method: &Method,
        headers: &HeaderMap,
        refusal: Refusal,
    ) -> Response<Body> {
        self.gateway.refuse_unread(connection, client_ip, request_id, method, headers, refusal).await
    }

    async fn own<B>(&self, caller: Caller, request: Request<B>) -> Response<Body>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let prefix = self.listen(|listen| listen.prefix.clone());
        self.doors.call(caller, &prefix, request).await
    }

    async fn serve<B>(&self, caller: Caller, request: Request<B>) -> Response<Body>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        self.gateway.serve(&self.pool, caller, request).await
    }
}

/// The connection that requests come on.
pub(super) struct Peer {
    pub(super) connection: Arc<Connection>,
    /// The set of configurations that the connection was made with.
    pub(super) tls: Option<Arc<TlsConfigs>>,
}

/// Answers one request. The answer always carries an `X-Request-Id`: a new one, but for the decision API.
pub(super) async fn answer<N, B>(behind: &N, peer: &Peer, mut request: Request<B>) -> Response<Body>
where
    N: Behind,
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let version = request.version();
    let request_id = RequestId::new(behind.now());
    let mut echoes = false;
    let mut answer = match read(behind, peer, request_id, &mut request) {
        Ok(Read::Ping) => no_content(),
        Ok(Read::Call(caller)) => {
            let rate = behind.listen(|listen| listen.limits.body_rate);
            let own = behind.reserves(caller.target.path.as_str())
                && answers(behind, &peer.connection, &caller.target);
            let request = request.map(|body| match own {
                true => RatedBody::always(body, rate),
                false => RatedBody::new(body, rate),
            });
            let read = request.body().read_flag();
            echoes = own && is_access(caller.target.path.as_str());
            let mut answer = if own {
                Box::pin(behind.own(*caller, request)).await
            } else {
                behind.serve(*caller, request).await
            };
            // What is left of the request would be taken for the next one: the connection ends, and the client is told.
            let unread = read.is_some_and(|read| !read.load(Ordering::Relaxed));
            if unread && version < Version::HTTP_2 {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            answer
        }
        Err((client_ip, refusal)) => {
            let closes = refusal.kind != RefusalKind::Misdirected && version < Version::HTTP_2;
            let (method, headers) = (request.method(), request.headers());
            let mut answer =
                Box::pin(behind.refuse(&peer.connection, client_ip, request_id, method, headers, refusal))
                    .await;
            if closes {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            answer
        }
    };
    // The decision API echoes the caller's own (AuthZEN 1.0).
    if !(echoes && answer.headers().contains_key(X_REQUEST_ID)) {
        answer.headers_mut().insert(X_REQUEST_ID, request_id.header_value());
    }
    answer
}

enum Read {
    /// `OPTIONS *`: about the server, not about anything behind it.
    Ping,
    Call(Box<Caller>),
}

fn read<N: Behind, B>(
    behind: &N,
    peer: &Peer,
    request_id: RequestId,
    request: &mut Request<B>,
) -> Result<Read, (IpAddr, Refusal)> {
    let connection = &peer.connection;
    let (client_ip, secure, fields) = behind.listen(|listen| {
        let (headers, trusted) = (request.headers(), &listen.trusted_proxies);
        (
            address::client_ip(connection.peer.ip(), headers, trusted),
            address::is_secure(connection.secure, connection.peer.ip(), headers, trusted),
            listen.limits.fields,
        )
    });
    let refuse = |kind, detail: Cow<'static, str>| Err((client_ip, Refusal::new(kind, detail)));
    if request.headers().len() > fields {
        return refuse(RefusalKind::HeadersTooLarge, "more fields than listen.limits.fields".into());
    }
    if request.version() < Version::HTTP_2 && !request.headers().contains_key(HOST) {
        return refuse(RefusalKind::NotCanonical, "the request has no host".into());
    }
    let ping = request.method() == Method::OPTIONS && request.uri().path() == "*";
    let slash = http::Uri::from_static("/");
    let uri = if ping { &slash } else { request.uri() };
    let target = match Target::from_request(request.method(), uri, request.headers(), secure) {
        Ok(target) => target,
        Err(error) => return refuse(RefusalKind::NotCanonical, error.0.into()),
    };
    let path = target.path.as_str();
    let own = behind.reserves(path) && !behind.listen(|listen| is_envoys(path, &listen.prefix));
    if target.encoded.any() && own && answers(behind, connection, &target) {
        return refuse(RefusalKind::NotCanonical, "an own endpoint takes no encoded slash or percent".into());
    }
    if let Some(tls) = &peer.tls
        && tls.client_rule(Some(target.host.name())) != connection.client_rule
    {
        let detail = "the TLS server name and the host ask for client certificates differently";
        return refuse(RefusalKind::Misdirected, detail.into());
    }
    if ping {
        return Ok(Read::Ping);
    }
    join_cookies(request.headers_mut());
    let connection = Arc::clone(connection);
    Ok(Read::Call(Box::new(Caller { connection, request_id, client_ip, target, secure })))
}

/// True where own endpoints answer to this target.
fn answers<N: Behind>(behind: &N, connection: &Connection, target: &Target) -> bool {
    behind.knows_host(target.host.name()) || behind.is_question(connection, target.path.as_str())
}

/// HTTP/2 may split the cookies over several fields; one is what everyone reads (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

fn no_content() -> Response<Body> {
    let mut answer = Response::new(body::empty());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    set_own(answer.headers_mut());
    answer
}
