//! `GET /.well-known/authzen-configuration`: where the endpoints are.

use actix_web::{HttpResponse, web};

use crate::config::{ACCESS, Config};
use crate::http::answer::{json, not_found};
use crate::http::{Caller, Services};

/// The document; 404 where the decision API is off.
pub async fn document(caller: Caller, services: web::Data<Services>) -> HttpResponse {
    let config = services.config.load_full();
    if !config.authzen.enabled {
        return not_found(caller).await;
    }
    json(200, caller.request_id, &metadata(&config))
}

fn metadata(config: &Config) -> serde_json::Value {
    let at = |path: &str| config.listen.public(&format!("{ACCESS}{path}")).to_string();
    let own = config.listen.public("");
    serde_json::json!({
        "policy_decision_point": own.as_str().trim_end_matches('/'),
        "access_evaluation_endpoint": at("/evaluation"),
        "access_evaluations_endpoint": at("/evaluations"),
        "search_subject_endpoint": at("/search/subject"),
        "search_resource_endpoint": at("/search/resource"),
        "search_action_endpoint": at("/search/action"),
        "capabilities": [],
    })
}
