//! `/api/v1/clients`: the applications and machines of the configuration, without their secrets.

use actix_web::{HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::endpoint::{Answer, Endpoint, list, schema};
use super::problem::Problem;
use crate::config::Client;
use crate::http::Services;
use crate::model::RefusalKind;

/// The calls of this resource.
pub const ENDPOINTS: &[Endpoint] = &[
    Endpoint::read("/clients", "Every OAuth client.", || web::get().to(read))
        .answers(Answer::Json(200, list::<View>)),
    Endpoint::read("/clients/{id}", "One client.", || web::get().to(show))
        .answers(Answer::Json(200, schema::<View>)),
];

/// An OAuth client, without its secret.
#[derive(Serialize, ToSchema)]
#[schema(as = Client)]
struct View {
    id: String,
    grant_types: Vec<String>,
    scopes: Vec<String>,
    /// Roles of `client:<id>`.
    roles: Vec<String>,
    /// Attributes of `client:<id>`.
    #[schema(value_type = Object)]
    attributes: crate::model::Attributes,
}

impl From<&Client> for View {
    fn from(client: &Client) -> Self {
        Self {
            id: client.id.clone(),
            grant_types: client.grant_types.clone(),
            scopes: client.scopes.clone(),
            roles: client.roles.iter().map(ToString::to_string).collect(),
            attributes: client.attributes.clone(),
        }
    }
}

async fn read(services: web::Data<Services>) -> HttpResponse {
    HttpResponse::Ok().json(services.config.load().clients.iter().map(View::from).collect::<Vec<_>>())
}

async fn show(services: web::Data<Services>, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let config = services.config.load();
    let found = config.clients.iter().find(|client| client.id == *id).ok_or_else(|| {
        let detail = format!("there is no client `{id}`; `portcullis client list` has all");
        Problem::new(RefusalKind::NotFound, detail)
    })?;
    Ok(HttpResponse::Ok().json(View::from(found)))
}
