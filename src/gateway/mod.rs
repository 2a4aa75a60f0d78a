//! The path of a request. Read this first: [`Gateway::serve`] is the whole story, and `ask` is the same without its
//! last step.
//!
//! `listen` calls `serve` for everything that is not an endpoint of ours; the forward-auth and decision doors call
//! `ask`. Another stage is one more line of `admit`.

mod admit;
mod answers;
mod browser;
mod evaluate;
mod headers;
mod identity;
mod limit;
mod outcome;
mod preflight;
mod routes;
mod seen;
mod send;
mod stream;
mod tunnel;
mod verdict;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, Method, Request, Response, StatusCode};

pub use self::evaluate::{Evaluated, Thing};

use self::admit::Purpose;
use self::answers::Ours;
use self::identity::IdentityCache;
use self::routes::{Entry, Routes};
use self::seen::Seen;
use crate::config::Config;
use crate::forward::{Pool, Upstreams};
use crate::http::{Caller, Services};
use crate::model::{AuthMethod, Body, BoxError, Connection, Principal, Refusal, RefusalKind, RequestId};
use crate::record::Pending;

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
    strip: Arc<[String]>,
    public_host: String,
    /// Of our own endpoints, which are no routes on any host.
    prefix: String,
    /// So are those of the decision API.
    access: bool,
}

/// Routes and upstreams that are compiled and not in use yet.
pub struct Prepared(Arc<Routing>);

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
        /// Where a person signs in; only when signing in can help.
        login: Option<String>,
        /// A browser opens a page: it can be sent there.
        navigates: bool,
        /// Who it is, when that is known.
        principal: Option<Arc<Principal>>,
        /// All its roles, when a policy was asked.
        roles: Arc<[Arc<str>]>,
    },
}

impl Verdict {
    /// A refusal before anyone knows who it is.
    pub fn unknown(refusal: Refusal) -> Self {
        Self::Refused { refusal, login: None, navigates: false, principal: None, roles: Arc::from([]) }
    }
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
        services.metrics.declare_upstreams(routing.upstreams.servers());
        let routing = ArcSwap::from_pointee(routing);
        Ok(Arc::new(Self { services, routing, identities: IdentityCache::default() }))
    }

    /// Compiles the routes and upstreams of a new configuration, beside those in use.
    ///
    /// # Errors
    /// What is wrong with the routes or upstreams.
    pub fn prepare(config: &Config) -> Result<Prepared, String> {
        Routing::build(config).map(|routing| Prepared(Arc::new(routing)))
    }

    /// Uses what was prepared, for requests that come after.
    pub fn commit(&self, prepared: Prepared) {
        self.services.metrics.declare_upstreams(prepared.0.upstreams.servers());
        self.routing.store(prepared.0);
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
                Box::pin(self.failed(&caller, &seen, pending, &refusal)).await
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
        let refusal = self.record_unread(client_ip, request_id, method, headers, refusal).await;
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
                Verdict::unknown(refusal)
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
            return Box::pin(self.preflight(routing, caller, request.headers(), &asked, seen)).await;
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
                let navigates = browser::is_navigation(&caller.target.method, request.headers());
                let login = login(routing, caller, entry, &refusal, seen).filter(|_| navigates);
                let refusal = Box::pin(self.record_refusal(seen, refusal, login.as_ref().map(|_| 302))).await;
                let mut answer = match login.filter(|_| refusal.kind.status().is_client_error()) {
                    Some(login) => answers::redirect(&login, caller.request_id),
                    None => {
                        let basic = entry.is_some_and(|entry| entry.lists(AuthMethod::Password));
                        answers::problem(&refusal, caller.request_id, basic)
                    }
                };
                seen.clear_cookie |= refusal.clear_cookie;
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
}

/// The login page, when signing in can help.
fn login(
    routing: &Routing,
    caller: &Caller,
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
    helps.then(|| routing.ours.login(caller))
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
            prefix: config.listen.prefix.clone(),
            access: config.authzen.enabled,
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
