//! `POST /auth/revoke` (RFC 7009): a client for its own tokens, a holder for their own.

use actix_web::{HttpRequest, HttpResponse, web};

use super::client::{self, OauthError};
use super::token::form;
use crate::http::answer::own;
use crate::http::caller::{bearer_token, headers, only};
use crate::http::event::{Happened, record};
use crate::http::{Caller, Services};
use crate::model::{AuthMethod, Principal, PrincipalKind};
use crate::record::{Kind, Outcome};
use crate::tokens::{Holder, TokenError};

/// The endpoint: 200 for a token that is revoked now, was before, or never existed (RFC 7009 §2.2).
pub async fn revoke(
    request: HttpRequest,
    payload: web::Payload,
    caller: Caller,
    services: web::Data<Services>,
) -> HttpResponse {
    match revoked(&services, &caller, &request, payload).await {
        Ok(()) => own(200, caller.request_id).finish(),
        Err(error) => {
            let ours = error.status >= 500;
            let happened = Happened {
                kind: Kind::Token,
                outcome: if ours { Outcome::Error } else { Outcome::Deny },
                reason: Some(error.reason()),
                principal: None,
                auth: Some("revoke"),
                status: error.status,
            };
            match record(&services, &caller, &request, &happened).await {
                Ok(()) => error.answer(caller.request_id),
                Err(_) => OauthError::unavailable().answer(caller.request_id),
            }
        }
    }
}

async fn revoked(
    services: &Services,
    caller: &Caller,
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<(), OauthError> {
    let form = form(request, payload).await?;
    let token = form.get("token").ok_or(OauthError::new("invalid_request", "token is missing"))?;
    let headers = headers(request);
    let result = match bearer_token(only(&headers, "authorization")) {
        Some(bearer) => {
            let verified = services.tokens.verify(bearer).map_err(|error| match error {
                TokenError::Invalid(_) => OauthError {
                    status: 401,
                    ..OauthError::new("invalid_token", "the bearer token is not valid")
                },
                _ => OauthError::unavailable(),
            })?;
            services.tokens.revoke(token, Holder::Subject(&verified.principal.name)).await
        }
        None => {
            let claimed = client::claimed(&headers, &form)?;
            let client = client::authenticate(services, &claimed, caller.client_ip).await?;
            services.tokens.revoke(token, Holder::Client(&client.id)).await
        }
    };
    match result {
        Ok(None) | Err(TokenError::Invalid(_)) => Ok(()),
        Ok(Some(subject)) => {
            let kind =
                if subject.starts_with("client:") { PrincipalKind::Client } else { PrincipalKind::User };
            let principal = Principal::new(subject, kind, AuthMethod::Bearer);
            record(services, caller, request, &Happened::allowed(Kind::Token, &principal, "revoke", 200))
                .await
                .map_err(|_| OauthError::unavailable())
        }
        Err(_) => Err(OauthError::unavailable()),
    }
}
