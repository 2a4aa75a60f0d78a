//! The decision API (AuthZEN Authorization API 1.0): other programs ask what somebody whom they name may do, and the
//! answer is the gateway's own. Registered by `app`; needs `web::Data<Gateway>` beside `web::Data<Services>`.
//!
//! Exists when `[authzen] enabled` says so. `question` reads what is asked and `subject` finds whom it is about; one more
//! endpoint is a file that calls [`Call::open`] and a line in [`routes`].

mod configuration;
mod evaluation;
mod evaluations;
mod page;
mod question;
mod search;
mod subject;

use std::sync::Arc;

use actix_web::http::header::HeaderValue;
use actix_web::{HttpRequest, HttpResponse, web};
use http::HeaderMap;
use serde_json::{Map, Value};

use crate::gateway::Gateway;
use crate::http::answer::{json, other_methods, problem};
use crate::http::body::{self, Media};
use crate::http::caller::{headers, only};
use crate::http::{Caller, Services};
use crate::identify::Asking;
use crate::model::{AuthMethod, Principal, PrincipalKind, Refusal, RefusalKind};
use crate::tokens::json::Unique;

/// The scope that a client's token must have.
const SCOPE: &str = "authzen";

/// Longest `X-Request-ID` of a caller that comes back.
const LONGEST_ID: usize = 256;

/// The endpoints of this door.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/access/v1/evaluation")
                .route(web::post().to(evaluation::evaluation))
                .default_service(other_methods("POST")),
        )
        .service(
            web::resource("/access/v1/evaluations")
                .route(web::post().to(evaluations::evaluations))
                .default_service(other_methods("POST")),
        )
        .service(
            web::resource("/access/v1/search/{what:subject|resource|action}")
                .route(web::post().to(search::search))
                .default_service(other_methods("POST")),
        )
        .service(
            web::resource("/.well-known/authzen-configuration")
                .route(web::get().to(configuration::document))
                .default_service(other_methods("GET")),
        );
}

/// A question whose caller may ask it.
struct Call {
    caller: Caller,
    headers: HeaderMap,
    client: Arc<Principal>,
    body: Map<String, Value>,
    services: web::Data<Services>,
    gateway: web::Data<Gateway>,
}

impl Call {
    /// Proves the caller and reads the body.
    ///
    /// # Errors
    /// The answer for a caller that may not ask, or that sent no JSON object; it is recorded.
    async fn open(
        request: &HttpRequest,
        payload: web::Payload,
        caller: Caller,
        services: web::Data<Services>,
        gateway: web::Data<Gateway>,
    ) -> Result<Self, HttpResponse> {
        let headers = headers(request);
        if !services.config.load().authzen.enabled {
            return Err(crate::http::answer::not_found(caller).await);
        }
        let (client, refusal) = match admitted(&services, &caller, &headers).await {
            Ok(client) => match read(request, payload).await {
                Ok(body) => return Ok(Self { caller, headers, client, body, services, gateway }),
                Err(refusal) => (Some(client), refusal),
            },
            Err((client, refusal)) => (client, refusal),
        };
        let refusal = gateway.record_refused_call(&caller, &headers, client.as_ref(), refusal).await;
        Err(refused(&caller, &headers, &refusal))
    }

    /// The answer; a refusal is recorded, unless it says that nothing can be.
    async fn end(self, result: Result<Value, Refusal>) -> HttpResponse {
        match result {
            Ok(value) => echoed(&self.headers, json(200, self.caller.request_id, &value)),
            Err(refusal) => {
                let refusal = match refusal.kind {
                    RefusalKind::AuditUnavailable => refusal,
                    _ => self.record_refused(refusal).await,
                };
                refused(&self.caller, &self.headers, &refusal)
            }
        }
    }

    /// Records a refusal of the call or of one of its items.
    async fn record_refused(&self, refusal: Refusal) -> Refusal {
        self.gateway.record_refused_call(&self.caller, &self.headers, Some(&self.client), refusal).await
    }
}

/// The caller as a client that may ask.
async fn admitted(
    services: &Services,
    caller: &Caller,
    headers: &HeaderMap,
) -> Result<Arc<Principal>, (Option<Arc<Principal>>, Refusal)> {
    let asking = Asking {
        headers,
        connection: &caller.connection,
        host: caller.target.host.name(),
        listed: &[AuthMethod::Bearer],
        client_ip: caller.client_ip,
        allow_known: None,
    };
    let identified = services.identifier.identify(&asking).await.map_err(|refusal| (None, refusal))?;
    let client = identified.principal;
    let may = client.kind == PrincipalKind::Client && client.scope.iter().any(|scope| &**scope == SCOPE);
    if may {
        return Ok(client);
    }
    let why = "the decision API takes a client's token with the scope `authzen`";
    let mut refusal = Refusal::new(RefusalKind::Forbidden, why);
    refusal.challenge = Some(format!("error=\"insufficient_scope\", scope=\"{SCOPE}\""));
    Err((Some(client), refusal))
}

/// The body: one JSON object that names no member twice.
async fn read(request: &HttpRequest, payload: web::Payload) -> Result<Map<String, Value>, Refusal> {
    let bad = |detail| Refusal::new(RefusalKind::BadRequest, detail);
    if !matches!(body::media(request), Ok(Media::Json)) {
        // 400 and not 415: so AuthZEN has it.
        return Err(bad("send application/json"));
    }
    let bytes = body::read(payload).await?;
    match serde_json::from_slice(&bytes) {
        Ok(Unique(Value::Object(members))) => Ok(members),
        _ => Err(bad("send one JSON object that names no member twice")),
    }
}

fn refused(caller: &Caller, headers: &HeaderMap, refusal: &Refusal) -> HttpResponse {
    let mut answer = problem(refusal, caller.request_id);
    if refusal.kind == RefusalKind::Forbidden
        && let Ok(value) = HeaderValue::from_str(&crate::http::answer::challenge(refusal))
    {
        // RFC 6750 §3.1
        answer.headers_mut().insert(actix_web::http::header::WWW_AUTHENTICATE, value);
    }
    echoed(headers, answer)
}

/// The answer with the caller's own `X-Request-ID`, when it sent one.
fn echoed(headers: &HeaderMap, mut answer: HttpResponse) -> HttpResponse {
    let own = only(headers, "x-request-id").filter(|id| !id.is_empty() && id.len() <= LONGEST_ID);
    if let Some(value) = own.and_then(|id| HeaderValue::from_str(id).ok()) {
        answer.headers_mut().insert(actix_web::http::header::HeaderName::from_static("x-request-id"), value);
    }
    answer
}
