//! Recorded decisions explained: what was asked then, put to the live policy again.
//!
//! `audit` serves it to `why` and `policy explain --request`; [`with_hints`] is what `audit tail` and the demo show beside
//! each event. All of it happens when someone asks, never while a request is decided.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::problem::Problem;
use crate::decide::explain::{Explanation, Query, Term};
use crate::http::Services;
use crate::model::{AuthMethod, Principal, PrincipalKind, RefusalKind, Timestamp};
use crate::tokens::PrincipalSource as _;

/// Rows above which events are listed without the nearest row: `why` names it for a single one.
const MOST_ROWS: usize = 2_000;
/// How long one answer may spend on hints; the events after that have none.
const HINTS_WITHIN: Duration = Duration::from_millis(500);

/// A recorded event, and what the live policy says to the same question.
#[derive(Debug, Serialize, Deserialize)]
pub struct Recalled {
    /// As it was recorded.
    pub event: Value,
    /// What was asked of the policy; none where the policy was not asked.
    pub query: Option<Query>,
    /// What the live policy says to it.
    pub now: Option<Explanation>,
    /// The digest of the live policy.
    pub policy: String,
    /// What the audit does not know and the explanation had to assume.
    pub notes: Vec<String>,
}

/// Puts a recorded event to the live policy.
///
/// # Errors
/// When the store is away.
pub async fn recall(services: &Services, json: &str) -> Result<Recalled, Problem> {
    let event: Value = serde_json::from_str(json).unwrap_or_default();
    let mut notes = Vec::new();
    let query = asked(services, &event, &mut notes).await?;
    let now = match query.clone() {
        Some(query) => {
            let decider = Arc::clone(&services.decider);
            let explained = tokio::task::spawn_blocking(move || decider.explain(&query)).await;
            Some(
                explained
                    .map_err(|error| Problem::new(RefusalKind::Internal, error.to_string()))?
                    .elsewhere(),
            )
        }
        None => None,
    };
    let policy = services.decider.digest().to_string();
    if let (Some(query), Some(now)) = (&query, &now) {
        notes.extend(assumed(&services.decider.attributes_read(), query, now));
    }
    if let Some(now) = &now
        && now.digest == text(&event, "/policy")
        && !same_verdict(&event, now)
    {
        notes.push(format!(
            "the same policy says {} to what is recorded: it reads something that the audit does not keep, or that changed since",
            now.decision
        ));
    }
    if let (Some(trouble), Some(_)) = (services.decider.trouble(), &now) {
        notes.push(format!(
            "the policy files were changed but are refused, the last good ones decide: {trouble}"
        ));
    }
    Ok(Recalled { event, query, now, policy, notes })
}

/// Whether the policy's verdict was the recorded one. A refusal with another reason was none of the policy's.
fn same_verdict(event: &Value, now: &Explanation) -> bool {
    now.allows() != (text(event, "/reason") == RefusalKind::Forbidden.name())
}

/// That attributes are of today, where a row fails at one.
fn assumed(read: &[String], query: &Query, now: &Explanation) -> Option<String> {
    let failed = |text: &str, terms: &[Term]| {
        let fails =
            |term: &Term, name: &str| !term.holds && (term.term.contains(name) || text.contains(name));
        read.iter().find(|name| terms.iter().any(|term| fails(term, name)))
    };
    let attribute = now.near.iter().find_map(|near| failed(&near.text, &near.terms))?;
    let who = &query.principal.name;
    Some(match query.principal.attributes.0.contains_key(attribute) {
        true => format!("the audit keeps no attributes: {attribute} is what {who} has today"),
        false => format!(
            "the audit keeps no attributes, and {who} has no {attribute} here today: it counts as absent"
        ),
    })
}

/// The question that the policy was asked for an event, as far as the audit and the accounts know it.
async fn asked(
    services: &Services,
    event: &Value,
    notes: &mut Vec<String>,
) -> Result<Option<Query>, Problem> {
    let (name, method, path) = (text(event, "/principal/name"), text(event, "/method"), text(event, "/path"));
    let at = Timestamp::parse_rfc3339(text(event, "/time"));
    let (Some(at), false) = (at, [name, method, path, text(event, "/policy")].contains(&"")) else {
        return Ok(None);
    };
    if text(event, "/kind") != "access" {
        return Ok(None);
    }
    let config = services.config.load_full();
    let route = config.routes.iter().find(|route| route.name == text(event, "/route"));
    let resource = route.and_then(|route| route.resource.as_deref());
    if resource.is_none() && path.contains('{') && route.is_some_and(|route| !route.mask.is_empty()) {
        notes.push(format!("the route's `mask` hides part of the path: the rows are held against `{path}`"));
    }
    let principal = principal(services, event).await?;
    Ok(Some(Query {
        principal,
        object: resource.unwrap_or(path).to_owned(),
        action: method.to_owned(),
        host: text(event, "/host").to_owned(),
        ip: text(event, "/client/ip").parse().ok(),
        secure: config.listen.public_url.scheme() == "https",
        at,
    }))
}

/// Who asked: the name, kind and roles are recorded; attributes and tenant are those of today.
async fn principal(services: &Services, event: &Value) -> Result<Principal, Problem> {
    let name = text(event, "/principal/name");
    let recorded = event.pointer("/principal/roles").and_then(Value::as_array);
    let recorded: Vec<Arc<str>> =
        recorded.into_iter().flatten().filter_map(Value::as_str).map(Arc::from).collect();
    let mut principal =
        Principal::new(name, kind(text(event, "/principal/kind")), auth(text(event, "/auth")));
    let today = match principal.is_anonymous() {
        true => None,
        false => services.identifier.current(name).await?,
    };
    if let Some(today) = &today {
        principal.attributes = today.attributes.clone();
        principal.tenant = today.tenant.clone();
        principal.roles = today.roles.iter().filter(|role| recorded.contains(role)).cloned().collect();
    }
    // What was recorded are all roles, those of the files included. Carried are as few as explain them.
    let mut all = services.decider.roles_of(&principal);
    all.sort();
    if all != recorded {
        principal.roles.clear();
        let given = services.decider.roles_of(&principal);
        let own = |role: &Arc<str>| today.as_ref().is_some_and(|today| today.roles.contains(role));
        principal.roles = recorded.into_iter().filter(|role| own(role) || !given.contains(role)).collect();
    }
    Ok(principal)
}

fn kind(name: &str) -> PrincipalKind {
    use PrincipalKind::{Anonymous, Certificate, Client, User};
    [Anonymous, Certificate, Client].into_iter().find(|kind| kind.as_str() == name).unwrap_or(User)
}

fn auth(name: &str) -> AuthMethod {
    use AuthMethod::{ApiKey, Bearer, Certificate, Password, Session};
    let all = [ApiKey, Bearer, Certificate, Password, Session];
    all.into_iter().find(|method| method.as_str() == name).unwrap_or(AuthMethod::None)
}

fn text<'a>(event: &'a Value, pointer: &str) -> &'a str {
    event.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The events with one member more, `hint`: the text of the row that decided, or what the nearest row lacks. Only where
/// the live policy is the one that decided, and as many as half a second allows.
///
/// # Errors
/// When the store is away.
pub async fn with_hints(services: &Services, events: Vec<String>) -> Result<Vec<String>, Problem> {
    let begun = Instant::now();
    let mut known: HashMap<[String; 6], Option<String>> = HashMap::new();
    let mut out = Vec::with_capacity(events.len());
    for json in events {
        let event: Value = serde_json::from_str(&json).unwrap_or_default();
        let member = |pointer: &str| event.pointer(pointer).map(Value::to_string).unwrap_or_default();
        let key = ["/principal", "/method", "/host", "/path", "/rule", "/reason"].map(member);
        let hint = match known.get(&key) {
            Some(hint) => hint.clone(),
            None if begun.elapsed() > HINTS_WITHIN => None,
            None => {
                let hint = hint(services, &event).await?;
                known.insert(key, hint.clone());
                hint
            }
        };
        out.push(match (hint, event) {
            (Some(hint), Value::Object(mut members)) => {
                members.insert("hint".to_owned(), hint.into());
                Value::Object(members).to_string()
            }
            _ => json,
        });
    }
    Ok(out)
}

async fn hint(services: &Services, event: &Value) -> Result<Option<String>, Problem> {
    if text(event, "/policy") != &*services.decider.digest() {
        return Ok(None);
    }
    let line = event.pointer("/rule/line").and_then(Value::as_u64).and_then(|line| u32::try_from(line).ok());
    if let Some(line) = line {
        return Ok(services.decider.row_text(text(event, "/rule/file"), line));
    }
    let refused = text(event, "/reason") == RefusalKind::Forbidden.name();
    if !refused || services.decider.rows() > MOST_ROWS {
        return Ok(None);
    }
    let Some(query) = asked(services, event, &mut Vec::new()).await? else { return Ok(None) };
    let decider = Arc::clone(&services.decider);
    let explained = tokio::task::spawn_blocking(move || decider.explain(&query)).await;
    Ok(explained.ok().filter(|explained| same_verdict(event, explained)).map(|explained| explained.hint()))
}
