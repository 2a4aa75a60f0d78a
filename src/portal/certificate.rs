//! `POST /auth/certificate`: tokens for the TLS client certificate.

use actix_web::{HttpRequest, HttpResponse, web};

use crate::accounts::AccountError;
use crate::http::answer::{problem, store_refusal};
use crate::http::event::{Happened, record};
use crate::http::landing;
use crate::http::{Caller, Services};
use crate::model::{Principal, Refusal, RefusalKind};
use crate::record::Kind;
use crate::revocation::{Credential, Standing};

/// Tokens of the built-in client for the certificate's principal.
pub async fn sign_in(request: HttpRequest, caller: Caller, services: web::Data<Services>) -> HttpResponse {
    match tokens(&services, &caller, &request).await {
        Ok(answer) => answer,
        Err(refusal) => problem(&refusal, caller.request_id),
    }
}

async fn tokens(
    services: &Services,
    caller: &Caller,
    request: &HttpRequest,
) -> Result<HttpResponse, Refusal> {
    let checked = match principal(services, caller) {
        Ok(principal) => admitted(services, principal).await,
        Err(refusal) => Err(refusal),
    };
    let known = checked.as_ref().ok().cloned();
    let answered = match checked {
        Ok(principal) => landing::tokens(services, caller, request, principal, "certificate").await,
        Err(refusal) => Err(refusal),
    };
    let result = match &answered {
        Ok(_) => "ok",
        Err(refusal) if refusal.kind.status().is_server_error() => "error",
        Err(_) => "wrong",
    };
    services.metrics.login("certificate", result);
    if let Err(refusal) = &answered {
        let happened = Happened::refused(Kind::Login, refusal, known.as_ref(), "certificate");
        record(services, caller, request, &happened).await?;
    }
    answered
}

fn principal(services: &Services, caller: &Caller) -> Result<Principal, Refusal> {
    let none = |detail: &'static str| Refusal::new(RefusalKind::Unauthenticated, detail);
    let certificate = caller.connection.certificate.as_ref().ok_or_else(|| none("no client certificate"))?;
    let now = services.clock.now();
    if now < certificate.not_before || now > certificate.not_after {
        return Err(none("the certificate is not valid now"));
    }
    let id = format!("{}#{}", certificate.issuer, certificate.serial);
    let credential = Credential { certificate: Some(&id), issued: now, ..Credential::default() };
    match services.revocations.standing(&credential) {
        Standing::Good => {}
        Standing::Revoked => return Err(none("the certificate is revoked")),
        Standing::Unknown => {
            return Err(Refusal::new(RefusalKind::StoreUnavailable, "revocations are not known"));
        }
    }
    services
        .identifier
        .certificate(&caller.connection)
        .ok_or_else(|| none("no [[certificate_principal]] matches"))
}

async fn admitted(services: &Services, principal: Principal) -> Result<Principal, Refusal> {
    match services.directory.admit(&principal.name, principal.kind).await {
        Ok(()) => Ok(principal),
        Err(AccountError::Store(error)) => Err(store_refusal(error)),
        Err(error) => Err(Refusal::new(RefusalKind::Forbidden, error.to_string())),
    }
}
