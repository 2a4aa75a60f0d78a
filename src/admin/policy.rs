//! `/api/v1/policy`: which policies decide now, and loading them again, also when a change is held.

use std::sync::Arc;

use actix_web::{HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::change::Change;
use super::endpoint::{Answer, Endpoint, schema};
use super::guard::Rank;
use super::problem::Problem;
use crate::http::Services;
use crate::model::RefusalKind;

/// The calls of this resource.
pub const ENDPOINTS: &[Endpoint] = &[
    Endpoint::read("/policy", "The policies that decide now.", || web::get().to(read))
        .answers(Answer::Json(200, schema::<View>)),
    Endpoint::change(
        "POST",
        "/policy/reload",
        Rank::Operator,
        "Loads the policies again; confirms a change that is held because most rows would go.",
        || web::post().to(reload),
    )
    .answers(Answer::Json(200, schema::<View>)),
];

/// The live policies.
#[derive(Serialize, ToSchema)]
#[schema(as = Policy)]
struct View {
    digest: String,
    rows: usize,
    /// Loads that were tried.
    reloads: u64,
    /// Loads that were refused or held.
    failures: u64,
}

fn view(services: &Services) -> View {
    let (reloads, failures) = services.decider.failures();
    View { digest: services.decider.digest().to_string(), rows: services.decider.rows(), reloads, failures }
}

async fn read(services: web::Data<Services>) -> HttpResponse {
    HttpResponse::Ok().json(view(&services))
}

async fn reload(services: web::Data<Services>, change: Change) -> Result<HttpResponse, Problem> {
    change.record(&services, "/policy/reload").await?;
    let decider = Arc::clone(&services.decider);
    let loaded = tokio::task::spawn_blocking(move || decider.reload(true)).await;
    let loaded = loaded.map_err(|error| Problem::new(RefusalKind::Internal, error.to_string()))?;
    if let Err(problems) = loaded {
        let lines: Vec<_> =
            problems.iter().map(|p| format!("{}:{}: {}", p.file, p.line, p.message)).collect();
        let detail = format!("the last good policies stay:\n{}", lines.join("\n"));
        return Err(Problem::new(RefusalKind::BadRequest, detail));
    }
    Ok(HttpResponse::Ok().json(view(&services)))
}
