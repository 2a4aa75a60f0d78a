//! Signing in with another identity provider (OpenID Connect Core, authorization code with PKCE). Registered by
//! `http::routes`. One more kind of provider is one more module like `provider.rs` and an arm where it is called.

mod claims;
mod provider;
mod state;

use actix_web::{HttpRequest, HttpResponse, web};

use crate::accounts::AccountError;
use crate::config::{Config, Provider};
use crate::http::answer::{other_methods, problem, redirect, store_refusal};
use crate::http::body::Parameters;
use crate::http::event::{Happened, record};
use crate::http::landing::{Destination, landing, tokens};
use crate::http::page::message;
use crate::http::{Caller, Services, cookies};
use crate::identify::SignInError;
use crate::model::{Principal, Refusal, RefusalKind, random_token};
use crate::record::Kind;
use provider::Known;
use state::Away;

/// The endpoints of this door.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/auth/sso/{provider}/callback")
                .route(web::get().to(callback))
                .default_service(other_methods("GET")),
        )
        .service(
            web::resource("/auth/sso/{provider}")
                .route(web::get().to(start))
                .default_service(other_methods("GET")),
        );
}

async fn start(
    request: HttpRequest,
    name: web::Path<String>,
    caller: Caller,
    services: web::Data<Services>,
) -> HttpResponse {
    match leave(&services, &caller, &request, &name).await {
        Ok(answer) => answer,
        Err(failed) => failure(&services, &caller, &request, failed).await,
    }
}

async fn callback(
    request: HttpRequest,
    name: web::Path<String>,
    caller: Caller,
    services: web::Data<Services>,
) -> HttpResponse {
    match come_back(&services, &caller, &request, &name).await {
        Ok(answer) => answer,
        Err(failed) => failure(&services, &caller, &request, failed).await,
    }
}

/// A sign-in that did not come about.
struct Failed {
    refusal: Refusal,
    /// What the page says, where the kind of refusal says too little.
    text: Option<&'static str>,
    /// Where the person wanted to go, as the login page's query.
    destination: String,
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, text: None, destination: String::new() }
    }
}

/// Sends the browser to the provider.
async fn leave(
    services: &Services,
    caller: &Caller,
    request: &HttpRequest,
    name: &str,
) -> Result<HttpResponse, Failed> {
    let config = services.config.load_full();
    let provider = find(&config, name)?;
    let query = Parameters::parse(request.query_string().as_bytes())?;
    let public = &config.listen.public_url;
    if public.host_str() != Some(caller.target.host.name()) {
        let mut there = config.listen.endpoint_url(&format!("/sso/{name}"));
        let destination = Destination::read(services, caller, &query);
        let tail = destination.query();
        there.set_query(tail.strip_prefix('?'));
        return Ok(redirect(302, caller.request_id, there.as_str()));
    }
    let destination = Destination::read(services, caller, &query);
    let lost = |refusal: Refusal| Failed { destination: destination.query(), ..refusal.into() };
    let left = services.identifier.may_leave(caller.client_ip).await;
    left.map_err(|limited| lost(too_often(limited)))?;
    let known = Known::of(provider, services.clock.now()).await.map_err(lost)?;
    let secure = cookies::secure(&config);
    let browser = cookies::read(request, cookies::Kind::SignOn, secure).unwrap_or_else(random_token::<32>);
    let away = Away::new(name, &destination, &browser);
    let state = away.put(services).await.map_err(lost)?;
    let url = known.authorize(provider, &redirect_uri(&config, name), &away, &state).map_err(lost)?;
    let mut answer = redirect(302, caller.request_id, url.as_str());
    cookies::append(&mut answer, &cookies::set(cookies::Kind::SignOn, &browser, secure));
    Ok(answer)
}

/// Takes the browser back: the answer to a visit that began here, in this browser, at this provider.
async fn come_back(
    services: &Services,
    caller: &Caller,
    request: &HttpRequest,
    name: &str,
) -> Result<HttpResponse, Failed> {
    let config = services.config.load_full();
    let provider = find(&config, name)?;
    let query = Parameters::parse(request.query_string().as_bytes())?;
    let browser = cookies::read(request, cookies::Kind::SignOn, cookies::secure(&config))
        .ok_or_else(|| wrong("this browser was not sent to the provider"))?;
    let state = query.get("state").ok_or_else(|| wrong("the provider sent no state"))?;
    let away = Away::take(services, state, name, &browser).await?;
    let destination = away.destination(services, caller);
    let principal = match exchanged(services, &config, provider, &query, &away).await {
        Ok(principal) => principal,
        Err(failed) => return Err(Failed { destination: destination.query(), ..failed }),
    };
    let mut answer = match wants_json(request) {
        true => tokens(services, caller, request, principal, "sso").await?,
        false => landing(services, caller, request, principal, &destination, "sso").await?,
    };
    cookies::append(&mut answer, &cookies::clear(cookies::Kind::SignOn, cookies::secure(&config)));
    services.metrics.login("sso", "ok");
    Ok(answer)
}

/// True for a program, which gets tokens where a browser gets a session.
fn wants_json(request: &HttpRequest) -> bool {
    let accept = request.headers().get("accept").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let first = accept.split([',', ';']).next().unwrap_or_default();
    first.trim().eq_ignore_ascii_case("application/json")
}

/// The principal behind the code of the provider's answer.
async fn exchanged(
    services: &Services,
    config: &Config,
    provider: &Provider,
    query: &Parameters,
    away: &Away,
) -> Result<Principal, Failed> {
    let now = services.clock.now();
    let known = Known::of(provider, now).await?;
    // RFC 9207: an answer of another issuer is a mix-up.
    if !known.sent(query.get("iss")) {
        return Err(wrong("the answer is of another issuer, or does not say whose it is").into());
    }
    if let Some(error) = query.get("error") {
        let name: String = error.chars().filter(char::is_ascii_graphic).take(64).collect();
        let text = match error {
            "access_denied" => "The sign-in was cancelled or refused there. Start again to sign in.",
            _ => "The other sign-in service reports an error. Start again, or sign in another way.",
        };
        return Err(Failed { text: Some(text), ..wrong(format!("the provider refused: {name}")).into() });
    }
    let code = query.get("code").ok_or_else(|| wrong("the provider sent no code"))?;
    let complete = |claims: &_| claims::complete(provider, claims);
    let redirect = redirect_uri(config, &provider.name);
    let verified = known.exchange(provider, &redirect, away, code, now, complete).await?;
    let principal = claims::principal(provider, &verified, now)?;
    admit(services, &principal).await?;
    Ok(principal)
}

fn too_often(error: SignInError) -> Refusal {
    match error {
        SignInError::TooOften { retry_after } => {
            Refusal::new(RefusalKind::RateLimited, "too many visits from this address")
                .retry_after(retry_after)
        }
        SignInError::Store(error) => store_refusal(error),
        other => Refusal::new(RefusalKind::Internal, format!("{other:?}")),
    }
}

fn wrong(detail: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::new(RefusalKind::Unauthenticated, detail)
}

async fn admit(services: &Services, principal: &Principal) -> Result<(), Refusal> {
    match services.directory.admit(&principal.name, principal.kind).await {
        Ok(()) => Ok(()),
        Err(AccountError::Store(error)) => Err(store_refusal(error)),
        Err(error) => Err(Refusal::new(RefusalKind::Forbidden, error.to_string())),
    }
}

fn find<'a>(config: &'a Config, name: &str) -> Result<&'a Provider, Refusal> {
    let found = config.providers.iter().find(|provider| provider.name == name);
    found.ok_or_else(|| Refusal::new(RefusalKind::NotFound, "no such provider"))
}

fn redirect_uri(config: &Config, name: &str) -> url::Url {
    config.listen.endpoint_url(&format!("/sso/{name}/callback"))
}

/// Records the failure; the page that says what to do next.
async fn failure(
    services: &Services,
    caller: &Caller,
    request: &HttpRequest,
    failed: Failed,
) -> HttpResponse {
    let Failed { refusal, text, destination } = failed;
    if refusal.kind == RefusalKind::NotFound {
        return problem(&refusal, caller.request_id);
    }
    let happened = Happened::refused(Kind::Login, &refusal, None, "sso");
    if let Err(unrecorded) = record(services, caller, request, &happened).await {
        return problem(&unrecorded, caller.request_id);
    }
    let status = refusal.kind.status().as_u16();
    tracing::warn!(request_id = %caller.request_id, detail = %refusal.detail, "single sign-on failed");
    let result = match status {
        500.. => "error",
        429 => "limited",
        _ => "wrong",
    };
    services.metrics.login("sso", result);
    if wants_json(request) {
        return problem(&refusal, caller.request_id);
    }
    let text = text.unwrap_or(match status {
        500.. => "The other sign-in service cannot be used at this moment. Try again shortly.",
        429 => "Too many tries. Wait a moment and try again.",
        403 => "You may not sign in here. Ask whoever runs this service.",
        _ => "What the other sign-in service answered is not valid, or came too late. Start again.",
    });
    let login = format!("{}{destination}", services.config.load().listen.endpoint("/login"));
    let mut page = message(status, caller.request_id, "Not signed in", text, Some((&login, "Start again")));
    if let Some(seconds) = refusal.retry_after {
        page.builder.insert_header(("retry-after", seconds.to_string()));
    }
    page.finish()
}
