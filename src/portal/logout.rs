//! `GET` and `POST /auth/logout`: ends the session on every host, and the tokens that were issued in it.

use actix_web::{HttpRequest, HttpResponse, web};

use super::pages;
use crate::http::answer::{own, problem, store_refusal, token_refusal};
use crate::http::body::{self, Parameters};
use crate::http::caller::{bearer_token, headers, only};
use crate::http::event::{Happened, record};
use crate::http::origin::{Site, site};
use crate::http::page::message;
use crate::http::{Caller, Services, cookies, csrf};
use crate::model::{Refusal, RefusalKind, random_token};
use crate::record::Kind;
use crate::tokens::Holder;

/// Asks first: a link or an image on another page signs nobody out.
pub async fn page(request: HttpRequest, caller: Caller, services: web::Data<Services>) -> HttpResponse {
    let config = services.config.load();
    let secure = cookies::secure(&config);
    let before = cookies::read(&request, cookies::Kind::Before, secure).unwrap_or_else(random_token::<16>);
    let token = csrf::token(&csrf::key(&services.keys), &before);
    pages::sign_out(caller.request_id, &config.listen, &token)
        .cookie(&cookies::set(cookies::Kind::Before, &before, secure))
        .finish()
}

/// Signs out: a bearer with their token, a browser with its session.
pub async fn sign_out(
    request: HttpRequest,
    payload: web::Payload,
    caller: Caller,
    services: web::Data<Services>,
) -> HttpResponse {
    let answer = if request.headers().contains_key("authorization") {
        bearer(&services, &caller, &request).await
    } else {
        browser(&services, &caller, &request, payload).await
    };
    answer.unwrap_or_else(|refusal| problem(&refusal, caller.request_id))
}

async fn bearer(
    services: &Services,
    caller: &Caller,
    request: &HttpRequest,
) -> Result<HttpResponse, Refusal> {
    let map = headers(request);
    let token = bearer_token(only(&map, "authorization"))
        .ok_or_else(|| Refusal::new(RefusalKind::BadRequest, "send one Authorization: Bearer"))?;
    let verified = services.tokens.verify(token).map_err(|error| {
        let mut refusal = token_refusal(&error);
        if refusal.kind == RefusalKind::InvalidToken {
            refusal.challenge = Some("error=\"invalid_token\"".to_owned());
        }
        refusal
    })?;
    match &verified.principal.sid {
        Some(sid) => {
            services.sessions.revoke(sid).await.map_err(store_refusal)?;
        }
        None => {
            let holder = Holder::Subject(&verified.principal.name);
            services.tokens.revoke(token, holder).await.map_err(|error| token_refusal(&error))?;
        }
    }
    record(services, caller, request, &Happened::allowed(Kind::Session, &verified.principal, "bearer", 204))
        .await?;
    Ok(own(204, caller.request_id).finish())
}

async fn browser(
    services: &Services,
    caller: &Caller,
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Refusal> {
    let config = services.config.load_full();
    let secure = cookies::secure(&config);
    let form = Parameters::parse(&body::read(payload).await?)?;
    let before = cookies::read(request, cookies::Kind::Before, secure);
    let meant = match site(&headers(request), &caller.origin()) {
        Site::Own => true,
        Site::Other => false,
        Site::Unknown => csrf::matches(&csrf::key(&services.keys), before.as_deref(), form.get("csrf")),
    };
    if !meant {
        return Err(Refusal::new(RefusalKind::CrossSite, "sign-out from another site"));
    }
    let host = caller.target.host.name();
    if let Some(cookie) = cookies::read(request, cookies::Kind::Session, secure)
        && let Some(session) = services.sessions.find(&cookie, host).await.map_err(store_refusal)?
    {
        // Everything of this sign-in first: when that fails, the person still has the session and can try again.
        services.sessions.revoke(&session.sid).await.map_err(store_refusal)?;
        services.sessions.end(&cookie).await.map_err(store_refusal)?;
        let happened = Happened::allowed(Kind::Session, &session.principal, "session", 200);
        record(services, caller, request, &happened).await?;
    }
    let mut answer = message(
        200,
        caller.request_id,
        "You are signed out",
        "You can close this page.",
        Some((&config.listen.endpoint("/login"), "Sign in again")),
    )
    .finish();
    cookies::append(&mut answer, &cookies::clear(cookies::Kind::Session, secure));
    cookies::append(&mut answer, &cookies::clear(cookies::Kind::Before, secure));
    Ok(answer)
}
