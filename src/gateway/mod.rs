//! The path of a request. Read this first: [`Gateway::serve`] is the whole story, and `ask` is the same without its
//! last step.
//!
//! `listen` calls `serve` for everything that is not an endpoint of ours; the forward-auth and decision doors call
//! `ask`. Another stage is one more line of `admit`.

mod admit;
mod answers;
mod browser;
mod headers;
mod identity;
mod limit;
mod outcome;
mod routes;
mod seen;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};

use self::admit::{Admitted, Purpose};
use self::answers::Ours;
use self::headers::{Cleaning, REQUEST_ID};
use self::identity::IdentityCache;
use self::limit::Limited;
use self::routes::{Entry, Routes};
use self::seen::Seen;
use crate::config::Config;
use crate::forward::{Pool, Upstreams};
use crate::http::{Caller, Services};
use crate::model::{AuthMethod, Body, BoxError, Connection, Principal, Refusal, RefusalKind, RequestId};
use crate::record::{Outcome, Pending};

/// Routes, upstreams and the stages; shared by all workers.
pub struct Gateway {
    services: Arc<Services>,
    routing: ArcSwap<Routing>,
    identities: IdentityCache,
}

/// What one configuration says about routing. Replaced as a whole.
struct Routing {
    routes: Routes,
    upstreams: Arc<Upstreams>,
    ours: Ours,
    strip: Vec<String>,
    public_host: String,
}

/// A question through another door (forward-auth, decision API).
pub struct Asked<'a> {
    /// Who asks for what: the original request, not the question.
    pub caller: &'a Caller,
    /// The original request's headers (credentials, user agent).
    pub headers: &'a HeaderMap,
    /// Record what the verdict would be, and let the request pass.
    pub observe: bool,
}

/// The answer to a question.
pub enum Verdict {
    /// The policy allows it, and that is in the log.
    Allowed {
        /// Who it is.
        principal: Arc<Principal>,
        /// All roles, inherited ones included.
        roles: Arc<[Arc<str>]>,
        /// Identity headers for the upstream, every one always present.
        headers: HeaderMap,
    },
    /// It is refused.
    Refused {
        /// Why.
        refusal: Refusal,
        /// Where a browser signs in; only for a navigation that signing in can help.
        login: Option<String>,
    },
}

/// The decision of the request in flight, where a panic cannot lose it.
type Open = RefCell<Option<Pending>>;

impl Gateway {
    /// Compiles the routes and upstreams of the services' configuration.
    ///
    /// # Errors
    /// What is wrong with the routes or upstreams.
    pub fn new(services: Arc<Services>) -> Result<Arc<Self>, String> {
        let routing = Routing::build(&services.config.load())?;
        let routing = ArcSwap::from_pointee(routing);
        Ok(Arc::new(Self { services, routing, identities: IdentityCache::default() }))
    }

    /// Takes the routes and upstreams of a new configuration; on an error keeps the old ones.
    ///
    /// # Errors
    /// What is wrong with the routes or upstreams.
    pub fn reconfigure(&self, config: &Config) -> Result<(), String> {
        self.routing.store(Arc::new(Routing::build(config)?));
        Ok(())
    }

    /// The whole path: route, identify, decide, record, forward. Always an answer, and always one access event.
    pub async fn serve<B>(&self, pool: &Pool, caller: Caller, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let routing = self.routing.load_full();
        let (parts, body) = request.into_parts();
        let mut seen = Seen::new(&caller, &parts.headers, self.services.clock.now());
        let open = Open::default();
        let request = Request::from_parts(parts, body);
        let path = self.pass(&routing, pool, &caller, request, &mut seen, &open);
        match AssertUnwindSafe(path).catch_unwind().await {
            Ok(answer) => answer,
            Err(_) => {
                let refusal = Refusal::new(RefusalKind::Internal, "a panic on the path of a request");
                let pending = open.take();
                self.failed(&caller, &seen, pending, &refusal).await
            }
        }
    }

    /// The answer for a request that was refused before it had a target; records it.
    pub async fn refuse_unread(
        &self,
        connection: &Connection,
        client_ip: IpAddr,
        request_id: RequestId,
        method: &Method,
        headers: &HeaderMap,
        refusal: Refusal,
    ) -> Response<Body> {
        tracing::debug!(%request_id, peer = %connection.peer, %refusal, "refused unread");
        let seen = Seen::unread(client_ip, request_id, method, headers, self.services.clock.now());
        let refusal = self.record_refusal(&seen, refusal, None).await;
        answers::problem(&refusal, request_id, false)
    }

    /// The same without forwarding. Makes exactly one access event.
    pub async fn ask(&self, asked: Asked<'_>) -> Verdict {
        let routing = self.routing.load_full();
        let mut seen = Seen::new(asked.caller, asked.headers, self.services.clock.now());
        let path = self.consider(&routing, &asked, &mut seen);
        match AssertUnwindSafe(path).catch_unwind().await {
            Ok(verdict) => verdict,
            Err(_) => {
                let refusal = Refusal::new(RefusalKind::Internal, "a panic while a verdict was asked");
                let refusal = self.record_refusal(&seen, refusal, None).await;
                Verdict::Refused { refusal, login: None }
            }
        }
    }

    /// True when `host` (with or without a port) is the public URL's or a route's: own endpoints answer there.
    pub fn knows_host(&self, host: &str) -> bool {
        let host = host_name(host).to_ascii_lowercase();
        let routing = self.routing.load();
        let loopback = |name: &str| matches!(name, "localhost" | "127.0.0.1" | "[::1]");
        host == routing.public_host
            || (loopback(&host) && loopback(&routing.public_host))
            || routing.routes.names_host(&host)
    }

    async fn pass<B>(
        &self,
        routing: &Routing,
        pool: &Pool,
        caller: &Caller,
        request: Request<B>,
        seen: &mut Seen,
        open: &Open,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        if let Some(asked) = browser::preflight(&caller.target.method, request.headers()) {
            return self.preflight(routing, caller, request.headers(), &asked, seen).await;
        }
        let origin = request.headers().get(http::header::ORIGIN).cloned();
        let admitted = self.admit(routing, caller, request.headers(), Purpose::Forward, seen).await;
        let mut answer = match admitted {
            Ok(admitted) => {
                let entry = admitted.entry;
                let mut answer = self.go_on(routing, pool, caller, request, admitted, seen, open).await;
                let listed = origin.as_ref().and_then(|o| entry.origins.iter().find(|listed| *listed == o));
                browser::allow_origin(entry, listed, answer.headers_mut());
                answer
            }
            Err((refusal, entry)) => {
                let login = self.login(routing, caller, request.headers(), entry, &refusal, seen);
                let refusal = self.record_refusal(seen, refusal, login.as_ref().map(|_| 302)).await;
                let mut answer = match login.filter(|_| refusal.kind.status().is_client_error()) {
                    Some(login) => answers::redirect(&login, caller.request_id),
                    None => {
                        let basic = entry.is_some_and(|entry| entry.lists(AuthMethod::Password));
                        answers::problem(&refusal, caller.request_id, basic)
                    }
                };
                seen.clear_cookie |= refusal.kind == RefusalKind::Unauthenticated
                    && seen.principal.is_none()
                    && headers::has_our_cookie(request.headers());
                if let Some(entry) = entry {
                    let listed = browser::listed_origin(entry, request.headers());
                    browser::allow_origin(entry, listed, answer.headers_mut());
                }
                answer
            }
        };
        if seen.clear_cookie {
            routing.ours.clear_cookie(answer.headers_mut());
        }
        answer
    }

    /// From the permit to the answer's head: identity headers, the log, the upstream, the log.
    #[expect(clippy::too_many_arguments, reason = "what the stages before found, each once")]
    async fn go_on<B>(
        &self,
        routing: &Routing,
        pool: &Pool,
        caller: &Caller,
        request: Request<B>,
        admitted: Admitted<'_>,
        seen: &Seen,
        open: &Open,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let Admitted { entry, permit, principal, roles, epoch } = admitted;
        let upstream = entry.config.upstream.as_deref().unwrap_or_default();
        let ready = upload_limit(entry, request.headers())
            .and_then(|limit| Ok((limit, self.identity(entry, &principal, &roles)?)));
        let (limit, identity) = match ready {
            Ok(ready) => ready,
            Err(refusal) => return self.failed(caller, seen, None, &refusal).await,
        };
        match self.services.recorder.begin(&seen.event(Outcome::Allow, None)).await {
            Ok(pending) => open.replace(Some(pending)),
            Err(error) => {
                let refusal = Refusal::new(RefusalKind::AuditUnavailable, error.to_string());
                return self.failed(caller, seen, None, &refusal).await;
            }
        };
        if let Err(refusal) = self.still_stands(caller, request.headers(), entry, &principal, epoch).await {
            return self.failed(caller, seen, open.take(), &refusal).await;
        }
        let mut request = request.map(|body| Limited::new(body, limit));
        let cleaning = Cleaning {
            strip: &routing.strip,
            pass_authorization: entry.config.pass_authorization,
            method: principal.method,
        };
        headers::prepare(request.headers_mut(), caller, cleaning);
        identity.set(entry.config.identity_headers, request.headers_mut());
        if !request.headers().contains_key(REQUEST_ID) {
            answers::set_request_id(caller.request_id, request.headers_mut());
        }
        let timeouts = &entry.config.timeout;
        let sent = pool.send(permit, &routing.upstreams, upstream, timeouts, &caller.target, request).await;
        match (sent, open.take()) {
            (Ok(mut answer), Some(pending)) => {
                self.close(seen, pending, answer.status().as_u16(), None);
                headers::remove_foreign_sessions(answer.headers_mut());
                answers::set_request_id(caller.request_id, answer.headers_mut());
                answer
            }
            (Err(refusal), pending) => self.failed(caller, seen, pending, &refusal).await,
            (Ok(_), None) => {
                let refusal = Refusal::new(RefusalKind::Internal, "the decision's record was lost");
                self.failed(caller, seen, None, &refusal).await
            }
        }
    }

    /// The verdict for another door, with its event.
    async fn consider(&self, routing: &Routing, asked: &Asked<'_>, seen: &mut Seen) -> Verdict {
        let caller = asked.caller;
        let verdict = match self.admit(routing, caller, asked.headers, Purpose::Verdict, seen).await {
            Ok(admitted) => {
                let Admitted { entry, principal, roles, epoch, .. } = admitted;
                let set = match self.identity(entry, &principal, &roles) {
                    Ok(identity) => self
                        .still_stands(caller, asked.headers, entry, &principal, epoch)
                        .await
                        .map(|()| identity),
                    Err(refusal) => Err(refusal),
                };
                set.map(|identity| {
                    let mut headers = HeaderMap::new();
                    identity.set(entry.config.identity_headers, &mut headers);
                    Verdict::Allowed { principal, roles, headers }
                })
            }
            Err((refusal, entry)) => {
                let login = self.login(routing, caller, asked.headers, entry, &refusal, seen);
                Ok(Verdict::Refused { refusal, login })
            }
        };
        let verdict = verdict.unwrap_or_else(|refusal| Verdict::Refused { refusal, login: None });
        self.record_verdict(asked, seen, verdict).await
    }

    /// A CORS preflight: answered by the route's origins, without authentication.
    async fn preflight(
        &self,
        routing: &Routing,
        caller: &Caller,
        headers: &HeaderMap,
        asked: &Method,
        seen: &mut Seen,
    ) -> Response<Body> {
        let entry = match self.route(routing, caller, asked, seen) {
            Ok(entry) => entry,
            Err((refusal, _)) => return self.failed(caller, seen, None, &refusal).await,
        };
        let Some(origin) = browser::listed_origin(entry, headers) else {
            let refusal =
                Refusal::new(RefusalKind::CrossSite, "the origin is not in the route's cors.origins");
            return self.failed(caller, seen, None, &refusal).await;
        };
        let status = StatusCode::NO_CONTENT;
        if let Err(error) = self.services.recorder.refused(&seen.event(Outcome::Allow, None), 204).await {
            let refusal = Refusal::new(RefusalKind::AuditUnavailable, error.to_string());
            return answers::problem(&refusal, caller.request_id, false);
        }
        self.measure(seen, "allow", status.as_u16());
        let mut answer = answers::bare(status, caller.request_id);
        browser::answer_preflight(entry, asked, headers, answer.headers_mut());
        browser::allow_origin(entry, Some(origin), answer.headers_mut());
        answer
    }

    /// The login page, when a browser opens a page that signing in can help with.
    fn login(
        &self,
        routing: &Routing,
        caller: &Caller,
        headers: &HeaderMap,
        entry: Option<&Entry>,
        refusal: &Refusal,
        seen: &Seen,
    ) -> Option<String> {
        entry.filter(|entry| entry.lists(AuthMethod::Session))?;
        let anonymous = seen.principal.as_ref().is_some_and(|principal| principal.is_anonymous());
        let helps = match refusal.kind.status() {
            StatusCode::UNAUTHORIZED => true,
            StatusCode::FORBIDDEN => anonymous && refusal.kind == RefusalKind::Forbidden,
            _ => false,
        };
        (helps && browser::is_navigation(&caller.target.method, headers)).then(|| routing.ours.login(caller))
    }
}

impl Routing {
    fn build(config: &Config) -> Result<Self, String> {
        let upstreams = Upstreams::build(config)?;
        for route in &config.routes {
            if let Some(upstream) = route.upstream.as_deref().filter(|name| !upstreams.contains(name)) {
                return Err(format!("upstream `{upstream}` of route `{}` does not exist", route.name));
            }
        }
        Ok(Self {
            routes: Routes::build(&config.routes)?,
            upstreams,
            ours: Ours::new(&config.listen.public_url, &config.listen.prefix),
            strip: config.listen.strip_headers.iter().map(|n| headers::normalised(n).into_owned()).collect(),
            public_host: config.listen.public_url.host_str().unwrap_or_default().to_ascii_lowercase(),
        })
    }
}

/// The name without the port; IPv6 literals keep their brackets.
fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

/// The limit that applies to the request's body: `None` when it is not counted.
fn upload_limit(entry: &Entry, headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let grpc = |kind: &HeaderValue| kind.as_bytes().starts_with(b"application/grpc");
    let Some(limit) = entry.config.body_limit.filter(|_| !headers.get(CONTENT_TYPE).is_some_and(grpc)) else {
        return Ok(None);
    };
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(Refusal::new(RefusalKind::TooLarge, format!("the body is larger than {limit} bytes")));
    }
    Ok(Some(limit))
}
