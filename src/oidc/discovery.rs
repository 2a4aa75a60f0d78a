//! `jwks.json` and the discovery documents: only what exists.

use actix_web::{HttpResponse, web};

use crate::config::{Config, SigningAlgorithm};
use crate::http::answer::own;
use crate::http::{Caller, Services};

/// The published keys. Like every own answer it is not for caches on the way, which would keep a withdrawn key.
pub async fn jwks(caller: Caller, services: web::Data<Services>) -> HttpResponse {
    own(200, caller.request_id).insert_header(("content-type", "application/json")).body(services.keys.jwks())
}

/// Both discovery documents.
pub async fn document(caller: Caller, services: web::Data<Services>) -> HttpResponse {
    let config = services.config.load();
    let body = metadata(services.tokens.issuer(), &config);
    own(200, caller.request_id).insert_header(("content-type", "application/json")).body(body.to_string())
}

fn metadata(issuer: &str, config: &Config) -> serde_json::Value {
    let at = |path: &str| config.listen.endpoint_url(path).to_string();
    let mut grants = vec!["refresh_token", super::token::SESSION];
    if config
        .clients
        .iter()
        .any(|client| client.grant_types.iter().any(|grant| grant == "client_credentials"))
    {
        grants.push("client_credentials");
    }
    let mut scopes: Vec<&str> =
        config.clients.iter().flat_map(|client| client.scopes.iter().map(String::as_str)).collect();
    scopes.sort_unstable();
    scopes.dedup();
    let algorithm = match config.tokens.algorithm {
        SigningAlgorithm::Es256 => "ES256",
        SigningAlgorithm::EdDsa => "EdDSA",
        SigningAlgorithm::Rs256 => "RS256",
    };
    let methods = ["none", "client_secret_basic", "client_secret_post"];
    serde_json::json!({
        "issuer": issuer,
        "jwks_uri": config.listen.public("/.well-known/jwks.json").to_string(),
        "token_endpoint": at("/token"),
        "token_endpoint_auth_methods_supported": methods,
        "revocation_endpoint": at("/revoke"),
        "revocation_endpoint_auth_methods_supported": methods,
        "grant_types_supported": grants,
        "response_types_supported": [],
        "scopes_supported": scopes,
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [algorithm],
    })
}
