//! A change that an operator asks for: recorded as an `admin` event before its effect. Every handler of a changing call
//! takes a [`Change`] and records what it is about first.

use actix_web::http::header::{HOST, USER_AGENT};
use actix_web::{FromRequest, HttpMessage as _, HttpRequest};

use super::endpoint::PREFIX;
use super::guard::Operator;
use super::problem::Problem;
use crate::http::Services;
use crate::model::{AuthMethod, Principal, PrincipalKind, RequestId};
use crate::record::{Event, Kind, Outcome, RecordError};

/// What is recorded of a path, in characters.
const LONGEST_PATH: usize = 512;

/// Who wants to change something, and how they asked.
pub struct Change {
    operator: Operator,
    method: String,
    host: Option<String>,
    user_agent: Option<String>,
    client_ip: Option<std::net::IpAddr>,
    request_id: Option<RequestId>,
}

impl FromRequest for Change {
    type Error = Problem;
    type Future = std::future::Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut actix_web::dev::Payload) -> Self::Future {
        let operator = Operator::from_request(request, payload).into_inner();
        std::future::ready(operator.map(|operator| Self::of(request, operator)))
    }
}

impl Change {
    /// The change that a request of this operator asks for.
    pub fn of(request: &HttpRequest, operator: Operator) -> Self {
        let text =
            |name| request.headers().get(name).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned);
        Self {
            operator,
            method: request.method().to_string(),
            host: text(HOST),
            user_agent: text(USER_AGENT),
            client_ip: request.peer_addr().map(|peer| peer.ip().to_canonical()),
            request_id: request.extensions().get::<RequestId>().copied(),
        }
    }

    /// On disk when this returns: what it is about is a path below `/api/v1`, for example `/users/alice`.
    ///
    /// # Errors
    /// When it cannot be recorded: nothing may be changed then.
    pub async fn record(&self, services: &Services, about: &str) -> Result<(), Problem> {
        let path = format!("{PREFIX}{about}");
        Ok(self.write(services, Kind::Admin, Outcome::Allow, &path, None).await?)
    }

    /// A change that was refused to a known operator.
    ///
    /// # Errors
    /// When it cannot be recorded.
    pub async fn refused(&self, services: &Services, path: &str, reason: &str) -> Result<(), Problem> {
        Ok(self.write(services, Kind::Admin, Outcome::Deny, path, Some(reason)).await?)
    }

    /// What became of a signing key, as an event of its own kind.
    ///
    /// # Errors
    /// When it cannot be recorded; the key has changed all the same.
    pub async fn key(&self, services: &Services, about: &str) -> Result<(), Problem> {
        let path = format!("{PREFIX}{about}");
        self.write(services, Kind::Key, Outcome::Allow, &path, None).await.map_err(|error| {
            let detail = format!("the key has changed, and its `key` event is not recorded: {error}");
            Problem::new(crate::model::RefusalKind::AuditUnavailable, detail)
        })
    }

    async fn write(
        &self,
        services: &Services,
        kind: Kind,
        decision: Outcome,
        path: &str,
        reason: Option<&str>,
    ) -> Result<(), RecordError> {
        let name = self.operator.name.as_str();
        let path: String = path.chars().take(LONGEST_PATH).collect();
        let mut principal = Principal::new(name, PrincipalKind::User, AuthMethod::Bearer);
        principal.roles = vec![self.operator.rank.role().into()];
        let event = Event {
            reason,
            principal: Some(&principal),
            roles: &principal.roles,
            auth: self.operator.auth,
            client_ip: self.client_ip,
            user_agent: self.user_agent.as_deref(),
            method: Some(&self.method),
            host: self.host.as_deref(),
            path: Some(&path),
            request_id: self.request_id,
            ..Event::new(kind, decision, services.clock.now())
        };
        services.recorder.security(&event, None).await
    }
}
