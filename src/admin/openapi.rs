//! `/api/v1/openapi.json`: the OpenAPI 3.1 document, made from the table of endpoints. `docs/openapi.json` is the same
//! text; a test of this file renews or compares it.

use actix_web::{HttpResponse, web};
use serde_json::{Map, Value, json};

use super::endpoint::{self, Answer, Endpoint, PREFIX};

/// The calls of this resource.
pub const ENDPOINTS: &[Endpoint] =
    &[Endpoint::read("/openapi.json", "This document.", || web::get().to(answer))];

async fn answer() -> HttpResponse {
    HttpResponse::Ok().json(document())
}

/// The document.
pub fn document() -> Value {
    let mut schemas = Map::new();
    schemas.insert("Problem".into(), problem());
    let mut paths: Map<String, Value> = Map::new();
    for endpoint in endpoint::all() {
        let operation = operation(endpoint, &mut schemas);
        let path = paths.entry(format!("{PREFIX}{}", endpoint.path)).or_insert_with(|| json!({}));
        if let Value::Object(methods) = path {
            methods.insert(endpoint.method.to_ascii_lowercase(), operation);
        }
    }
    paths.sort_keys();
    schemas.sort_keys();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Portcullis admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What operators do with a node: the API behind the `portcullis` commands. A call that \
                changes something is recorded in the audit (kind `admin`) before its effect.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "[admin] address of a node"}],
        "security": [{"operator": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"operator": {
                "type": "http",
                "scheme": "bearer",
                "description": "The token of <data_dir>/admin.token (from loopback), or an access token of an \
                    account with the role portcullis:viewer, portcullis:operator or portcullis:administrator.",
            }},
            "schemas": schemas,
        },
    })
}

fn problem() -> Value {
    json!({
        "type": "object",
        "description": "RFC 9457: what was wrong and what to do.",
        "required": ["type", "title", "status", "detail", "request_id"],
        "properties": {
            "type": {"type": "string", "examples": ["urn:portcullis:problem:not-found"]},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "request_id": {"type": "string", "description": "The X-Request-Id of the answer."},
        },
    })
}

fn operation(endpoint: &Endpoint, schemas: &mut Map<String, Value>) -> Value {
    let names = endpoint.path.split(['{', '}']).skip(1).step_by(2);
    let in_path =
        names.map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}));
    let in_query = endpoint.query.iter().map(|(name, meaning)| {
        let kind = if matches!(*name, "limit" | "from") { "integer" } else { "string" };
        json!({"name": name, "in": "query", "description": meaning, "schema": {"type": kind}})
    });
    let parameters: Vec<_> = in_path.chain(in_query).collect();
    let mut operation = json!({
        "operationId": id(endpoint),
        "tags": [endpoint.path.trim_start_matches('/').split(['/', '.']).next().unwrap_or_default()],
        "summary": endpoint.summary,
        "description": format!("Needs the role `{}`.", endpoint.rank.role()),
        "responses": responses(endpoint, schemas),
    });
    if let Value::Object(members) = &mut operation {
        if !parameters.is_empty() {
            members.insert("parameters".into(), Value::Array(parameters));
        }
        if let Some(takes) = endpoint.takes {
            let schema = takes(schemas);
            members.insert(
                "requestBody".into(),
                json!({"required": true, "content": {"application/json": {"schema": schema}}}),
            );
        }
    }
    operation
}

fn responses(endpoint: &Endpoint, schemas: &mut Map<String, Value>) -> Value {
    let (status, good) = match endpoint.answer {
        Answer::Nothing => (204, json!({"description": "Done."})),
        Answer::Lines => (
            200,
            json!({"description": "Audit events, one JSON object a line.",
                "content": {"application/jsonl": {"schema": {"type": "string"}}}}),
        ),
        Answer::Document => (
            200,
            json!({"description": "The document.",
                "content": {"application/json": {"schema": {"type": "object"}}}}),
        ),
        Answer::Json(status, describe) => (
            status,
            json!({"description": "Done.", "content": {"application/json": {"schema": describe(schemas)}}}),
        ),
    };
    let refused = |text: &str| {
        json!({"description": text, "content": {"application/problem+json":
            {"schema": {"$ref": "#/components/schemas/Problem"}}}})
    };
    json!({
        status.to_string(): good,
        "4XX": refused("Refused; `detail` says why and what to do."),
        "503": refused("The store or the audit log does not answer; nothing is certain, try again."),
    })
}

/// `get /users/{name}` is `get_users_name`.
fn id(endpoint: &Endpoint) -> String {
    let words = endpoint.path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    std::iter::once(endpoint.method.to_ascii_lowercase())
        .chain(words.map(str::to_owned))
        .collect::<Vec<_>>()
        .join("_")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `RENEW=1 cargo test --lib admin::openapi` writes the file.
    #[test]
    fn the_document_in_docs_is_the_one_that_is_served() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
        let text = format!("{}\n", serde_json::to_string_pretty(&document()).unwrap());
        if std::env::var_os("RENEW").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == text, "docs/openapi.json is old: RENEW=1 cargo test --lib admin::openapi");
    }

    #[test]
    fn every_reference_has_its_schema_and_every_operation_its_own_id() {
        let document = document();
        let text = document.to_string();
        let known = document["components"]["schemas"].as_object().unwrap();
        for reference in text.split("#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(known.contains_key(name), "{name}");
        }
        let mut ids: Vec<_> = endpoint::all().map(id).collect();
        let before = ids.len();
        assert!(before > 15);
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), before);
    }
}
