//! `portcullis why`: one recorded request in words, with the rows that allowed it or nearly did.
//!
//! A new refusal is one more line of [`advice`].

use http::Method;
use serde_json::{Value, json};

use super::line;
use crate::admin::Recalled;
use crate::cli::node::{Node, with};
use crate::cli::{Context, Done, Failure, Output, emit};
use crate::decide::Explanation;
use crate::record::printable;

/// What the audit knows of a request, by its id or the client's own.
///
/// # Errors
/// Code 1 when no event has this id.
pub fn recalled(context: &Context, id: &str) -> Result<Vec<Recalled>, Failure> {
    // Ours are upper case; a person may have typed one.
    let ours = crate::model::RequestId::parse(id).map(|id| id.to_string());
    let ids: Vec<&str> =
        [Some(id), ours.as_deref().filter(|ours| *ours != id)].into_iter().flatten().collect();
    with(context, async |node: &Node<'_>| {
        for id in &ids {
            let query =
                url::form_urlencoded::Serializer::new(String::new()).append_pair("request", id).finish();
            let path = format!("/api/v1/audit/explain?{query}");
            let found: Vec<Recalled> = serde_json::from_value(node.json(Method::GET, &path, None).await?)
                .map_err(|error| {
                    Failure::unreachable(format!("the node's answer is of another version: {error}"))
                })?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        let hint =
            if ours.is_some() { "" } else { "; an id is the `X-Request-Id` of an answer, 26 characters" };
        Err(Failure::no(format!("no event of request {id}{hint}")))
    })
}

/// Runs the command.
pub fn run(context: &Context, id: &str) -> Done {
    for (at, recalled) in recalled(context, id)?.into_iter().enumerate() {
        match context.output {
            Output::Json => emit(document(recalled)),
            Output::Text => {
                let gap = if at > 0 { "\n" } else { "" };
                emit(line::painted(&format!("{gap}{}", in_words(&recalled).trim_end())));
            }
        }
    }
    Ok(())
}

/// The event with what the live policy says to it.
fn document(recalled: Recalled) -> Value {
    let Recalled { event, now, policy, notes, .. } = recalled;
    let mut document = event;
    if let Some(members) = document.as_object_mut() {
        members.insert("now".to_owned(), json!(now));
        members.insert("live_policy".to_owned(), policy.into());
        members.insert("notes".to_owned(), notes.into());
    }
    document
}

fn in_words(recalled: &Recalled) -> String {
    let event = &recalled.event;
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).map(printable);
    let or_none = |pointer: &str| text(pointer).unwrap_or_else(|| "none".to_owned());
    let number = |pointer: &str| event.pointer(pointer).and_then(Value::as_u64);
    let decision = or_none("/decision").to_uppercase();
    let who = text("/principal/name").unwrap_or_else(|| format!("({})", or_none("/client/ip")));
    let target = match text("/path") {
        None if or_none("/kind") == "access" => "(a path that is not canonical)".to_owned(),
        path => path.unwrap_or_default(),
    };
    let method = text("/method").unwrap_or_else(|| or_none("/kind"));
    let status = number("/status").map(|status| status.to_string()).unwrap_or_default();
    let mut out =
        format!("{decision}  {who} {method} {target}   {status} {}", text("/reason").unwrap_or_default());
    out.truncate(out.trim_end().len());
    out.push_str("\n\n");
    if let Some(advice) = text("/reason").and_then(|reason| advice(&reason)) {
        out.push_str(&format!("  {advice}\n"));
    }
    out.push_str(&of_the_policy(recalled));
    for note in &recalled.notes {
        out.push_str(&format!("  note: {}\n", printable(note)));
    }
    let roles = event.pointer("/principal/roles").and_then(Value::as_array);
    let roles: Vec<_> = roles.into_iter().flatten().filter_map(Value::as_str).map(printable).collect();
    let roles = if roles.is_empty() { "none".to_owned() } else { roles.join(", ") };
    let mut fact = |name: &str, value: String| out.push_str(&format!("\n  {name:<8} {value}"));
    if let Some(name) = text("/principal/name") {
        let by = text("/auth")
            .filter(|by| by != "none")
            .map_or_else(|| "without credentials".to_owned(), |by| format!("by {by}"));
        fact("who", format!("{name} ({}) {by}, roles {roles}", or_none("/principal/kind")));
    }
    fact(
        "from",
        format!(
            "{}, {}",
            or_none("/client/ip"),
            text("/client/user_agent").unwrap_or_else(|| "no user agent".to_owned())
        ),
    );
    let asked =
        [text("/method"), text("/host").zip(text("/path")).map(|(host, path)| format!("{host}{path}"))];
    let asked = asked.into_iter().flatten().collect::<Vec<_>>().join(" ");
    fact("asked", format!("{asked}, route {}", or_none("/route")));
    let took =
        number("/duration_us").map(|took| format!(", took {}", line::duration(took))).unwrap_or_default();
    fact("when", format!("{}{took}", or_none("/time")));
    if let Some(policy) = text("/policy") {
        let live = if policy == recalled.policy {
            "the live one".to_owned()
        } else {
            format!("live now is {}", recalled.policy)
        };
        fact("policy", format!("{policy}, {live}"));
    }
    if let Some(id) = text("/client_request_id") {
        fact("client's", format!("request id {id}"));
    }
    fact("audit", format!("node {}, event {}", or_none("/node"), number("/seq").unwrap_or(0)));
    out.push('\n');
    out
}

/// What the policy said then and says now.
fn of_the_policy(recalled: &Recalled) -> String {
    let Some(now) = &recalled.now else { return String::new() };
    let event = &recalled.event;
    let then = event.get("policy").and_then(Value::as_str).unwrap_or_default();
    if then == now.digest && same_row(now, event) {
        return lines(&now.reasons());
    }
    let mut out = format!("  then, by policy {}: {}\n", printable(then), decided(event));
    out.push_str(&format!("  now, by policy {}: {}\n\n", now.digest, now.decision));
    out.push_str(&lines(&now.reasons()));
    out
}

/// By which row it was decided, as recorded.
pub fn decided(event: &Value) -> String {
    let decision = event.get("decision").and_then(Value::as_str).unwrap_or("-");
    match (event.pointer("/rule/file").and_then(Value::as_str), event.pointer("/rule/line")) {
        (Some(file), Some(line)) => format!("{decision} by {}:{line}", printable(file)),
        _ => format!("{decision}, no rule"),
    }
}

fn lines(text: &str) -> String {
    text.lines().map(|line| printable(line) + "\n").collect()
}

/// Whether the row that decides now is the recorded one.
fn same_row(now: &Explanation, event: &Value) -> bool {
    let file = event.pointer("/rule/file").and_then(Value::as_str);
    let line = event.pointer("/rule/line").and_then(Value::as_u64);
    now.rule.as_ref().map(|rule| (rule.file.as_str(), u64::from(rule.line))) == file.zip(line)
}

/// What a reason means and what to do about it, where the policy does not say it.
fn advice(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "not-canonical" => {
            "the target can be read in more than one way (docs/canonical-requests.md); the client has to send the plain one"
        }
        "unauthenticated" => "it brought no credential that the route takes: see `authenticate` of the route",
        "invalid-token" => "the token counts no more or never did: `portcullis token inspect TOKEN` says why",
        "step-up-required" => {
            "the route wants a stronger or more recent sign-in: see its `require_acr` and `max_auth_age`"
        }
        "cross-site" => {
            "another site used the browser's session: list its origin in the route's `cors.origins` if it may"
        }
        "no-route" => "no [[route]] has this host and path: `portcullis config show` lists the routes",
        "method-not-allowed" => "the route is there for other methods: see its `methods`",
        "request-timeout" => "the client did not send its request in time: see [listen.limits]",
        "too-large" => "the body is larger than the route's `body_limit`",
        "headers-too-large" => "the head is larger than [listen.limits] allows",
        "misdirected" => {
            "the TLS name and the Host select different client-certificate rules: the client has to connect anew for this host"
        }
        "rate-limited" => "too many of these came in a short time; it may be tried again later",
        "upstream-failed" => {
            "the policy allowed it, then the upstream could not be reached or broke off: see its log and `servers` of the [[upstream]]"
        }
        "upstream-timeout" => {
            "the policy allowed it, then the upstream did not answer within the route's `timeout`"
        }
        "store-unavailable" => "the store did not answer: `portcullis healthcheck` says whether it does now",
        "audit-unavailable" => {
            "the decision could not be recorded: is the disk of `data_dir` full? `portcullis healthcheck` says whether it works now"
        }
        "overloaded" => {
            "a bounded queue was full, or another issuer or identity provider could not be asked: the log says which under this request id"
        }
        "internal" => "a fault of the gateway: its log has the details under this request id",
        "interrupted" => "no answer left: the client or the node went away midway",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_advice_or_is_the_policys() {
        let documented = include_str!("../../../docs/problems.md").split("\n| `").skip(1);
        let mut seen = 0;
        for name in documented.filter_map(|rest| rest.split('`').next()) {
            // Those of our own endpoints are no decisions; the policy's are explained by its rows.
            let elsewhere = ["forbidden", "bad-request", "not-found", "conflict", "unsupported-media-type"];
            assert!(advice(name).is_some() != elsewhere.contains(&name), "{name}");
            seen += 1;
        }
        assert!(seen > 20, "{seen}");
    }
}
