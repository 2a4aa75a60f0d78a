//! Answers of our own endpoints: the headers that all of them carry, problems (RFC 9457), JSON, tokens
//! (RFC 6749), redirects. Called by every door; pages are in `page`.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, Route, web};

use super::Caller;
use crate::model::{Refusal, RefusalKind, RequestId};
use crate::store::StoreError;
use crate::tokens::{Issued, TokenError};

/// An answer with the headers that every own answer carries.
pub fn own(status: u16, id: RequestId) -> HttpResponseBuilder {
    let mut builder =
        HttpResponse::build(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
    builder
        .insert_header(("cache-control", "no-store"))
        .insert_header(("referrer-policy", "no-referrer"))
        .insert_header(("x-content-type-options", "nosniff"))
        .insert_header(("x-request-id", id.to_string()));
    builder
}

/// The answer to a refusal: `application/problem+json` (RFC 9457). The detail goes to the log alone.
pub fn problem(refusal: &Refusal, id: RequestId) -> HttpResponse {
    let kind = refusal.kind;
    let status = kind.status().as_u16();
    if status >= 500 {
        tracing::warn!(request_id = %id, reason = kind.name(), detail = %refusal.detail, "refused");
    } else {
        tracing::debug!(request_id = %id, reason = kind.name(), detail = %refusal.detail, "refused");
    }
    let mut builder = own(status, id);
    if status == 401 {
        builder.insert_header(("www-authenticate", challenge(refusal)));
    }
    if let Some(seconds) = refusal.retry_after {
        builder.insert_header(("retry-after", seconds.to_string()));
    }
    if let Some(allow) = &refusal.allow {
        builder.insert_header(("allow", allow.clone()));
    }
    let body = serde_json::json!({
        "type": format!("urn:portcullis:problem:{}", kind.name()),
        "title": kind.title(),
        "status": status,
        "request_id": id.to_string(),
    });
    builder.insert_header(("content-type", "application/problem+json")).body(body.to_string())
}

/// The value of `WWW-Authenticate` (RFC 6750 §3).
pub fn challenge(refusal: &Refusal) -> String {
    match &refusal.challenge {
        Some(more) => format!("Bearer realm=\"portcullis\", {more}"),
        None => "Bearer realm=\"portcullis\"".to_owned(),
    }
}

/// A JSON answer.
pub fn json(status: u16, id: RequestId, body: &serde_json::Value) -> HttpResponse {
    own(status, id).insert_header(("content-type", "application/json")).body(body.to_string())
}

/// A redirect; `location` was made by us or checked.
pub fn redirect(status: u16, id: RequestId, location: &str) -> HttpResponse {
    own(status, id).insert_header(("location", location)).finish()
}

/// The answer that carries tokens (RFC 6749 §5.1).
pub fn token_answer(id: RequestId, issued: &Issued) -> HttpResponse {
    let mut answer = own(200, id);
    answer.insert_header(("pragma", "no-cache")).insert_header(("content-type", "application/json"));
    answer.body(token_body(issued).to_string())
}

fn token_body(issued: &Issued) -> serde_json::Value {
    let mut body = serde_json::json!({
        "access_token": issued.access_token,
        "token_type": "Bearer",
        "expires_in": issued.expires_in.as_secs(),
        "scope": issued.scope,
    });
    if let (Some(refresh), Some(members)) = (&issued.refresh_token, body.as_object_mut()) {
        members.insert("refresh_token".to_owned(), refresh.as_str().into());
    }
    body
}

/// What a failure of the token service is for the client.
pub fn token_refusal(error: &TokenError) -> Refusal {
    let kind = match error {
        TokenError::Invalid(_) => RefusalKind::InvalidToken,
        TokenError::TooLong(_) => RefusalKind::Forbidden,
        TokenError::Unknown | TokenError::Store(_) => RefusalKind::StoreUnavailable,
        TokenError::Key(_) => RefusalKind::Internal,
    };
    Refusal::new(kind, error.to_string())
}

/// What a failure of the store is for the client.
pub fn store_refusal(error: StoreError) -> Refusal {
    Refusal::new(RefusalKind::StoreUnavailable, error.to_string())
}

/// 404 for an endpoint that does not exist here.
pub async fn not_found(caller: Caller) -> HttpResponse {
    problem(&Refusal::new(RefusalKind::NotFound, "no such endpoint"), caller.request_id)
}

/// The route of a resource for every method that it does not have: 405 with `Allow`.
pub fn other_methods(allow: &'static str) -> Route {
    web::to(move |_request: HttpRequest, caller: Caller| async move {
        let mut refusal = Refusal::new(RefusalKind::MethodNotAllowed, "method of an own endpoint");
        refusal.allow = Some(allow.to_owned());
        problem(&refusal, caller.request_id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;
    use actix_web::body::to_bytes;
    use std::time::Duration;

    #[actix_web::test]
    async fn a_problem_has_type_status_and_request_id_and_no_detail() {
        let mut refusal = Refusal::new(RefusalKind::StepUpRequired, "secret detail");
        refusal.challenge = Some("error=\"insufficient_user_authentication\"".to_owned());
        let id = RequestId::new(Timestamp::from_seconds(1));
        let answer = problem(&refusal, id);
        assert_eq!(answer.status().as_u16(), 401);
        let head = |name: &str| answer.headers().get(name).unwrap().to_str().unwrap().to_owned();
        assert_eq!(head("content-type"), "application/problem+json");
        assert_eq!(head("cache-control"), "no-store");
        assert_eq!(head("referrer-policy"), "no-referrer");
        assert_eq!(head("x-content-type-options"), "nosniff");
        assert!(head("www-authenticate").starts_with("Bearer "));
        let body: serde_json::Value =
            serde_json::from_slice(&to_bytes(answer.into_body()).await.unwrap()).unwrap();
        assert_eq!(body["type"], "urn:portcullis:problem:step-up-required");
        assert_eq!(body["status"], 401);
        assert_eq!(body["request_id"], id.to_string());
        assert!(!body.to_string().contains("secret detail"));
    }

    #[actix_web::test]
    async fn later_tries_and_other_methods_are_named() {
        let id = RequestId::new(Timestamp::from_seconds(1));
        let refusal = Refusal::new(RefusalKind::RateLimited, "").retry_after(7);
        assert_eq!(problem(&refusal, id).headers().get("retry-after").unwrap(), "7");
        let mut refusal = Refusal::new(RefusalKind::MethodNotAllowed, "");
        refusal.allow = Some("GET".to_owned());
        assert_eq!(problem(&refusal, id).headers().get("allow").unwrap(), "GET");
    }

    #[test]
    fn a_token_answer_has_the_members_of_rfc_6749() {
        let mut issued = Issued {
            access_token: "a".to_owned(),
            refresh_token: Some("r".to_owned()),
            expires_in: Duration::from_secs(300),
            scope: String::new(),
            sid: "s".to_owned(),
            jti: "j".to_owned(),
        };
        assert_eq!(
            token_body(&issued),
            serde_json::json!({"access_token": "a", "token_type": "Bearer", "expires_in": 300, "refresh_token": "r", "scope": ""})
        );
        let id = RequestId::new(Timestamp::from_seconds(1));
        let answer = token_answer(id, &issued);
        for (name, value) in
            [("cache-control", "no-store"), ("pragma", "no-cache"), ("content-type", "application/json")]
        {
            assert_eq!(answer.headers().get(name).unwrap(), value);
        }
        issued.refresh_token = None;
        assert!(token_body(&issued).get("refresh_token").is_none());
    }
}
