//! `/api/v1/audit`: the events of all nodes, newest last, as JSON Lines; those not shipped yet included.

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::Value;

use super::guard::problem;
use crate::http::Services;
use crate::model::{RefusalKind, Timestamp};
use crate::record::Filter;
use crate::store::{AuditEntry, StoreError};

/// Events read from the store at once.
const PAGE: usize = 1000;
/// Events returned when the caller names no limit.
const DEFAULT_LIMIT: usize = 1000;

/// Adds the resource.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/audit", web::get().to(query))
        .route("/audit/export", web::get().to(export))
        .route("/audit/nodes", web::get().to(nodes));
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    since: Option<String>,
    sub: Option<String>,
    decision: Option<String>,
    path: Option<String>,
    request: Option<String>,
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Export {
    node: Option<String>,
    from: Option<u64>,
    limit: Option<usize>,
}

/// The newest events that match, oldest of them first.
async fn query(services: web::Data<Services>, query: web::Query<Query>) -> HttpResponse {
    let query = query.into_inner();
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    let since = query.since.as_deref().map(|text| Timestamp::parse_rfc3339(text).ok_or(text));
    let since = match since.transpose() {
        Ok(since) => since,
        Err(text) => {
            return problem(
                RefusalKind::BadRequest,
                &format!("since: `{text}` is not an RFC 3339 date and time"),
            );
        }
    };
    let filter =
        Filter { since, sub: query.sub, decision: query.decision, path: query.path, request: query.request };
    match newest(&services, &filter, limit).await {
        Ok(events) => lines(events),
        Err(error) => problem(RefusalKind::StoreUnavailable, &error.to_string()),
    }
}

async fn newest(services: &Services, filter: &Filter, limit: usize) -> Result<Vec<String>, StoreError> {
    let mut found: Vec<(String, String)> = Vec::new();
    for node in all_nodes(services).await? {
        let mut before = None;
        let mut of_node = 0;
        'pages: loop {
            let page = services.store.audit.read_back(&node, before, PAGE).await?;
            let Some(last) = page.last() else { break };
            before = Some(last.seq);
            for entry in page {
                if filter.since.is_some_and(|since| entry.time < since) || of_node >= limit {
                    break 'pages;
                }
                of_node += usize::from(keep(filter, &entry.json, &mut found));
            }
        }
    }
    for json in services.recorder.unshipped() {
        keep(filter, &json, &mut found);
    }
    found.sort();
    found.dedup();
    let surplus = found.len().saturating_sub(limit);
    Ok(found.into_iter().skip(surplus).map(|(_, json)| json).collect())
}

/// Takes the event, with its time in front for ordering, when it matches.
fn keep(filter: &Filter, json: &str, into: &mut Vec<(String, String)>) -> bool {
    let Ok(event) = serde_json::from_str::<Value>(json) else { return false };
    let matches = filter.matches(&event);
    if matches {
        let text = |key: &str| event.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let seq = event.get("seq").and_then(Value::as_u64).unwrap_or(0);
        into.push((format!("{} {} {seq:020}", text("time"), text("node")), json.to_owned()));
    }
    matches
}

async fn all_nodes(services: &Services) -> Result<Vec<String>, StoreError> {
    let mut nodes = services.store.audit.nodes().await?;
    let own = services.config.load().node.name.clone();
    if !nodes.contains(&own) {
        nodes.push(own);
    }
    nodes.sort();
    Ok(nodes)
}

async fn nodes(services: web::Data<Services>) -> HttpResponse {
    match all_nodes(&services).await {
        Ok(nodes) => HttpResponse::Ok().json(nodes),
        Err(error) => problem(RefusalKind::StoreUnavailable, &error.to_string()),
    }
}

/// One page of one node's events in the order of `seq`; of the own node, the not yet shipped ones come last.
async fn export(services: web::Data<Services>, query: web::Query<Export>) -> HttpResponse {
    let own = services.config.load().node.name.clone();
    let node = query.node.clone().unwrap_or_else(|| own.clone());
    let from = query.from.unwrap_or(1);
    let limit = query.limit.unwrap_or(PAGE).min(PAGE);
    let unshipped = if node == own { services.recorder.unshipped() } else { Vec::new() };
    let stored = match services.store.audit.read(&node, from, limit).await {
        Ok(entries) => entries,
        Err(error) => return problem(RefusalKind::StoreUnavailable, &error.to_string()),
    };
    let room = limit.saturating_sub(stored.len());
    let next = stored.last().map_or(from, |last: &AuditEntry| last.seq + 1);
    let after = unshipped.into_iter().filter(|json| {
        let event: Value = serde_json::from_str(json).unwrap_or_default();
        event.get("seq").and_then(Value::as_u64).is_some_and(|seq| seq >= next)
    });
    let all: Vec<_> = stored.into_iter().map(|entry| entry.json).chain(after.take(room)).collect();
    lines(all)
}

fn lines(events: Vec<String>) -> HttpResponse {
    let mut text = events.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    HttpResponse::Ok()
        .content_type("application/jsonl")
        .insert_header(("cache-control", "no-store"))
        .body(text)
}
