//! `/api/v1/tokens`: what verification says of a token, issuing one for a principal, revoking one.

use std::sync::Arc;

use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::change::Change;
use super::endpoint::{Answer, Endpoint, schema};
use super::guard::Rank;
use super::problem::Problem;
use crate::http::Services;
use crate::model::{Acr, RefusalKind};
use crate::tokens::{Holder, PrincipalSource as _};

/// The built-in client that tokens belong to when no other is named.
const CLIENT: &str = "portcullis";

/// The calls of this resource.
pub const ENDPOINTS: &[Endpoint] = &[
    Endpoint::change(
        "POST",
        "/tokens",
        Rank::Administrator,
        "Issues an access token for a principal, without a refresh token.",
        || web::post().to(issue),
    )
    .takes(schema::<Wanted>)
    .answers(Answer::Json(201, schema::<Issued>)),
    Endpoint {
        changes: false,
        ..Endpoint::change(
            "POST",
            "/tokens/inspect",
            Rank::Viewer,
            "What a request's verification says of a token, through the same code.",
            || web::post().to(inspect),
        )
    }
    .takes(schema::<Given>)
    .answers(Answer::Document),
    Endpoint::change(
        "POST",
        "/tokens/revoke",
        Rank::Operator,
        "Revokes an access token, or a refresh token with its whole sign-in.",
        || web::post().to(revoke),
    )
    .takes(schema::<Given>)
    .answers(Answer::Json(200, schema::<Revoked>)),
];

/// A token.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Token)]
struct Given {
    token: String,
}

/// Whose token, and for what.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TokenRequest)]
struct Wanted {
    /// The principal's name: an account, `client:<id>`, a certificate's.
    subject: String,
    /// OAuth scopes.
    #[serde(default)]
    scope: Vec<String>,
}

/// A token, shown once.
#[derive(Serialize, ToSchema)]
#[schema(as = IssuedToken)]
struct Issued {
    subject: String,
    access_token: String,
    token_type: &'static str,
    /// Seconds.
    expires_in: u64,
    scope: String,
    sid: String,
}

/// A token that counts no more.
#[derive(Serialize, ToSchema)]
#[schema(as = RevokedToken)]
struct Revoked {
    /// Whose it was.
    subject: String,
}

async fn issue(
    services: web::Data<Services>,
    change: Change,
    wanted: web::Json<Wanted>,
) -> Result<HttpResponse, Problem> {
    let wanted = wanted.into_inner();
    let word = |scope: &String| !scope.is_empty() && scope.bytes().all(|b| b.is_ascii_graphic() && b != b'"');
    if !wanted.scope.iter().all(word) {
        let detail = "a scope is visible ASCII without spaces and quotes (RFC 6749 §3.3)";
        return Err(Problem::new(RefusalKind::BadRequest, detail));
    }
    let subject = wanted.subject;
    let Some(mut principal) = services.identifier.current(&subject).await? else {
        let detail = format!("there is no principal `{subject}`, or it is disabled");
        return Err(Problem::new(RefusalKind::NotFound, detail));
    };
    // Nobody proved anything: the token says so, and a route that requires a level refuses it.
    principal.acr = Acr::Zero;
    principal.amr = Vec::new();
    principal.auth_time = None;
    change.record(&services, &format!("/tokens/of/{subject}")).await?;
    let client = principal.client_id.as_deref().unwrap_or(CLIENT).to_owned();
    let scope: Vec<Arc<str>> = wanted.scope.into_iter().map(Arc::from).collect();
    let issued = services.tokens.issue(&principal, &client, &scope, false).await?;
    Ok(HttpResponse::Created().json(Issued {
        subject,
        access_token: issued.access_token,
        token_type: "Bearer",
        expires_in: issued.expires_in.as_secs(),
        scope: issued.scope,
        sid: issued.sid,
    }))
}

async fn inspect(services: web::Data<Services>, given: web::Json<Given>) -> HttpResponse {
    let inspection = services.tokens.inspect(given.token.trim());
    HttpResponse::Ok().json(inspection)
}

async fn revoke(
    services: web::Data<Services>,
    change: Change,
    given: web::Json<Given>,
) -> Result<HttpResponse, Problem> {
    change.record(&services, "/tokens/revoke").await?;
    match services.tokens.revoke(given.token.trim(), Holder::Operator).await? {
        Some(subject) => Ok(HttpResponse::Ok().json(Revoked { subject })),
        None => {
            let detail =
                "it is no token of this gateway that still counts; `portcullis token inspect` says why";
            Err(Problem::new(RefusalKind::NotFound, detail))
        }
    }
}
