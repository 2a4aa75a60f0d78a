//! Who may use the operators' listener: Host and Origin checks, and the operator behind a bearer token.

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{AUTHORIZATION, HOST, HeaderMap};
use actix_web::middleware::Next;
use actix_web::{Error, FromRequest, HttpMessage as _, HttpRequest, HttpResponse, web};

use super::AdminToken;
use crate::http::Services;
use crate::model::RefusalKind;

/// How much an operator may do, ordered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Rank {
    /// `portcullis:viewer`: reads.
    Viewer,
    /// `portcullis:operator`: sessions, tokens, reloads.
    Operator,
    /// `portcullis:administrator`: everything.
    Administrator,
}

/// The operator who asks.
#[derive(Clone, Debug)]
pub struct Operator {
    /// The account, or `portcullis:admin-token`.
    pub name: String,
    /// What they may do.
    pub rank: Rank,
}

impl FromRequest for Operator {
    type Error = Error;
    type Future = std::future::Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut actix_web::dev::Payload) -> Self::Future {
        let found = request.extensions().get::<Self>().cloned();
        std::future::ready(found.ok_or_else(|| actix_web::error::ErrorUnauthorized("no operator")))
    }
}

/// A problem answer of the admin API (RFC 9457).
pub fn problem(kind: RefusalKind, detail: &str) -> HttpResponse {
    let status = actix_web::http::StatusCode::from_u16(kind.status().as_u16())
        .unwrap_or(actix_web::http::StatusCode::INTERNAL_SERVER_ERROR);
    HttpResponse::build(status)
        .content_type("application/problem+json")
        .insert_header(("cache-control", "no-store"))
        .insert_header(("x-content-type-options", "nosniff"))
        .json(serde_json::json!({
            "type": format!("urn:portcullis:problem:{}", kind.name()),
            "title": kind.title(),
            "status": kind.status().as_u16(),
            "detail": detail,
        }))
}

/// Lets operators through: a Host that is the listener's own, a bearer token, enough rank for the method.
pub async fn operators_only<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    match admit(&request) {
        Ok(operator) => {
            request.extensions_mut().insert(operator);
            Ok(next.call(request).await?.map_into_boxed_body())
        }
        Err((kind, detail)) => Ok(request.into_response(problem(kind, detail))),
    }
}

fn admit(request: &ServiceRequest) -> Result<Operator, (RefusalKind, &'static str)> {
    let services = request
        .app_data::<web::Data<Services>>()
        .ok_or((RefusalKind::Internal, "the listener is not set up"))?;
    let config = services.config.load();
    if !host_is_ours(request.headers(), &config.admin) {
        return Err((
            RefusalKind::Misdirected,
            "this listener does not answer to that Host; see [admin] hosts",
        ));
    }
    let bearer = bearer(request.headers())
        .ok_or((RefusalKind::Unauthenticated, "send the admin token as Authorization: Bearer"))?;
    let operator = identify(request, services, bearer)?;
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if !reads && operator.rank < Rank::Administrator {
        return Err((RefusalKind::Forbidden, "the role portcullis:administrator is needed"));
    }
    Ok(operator)
}

fn identify(
    request: &ServiceRequest,
    services: &Services,
    bearer: &str,
) -> Result<Operator, (RefusalKind, &'static str)> {
    let wrong = (RefusalKind::InvalidToken, "the token is not valid");
    if bearer.starts_with("pa_") {
        let local = request.peer_addr().is_none_or(|peer| peer.ip().is_loopback());
        let token = request.app_data::<AdminToken>();
        return if local && token.is_some_and(|token| token.0.equals(bearer.as_bytes())) {
            Ok(Operator { name: "portcullis:admin-token".into(), rank: Rank::Administrator })
        } else {
            Err(wrong)
        };
    }
    let verified = services.tokens.verify(bearer).map_err(|_invalid| wrong)?;
    let rank = verified.principal.roles.iter().filter_map(|role| rank(role)).max();
    let rank = rank.ok_or((RefusalKind::Forbidden, "an operator's role is needed"))?;
    Ok(Operator { name: verified.principal.name.to_string(), rank })
}

fn rank(role: &str) -> Option<Rank> {
    match role {
        "portcullis:viewer" => Some(Rank::Viewer),
        "portcullis:operator" => Some(Rank::Operator),
        "portcullis:administrator" => Some(Rank::Administrator),
        _ => None,
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// True when the Host header names this listener, on any port: against DNS rebinding.
fn host_is_ours(headers: &HeaderMap, admin: &crate::config::Admin) -> bool {
    let Some(host) = headers.get(HOST).and_then(|value| value.to_str().ok()) else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.to_ascii_lowercase();
    let address = admin.address.ip();
    let own = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
    let loopback = address.is_loopback() && ["localhost", "127.0.0.1", "[::1]"].contains(&name.as_str());
    loopback || name == own || admin.hosts.iter().any(|host| host.eq_ignore_ascii_case(&name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;

    fn says(host: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_str(host).unwrap());
        let admin = crate::config::Admin {
            address: "127.0.0.1:9080".parse().unwrap(),
            hosts: vec!["ops.example.com".into()],
            tls: None,
        };
        host_is_ours(&headers, &admin)
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
}
