//! Why: the verdict, its row, the roles, and on a refusal the nearest rows with the term that failed.
//!
//! Called by `policy explain`, `why` and the console. [`Explanation`] is the JSON of the interface; its `Display` is what
//! a person reads. A better sentence for a term is one more branch of [`why`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::expression;
use super::load::{Settings, load};
use super::roles::Closure;
use super::snapshot::{Prepared, Snapshot};
use super::source::{Row, Sources};
use super::{Problem, Question};
use crate::model::{Principal, Timestamp};

/// How many near rows are shown.
const NEAR: usize = 3;

/// What is to be explained.
#[derive(Clone, Debug)]
pub struct Query {
    /// Who asks, with carried roles, attributes and tenant.
    pub principal: Principal,
    /// The object.
    pub object: String,
    /// The method.
    pub action: String,
    /// The host.
    pub host: String,
    /// The client's address; the loopback address when absent.
    pub ip: Option<IpAddr>,
    /// On TLS.
    pub secure: bool,
    /// When.
    pub at: Timestamp,
}

/// The answer; serialised as `policy explain -o json` prints it.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// `allow` or `deny`.
    pub decision: &'static str,
    /// The deciding row.
    pub rule: Option<Rule>,
    /// Every role of the subject.
    pub roles: Vec<String>,
    /// On a refusal without a row: the rows that failed at the fewest terms.
    pub near: Vec<Near>,
    /// The snapshot's digest.
    pub digest: String,
    /// Why the evaluation failed, when it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip)]
    question: String,
    #[serde(skip)]
    directory: String,
    #[serde(skip)]
    rows: usize,
    #[serde(skip)]
    took: Duration,
}

/// A row and its place.
#[derive(Clone, Debug, Serialize)]
pub struct Rule {
    /// Relative to the directory.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// As written.
    pub text: String,
}

/// A row that nearly decided.
#[derive(Clone, Debug, Serialize)]
pub struct Near {
    /// Relative to the directory.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// As written.
    pub text: String,
    /// The matcher's terms for it.
    pub terms: Vec<Term>,
}

/// One term of the matcher.
#[derive(Clone, Debug, Serialize)]
pub struct Term {
    /// As written in the matcher.
    pub term: String,
    /// Whether it is true.
    pub holds: bool,
    /// In words.
    pub why: String,
}

/// Explains what the files of a directory say to a query.
///
/// # Errors
/// Every mistake that keeps the directory from loading.
pub fn explain(directory: &Path, settings: &Settings, query: &Query) -> Result<Explanation, Vec<Problem>> {
    let sources = Sources::read(directory, settings.node.as_deref())?;
    let snapshot = load(directory, &sources, settings)?;
    Ok(of_snapshot(&snapshot, directory, query))
}

/// Explains what a snapshot says to a query.
pub(super) fn of_snapshot(snapshot: &Snapshot, directory: &Path, query: &Query) -> Explanation {
    let question = Question {
        object: &query.object,
        action: &query.action,
        host: &query.host,
        ip: query.ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        secure: query.secure,
    };
    let prepared = snapshot.prepare(&Arc::new(query.principal.clone()), &question, query.at);
    let verdict = snapshot.evaluate(&prepared);
    // Patterns are compiled at their first use, which is not what a request costs.
    let begun = Instant::now();
    let again = snapshot.evaluate(&prepared);
    let took = begun.elapsed();
    debug_assert_eq!(verdict, again, "the same question has one answer");
    let rule = verdict.row.and_then(|row| snapshot.rows.get(row));
    let near = if verdict.allow || rule.is_some() { Vec::new() } else { near(snapshot, &prepared, query) };
    Explanation {
        decision: if verdict.allow { "allow" } else { "deny" },
        rule: rule.map(|row| Rule { file: row.file.to_string(), line: row.line, text: row.text.clone() }),
        roles: prepared.subject.roles.iter().map(|role| role.to_string()).collect(),
        near,
        digest: snapshot.digest.to_string(),
        error: verdict.error,
        question: format!("{} {} {}", query.principal.name, query.action, query.object),
        directory: directory.display().to_string(),
        rows: snapshot.rows.len(),
        took,
    }
}

/// The allowing rows at which the fewest terms fail, those of the object first.
fn near(snapshot: &Snapshot, prepared: &Prepared, query: &Query) -> Vec<Near> {
    let definition = &snapshot.definition;
    let terms = expression::terms(&definition.matcher);
    let effect = definition.column("eft");
    let allows = |row: &&Row| effect.and_then(|at| row.values.get(at)).is_none_or(|eft| eft == "allow");
    let rows: Vec<Row> = snapshot.rows.iter().filter(allows).cloned().collect();
    if rows.is_empty() {
        return Vec::new();
    }
    let answers: Vec<Option<Vec<bool>>> =
        terms.iter().map(|term| snapshot.holds(term, &rows, prepared).ok()).collect();
    let holds = |term: usize, row: usize| {
        answers.get(term).and_then(Option::as_ref).and_then(|rows| rows.get(row)).copied().unwrap_or(false)
    };
    let object = |term: &String| term.contains("r.obj") && !term.contains("||");
    let mut order: Vec<usize> = (0..rows.len()).collect();
    let object_fails =
        |row: usize| terms.iter().enumerate().any(|(term, text)| object(text) && !holds(term, row));
    order.sort_by_key(|row| {
        let failed = (0..terms.len()).filter(|term| !holds(*term, *row)).count();
        (object_fails(*row), failed, *row)
    });
    // Rows about other objects say something only where none is about this one.
    let about = order.first().is_some_and(|row| !object_fails(*row));
    let telling =
        |row: &usize| (0..terms.len()).any(|term| holds(term, *row)) && (!about || !object_fails(*row));
    let shown = order.into_iter().filter(telling).take(NEAR);
    shown
        .filter_map(|index| {
            let row = rows.get(index)?;
            let explained = terms.iter().enumerate().map(|(at, term)| {
                let holds = holds(at, index);
                Term { term: term.clone(), holds, why: why(snapshot, row, term, holds, prepared, query) }
            });
            let (file, text) = (row.file.to_string(), row.text.clone());
            Some(Near { file, line: row.line, text, terms: explained.collect() })
        })
        .collect()
}

/// One term in words.
fn why(
    snapshot: &Snapshot,
    row: &Row,
    term: &str,
    holds: bool,
    prepared: &Prepared,
    query: &Query,
) -> String {
    let calls = expression::calls(term);
    let column = |argument: &str| {
        let tokens = super::definition::mentioned(argument, "p");
        let column = tokens.first().and_then(|token| snapshot.definition.column(token))?;
        row.values.get(column).map(String::as_str)
    };
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
            format!("{value} is not {}", wanted.trim_matches(['(', ')', '^', '$']).replace('|', " or "))
        }
        _ => format!("{value} does not match {wanted}"),
    }
}

/// A term that is not taken apart, with the attributes that it reads.
fn whole(term: &str, holds: bool, query: &Query) -> String {
    if holds {
        return "holds".to_owned();
    }
    let read = expression::usage(term, "r", "sub").fields;
    let told: Vec<String> = read
        .iter()
        .filter(|field| !["name", "kind", "roles", "dom", "acr", "amr"].contains(&field.as_str()))
        .map(|field| match query.principal.attributes.0.get(field) {
            Some(value) => format!("{field} is {}", serde_json::to_string(value).unwrap_or_default()),
            None => format!("there is no {field}"),
        })
        .collect();
    let told = if told.is_empty() { String::new() } else { format!(" ({})", told.join(", ")) };
    format!("does not hold{told}: {term}")
}

fn value_of(snapshot: &Snapshot, argument: &str, query: &Query) -> String {
    let tokens = super::definition::mentioned(argument, "r");
    let position =
        tokens.first().and_then(|token| snapshot.definition.request.iter().position(|known| known == token));
    match position.and_then(|at| snapshot.bound.get(at)).map(String::as_str) {
        Some("sub") => query.principal.name.to_string(),
        Some("obj") => query.object.clone(),
        Some("act") => query.action.clone(),
        Some("dom") => query.principal.tenant.as_deref().unwrap_or_default().to_owned(),
        _ => argument.to_owned(),
    }
}

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
    let roles: Vec<String> = subject
        .roles
        .iter()
        .map(|role| {
            place(&subject.name, role).map_or_else(|| role.to_string(), |place| format!("{role} ({place})"))
        })
        .collect();
    let word = if roles.len() == 1 { "role" } else { "roles" };
    format!("{} has {word} {}, needs {wanted}", subject.name, roles.join(", "))
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |file: &str, line: u32| format!("{}/{file}:{line}", self.directory.trim_end_matches('/'));
        writeln!(f, "{}  {}\n", self.decision.to_uppercase(), self.question)?;
        match (&self.rule, &self.error) {
            (_, Some(error)) => writeln!(f, "  the evaluation failed, which denies: {error}")?,
            (Some(rule), None) => {
                let verb = if self.decision == "allow" { "allowed" } else { "denied" };
                writeln!(f, "  {verb} by {}   {}", place(&rule.file, rule.line), rule.text)?;
            }
            (None, None) if self.decision == "allow" => writeln!(f, "  no rule denies it")?,
            (None, None) if self.near.is_empty() => writeln!(f, "  no rule allows it")?,
            (None, None) => writeln!(f, "  no rule allows it. Nearest:")?,
        }
        for near in &self.near {
            let place = place(&near.file, near.line);
            writeln!(f, "  {place}   {}", near.text)?;
            for term in &near.terms {
                let mark = if term.holds { '✓' } else { '✗' };
                writeln!(
                    f,
                    "  {:width$}   {mark} {:<5} {}",
                    "",
                    short(&term.term),
                    term.why,
                    width = place.chars().count()
                )?;
            }
        }
        if !self.roles.is_empty() {
            writeln!(f, "\n  roles   {}", self.roles.join(", "))?;
        }
        let micros = self.took.as_secs_f64() * 1e6;
        writeln!(f, "\n  policy {}, {} rules, evaluated in {micros:.1} µs", self.digest, self.rows)
    }
}

/// The request token that a term is about; `rule` when it is about several.
fn short(term: &str) -> String {
    let mut tokens = super::definition::mentioned(term, "r");
    tokens.sort();
    tokens.dedup();
    match tokens.as_slice() {
        [only] => only.clone(),
        _ => "rule".to_owned(),
    }
}
