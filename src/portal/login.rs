//! `GET` and `POST /auth/login`: the page, its form, and the JSON form for programs.

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;

use super::carry;
use super::pages::{self, SignIn, Way};
use crate::http::answer::problem;
use crate::http::body::{self, Media, Parameters};
use crate::http::caller::headers;
use crate::http::event::{Happened, record};
use crate::http::landing::{self, Destination, landing};
use crate::http::origin::{Site, site};
use crate::http::page::{Page, STYLE};
use crate::http::{Caller, Services, cookies, csrf};
use crate::identify::SignInError;
use crate::model::{Principal, Refusal, RefusalKind, random_token};
use crate::record::Kind;

const WRONG: &str = "The user name or the password is not right. Check both and try again.";
const TOO_OFTEN: &str = "Too many tries. Wait a moment and try again.";
const BUSY: &str = "Signing in is not possible at this moment. Try again shortly.";
const EXPIRED: &str = "This page was open for too long, or the browser keeps no cookies. Try again.";

/// The page; a browser that is signed in on this host and comes for another one is sent on at once.
pub async fn page(request: HttpRequest, caller: Caller, services: web::Data<Services>) -> HttpResponse {
    let query = match Parameters::parse(request.query_string().as_bytes()) {
        Ok(query) => query,
        Err(refusal) => return problem(&refusal, caller.request_id),
    };
    let destination = Destination::read(&services, &caller, &query);
    if destination.elsewhere() && query.get("prompt") != Some("login") {
        match carry::send_on(&services, &caller, &request, &destination).await {
            Ok(Some(answer)) => return answer,
            Ok(None) => {}
            Err(refusal) => return problem(&refusal, caller.request_id),
        }
    }
    render(&services, &caller, &request, &destination, 200, None, "").finish()
}

/// Sign-in, by content type.
pub async fn sign_in(
    request: HttpRequest,
    payload: web::Payload,
    caller: Caller,
    services: web::Data<Services>,
) -> HttpResponse {
    let read = match body::media(&request) {
        Ok(media) => body::read(payload).await.map(|bytes| (media, bytes)),
        Err(refusal) => Err(refusal),
    };
    let answer = match read {
        Ok((Media::Json, bytes)) => program(&services, &caller, &request, &bytes).await,
        Ok((Media::Form, bytes)) => person(&services, &caller, &request, &bytes).await,
        Err(refusal) => Err(unread(&services, &caller, &request, refusal).await),
    };
    answer.unwrap_or_else(|refusal| problem(&refusal, caller.request_id))
}

/// Records a sign-in whose credentials cannot be read: what the client is told.
async fn unread(services: &Services, caller: &Caller, request: &HttpRequest, refusal: Refusal) -> Refusal {
    let happened = Happened::refused(Kind::Login, &refusal, None, "password");
    record(services, caller, request, &happened).await.err().unwrap_or(refusal)
}

#[derive(serde::Deserialize)]
struct Credentials {
    username: String,
    password: String,
    #[serde(default)]
    #[expect(dead_code, reason = "part of the contract; no account has a second factor yet")]
    otp: Option<String>,
}

async fn program(
    services: &Services,
    caller: &Caller,
    request: &HttpRequest,
    bytes: &Bytes,
) -> Result<HttpResponse, Refusal> {
    let Ok(given) = serde_json::from_slice::<Credentials>(bytes) else {
        let refusal = Refusal::new(RefusalKind::BadRequest, "send {\"username\",\"password\"}");
        return Err(unread(services, caller, request, refusal).await);
    };
    let principal = check(services, caller, request, &given.username, &given.password).await?;
    match landing::tokens(services, caller, request, principal.clone(), "password").await {
        Ok(answer) => {
            services.metrics.login("password", "ok");
            Ok(answer)
        }
        Err(refusal) => {
            services.metrics.login("password", "error");
            let happened = Happened::refused(Kind::Login, &refusal, Some(&principal), "password");
            record(services, caller, request, &happened).await?;
            Err(refusal)
        }
    }
}

async fn person(
    services: &Services,
    caller: &Caller,
    request: &HttpRequest,
    bytes: &Bytes,
) -> Result<HttpResponse, Refusal> {
    let form = match Parameters::parse(bytes) {
        Ok(form) => form,
        Err(refusal) => return Err(unread(services, caller, request, refusal).await),
    };
    let destination = Destination::read(services, caller, &form);
    let username = form.get("username").unwrap_or_default();
    if site(&headers(request), &caller.origin()) == Site::Other {
        let refusal = Refusal::new(RefusalKind::CrossSite, "the sign-in form was sent from another site");
        record(services, caller, request, &Happened::refused(Kind::Login, &refusal, None, "password"))
            .await?;
        return Err(refusal);
    }
    let secure = cookies::secure(&services.config.load());
    let before = cookies::read(request, cookies::Kind::Before, secure);
    if !csrf::matches(&csrf::key(&services.keys), before.as_deref(), form.get("csrf")) {
        let refusal = Refusal::new(RefusalKind::CrossSite, "the form is not of a page that this browser has");
        record(services, caller, request, &Happened::refused(Kind::Login, &refusal, None, "password"))
            .await?;
        return Ok(render(services, caller, request, &destination, 403, Some(EXPIRED), username).finish());
    }
    let password = form.get("password").unwrap_or_default();
    let principal = match check(services, caller, request, username, password).await {
        Ok(principal) => principal,
        Err(refusal) => {
            let (status, text) = match refusal.kind {
                RefusalKind::Unauthenticated => (401, WRONG),
                RefusalKind::RateLimited => (429, TOO_OFTEN),
                _ => (refusal.kind.status().as_u16(), BUSY),
            };
            let mut page = render(services, caller, request, &destination, status, Some(text), username);
            if let Some(seconds) = refusal.retry_after {
                page.builder.insert_header(("retry-after", seconds.to_string()));
            }
            return Ok(page.finish());
        }
    };
    let device = services.identifier.device_cookie(&principal.name);
    let mut answer = landing(services, caller, request, principal, &destination, "password").await?;
    cookies::append(&mut answer, &cookies::set(cookies::Kind::Device, &device, secure));
    services.metrics.login("password", "ok");
    Ok(answer)
}

/// Checks the password and records a failure. Every failure of the credentials is one and the same refusal.
async fn check(
    services: &Services,
    caller: &Caller,
    request: &HttpRequest,
    username: &str,
    password: &str,
) -> Result<Principal, Refusal> {
    let secure = cookies::secure(&services.config.load());
    let device = cookies::read(request, cookies::Kind::Device, secure);
    let tried = services.identifier.password_on(username, password, caller.client_ip, device.as_deref());
    let error = match tried.await {
        Ok(principal) => return Ok(principal),
        Err(error) => error,
    };
    let (result, refusal) = match error {
        SignInError::Wrong => {
            ("wrong", Refusal::new(RefusalKind::Unauthenticated, "wrong user name or password"))
        }
        SignInError::TooOften { retry_after } => {
            ("limited", Refusal::new(RefusalKind::RateLimited, "too many sign-ins").retry_after(retry_after))
        }
        SignInError::Overloaded => {
            ("overloaded", Refusal::new(RefusalKind::Overloaded, "the password pool's queue is full"))
        }
        SignInError::Store(error) => {
            ("error", Refusal::new(RefusalKind::StoreUnavailable, error.to_string()))
        }
    };
    services.metrics.login("password", result);
    // Only names of accounts are recorded: people type passwords into the wrong field.
    let known = match result {
        "wrong" | "limited" => services.directory.find(username).await.ok().flatten(),
        _ => None,
    };
    let principal = known.as_ref().map(crate::identify::principal_of);
    record(
        services,
        caller,
        request,
        &Happened::refused(Kind::Login, &refusal, principal.as_ref(), "password"),
    )
    .await?;
    Err(refusal)
}

fn render(
    services: &Services,
    caller: &Caller,
    request: &HttpRequest,
    destination: &Destination,
    status: u16,
    alert: Option<&str>,
    username: &str,
) -> Page {
    let config = services.config.load();
    let secure = cookies::secure(&config);
    let before = cookies::read(request, cookies::Kind::Before, secure).unwrap_or_else(random_token::<16>);
    let csrf = csrf::token(&csrf::key(&services.keys), &before);
    let site = destination.url.as_ref().and_then(|url| url.host_str());
    let ways: Vec<Way> = config
        .providers
        .iter()
        .map(|provider| Way {
            label: provider.display_name.clone().unwrap_or_else(|| provider.name.clone()),
            href: config.listen.endpoint(&format!("/sso/{}{}", provider.name, destination.query())),
        })
        .collect();
    let page = SignIn {
        style: STYLE,
        action: &config.listen.endpoint("/login"),
        site: site.unwrap_or_else(|| caller.target.host.name()),
        alert,
        csrf: &csrf,
        return_to: destination.url.as_ref().map(url::Url::as_str),
        carry: destination.carry.as_deref(),
        username: if username.len() <= 128 { username } else { "" },
        ways: &ways,
    };
    let targets = destination.form_targets(&caller.origin());
    pages::sign_in(status, caller.request_id, &page, &targets).cookie(&cookies::set(
        cookies::Kind::Before,
        &before,
        secure,
    ))
}
