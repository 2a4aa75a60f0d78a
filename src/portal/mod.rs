//! The browser's door: the sign-in page, sign-in as JSON, sessions carried between hosts, certificates, sign-out.
//! Registered by `http::routes`. One more page is a template in `pages.rs` and a handler beside these.

mod carry;
mod certificate;
mod login;
mod logout;
mod pages;

use actix_web::web;

use crate::http::answer::other_methods;

/// The endpoints of this door.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/auth/login")
                .route(web::get().to(login::page))
                .route(web::post().to(login::sign_in))
                .default_service(other_methods("GET, POST")),
        )
        .service(
            web::resource("/auth/session")
                .route(web::get().to(carry::session))
                .default_service(other_methods("GET")),
        )
        .service(
            web::resource("/auth/certificate")
                .route(web::post().to(certificate::sign_in))
                .default_service(other_methods("POST")),
        )
        .service(
            web::resource("/auth/logout")
                .route(web::get().to(logout::page))
                .route(web::post().to(logout::sign_out))
                .default_service(other_methods("GET, POST")),
        );
}
