//! `/api/v1/keys`: the signing keys: list, publish the next, withdraw one everywhere at once.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::change::Change;
use super::endpoint::{Answer, Endpoint, list, schema};
use super::guard::Rank;
use super::problem::Problem;
use crate::http::Services;
use crate::keys::{KeyError, KeyInfo};
use crate::store::Revoked;

/// How long the revocation of a key is remembered: longer than anything that it signed.
const REMEMBERED: Duration = Duration::from_secs(30 * 86_400);

/// The calls of this resource.
pub const ENDPOINTS: &[Endpoint] = &[
    Endpoint::read("/keys", "Every signing key that is known, the newest first.", || web::get().to(read))
        .answers(Answer::Json(200, list::<View>)),
    Endpoint::read("/keys/jwks", "The published set (RFC 7517).", || web::get().to(jwks)),
    Endpoint::change(
        "POST",
        "/keys/rotate",
        Rank::Administrator,
        "Publishes a new key, which signs after `access_ttl`.",
        || web::post().to(rotate),
    )
    .answers(Answer::Json(201, schema::<View>)),
    Endpoint::change(
        "POST",
        "/keys/{kid}/retire",
        Rank::Administrator,
        "Withdraws a key at once: what it signed is refused on every node. Refused for the only key that can sign.",
        || web::post().to(retire),
    )
    .answers(Answer::Json(200, schema::<View>)),
];

/// A signing key, without its secret.
#[derive(Serialize, ToSchema)]
#[schema(as = Key)]
struct View {
    /// RFC 7638 thumbprint.
    kid: String,
    /// ES256, EdDSA or RS256.
    algorithm: String,
    /// published, signing, verifying or withdrawn.
    state: String,
    created: String,
    /// When it begins to sign.
    signs_from: String,
    /// When it stops to count, once that is known.
    verifies_until: Option<String>,
}

impl From<KeyInfo> for View {
    fn from(key: KeyInfo) -> Self {
        Self {
            kid: key.kid,
            algorithm: key.algorithm,
            state: key.state,
            created: key.created.rfc3339(),
            signs_from: key.signs_from.rfc3339(),
            verifies_until: key.verifies_until.map(crate::model::Timestamp::rfc3339),
        }
    }
}

async fn read(services: web::Data<Services>) -> Result<HttpResponse, Problem> {
    services.keys.reload().await?;
    Ok(HttpResponse::Ok().json(services.keys.list().into_iter().map(View::from).collect::<Vec<_>>()))
}

async fn jwks(services: web::Data<Services>) -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(services.keys.jwks())
}

async fn rotate(services: web::Data<Services>, change: Change) -> Result<HttpResponse, Problem> {
    change.record(&services, "/keys/rotate").await?;
    let key = services.keys.rotate().await?;
    change.key(&services, &format!("/keys/{}", key.kid)).await?;
    Ok(HttpResponse::Created().json(View::from(key)))
}

async fn retire(
    services: web::Data<Services>,
    change: Change,
    kid: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let kid = kid.into_inner();
    services.keys.reload().await?;
    let find = || services.keys.list().into_iter().find(|key| key.kid == kid);
    let known = find().ok_or_else(|| KeyError::Unknown(kid.clone()))?;
    change.record(&services, &format!("/keys/{kid}/retire")).await?;
    // One that is withdrawn already: an earlier try may not have reached the revocation log.
    if known.state != "withdrawn" {
        services.keys.retire(&kid).await?;
    }
    let until = services.clock.now().plus(REMEMBERED);
    services.revocations.revoke(Revoked::Key(kid.clone()), until).await?;
    change.key(&services, &format!("/keys/{kid}/retire")).await?;
    let key = find().ok_or(KeyError::Unknown(kid))?;
    Ok(HttpResponse::Ok().json(View::from(key)))
}
