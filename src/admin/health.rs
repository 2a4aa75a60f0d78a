//! `/healthz`, `/readyz` and `/metrics`: open on this listener.

use std::time::Duration;

use actix_web::{HttpResponse, Responder, web};
use serde::Serialize;

use super::problem::Problem;
use crate::http::Services;
use crate::metrics::Readings;

/// How long the store may take to answer before the node is not ready.
const STORE_ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// Adds the three.
pub fn routes(config: &mut web::ServiceConfig) {
    let at = |path: &'static str| {
        web::resource(path).default_service(web::to(|| async { Err::<&str, _>(Problem::only("GET, HEAD")) }))
    };
    config
        .service(at("/healthz").route(web::get().to(alive)).route(web::head().to(alive)))
        .service(at("/readyz").route(web::get().to(ready)).route(web::head().to(ready)))
        .service(at("/metrics").route(web::get().to(metrics)).route(web::head().to(metrics)));
}

async fn alive() -> impl Responder {
    HttpResponse::Ok().content_type("text/plain").body("alive\n")
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    policy: String,
    reasons: Vec<Reason>,
}

#[derive(Serialize)]
struct Reason {
    code: &'static str,
    message: String,
}

async fn ready(services: web::Data<Services>) -> impl Responder {
    let mut reasons = Vec::new();
    match tokio::time::timeout(STORE_ANSWERS_WITHIN, services.store.records.ping()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => reasons.push(Reason { code: "store-unavailable", message: error.to_string() }),
        Err(_elapsed) => reasons.push(Reason {
            code: "store-unavailable",
            message: "the store did not answer within 1 s".into(),
        }),
    }
    if !services.revocations.is_fresh() {
        let lag = services.revocations.lag().as_secs_f64();
        reasons.push(Reason {
            code: "revocations-unknown",
            message: format!("the revocation log was last confirmed {lag:.1} s ago; at most 1 s is allowed"),
        });
    }
    if let Some(trouble) = services.recorder.trouble() {
        reasons.push(Reason { code: "audit-unavailable", message: trouble });
    }
    if !services.keys.list().iter().any(|key| key.state == "signing") {
        let message = "no key signs; see `portcullis key list`, and `portcullis key rotate`".into();
        reasons.push(Reason { code: "keys-unavailable", message });
    }
    let ready = reasons.is_empty();
    // The last good policy decides: the node can serve, and says what it could not load.
    if let Some(mistake) = services.decider.trouble() {
        let message = format!("the changed policy is not live, the last good one is: {mistake}");
        reasons.push(Reason { code: "policy-refused", message });
    }
    let answer = Readiness { ready, policy: services.decider.digest().to_string(), reasons };
    let mut response = if answer.ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    response.json(answer)
}

async fn metrics(services: web::Data<Services>) -> impl Responder {
    let (audit_pending, audit_oldest_pending) = services.recorder.pending();
    let (policy_reloads, policy_reload_failures) = services.decider.failures();
    let text = services.metrics.render(&Readings {
        audit_pending,
        audit_oldest_pending,
        policy_digest: services.decider.digest().to_string(),
        policy_reloads,
        policy_reload_failures,
        policy_mismatches: services.decider.mismatches(),
        nodes: i64::try_from(services.members.live().len()).unwrap_or(i64::MAX),
        revocation_lag: services.revocations.lag(),
    });
    HttpResponse::Ok().content_type("application/openmetrics-text; version=1.0.0; charset=utf-8").body(text)
}
