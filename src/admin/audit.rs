//! `/api/v1/audit`: the events of all nodes, newest last, as JSON Lines; those not shipped yet included.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::endpoint::{Answer, Endpoint, list};
use super::problem::Problem;
use super::recorded;
use crate::http::Services;
use crate::model::{RefusalKind, RequestId, Timestamp};
use crate::record::{Checkpoints, Filter, Kind, Signer};
use crate::store::{AuditEntry, StoreError};

/// Events read from the store at once.
const PAGE: usize = 1000;
/// Events returned when the caller names no limit.
const DEFAULT_LIMIT: usize = 1000;

/// The most that one call returns.
const MOST: usize = 50_000;

/// The most events of one request that are explained.
const MOST_EXPLAINED: usize = 100;

/// What the parameter `hints` does.
const HINTS: &str = "`true`: each event with one member more, `hint`, the text of the row that decided or what the nearest one lacks; such a line is for people and proves nothing";

/// How much older than its id a recorded event may be, as clocks of several machines differ.
const CLOCKS_DIFFER: Duration = Duration::from_secs(3600);

/// The calls of this resource.
pub const ENDPOINTS: &[Endpoint] = &[
    Endpoint::read("/audit", "The newest events that match, the oldest of them first.", || {
        web::get().to(query)
    })
    .query(&[
        ("since", "not older than this RFC 3339 date and time"),
        ("until", "before this RFC 3339 date and time"),
        ("sub", "of this principal"),
        ("decision", "allow, deny or error"),
        ("kind", "access, login, token, session, key, policy, admin, node or stream"),
        ("reason", "with this reason: the name of a refusal or failure"),
        ("path", "on this path; `*` stands for any characters"),
        ("request", "of this request id, ours or the client's"),
        ("limit", "how many at most; 1000 when not given, never more than 50000"),
        ("hints", HINTS),
    ])
    .answers(Answer::Lines),
    Endpoint::read(
        "/audit/explain",
        "The events of one request with what was asked of the policy and what the live policy says to it: a list of `{event, query, now, policy, notes}`.",
        || web::get().to(explain),
    )
    .query(&[("request", "the request id, ours or the client's")]),
    Endpoint::read(
        "/audit/export",
        "One page of one node's events in the order of `seq`, not yet shipped ones last.",
        || web::get().to(export),
    )
    .query(&[
        ("node", "whose; this node's when not given"),
        ("from", "the first `seq`"),
        ("limit", "how many at most; never more than 1000"),
        ("hints", HINTS),
    ])
    .answers(Answer::Lines),
    Endpoint::read("/audit/nodes", "The nodes that have events, and the last event of each.", || {
        web::get().to(nodes)
    })
    .answers(Answer::Json(200, list::<NodeEnd>)),
    Endpoint::read(
        "/audit/checkpoints",
        "The newest signed checkpoint of each node and the keys that check them, `{\"keys\":[JWK],\"checkpoints\":[JWS]}`.",
        || web::get().to(checkpoints),
    ),
];

/// How far a node's events go.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditNode)]
struct NodeEnd {
    node: String,
    /// Of the last event that is known here; 0: none.
    last_seq: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    since: Option<String>,
    until: Option<String>,
    kind: Option<String>,
    reason: Option<String>,
    sub: Option<String>,
    decision: Option<String>,
    path: Option<String>,
    request: Option<String>,
    limit: Option<usize>,
    #[serde(default)]
    hints: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Explain {
    request: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Export {
    node: Option<String>,
    from: Option<u64>,
    limit: Option<usize>,
    #[serde(default)]
    hints: bool,
}

async fn query(services: web::Data<Services>, query: web::Query<Query>) -> Result<HttpResponse, Problem> {
    let query = query.into_inner();
    let wrong = |detail: String| Problem::new(RefusalKind::BadRequest, detail);
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT).min(MOST);
    let moment = |name: &str, text: &Option<String>| {
        let moment = text.as_deref().map(|text| {
            Timestamp::parse_rfc3339(text)
                .ok_or_else(|| wrong(format!("{name}: `{text}` is not an RFC 3339 date and time")))
        });
        moment.transpose()
    };
    let (since, until) = (moment("since", &query.since)?, moment("until", &query.until)?);
    if let Some(kind) = &query.kind
        && Kind::parse(kind).is_none()
    {
        return Err(wrong(format!("kind: `{kind}` is not the kind of an event; known: {}", Kind::names())));
    }
    if let Some(decision) = &query.decision
        && !["allow", "deny", "error"].contains(&decision.as_str())
    {
        return Err(wrong(format!("decision: `{decision}` is not allow, deny or error")));
    }
    let since = since.or_else(|| query.request.as_deref().and_then(|id| not_before(&services, id)));
    let Query { kind, reason, sub, decision, path, request, hints, .. } = query;
    let filter = Filter { since, until, kind, reason, sub, decision, path, request };
    let events = newest(&services, &filter, limit).await?;
    Ok(lines(if hints { recorded::with_hints(&services, events).await? } else { events }))
}

/// The earliest that an event of a request can be, by the time in its id: what is older need not be read. An id of the
/// future is some other text of a client.
fn not_before(services: &Services, request: &str) -> Option<Timestamp> {
    let time = RequestId::parse(request)?.time();
    (time <= services.clock.now().plus(CLOCKS_DIFFER)).then(|| time.minus(CLOCKS_DIFFER))
}

async fn explain(services: web::Data<Services>, asked: web::Query<Explain>) -> Result<HttpResponse, Problem> {
    let request = asked.into_inner().request;
    let filter =
        Filter { since: not_before(&services, &request), request: Some(request), ..Filter::default() };
    let mut found = Vec::new();
    for json in newest(&services, &filter, MOST_EXPLAINED).await? {
        found.push(recorded::recall(&services, &json).await?);
    }
    Ok(HttpResponse::Ok().insert_header(("cache-control", "no-store")).json(found))
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

async fn nodes(services: web::Data<Services>) -> Result<HttpResponse, Problem> {
    let own = services.config.load().node.name.clone();
    let mut ends = Vec::new();
    for node in all_nodes(&services).await? {
        // Before the store is asked: what is shipped meanwhile is then found there.
        let unshipped = if node == own { services.recorder.unshipped() } else { Vec::new() };
        let newest = unshipped.last().and_then(|json| seq(json));
        let stored = services.store.audit.last(&node).await?.map(|entry| entry.seq);
        ends.push(NodeEnd { node, last_seq: newest.max(stored).unwrap_or(0) });
    }
    Ok(HttpResponse::Ok().json(ends))
}

fn seq(json: &str) -> Option<u64> {
    serde_json::from_str::<Value>(json).ok()?.get("seq")?.as_u64()
}

async fn checkpoints(services: web::Data<Services>) -> Result<HttpResponse, Problem> {
    let signer = Signer::of(&services.keys).map_err(|error| Problem::new(RefusalKind::Internal, error))?;
    let found = services.store.audit.checkpoints().await?;
    Ok(HttpResponse::Ok().json(Checkpoints {
        keys: vec![signer.public_key()],
        checkpoints: found.into_iter().map(|(_, checkpoint)| checkpoint).collect(),
    }))
}

/// One page of one node's events in the order of `seq`; of the own node, the not yet shipped ones come last.
async fn export(services: web::Data<Services>, query: web::Query<Export>) -> Result<HttpResponse, Problem> {
    let own = services.config.load().node.name.clone();
    let node = query.node.clone().unwrap_or_else(|| own.clone());
    let from = query.from.unwrap_or(1);
    let limit = query.limit.unwrap_or(PAGE).min(PAGE);
    let unshipped = if node == own { services.recorder.unshipped() } else { Vec::new() };
    let stored = services.store.audit.read(&node, from, limit).await?;
    let room = limit.saturating_sub(stored.len());
    let next = stored.last().map_or(from, |last: &AuditEntry| last.seq + 1);
    let after = unshipped.into_iter().filter(|json| seq(json).is_some_and(|seq| seq >= next));
    let all: Vec<_> = stored.into_iter().map(|entry| entry.json).chain(after.take(room)).collect();
    Ok(lines(if query.hints { recorded::with_hints(&services, all).await? } else { all }))
}

fn lines(events: Vec<String>) -> HttpResponse {
    let mut text = events.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    HttpResponse::Ok().content_type("application/jsonl").body(text)
}
