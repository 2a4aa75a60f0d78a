//! How a session reaches another host: a code that works once, on that host, in the browser that was sent away from
//! there. The way to it begins in `http::landing`.

use actix_web::{HttpRequest, HttpResponse, web};
use url::Url;

use super::pages;
use crate::http::answer::{own, problem, redirect, store_refusal};
use crate::http::body::Parameters;
use crate::http::event::{Happened, record};
use crate::http::landing::{Destination, code_url, hash};
use crate::http::page::message;
use crate::http::return_to::Allowed;
use crate::http::{Caller, Services, cookies};
use crate::model::{Refusal, RefusalKind, random_token};
use crate::record::Kind;

/// Sends a browser with a session on this host on to the host that waits for it: with a code, or first without one,
/// to get that host's binding cookie.
///
/// # Errors
/// When the store is away.
pub async fn send_on(
    services: &Services,
    caller: &Caller,
    request: &HttpRequest,
    destination: &Destination,
) -> Result<Option<HttpResponse>, Refusal> {
    let secure = cookies::secure(&services.config.load());
    let Some(cookie) = cookies::read(request, cookies::Kind::Session, secure) else { return Ok(None) };
    let found =
        services.identifier.session_of(&cookie, caller.target.host.name()).await.map_err(store_refusal)?;
    let Some(session) = found else { return Ok(None) };
    let url = match &destination.carry {
        Some(binding) => code_url(services, &session, destination, binding).await?,
        None => match destination.start(&services.config.load().listen, false) {
            Some(url) => url,
            None => return Ok(None),
        },
    };
    Ok(Some(redirect(302, caller.request_id, url.as_str())))
}

/// `GET /auth/session`: with `code`, redeems it; with `return_to` alone, sends the browser away to sign in; with
/// neither, says whether it is signed in.
pub async fn session(request: HttpRequest, caller: Caller, services: web::Data<Services>) -> HttpResponse {
    let answer = match Parameters::parse(request.query_string().as_bytes()) {
        Ok(query) => match query.get("code") {
            Some(code) => redeem(&services, &caller, &request, &query, code).await,
            None => start(&services, &caller, &request, &query).await,
        },
        Err(refusal) => Err(refusal),
    };
    answer.unwrap_or_else(|refusal| problem(&refusal, caller.request_id))
}

async fn start(
    services: &Services,
    caller: &Caller,
    request: &HttpRequest,
    query: &Parameters,
) -> Result<HttpResponse, Refusal> {
    let config = services.config.load();
    let secure = cookies::secure(&config);
    let host = caller.target.host.name();
    let signed_in = match cookies::read(request, cookies::Kind::Session, secure) {
        Some(cookie) => services.identifier.session_of(&cookie, host).await.map_err(store_refusal)?.is_some(),
        None => false,
    };
    let wanted = query.get("return_to").and_then(|text| Allowed::of(&config).parse(text, &caller.origin()));
    let Some(url) = wanted.filter(|url| url.host_str() == Some(host)) else {
        let login = config.listen.endpoint("/login");
        let login = Some((login.as_str(), "Sign in"));
        return Ok(if signed_in {
            pages::signed_in(caller.request_id, &config.listen)
        } else {
            message(200, caller.request_id, "You are not signed in", "Sign in to go on.", login).finish()
        });
    };
    let mut login = config.listen.endpoint_url("/login");
    login.query_pairs_mut().append_pair("return_to", url.as_str());
    // A browser with a live session that does not come from a sign-in needs a stronger or a newer one.
    if signed_in && query.get("fresh").is_none() {
        login.query_pairs_mut().append_pair("prompt", "login");
    }
    if login.host_str() == Some(host) {
        return Ok(redirect(302, caller.request_id, login.as_str()));
    }
    let value = cookies::read(request, cookies::Kind::Binding, secure).unwrap_or_else(random_token::<32>);
    login.query_pairs_mut().append_pair("carry", &hash(&value));
    let mut answer = redirect(302, caller.request_id, login.as_str());
    cookies::append(&mut answer, &cookies::set(cookies::Kind::Binding, &value, secure));
    Ok(answer)
}

async fn redeem(
    services: &Services,
    caller: &Caller,
    request: &HttpRequest,
    query: &Parameters,
    code: &str,
) -> Result<HttpResponse, Refusal> {
    let config = services.config.load();
    let secure = cookies::secure(&config);
    let host = caller.target.host.name();
    let again = || {
        let login = config.listen.endpoint("/login");
        let login = Some((login.as_str(), "Sign in"));
        message(400, caller.request_id, "Sign in again", "This link was used or is too old.", login).finish()
    };
    let Some(binding) = cookies::read(request, cookies::Kind::Binding, secure) else { return Ok(again()) };
    let redeemed = services.sessions.redeem(code, host, &hash(&binding)).await.map_err(store_refusal)?;
    let Some((cookie, session)) = redeemed else {
        let refusal =
            Refusal::new(RefusalKind::Unauthenticated, "the code is unknown, used, old or another browser's");
        record(services, caller, request, &Happened::refused(Kind::Session, &refusal, None, "session"))
            .await?;
        return Ok(again());
    };
    let happened = Happened::allowed(Kind::Session, &session.principal, "session", 303);
    if let Err(refusal) = record(services, caller, request, &happened).await {
        services.sessions.end(&cookie).await.map_err(store_refusal)?;
        return Err(refusal);
    }
    let url = query.get("return_to").and_then(|text| Allowed::of(&config).parse(text, &caller.origin()));
    let target = url.filter(|url| url.host_str() == Some(host));
    let location = target.map_or_else(|| config.listen.endpoint("/session"), Url::into);
    let mut answer = own(303, caller.request_id);
    answer.insert_header(("location", location));
    answer.append_header(("set-cookie", cookies::set(cookies::Kind::Session, &cookie, secure)));
    answer.append_header(("set-cookie", cookies::clear(cookies::Kind::Binding, secure)));
    Ok(answer.finish())
}
