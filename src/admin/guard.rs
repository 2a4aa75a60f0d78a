//! Who may use the operators' listener: Host and Origin of every request but health and metrics, and the operator with
//! enough rank behind each call of the API.
//!
//! `mod` wraps the whole listener with [`own_names_only`] and the API with [`operators_only`]. One more way to be an
//! operator is an arm of [`identify`].

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{
    AUTHORIZATION, CACHE_CONTROL, HOST, HeaderMap, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::middleware::Next;
use actix_web::{Error, FromRequest, HttpMessage as _, HttpRequest, web};

use super::AdminToken;
use super::change::Change;
use super::endpoint::{self, Endpoint};
use super::problem::Problem;
use crate::config::Admin;
use crate::http::Services;
use crate::http::caller::headers;
use crate::http::origin::{Site, site};
use crate::model::{RefusalKind, RequestId};

/// What anyone may ask on this listener, whatever the Host.
const OPEN: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// How much an operator may do, ordered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Rank {
    /// Reads.
    Viewer,
    /// Ends sessions and tokens, unlocks accounts, reloads policies.
    Operator,
    /// Everything.
    Administrator,
}

impl Rank {
    const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Administrator];

    /// The role that gives it.
    pub const fn role(self) -> &'static str {
        match self {
            Self::Viewer => "portcullis:viewer",
            Self::Operator => "portcullis:operator",
            Self::Administrator => "portcullis:administrator",
        }
    }

    /// The highest rank among roles.
    pub fn of<'a>(roles: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        roles.into_iter().filter_map(|role| Self::ALL.into_iter().find(|rank| rank.role() == role)).max()
    }
}

/// The operator who asks. Put into a request's extensions only by this module, and by a command that holds the store
/// itself and calls the resources in process.
#[derive(Clone, Debug)]
pub struct Operator {
    /// The account, `portcullis:admin-token`, or `cli:<os user>`.
    pub name: String,
    /// What they may do.
    pub rank: Rank,
    /// The credential: `bearer`; none in process.
    pub auth: Option<&'static str>,
}

impl FromRequest for Operator {
    type Error = Problem;
    type Future = std::future::Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut actix_web::dev::Payload) -> Self::Future {
        let found = request.extensions().get::<Self>().cloned();
        std::future::ready(found.ok_or_else(unauthenticated))
    }
}

/// Lets through what is meant for this listener: its own Host (against DNS rebinding), and no other site's change. Every
/// answer carries a new `X-Request-Id`, a problem has it in its body too, and nothing is kept by caches.
pub async fn own_names_only<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let id = RequestId::new(services(&request)?.clock.now());
    request.extensions_mut().insert(id);
    let response = match meant_for_us(&request) {
        Ok(()) => next.call(request).await?.map_into_boxed_body(),
        Err(problem) => {
            log(&request, &problem);
            request.into_response(problem.answer(Some(id)))
        }
    };
    let problem = response.response().error().and_then(|error| error.as_error::<Problem>());
    let mut response = match problem.map(|problem| problem.answer(Some(id))) {
        Some(answer) => response.into_response(answer),
        None => response,
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(id) = HeaderValue::from_str(&id.to_string()) {
        headers.insert(HeaderName::from_static("x-request-id"), id);
    }
    Ok(response)
}

/// One line for what was refused before any resource saw it.
fn log(request: &ServiceRequest, problem: &Problem) {
    let peer = request.peer_addr().map(|peer| peer.ip());
    let id = request.extensions().get::<RequestId>().map(ToString::to_string);
    tracing::warn!(
        request_id = id, ?peer, method = %request.method(), path = request.path(),
        "refused at the operators' listener: {problem}"
    );
}

fn meant_for_us(request: &ServiceRequest) -> Result<(), Problem> {
    if OPEN.contains(&request.path()) || request.extensions().get::<Operator>().is_some() {
        return Ok(());
    }
    let config = services(request)?.config.load_full();
    let host = host(request).filter(|host| is_ours(host, &config.admin)).ok_or_else(|| {
        Problem::new(
            RefusalKind::Misdirected,
            "this listener does not answer to that Host; add the name to [admin] hosts",
        )
    })?;
    let scheme = if config.admin.tls.is_some() { "https" } else { "http" };
    let safe = request.method().is_safe();
    if safe || bearer(request.headers()).is_some() {
        return Ok(());
    }
    if site(&headers(request.request()), &format!("{scheme}://{host}")) == Site::Own {
        return Ok(());
    }
    let detail = "a change needs an Origin that is this listener's own, or Authorization: Bearer";
    Err(Problem::new(RefusalKind::CrossSite, detail))
}

/// Lets operators through, as far as their rank goes.
pub async fn operators_only<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let services = services(&request)?;
    // A command that calls in process did not pass `own_names_only`.
    let known = request.extensions().get::<RequestId>().copied();
    let id = known.unwrap_or_else(|| RequestId::new(services.clock.now()));
    request.extensions_mut().insert(id);
    match admit(&request, &services).await {
        Ok(operator) => {
            request.extensions_mut().insert(operator);
            Ok(next.call(request).await?.map_into_boxed_body())
        }
        Err(problem) => {
            log(&request, &problem);
            Ok(request.into_response(problem.answer(Some(id))))
        }
    }
}

async fn admit(request: &ServiceRequest, services: &Services) -> Result<Operator, Problem> {
    let operator = identify(request, services)?;
    let pattern = request.match_pattern().unwrap_or_default();
    let needed = endpoint::find(request.method().as_str(), &pattern);
    let rank = needed.map_or(Rank::Viewer, |endpoint: &Endpoint| endpoint.rank);
    if operator.rank >= rank {
        return Ok(operator);
    }
    let detail = format!("`{}` has not the role `{}`, which this needs", operator.name, rank.role());
    let problem = Problem::new(RefusalKind::Forbidden, detail);
    if needed.is_some_and(|endpoint| endpoint.changes) {
        let change = Change::of(request.request(), operator);
        change.refused(services, request.path(), problem.name()).await?;
    }
    Err(problem)
}

fn identify(request: &ServiceRequest, services: &Services) -> Result<Operator, Problem> {
    if let Some(operator) = request.extensions().get::<Operator>() {
        return Ok(operator.clone());
    }
    let bearer = bearer(request.headers()).ok_or_else(unauthenticated)?;
    if bearer.starts_with("pa_") {
        return admin_token(request, bearer);
    }
    let verified = services.tokens.verify(bearer).map_err(|error| match error {
        crate::tokens::TokenError::Invalid(why) => {
            Problem::new(RefusalKind::InvalidToken, format!("the token does not count: {why}"))
        }
        other => other.into(),
    })?;
    let principal = &verified.principal;
    let rank = Rank::of(principal.roles.iter().map(AsRef::as_ref)).ok_or_else(|| {
        let detail = format!(
            "`{}` is no operator; `portcullis user set` gives the role portcullis:viewer, :operator or :administrator",
            principal.name
        );
        Problem::new(RefusalKind::Forbidden, detail)
    })?;
    if verified.bound_to_certificate.is_some() {
        let detail = "the token is bound to a client certificate, which this listener does not ask for";
        return Err(Problem::new(RefusalKind::InvalidToken, detail));
    }
    Ok(Operator { name: principal.name.to_string(), rank, auth: Some("bearer") })
}

fn admin_token(request: &ServiceRequest, bearer: &str) -> Result<Operator, Problem> {
    let detail = match request.peer_addr() {
        Some(peer) if !peer.ip().to_canonical().is_loopback() => {
            "the admin token counts from loopback only; sign in and use an operator's access token"
        }
        _ => {
            "the admin token is not this node's; it is new at every start: read <data_dir>/admin.token again"
        }
    };
    let local = request.peer_addr().is_some_and(|peer| peer.ip().to_canonical().is_loopback());
    let token = request.app_data::<AdminToken>();
    if local && token.is_some_and(|token| token.0.equals(bearer.as_bytes())) {
        let name = "portcullis:admin-token".to_owned();
        return Ok(Operator { name, rank: Rank::Administrator, auth: Some("bearer") });
    }
    Err(Problem::new(RefusalKind::InvalidToken, detail))
}

fn unauthenticated() -> Problem {
    let detail =
        "send Authorization: Bearer with the token of <data_dir>/admin.token or of an operator's sign-in";
    Problem::new(RefusalKind::Unauthenticated, detail)
}

fn services(request: &ServiceRequest) -> Result<web::Data<Services>, Problem> {
    let found = request.app_data::<web::Data<Services>>().cloned();
    found.ok_or_else(|| Problem::new(RefusalKind::Internal, "the listener is not set up"))
}

/// The one bearer token; of two headers none.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION);
    let value = values.next()?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (values.next().is_none() && scheme.eq_ignore_ascii_case("bearer")).then(|| token.trim())
}

/// The one Host, which an absolute target has to repeat.
fn host(request: &ServiceRequest) -> Option<String> {
    let mut values = request.headers().get_all(HOST);
    let named = values.next().map(|value| value.to_str().unwrap_or_default());
    if values.next().is_some() {
        return None;
    }
    let target = request.uri().authority().map(|authority| authority.as_str());
    match (named, target) {
        (Some(host), None) | (None, Some(host)) => Some(host.to_ascii_lowercase()),
        (Some(host), Some(target)) => host.eq_ignore_ascii_case(target).then(|| host.to_ascii_lowercase()),
        (None, None) => None,
    }
}

/// True when the host names this listener, on any port.
fn is_ours(host: &str, admin: &Admin) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = admin.address.ip();
    let own = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
    let loopback = address.is_loopback() && ["localhost", "127.0.0.1", "[::1]"].contains(&name);
    loopback || name == own || admin.hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(host: &str) -> bool {
        let admin = Admin {
            address: "127.0.0.1:9080".parse().unwrap(),
            hosts: vec!["ops.example.com".into()],
            tls: None,
        };
        is_ours(&host.to_ascii_lowercase(), &admin)
    }

    #[test]
    fn only_the_listeners_own_names_are_answered() {
        for own in ["localhost", "localhost:1", "127.0.0.1:9080", "[::1]:9080", "OPS.example.com"] {
            assert!(says(own), "{own}");
        }
        for other in ["evil.example", "localhost.evil.example", "127.0.0.1.nip.example:9080", ""] {
            assert!(!says(other), "{other}");
        }
    }

    #[test]
    fn the_highest_of_several_operators_roles_counts_and_no_other_role() {
        assert_eq!(Rank::of(["portcullis:viewer", "admin", "portcullis:operator"]), Some(Rank::Operator));
        assert_eq!(Rank::of(["admin", "portcullis:", "portcullis:root"]), None);
    }
}
