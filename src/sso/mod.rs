//! Signing in with another identity provider (OpenID Connect Core, authorization code with PKCE). Registered by
//! `http::routes`. One more kind of provider is one more module like `provider.rs` and an arm where it is called.

mod claims;
mod provider;
mod state;

use actix_web::{HttpRequest, HttpResponse, web};

use crate::accounts::AccountError;
use crate::config::{Config, Provider};
use crate::http::answer::{other_methods, problem, redirect};
use crate::http::body::Parameters;
use crate::http::event::{Happened, record};
use crate::http::{Caller, Services, cookies};
use crate::model::{Principal, Refusal, RefusalKind, random_token};
use crate::portal::carry::{Destination, append_cookie, store};
use crate::portal::{landing, message};
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
    let answer = leave(&services, &caller, &request, &name).await;
    answer.unwrap_or_else(|refusal| failure(&services, &caller, &refusal))
}

async fn callback(
    request: HttpRequest,
    name: web::Path<String>,
    caller: Caller,
    services: web::Data<Services>,
) -> HttpResponse {
    let refusal = match come_back(&services, &caller, &request, &name).await {
        Ok(answer) => return answer,
        Err(refusal) => refusal,
    };
    if let Err(unrecorded) =
        record(&services, &caller, &request, &Happened::refused(Kind::Login, &refusal, None, "sso")).await
    {
        return problem(&unrecorded, caller.request_id);
    }
    failure(&services, &caller, &refusal)
}

/// Sends the browser to the provider.
async fn leave(
    services: &Services,
    caller: &Caller,
    request: &HttpRequest,
    name: &str,
) -> Result<HttpResponse, Refusal> {
    let config = services.config.load_full();
    let provider = find(&config, name)?;
    let query = Parameters::parse(request.query_string().as_bytes())?;
    let public = &config.listen.public_url;
    if public.host_str() != Some(caller.target.host.name()) {
        let mut there = public.clone();
        there.set_path(&format!("/auth/sso/{name}"));
        let destination = Destination::read(services, caller, &query);
        let tail = destination.query();
        there.set_query(tail.strip_prefix('?'));
        return Ok(redirect(302, caller.request_id, there.as_str()));
    }
    let destination = Destination::read(services, caller, &query);
    let known = Known::of(provider, services.clock.now()).await?;
    let secure = cookies::secure(&config);
    let browser = cookies::read(request, cookies::Kind::SignOn, secure).unwrap_or_else(random_token::<32>);
    let away = Away::new(name, &destination, &browser);
    let state = away.put(services).await?;
    let url = known.authorize(provider, &redirect_uri(&config, name), &away, &state)?;
    let mut answer = redirect(302, caller.request_id, url.as_str());
    append_cookie(&mut answer, &cookies::set(cookies::Kind::SignOn, &browser, secure));
    Ok(answer)
}

/// Takes the browser back, with a code that is exchanged for an ID token.
async fn come_back(
    services: &Services,
    caller: &Caller,
    request: &HttpRequest,
    name: &str,
) -> Result<HttpResponse, Refusal> {
    let config = services.config.load_full();
    let provider = find(&config, name)?;
    let query = Parameters::parse(request.query_string().as_bytes())?;
    let wrong = |detail: &'static str| Refusal::new(RefusalKind::Unauthenticated, detail);
    let browser = cookies::read(request, cookies::Kind::SignOn, cookies::secure(&config))
        .ok_or_else(|| wrong("this browser was not sent to the provider"))?;
    let state = query.get("state").ok_or_else(|| wrong("the provider sent no state"))?;
    let away = Away::take(services, state, name, &browser).await?;
    // RFC 9207: an answer of another issuer is a mix-up.
    let issuer = provider.issuer.as_str().trim_end_matches('/');
    if query.get("iss").is_some_and(|iss| iss.trim_end_matches('/') != issuer) {
        return Err(wrong("the answer is of another issuer"));
    }
    if let Some(error) = query.get("error") {
        let error: String = error.chars().filter(char::is_ascii_graphic).take(64).collect();
        return Err(Refusal::new(RefusalKind::Unauthenticated, format!("the provider refused: {error}")));
    }
    let code = query.get("code").ok_or_else(|| wrong("the provider sent no code"))?;
    let now = services.clock.now();
    let known = Known::of(provider, now).await?;
    let verified = known.exchange(provider, &redirect_uri(&config, name), &away, code, now).await?;
    let principal = claims::principal(provider, &verified, now)?;
    admit(services, &principal).await?;
    let destination = away.destination(services, caller);
    let mut answer = landing(services, caller, request, principal, &destination, "sso").await?;
    append_cookie(&mut answer, &cookies::clear(cookies::Kind::SignOn, cookies::secure(&config)));
    services.metrics.login("sso", "ok");
    Ok(answer)
}

async fn admit(services: &Services, principal: &Principal) -> Result<(), Refusal> {
    match services.directory.admit(&principal.name, principal.kind).await {
        Ok(()) => Ok(()),
        Err(AccountError::Store(error)) => Err(store(error)),
        Err(error) => Err(Refusal::new(RefusalKind::Forbidden, error.to_string())),
    }
}

fn find<'a>(config: &'a Config, name: &str) -> Result<&'a Provider, Refusal> {
    let found = config.providers.iter().find(|provider| provider.name == name);
    found.ok_or_else(|| Refusal::new(RefusalKind::NotFound, "no such provider"))
}

fn redirect_uri(config: &Config, name: &str) -> url::Url {
    let mut url = config.listen.public_url.clone();
    url.set_path(&format!("/auth/sso/{name}/callback"));
    url.set_query(None);
    url
}

fn failure(services: &Services, caller: &Caller, refusal: &Refusal) -> HttpResponse {
    let status = refusal.kind.status().as_u16();
    if refusal.kind == RefusalKind::NotFound {
        return problem(refusal, caller.request_id);
    }
    tracing::warn!(request_id = %caller.request_id, detail = %refusal.detail, "single sign-on failed");
    services.metrics.login("sso", if status >= 500 { "error" } else { "wrong" });
    let text = match status {
        500.. => "The other sign-in service cannot be used at this moment. Try again shortly.",
        403 => "You may not sign in here. Ask whoever runs this service.",
        _ => "Signing in did not work. Start again.",
    };
    let mut page =
        message(status, caller.request_id, "Not signed in", text, Some(("/auth/login", "Sign in")));
    if let Some(seconds) = refusal.retry_after {
        page.builder.insert_header(("retry-after", seconds.to_string()));
    }
    page.finish()
}
