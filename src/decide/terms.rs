//! One term of a matcher in words: why it holds for a row, or why it does not, and what would have to be otherwise.
//!
//! Called by `explain`. A better sentence for a term is one more branch of [`why`], and of [`wanting`] its short form.

use super::explain::Query;
use super::expression;
use super::roles::Closure;
use super::snapshot::{Prepared, Snapshot};
use super::source::Row;

/// One term in words.
pub(super) fn why(
    snapshot: &Snapshot,
    row: &Row,
    term: &str,
    holds: bool,
    prepared: &Prepared,
    query: &Query,
) -> String {
    let calls = expression::calls(term);
    let column = |argument: &str| column(snapshot, row, argument);
    if let Some(call) = calls.iter().find(|call| call.function == "g" && term.contains("||")) {
        return match call.arguments.get(1).and_then(|argument| column(argument)) {
            Some("*") if holds => "everyone".to_owned(),
            Some(wanted) => links(snapshot, &prepared.subject.closure, wanted, holds),
            None => String::new(),
        };
    }
    let single = calls.len() == 1 && !term.contains("||");
    let call = calls.first().filter(|_| single);
    let (left, right) = match (call, term.split_once("==")) {
        (Some(call), _) => match call.arguments.as_slice() {
            [left, right, ..] => (left.as_str(), right.as_str()),
            [only] => (only.as_str(), only.as_str()),
            [] => return String::new(),
        },
        (None, Some((left, right))) if calls.is_empty() && !term.contains("||") => {
            (left.trim(), right.trim())
        }
        _ => return whole(term, holds, query),
    };
    let Some(wanted) = column(right).or_else(|| column(left)) else { return whole(term, holds, query) };
    let value = value_of(snapshot, left, query);
    match call.map(|call| call.function.as_str()) {
        Some("g") => links(snapshot, &prepared.subject.closure, wanted, holds),
        Some("eval") if holds => format!("{wanted} holds"),
        Some("eval") => format!("{wanted} does not hold"),
        _ if holds => format!("{value} matches {wanted}"),
        Some("regexMatch") => {
            format!("{value} is not {}", methods(wanted))
        }
        _ => format!("{value} does not match {wanted}"),
    }
}

/// A term that is not taken apart, with the attributes that it reads.
fn whole(term: &str, holds: bool, query: &Query) -> String {
    if holds {
        return "holds".to_owned();
    }
    let told = read(term, query);
    let told = if told.is_empty() { String::new() } else { format!(" ({told})") };
    format!("does not hold{told}: {term}")
}

/// The attributes that a term reads, as the subject has them.
fn read(term: &str, query: &Query) -> String {
    let read = expression::usage(term, "r", "sub").fields;
    let told: Vec<String> = read
        .iter()
        .filter(|field| !["name", "kind", "roles", "dom", "acr", "amr"].contains(&field.as_str()))
        .map(|field| match query.principal.attributes.0.get(field) {
            Some(value) => format!("{field} is {}", serde_json::to_string(value).unwrap_or_default()),
            None => format!("there is no {field}"),
        })
        .collect();
    told.join(", ")
}

fn value_of(snapshot: &Snapshot, argument: &str, query: &Query) -> String {
    match tokens(argument).first().and_then(|token| bound(snapshot, token)) {
        Some("sub") => query.principal.name.to_string(),
        Some("obj") => query.object.clone(),
        Some("act") => query.action.clone(),
        Some("dom") => query.principal.tenant.as_deref().unwrap_or_default().to_owned(),
        _ => argument.to_owned(),
    }
}

/// How many roles of a subject are named in one line.
const MOST_NAMED: usize = 16;

/// Which roles the subject has, and the file's link that gives one.
fn links(snapshot: &Snapshot, subject: &Closure, wanted: &str, holds: bool) -> String {
    let place = |name: &str, role: &str| {
        let row = snapshot.links.iter().find(|row| {
            row.kind == "g"
                && matches!(row.values.as_slice(), [first, second, ..] if first == name && second == role)
        })?;
        Some(format!("{}:{} {}", row.file, row.line, row.text))
    };
    if holds {
        if &*subject.name == wanted {
            return format!("{wanted} itself");
        }
        let graph = snapshot.graphs.0.get("g");
        let path =
            graph.and_then(|graph| graph.path(&subject.name, wanted, &subject.domain)).unwrap_or_default();
        let links: Vec<String> = path
            .windows(2)
            .filter_map(|pair| match pair {
                [name, role] => place(name, role),
                _ => None,
            })
            .collect();
        return if links.is_empty() { wanted.to_owned() } else { format!("{wanted} ({})", links.join(", ")) };
    }
    if subject.roles.is_empty() {
        return format!("{} has no role, needs {wanted}", subject.name);
    }
    let named = subject.roles.iter().take(MOST_NAMED);
    let mut roles: Vec<String> = named
        .map(|role| {
            place(&subject.name, role).map_or_else(|| role.to_string(), |place| format!("{role} ({place})"))
        })
        .collect();
    if subject.roles.len() > MOST_NAMED {
        roles.push(format!("and {} more", subject.roles.len() - MOST_NAMED));
    }
    let word = if roles.len() == 1 { "role" } else { "roles" };
    format!("{} has {word} {}, needs {wanted}", subject.name, roles.join(", "))
}

/// What the row would need of the request, in a few words, for a term that does not hold.
pub(super) fn wanting(snapshot: &Snapshot, row: &Row, term: &str, query: &Query) -> String {
    let calls = expression::calls(term);
    let column = |argument: &String| column(snapshot, row, argument);
    if let Some(call) = calls.iter().find(|call| call.function == "g") {
        return call
            .arguments
            .get(1)
            .and_then(column)
            .map_or_else(String::new, |role| format!("needs role {role}"));
    }
    let about = about(snapshot, term);
    let wanted = calls.first().and_then(|call| call.arguments.iter().rev().find_map(column));
    let wanted = wanted.or_else(|| term.split_once("==").and_then(|(_, right)| column(&right.to_owned())));
    match (about.as_slice(), wanted) {
        ([token], Some(wanted)) if token == "act" => format!("allows {}", methods(wanted)),
        ([_], Some(wanted)) => format!("is for {wanted}"),
        _ => match read(term, query).as_str() {
            "" => "has a condition that does not hold".to_owned(),
            told => format!("but {told}"),
        },
    }
}

/// What the request tokens of a term are bound to (`sub`, `obj`, `act` …), each once.
pub(super) fn about(snapshot: &Snapshot, term: &str) -> Vec<String> {
    let mut tokens: Vec<String> =
        tokens(term).iter().filter_map(|token| bound(snapshot, token)).map(str::to_owned).collect();
    tokens.sort();
    tokens.dedup();
    tokens
}

/// The request tokens of a term by their own names, each once.
pub(super) fn tokens(term: &str) -> Vec<String> {
    let mut tokens = super::definition::mentioned(term, "r");
    tokens.sort();
    tokens.dedup();
    tokens
}

/// What a request token is bound to.
fn bound<'a>(snapshot: &'a Snapshot, token: &str) -> Option<&'a str> {
    let at = snapshot.definition.request.iter().position(|known| known == token)?;
    snapshot.bound.get(at).map(String::as_str)
}

/// The row's value of the column that an argument names.
fn column<'a>(snapshot: &Snapshot, row: &'a Row, argument: &str) -> Option<&'a str> {
    let tokens = super::definition::mentioned(argument, "p");
    let column = tokens.first().and_then(|token| snapshot.definition.column(token))?;
    row.values.get(column).map(String::as_str)
}

/// A pattern of methods, read aloud.
fn methods(pattern: &str) -> String {
    pattern.trim_matches(['(', ')', '^', '$']).replace('|', " or ")
}
