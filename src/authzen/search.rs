//! `POST /access/v1/search/{subject,resource,action}`: who may do this, what they may do it to, what they may do.
//!
//! Whatever this node knows by name is tried, in order, and stands in the answer when an evaluation would allow it:
//! subjects of accounts, clients and policy files; resources that policies and routes write out; the methods, and the
//! verbs of policies. Nothing that only a pattern covers can be listed.

use std::collections::BTreeSet;

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use super::Call;
use super::page::Page;
use super::question::{Members, thing};
use super::subject::{self, Subject};
use crate::config::Route;
use crate::gateway::{Evaluated, Gateway, Thing};
use crate::http::answer::store_refusal;
use crate::http::{Caller, Services};
use crate::model::Refusal;

/// Most things that are tried for one page; the next page goes on.
const TRIED: usize = 500;

/// Methods that are tried beside the policies' own words.
const METHODS: [&str; 7] = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];

/// The endpoint.
pub async fn search(
    request: HttpRequest,
    payload: web::Payload,
    caller: Caller,
    services: web::Data<Services>,
    gateway: web::Data<Gateway>,
    what: web::Path<String>,
) -> HttpResponse {
    let call = match Call::open(&request, payload, caller, services, gateway).await {
        Ok(call) => call,
        Err(answer) => return answer,
    };
    let found = match what.as_str() {
        "subject" => subjects(&call).await,
        "resource" => resources(&call).await,
        _ => actions(&call).await,
    };
    let result = match found {
        Ok(found) => {
            let recorded = call.gateway.record_call(&call.caller, &call.headers, &call.client).await;
            recorded.map(|()| found)
        }
        Err(refusal) => Err(refusal),
    };
    call.end(result).await
}

async fn subjects(call: &Call) -> Result<Value, Refusal> {
    let members = Members { own: &call.body, defaults: None };
    let mut entity = members.subject(true)?;
    let asking = Asking::read(members)?;
    let resource = members.resource(false)?;
    let thing = thing(&resource.kind, &resource.id);
    let page = Page::read("subject", &call.body)?;
    let prefix = if entity.kind == "identity" { String::new() } else { format!("{}:", entity.kind) };
    let names = known_subjects(call, &prefix, &page.after).await?;
    let mut found = Found::new(&page);
    for name in &names {
        if found.is_full() {
            break;
        }
        name.strip_prefix(&prefix).unwrap_or_default().clone_into(&mut entity.id);
        let subject = subject::find(&call.services, &entity).await?;
        let allowed = asking.allows(call, &subject, &thing, &asking.action).await;
        found.tried(name, allowed.then(|| json!({"type": entity.kind, "id": entity.id})));
    }
    Ok(found.answer(names.len()))
}

async fn resources(call: &Call) -> Result<Value, Refusal> {
    let members = Members { own: &call.body, defaults: None };
    let asking = Asking::read(members)?;
    let kind = members.resource(true)?.kind;
    let page = Page::read("resource", &call.body)?;
    let subject = subject::find(&call.services, &members.subject(false)?).await?;
    let names = known_resources(call, &kind, &page.after);
    let prefix = if kind == "route" { String::new() } else { format!("{kind}:") };
    let mut found = Found::new(&page);
    for name in &names {
        if found.is_full() {
            break;
        }
        let id = name.strip_prefix(&prefix).unwrap_or_default();
        let allowed = asking.allows(call, &subject, &thing(&kind, id), &asking.action).await;
        found.tried(name, allowed.then(|| json!({"type": kind, "id": id})));
    }
    Ok(found.answer(names.len()))
}

async fn actions(call: &Call) -> Result<Value, Refusal> {
    let members = Members { own: &call.body, defaults: None };
    let asking = Asking { action: String::new(), context: members.context()? };
    let resource = members.resource(false)?;
    let thing = thing(&resource.kind, &resource.id);
    let page = Page::read("action", &call.body)?;
    let subject = subject::find(&call.services, &members.subject(false)?).await?;
    let patterns = call.services.decider.texts_of("act", "", TRIED, &|_| true);
    let words = patterns.iter().flat_map(|pattern| words(pattern)).chain(METHODS);
    let names: BTreeSet<String> =
        words.filter(|word| *word > page.after.as_str()).map(str::to_owned).collect();
    let names: BTreeSet<String> = names.into_iter().take(TRIED).collect();
    let mut found = Found::new(&page);
    for name in &names {
        if found.is_full() {
            break;
        }
        let allowed = asking.allows(call, &subject, &thing, name).await;
        found.tried(name, allowed.then(|| json!({"name": name})));
    }
    Ok(found.answer(names.len()))
}

/// What all tries of one search have in common.
struct Asking {
    action: String,
    context: super::question::Context,
}

impl Asking {
    fn read(members: Members<'_>) -> Result<Self, Refusal> {
        Ok(Self { action: members.action()?, context: members.context()? })
    }

    async fn allows(&self, call: &Call, subject: &Subject, thing: &Thing, action: &str) -> bool {
        let config = call.services.config.load_full();
        let host = self.context.host.as_deref().or(config.listen.public_url.host_str());
        let asked = Evaluated {
            principal: &subject.principal,
            barred: subject.barred,
            thing,
            action,
            host: host.unwrap_or_default(),
            ip: self.context.ip,
            secure: self.context.secure,
        };
        call.gateway.would_allow(&call.caller, &asked).await
    }
}

/// One page as it fills.
struct Found<'a> {
    page: &'a Page,
    results: Vec<Value>,
    tries: usize,
    last: String,
}

impl<'a> Found<'a> {
    fn new(page: &'a Page) -> Self {
        Self { page, results: Vec::new(), tries: 0, last: String::new() }
    }

    fn is_full(&self) -> bool {
        self.results.len() >= self.page.limit
    }

    fn tried(&mut self, name: &str, result: Option<Value>) {
        self.tries += 1;
        name.clone_into(&mut self.last);
        self.results.extend(result);
    }

    /// `known`: how many things there were to try.
    fn answer(self, known: usize) -> Value {
        let more = self.tries < known || known >= TRIED;
        let next = if more { self.page.token(&self.last) } else { String::new() };
        json!({"page": {"next_token": next, "count": self.results.len()}, "results": self.results})
    }
}

/// Names of principals that begin with the prefix, after a name.
async fn known_subjects(call: &Call, prefix: &str, after: &str) -> Result<BTreeSet<String>, Refusal> {
    let services = &call.services;
    let from = after.max(prefix);
    let mut names = services.decider.names_with_roles(from, TRIED);
    names.extend(services.decider.texts_of("sub", from, TRIED, &is_literal));
    let config = services.config.load();
    names.extend(config.clients.iter().map(|client| format!("client:{}", client.id)));
    drop(config);
    // No account's name has a colon.
    if prefix.is_empty() {
        let accounts = services.directory.page(from, TRIED).await.map_err(store_refusal)?;
        names.extend(accounts.into_iter().map(|account| account.name.to_string()));
    }
    Ok(kept(names, from, prefix))
}

/// Objects of policies, and paths of routes, that are written out.
fn known_resources(call: &Call, kind: &str, after: &str) -> BTreeSet<String> {
    let prefix = if kind == "route" { "/".to_owned() } else { format!("{kind}:") };
    // The prefix itself is a path.
    let from = if kind == "route" { after } else { after.max(&prefix) };
    let wanted = |text: &str| is_literal(text) && text.starts_with(&prefix);
    let mut names = call.services.decider.texts_of("obj", from, TRIED, &wanted);
    if kind == "route" {
        names.extend(call.services.config.load().routes.iter().filter_map(literal_path));
    }
    kept(names, from, &prefix)
}

fn kept(names: BTreeSet<String>, from: &str, prefix: &str) -> BTreeSet<String> {
    let after = names.into_iter().filter(|name| name.as_str() > from && name.starts_with(prefix));
    after.take(TRIED).collect()
}

/// The one path of a route without parameters, and the root of one with nothing but a rest.
fn literal_path(route: &Route) -> Option<String> {
    let path = route.path.as_str();
    let start = path.split('{').next().unwrap_or(path);
    match path.strip_prefix(start)? {
        "" => Some(path.to_owned()),
        rest if rest.ends_with("*}") && !rest.contains('/') => {
            let root = start.trim_end_matches('/');
            Some(if root.is_empty() { "/" } else { root }.to_owned())
        }
        _ => None,
    }
}

/// True when no function of policies reads the text as a pattern.
fn is_literal(text: &str) -> bool {
    !text.is_empty()
        && !text.contains(['*', '{', '}', '(', ')', '[', ']', '^', '$', '|', '+', '?', '\\'])
        && !text.contains("/:")
}

/// The words of a pattern of actions.
fn words(pattern: &str) -> impl Iterator<Item = &str> {
    let part = |c: char| !(c.is_alphanumeric() || "_-:/.".contains(c));
    pattern.split(part).filter(|word| !word.is_empty() && word.len() <= 64 && *word != ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_literals_of_patterns() {
        assert_eq!(words("^(GET|HEAD)$").collect::<Vec<_>>(), ["GET", "HEAD"]);
        assert_eq!(words(".*").count(), 0);
        assert_eq!(words("can_read").collect::<Vec<_>>(), ["can_read"]);
        for text in ["/orders", "/a.b/c", "account:123", "bob"] {
            assert!(is_literal(text), "{text}");
        }
        for text in ["", "*", "/orders/*", "/orders/:id", "/orders/{id}", "^/x$", "/a|/b"] {
            assert!(!is_literal(text), "{text}");
        }
    }
}
