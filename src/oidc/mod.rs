//! The OAuth door: tokens, revocation (RFC 7009), keys and discovery (RFC 8414) for what exists here.
//! Registered by `http::routes`. One more grant is one arm in `token.rs` and one word in `discovery.rs`.

mod client;
mod discovery;
mod revoke;
mod token;

use actix_web::web;

use crate::http::answer::other_methods;

/// The endpoints of this door.
pub fn routes(config: &mut web::ServiceConfig) {
    let post = |path: &str| web::resource(path).default_service(other_methods("POST"));
    let get = |path: &str| web::resource(path).default_service(other_methods("GET, HEAD"));
    config
        .service(post("/auth/token").route(web::post().to(token::token)))
        .service(post("/auth/revoke").route(web::post().to(revoke::revoke)))
        .service(
            get("/.well-known/jwks.json")
                .route(web::get().to(discovery::jwks))
                .route(web::head().to(discovery::jwks)),
        );
    for path in ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"] {
        config.service(
            get(path).route(web::get().to(discovery::document)).route(web::head().to(discovery::document)),
        );
    }
}
