//! Security events of the doors: sign-ins, tokens, sessions. On disk before the answer leaves.

use actix_web::HttpRequest;

use super::{Caller, Services};
use crate::model::{Principal, Refusal, RefusalKind};
use crate::record::{Event, Kind, Outcome};

/// What happened at an own endpoint.
pub struct Happened<'a> {
    /// What kind of event.
    pub kind: Kind,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, when it was not allowed.
    pub reason: Option<&'a str>,
    /// Whose; never a name that no principal has: people type passwords into the wrong field.
    pub principal: Option<&'a Principal>,
    /// `password`, `certificate`, `bearer`, `session`, …
    pub auth: Option<&'a str>,
    /// The status of the answer.
    pub status: u16,
}

impl<'a> Happened<'a> {
    /// An event that ended well.
    pub fn allowed(kind: Kind, principal: &'a Principal, auth: &'a str, status: u16) -> Self {
        Self {
            kind,
            outcome: Outcome::Allow,
            reason: None,
            principal: Some(principal),
            auth: Some(auth),
            status,
        }
    }

    /// An event that ended in a refusal.
    pub fn refused(
        kind: Kind,
        refusal: &'a Refusal,
        principal: Option<&'a Principal>,
        auth: &'a str,
    ) -> Self {
        let status = refusal.kind.status().as_u16();
        let outcome = if status >= 500 { Outcome::Error } else { Outcome::Deny };
        Self { kind, outcome, reason: Some(refusal.kind.name()), principal, auth: Some(auth), status }
    }
}

/// Records it.
///
/// # Errors
/// 503 `audit-unavailable`: what cannot be recorded does not happen.
pub async fn record(
    services: &Services,
    caller: &Caller,
    request: &HttpRequest,
    happened: &Happened<'_>,
) -> Result<(), Refusal> {
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let event = Event {
        kind: happened.kind,
        decision: happened.outcome,
        reason: happened.reason,
        time: services.clock.now(),
        principal: happened.principal,
        roles: happened.principal.map(|principal| principal.roles.as_slice()).unwrap_or_default(),
        auth: happened.auth,
        client_ip: Some(caller.client_ip),
        user_agent: text("user-agent"),
        method: Some(caller.target.method.as_str()),
        host: Some(caller.target.host.name()),
        path: Some(caller.target.path.as_str()),
        route: None,
        rule: None,
        policy: None,
        shadow: None,
        request_id: Some(caller.request_id),
        client_request_id: text("x-request-id"),
        trace_id: text("traceparent").and_then(trace_id),
        count: None,
    };
    services
        .recorder
        .security(&event, Some(happened.status))
        .await
        .map_err(|error| Refusal::new(RefusalKind::AuditUnavailable, error.to_string()))
}

/// The trace id of a `traceparent` (W3C Trace Context §3.2).
pub fn trace_id(parent: &str) -> Option<&str> {
    let id = parent.split('-').nth(1)?;
    let good = id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (good && id.bytes().any(|b| b != b'0')).then_some(id)
}
