//! `POST /auth/token`: `refresh_token` and `client_credentials` (RFC 6749 §6, §4.4), and an access token for a browser that
//! has a session.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};

use super::client::{self, BUILT_IN, OauthError};
use crate::accounts::AccountError;
use crate::http::answer::token_answer;
use crate::http::body::{self, Media, Parameters};
use crate::http::caller::headers;
use crate::http::cookies;
use crate::http::event::{Happened, record};
use crate::http::origin::{Site, site};
use crate::http::{Caller, Services};
use crate::model::{Principal, PrincipalKind, Refusal, RefusalKind};
use crate::record::{Kind, Outcome};
use crate::tokens::{Issued, TokenError};

/// The grant of a browser with a session on the host of `public_url`: an extension grant (RFC 6749 §4.5).
pub const SESSION: &str = "urn:portcullis:grant-type:session";

/// The endpoint.
pub async fn token(
    request: HttpRequest,
    payload: web::Payload,
    caller: Caller,
    services: web::Data<Services>,
) -> HttpResponse {
    match answer(&services, &caller, &request, payload).await {
        Ok(issued) => token_answer(caller.request_id, &issued),
        Err(error) => error.answer(caller.request_id),
    }
}

/// Reads the form of an OAuth endpoint.
///
/// # Errors
/// `invalid_request` for other content types and repeated parameters.
pub async fn form(request: &HttpRequest, payload: web::Payload) -> Result<Parameters, OauthError> {
    let read = async {
        match body::media(request)? {
            Media::Form => Parameters::parse(&body::read(payload).await?),
            Media::Json => Err(Refusal::new(RefusalKind::UnsupportedMediaType, "OAuth takes forms")),
        }
    };
    read.await.map_err(|refusal| OauthError::from_refusal(&refusal))
}

async fn answer(
    services: &Services,
    caller: &Caller,
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<Issued, OauthError> {
    let form = form(request, payload).await;
    let grant = form.as_ref().ok().and_then(|form| form.get("grant_type"));
    let granted = |(issued, principal)| (issued, Some(principal));
    let (method, result) = match (&form, grant) {
        (Err(error), _) => (None, Err(error.clone())),
        (Ok(_), None) => (None, Err(OauthError::new("invalid_request", "grant_type is missing"))),
        (Ok(form), Some("refresh_token")) => {
            let issued = refresh(services, caller, request, form).await;
            (Some("refresh"), issued.map(|issued| (issued, None)))
        }
        (Ok(form), Some("client_credentials")) => {
            (Some("client"), client_credentials(services, caller, request, form).await.map(granted))
        }
        (Ok(form), Some(SESSION)) => {
            (Some("session"), session(services, caller, request, form).await.map(granted))
        }
        (Ok(_), Some(_)) => {
            (None, Err(OauthError::new("unsupported_grant_type", "not a grant of this server")))
        }
    };
    let error = match result {
        Ok((issued, principal)) => {
            let principal = match principal {
                Some(principal) => Arc::new(principal),
                None => services
                    .tokens
                    .verify(&issued.access_token)
                    .map(|verified| Arc::clone(&verified.principal))
                    // Among simultaneous uses another one may have ended the family meanwhile.
                    .map_err(|error| token_error(&error))?,
            };
            let method = method.unwrap_or_default();
            services.metrics.login(method, "ok");
            record(services, caller, request, &Happened::allowed(Kind::Token, &principal, method, 200))
                .await
                .map_err(|_| OauthError::unavailable())?;
            return Ok(issued);
        }
        Err(error) => error,
    };
    let ours = error.status >= 500;
    if let Some(method) = method {
        let result = match error.status {
            429 => "limited",
            _ if ours => "error",
            _ => "wrong",
        };
        services.metrics.login(method, result);
    }
    let happened = Happened {
        kind: Kind::Token,
        outcome: if ours { Outcome::Error } else { Outcome::Deny },
        reason: Some(error.reason()),
        principal: None,
        auth: method,
        status: error.status,
    };
    record(services, caller, request, &happened).await.map_err(|_| OauthError::unavailable())?;
    Err(error)
}

async fn refresh(
    services: &Services,
    caller: &Caller,
    request: &HttpRequest,
    form: &Parameters,
) -> Result<Issued, OauthError> {
    let claimed = client::claimed(&headers(request), form)?;
    let client = client::authenticate(services, &claimed, caller.client_ip).await?;
    if client.id != BUILT_IN {
        return Err(OauthError::new("unauthorized_client", "the client may not use refresh_token"));
    }
    let token =
        form.get("refresh_token").ok_or(OauthError::new("invalid_request", "refresh_token is missing"))?;
    services
        .tokens
        .refresh(token, &client.id, services.identifier.as_ref())
        .await
        .map_err(|error| token_error(&error))
}

async fn client_credentials(
    services: &Services,
    caller: &Caller,
    request: &HttpRequest,
    form: &Parameters,
) -> Result<(Issued, Principal), OauthError> {
    let config = services.config.load_full();
    let claimed = client::claimed(&headers(request), form)?;
    let client = client::authenticate(services, &claimed, caller.client_ip).await?;
    let refused = OauthError::new("unauthorized_client", "the client may not use client_credentials");
    let Some(principal) = client.principal else { return Err(refused) };
    if !grants(&config, &client.id, "client_credentials") {
        return Err(refused);
    }
    let known = config.clients.iter().find(|known| known.id == client.id);
    let scopes = known.map(|known| known.scopes.as_slice()).unwrap_or_default();
    let scope = granted(form.get("scope"), scopes)?;
    match services.directory.admit(&principal.name, PrincipalKind::Client).await {
        Ok(()) => {}
        Err(AccountError::Store(_)) => return Err(OauthError::unavailable()),
        Err(_) => return Err(OauthError::new("unauthorized_client", "the client's name is used as a role")),
    }
    let issued = services
        .tokens
        .issue(&principal, &client.id, &scope, false)
        .await
        .map_err(|error| token_error(&error))?;
    Ok((issued, principal))
}

/// An access token in the browser's session, which ends it too; no refresh token, as the session is there to ask again.
/// On the host of `public_url` alone: a token counts on every host, the cookie of another host on that one.
async fn session(
    services: &Services,
    caller: &Caller,
    request: &HttpRequest,
    form: &Parameters,
) -> Result<(Issued, Principal), OauthError> {
    let config = services.config.load_full();
    let headers = headers(request);
    let claimed = client::claimed(&headers, form)?;
    let client = client::authenticate(services, &claimed, caller.client_ip).await?;
    if client.id != BUILT_IN {
        return Err(OauthError::new("unauthorized_client", "the client may not use a session"));
    }
    let host = caller.target.host.name();
    if config.listen.public_url.host_str() != Some(host) {
        return Err(OauthError::new("invalid_request", "ask on the host of public_url"));
    }
    if site(&headers, &caller.origin()) != Site::Own {
        let error =
            OauthError::new("access_denied", "only a page of this origin gets it: Sec-Fetch-Site or Origin");
        return Err(OauthError { status: 403, ..error });
    }
    let cookie = cookies::read(request, cookies::Kind::Session, cookies::secure(&config));
    let found = match cookie {
        Some(cookie) => services.identifier.session_of(&cookie, host).await,
        None => Ok(None),
    };
    let found = found.map_err(|_| OauthError::unavailable())?;
    let session = found.ok_or(OauthError::new("invalid_grant", "there is no session: sign in first"))?;
    let principal = Principal::clone(&session.principal);
    let issued = services.tokens.issue(&principal, BUILT_IN, &[], false).await;
    Ok((issued.map_err(|error| token_error(&error))?, principal))
}

fn grants(config: &crate::config::Config, id: &str, grant: &str) -> bool {
    config
        .clients
        .iter()
        .any(|client| client.id == id && client.grant_types.iter().any(|known| known == grant))
}

/// The scopes asked for, when the client has all of them; without any, all of the client's.
fn granted(asked: Option<&str>, has: &[String]) -> Result<Vec<Arc<str>>, OauthError> {
    let Some(asked) = asked else {
        return Ok(has.iter().map(|scope| Arc::from(scope.as_str())).collect());
    };
    let mut scope: Vec<Arc<str>> = Vec::new();
    for word in asked.split(' ').filter(|word| !word.is_empty()) {
        if !has.iter().any(|known| known == word) {
            return Err(OauthError::new("invalid_scope", "the client does not have that scope"));
        }
        if !scope.iter().any(|known| &**known == word) {
            scope.push(Arc::from(word));
        }
    }
    Ok(scope)
}

/// What a failure of the token service is in OAuth's words.
pub fn token_error(error: &TokenError) -> OauthError {
    tracing::debug!(%error, "token request refused");
    match error {
        TokenError::Invalid(_) => {
            OauthError::new("invalid_grant", "the token is unknown, used, expired or revoked")
        }
        TokenError::TooLong(_) => OauthError {
            status: 403,
            ..OauthError::new(
                "access_denied",
                "the roles and attributes do not fit in a token; ask the operator",
            )
        },
        TokenError::Unknown | TokenError::Store(_) => OauthError::unavailable(),
        TokenError::Key(_) => {
            OauthError { status: 500, ..OauthError::new("server_error", "something went wrong here") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_only_its_own_scopes() {
        let has = ["a".to_owned(), "b".to_owned()];
        let words = |asked| {
            granted(asked, &has).map(|scope| scope.iter().map(|word| word.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(words(None).unwrap(), ["a", "b"]);
        assert_eq!(words(Some("b  b")).unwrap(), ["b"]);
        assert_eq!(words(Some("a c")).unwrap_err().error, "invalid_scope");
    }
}
