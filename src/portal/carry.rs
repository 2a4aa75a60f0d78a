//! Where a sign-in leads, and how a session reaches another host: a code that works once, on that host, in the
//! browser that was sent away from there.

use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::pages;
use crate::http::answer::{own, problem, redirect};
use crate::http::body::Parameters;
use crate::http::event::{Happened, record};
use crate::http::return_to::Allowed;
use crate::http::{Caller, Services, cookies};
use crate::model::{AuthMethod, Principal, Refusal, RefusalKind, random_token};
use crate::record::Kind;
use crate::store::StoreError;

/// Where the browser goes after sign-in.
#[derive(Clone, Debug, Default)]
pub struct Destination {
    /// The checked `return_to`.
    pub url: Option<Url>,
    /// It is on another host than the request, and this is the hash of that host's binding cookie.
    pub carry: Option<String>,
    elsewhere: bool,
}

impl Destination {
    /// Reads `return_to` and `carry` of a query or a form.
    pub fn read(services: &Services, caller: &Caller, parameters: &Parameters) -> Self {
        let allowed = Allowed::of(&services.config.load());
        let url = parameters.get("return_to").and_then(|text| allowed.parse(text, &caller.origin()));
        Self::new(url, parameters.get("carry"), caller.target.host.name())
    }

    /// The destination of a sign-in that happens on `host`.
    pub fn new(url: Option<Url>, carry: Option<&str>, host: &str) -> Self {
        let elsewhere = url.as_ref().and_then(Url::host_str).is_some_and(|other| other != host);
        let hash = carry.filter(|hash| URL_SAFE_NO_PAD.decode(hash).is_ok_and(|bytes| bytes.len() == 32));
        Self { url, carry: hash.filter(|_| elsewhere).map(str::to_owned), elsewhere }
    }

    /// The same as a query, with `?`, or nothing.
    pub fn query(&self) -> String {
        let Some(url) = &self.url else { return String::new() };
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("return_to", url.as_str());
        if let Some(hash) = &self.carry {
            query.append_pair("carry", hash);
        }
        format!("?{}", query.finish())
    }

    /// Origins besides our own that the sign-in form may lead to.
    pub fn form_targets(&self, own: &str) -> Vec<String> {
        let origin = self.url.as_ref().map(|url| url.origin().ascii_serialization());
        origin.into_iter().filter(|origin| origin != own).collect()
    }

    /// `/auth/session` on the destination's host.
    fn session_endpoint(&self) -> Option<Url> {
        let mut url = self.url.clone()?;
        url.set_path("/auth/session");
        url.set_fragment(None);
        url.set_query(None);
        Some(url)
    }
}

/// The end of a sign-in: a new session with its cookie, the event, and the way to where the person wanted to be.
///
/// # Errors
/// When the store or the audit log does not take it: then there is no session.
pub async fn landing(
    services: &Services,
    caller: &Caller,
    request: &HttpRequest,
    mut principal: Principal,
    destination: &Destination,
    auth: &str,
) -> Result<HttpResponse, Refusal> {
    let secure = cookies::secure(&services.config.load());
    let host = caller.target.host.name();
    // A new sign-in never goes on with the id of an old session.
    if let Some(old) = cookies::read(request, cookies::Kind::Session, secure) {
        services.sessions.end(&old).await.map_err(store)?;
    }
    principal.method = AuthMethod::Session;
    principal.sid = None;
    let (cookie, session) = services.sessions.create(principal, host).await.map_err(store)?;
    let happened = Happened::allowed(Kind::Login, &session.principal, auth, 303);
    if let Err(refusal) = record(services, caller, request, &happened).await {
        services.sessions.end(&cookie).await.map_err(store)?;
        return Err(refusal);
    }
    let location = match (&destination.url, &destination.carry) {
        (Some(_), Some(binding)) => Some(code_url(services, &session, destination, binding).await?),
        (Some(url), None) if destination.elsewhere => destination.session_endpoint().map(|mut start| {
            start.query_pairs_mut().append_pair("return_to", url.as_str());
            start
        }),
        (url, _) => url.clone(),
    };
    let mut answer = match &location {
        Some(url) => redirect(303, caller.request_id, url.as_str()),
        None => redirect(303, caller.request_id, "/auth/session"),
    };
    for cookie in
        [cookies::set(cookies::Kind::Session, &cookie, secure), cookies::clear(cookies::Kind::Before, secure)]
    {
        append_cookie(&mut answer, &cookie);
    }
    Ok(answer)
}

/// Sends a browser with a session on this host on to the host that waits for it.
///
/// # Errors
/// When the store is away.
pub async fn send_on(
    services: &Services,
    caller: &Caller,
    request: &HttpRequest,
    destination: &Destination,
) -> Result<Option<HttpResponse>, Refusal> {
    let Some(binding) = &destination.carry else { return Ok(None) };
    let secure = cookies::secure(&services.config.load());
    let Some(cookie) = cookies::read(request, cookies::Kind::Session, secure) else { return Ok(None) };
    let found = services.sessions.find(&cookie, caller.target.host.name()).await.map_err(store)?;
    let Some(session) = found else { return Ok(None) };
    let url = code_url(services, &session, destination, binding).await?;
    Ok(Some(redirect(302, caller.request_id, url.as_str())))
}

async fn code_url(
    services: &Services,
    session: &crate::sessions::Session,
    destination: &Destination,
    binding: &str,
) -> Result<Url, Refusal> {
    let none = || Refusal::new(RefusalKind::BadRequest, "no host to carry the session to");
    let (Some(url), Some(mut endpoint)) = (&destination.url, destination.session_endpoint()) else {
        return Err(none());
    };
    let host = url.host_str().ok_or_else(none)?;
    let code = services.sessions.carry(session, host, binding).await.map_err(store)?;
    endpoint.query_pairs_mut().append_pair("code", &code).append_pair("return_to", url.as_str());
    Ok(endpoint)
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
        Some(cookie) => services.sessions.find(&cookie, host).await.map_err(store)?.is_some(),
        None => false,
    };
    let wanted = query.get("return_to").and_then(|text| Allowed::of(&config).parse(text, &caller.origin()));
    let Some(url) = wanted.filter(|url| url.host_str() == Some(host)) else {
        let login = Some(("/auth/login", "Sign in"));
        return Ok(if signed_in {
            pages::signed_in(caller.request_id)
        } else {
            pages::message(200, caller.request_id, "You are not signed in", "Sign in to go on.", login)
                .finish()
        });
    };
    let mut login = config.listen.public_url.clone();
    login.set_path("/auth/login");
    login.query_pairs_mut().clear().append_pair("return_to", url.as_str());
    // The gateway sends a browser with a live session here only when that session is not strong or recent enough.
    if signed_in {
        login.query_pairs_mut().append_pair("prompt", "login");
    }
    if login.host_str() == Some(host) {
        return Ok(redirect(302, caller.request_id, login.as_str()));
    }
    let value = cookies::read(request, cookies::Kind::Binding, secure).unwrap_or_else(random_token::<32>);
    login.query_pairs_mut().append_pair("carry", &hash(&value));
    let mut answer = redirect(302, caller.request_id, login.as_str());
    append_cookie(&mut answer, &cookies::set(cookies::Kind::Binding, &value, secure));
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
        let login = Some(("/auth/login", "Sign in"));
        pages::message(400, caller.request_id, "Sign in again", "This link was used or is too old.", login)
            .finish()
    };
    let Some(binding) = cookies::read(request, cookies::Kind::Binding, secure) else { return Ok(again()) };
    let redeemed = services.sessions.redeem(code, host, &hash(&binding)).await.map_err(store)?;
    let Some((cookie, session)) = redeemed else {
        let refusal =
            Refusal::new(RefusalKind::Unauthenticated, "the code is unknown, used, old or another browser's");
        record(services, caller, request, &Happened::refused(Kind::Session, &refusal, None, "session"))
            .await?;
        return Ok(again());
    };
    let happened = Happened::allowed(Kind::Session, &session.principal, "session", 303);
    if let Err(refusal) = record(services, caller, request, &happened).await {
        services.sessions.end(&cookie).await.map_err(store)?;
        return Err(refusal);
    }
    let url = query.get("return_to").and_then(|text| Allowed::of(&config).parse(text, &caller.origin()));
    let target = url.filter(|url| url.host_str() == Some(host));
    let location = target.as_ref().map_or("/auth/session", Url::as_str);
    let mut answer = own(303, caller.request_id);
    answer.insert_header(("location", location));
    answer.append_header(("set-cookie", cookies::set(cookies::Kind::Session, &cookie, secure)));
    answer.append_header(("set-cookie", cookies::clear(cookies::Kind::Binding, secure)));
    Ok(answer.finish())
}

/// What a failure of the store is for the client.
pub fn store(error: StoreError) -> Refusal {
    Refusal::new(RefusalKind::StoreUnavailable, error.to_string())
}

/// Adds `Set-Cookie`.
pub fn append_cookie(answer: &mut HttpResponse, cookie: &str) {
    if let Ok(value) = actix_web::http::header::HeaderValue::from_str(cookie) {
        answer.headers_mut().append(actix_web::http::header::SET_COOKIE, value);
    }
}

fn hash(value: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(value.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_carried_to_another_host_only() {
        let url = || Some(Url::parse("https://app.example/x?y#z").unwrap());
        let hash = hash("cookie");
        let there = Destination::new(url(), Some(&hash), "gate.example");
        assert_eq!(there.carry.as_deref(), Some(hash.as_str()));
        assert_eq!(there.session_endpoint().unwrap().as_str(), "https://app.example/auth/session");
        assert_eq!(there.form_targets("https://gate.example"), ["https://app.example"]);
        assert_eq!(Destination::new(url(), Some(&hash), "app.example").carry, None);
        assert_eq!(Destination::new(url(), Some("short"), "gate.example").carry, None);
        assert!(there.query().starts_with("?return_to=https%3A%2F%2Fapp.example%2Fx%3Fy%23z&carry="));
    }
}
