//! The end of every sign-in. For a person: a new session, its cookie, and the way to where they wanted to be, on this host
//! or another one. For a program: tokens. Called by the doors that sign people in; the other half of the way is `portal::carry`.

use actix_web::{HttpRequest, HttpResponse};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::answer::{redirect, store_refusal, token_answer, token_refusal};
use super::body::Parameters;
use super::event::{Happened, record};
use super::return_to::Allowed;
use super::{Caller, Services, cookies};
use crate::config::Listen;
use crate::model::{AuthMethod, Principal, Refusal, RefusalKind};
use crate::record::Kind;
use crate::sessions::Session;

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
        Self::checked(services, caller, parameters.get("return_to"), parameters.get("carry"))
    }

    /// The destination of a sign-in by this caller, when it is permitted.
    pub fn checked(
        services: &Services,
        caller: &Caller,
        return_to: Option<&str>,
        carry: Option<&str>,
    ) -> Self {
        let allowed = Allowed::of(&services.config.load());
        let url = return_to.and_then(|text| allowed.parse(text, &caller.origin()));
        let served = url.as_ref().is_some_and(|url| allowed.serves(url));
        Self::new(url, served, carry, caller.target.host.name())
    }

    /// `served`: our own endpoints answer on the URL's host.
    fn new(url: Option<Url>, served: bool, carry: Option<&str>, host: &str) -> Self {
        let elsewhere = served && url.as_ref().and_then(Url::host_str).is_some_and(|other| other != host);
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

    /// The person wants to go to another host that is served here.
    pub fn elsewhere(&self) -> bool {
        self.elsewhere
    }

    /// Where that host begins to fetch the session. `fresh`: the person signed in just now, and need not do it again.
    pub fn start(&self, listen: &Listen, fresh: bool) -> Option<Url> {
        let mut start = self.session_endpoint(listen)?;
        start.query_pairs_mut().append_pair("return_to", self.url.as_ref()?.as_str());
        if fresh {
            start.query_pairs_mut().append_pair("fresh", "1");
        }
        Some(start)
    }

    /// `/auth/session` on the destination's host.
    fn session_endpoint(&self, listen: &Listen) -> Option<Url> {
        let mut url = self.url.clone()?;
        url.set_path(&listen.endpoint("/session"));
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
    let config = services.config.load_full();
    let secure = cookies::secure(&config);
    let host = caller.target.host.name();
    // A new sign-in never goes on with the id of an old session.
    if let Some(old) = cookies::read(request, cookies::Kind::Session, secure) {
        services.sessions.end(&old).await.map_err(store_refusal)?;
    }
    principal.method = AuthMethod::Session;
    principal.sid = None;
    let (cookie, session) = services.sessions.create(principal, host).await.map_err(store_refusal)?;
    let happened = Happened::allowed(Kind::Login, &session.principal, auth, 303);
    if let Err(refusal) = record(services, caller, request, &happened).await {
        services.sessions.end(&cookie).await.map_err(store_refusal)?;
        return Err(refusal);
    }
    let location = match (&destination.url, &destination.carry) {
        (Some(_), Some(binding)) => Some(code_url(services, &session, destination, binding).await?),
        (Some(_), None) if destination.elsewhere => destination.start(&config.listen, true),
        (url, _) => url.clone(),
    };
    let mut answer = match &location {
        Some(url) => redirect(303, caller.request_id, url.as_str()),
        None => redirect(303, caller.request_id, &config.listen.endpoint("/session")),
    };
    for cookie in
        [cookies::set(cookies::Kind::Session, &cookie, secure), cookies::clear(cookies::Kind::Before, secure)]
    {
        cookies::append(&mut answer, &cookie);
    }
    Ok(answer)
}

/// The end of a program's sign-in: tokens of the built-in client, and the event.
///
/// # Errors
/// When there is no token for the principal, or the audit log does not take the event. The caller records it.
pub async fn tokens(
    services: &Services,
    caller: &Caller,
    request: &HttpRequest,
    mut principal: Principal,
    auth: &str,
) -> Result<HttpResponse, Refusal> {
    let issued = services.tokens.issue(&principal, "portcullis", &[], true).await;
    let issued = issued.map_err(|error| token_refusal(&error))?;
    principal.sid = Some(issued.sid.as_str().into());
    record(services, caller, request, &Happened::allowed(Kind::Login, &principal, auth, 200)).await?;
    Ok(token_answer(caller.request_id, &issued))
}

/// Where the browser takes a code that works once for this session on the destination's host.
///
/// # Errors
/// When the store is away.
pub async fn code_url(
    services: &Services,
    session: &Session,
    destination: &Destination,
    binding: &str,
) -> Result<Url, Refusal> {
    let none = || Refusal::new(RefusalKind::BadRequest, "no host to carry the session to");
    let (Some(url), Some(mut endpoint)) =
        (&destination.url, destination.session_endpoint(&services.config.load().listen))
    else {
        return Err(none());
    };
    let host = url.host_str().ok_or_else(none)?;
    let code = services.sessions.carry(session, host, binding).await.map_err(store_refusal)?;
    endpoint.query_pairs_mut().append_pair("code", &code).append_pair("return_to", url.as_str());
    Ok(endpoint)
}

/// The form in which a cookie's value goes to other hosts and into the store.
pub fn hash(value: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(value.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_carried_to_another_host_only() {
        let url = || Some(Url::parse("https://app.example/x?y#z").unwrap());
        let hash = hash("cookie");
        let there = Destination::new(url(), true, Some(&hash), "gate.example");
        assert_eq!(there.carry.as_deref(), Some(hash.as_str()));
        assert_eq!(
            there.session_endpoint(&Listen::default()).unwrap().as_str(),
            "https://app.example/auth/session"
        );
        assert_eq!(there.form_targets("https://gate.example"), ["https://app.example"]);
        assert_eq!(Destination::new(url(), true, Some(&hash), "app.example").carry, None);
        let listed = Destination::new(url(), false, Some(&hash), "gate.example");
        assert_eq!((listed.carry, listed.elsewhere), (None, false));
        assert_eq!(Destination::new(url(), true, Some("short"), "gate.example").carry, None);
        assert!(there.query().starts_with("?return_to=https%3A%2F%2Fapp.example%2Fx%3Fy%23z&carry="));
    }
}
