//! Why: the verdict, its row, the roles, and on a refusal the nearest rows with the term that failed.
//!
//! Called by `policy explain`, `why` and the console. [`Explanation`] is the JSON of the interface; its `Display` is what
//! a person reads, its sentences for each term are in `terms`.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::expression;
use super::load::{Settings, load};
use super::snapshot::{Prepared, Snapshot};
use super::source::{Row, Sources};
use super::{Problem, Question, terms};
use crate::model::{Principal, Timestamp};

/// How many near rows are shown.
const NEAR: usize = 3;

/// What is to be explained.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// `allow` or `deny`.
    pub decision: Cow<'static, str>,
    /// The deciding row.
    pub rule: Option<Rule>,
    /// Every role of the subject.
    pub roles: Vec<String>,
    /// On a refusal without a row: the rows that failed at the fewest terms.
    pub near: Vec<Near>,
    /// The snapshot's digest.
    pub digest: String,
    /// Why the evaluation failed, when it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Some allowing row is about the object.
    #[serde(skip)]
    about: bool,
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
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rule {
    /// Relative to the directory.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// As written.
    pub text: String,
}

/// A row that nearly decided.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Term {
    /// As written in the matcher.
    pub term: String,
    /// Whether it is true.
    pub holds: bool,
    /// In words.
    pub why: String,
    /// What the row would need, in a few words; empty when the term holds.
    #[serde(skip)]
    wanting: String,
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
    let rule = verdict.row.and_then(|row| snapshot.rows.row(row));
    let near = (!verdict.allow && rule.is_none()).then(|| near(snapshot, &prepared, query));
    let (near, about) = near.unwrap_or_default();
    Explanation {
        decision: Cow::Borrowed(if verdict.allow { "allow" } else { "deny" }),
        rule: rule.map(|row| Rule { file: row.file.to_string(), line: row.line, text: row.text.clone() }),
        roles: prepared.subject.roles.iter().map(|role| role.to_string()).collect(),
        near,
        about,
        digest: snapshot.digest.to_string(),
        error: verdict.error,
        question: format!("{} {} {}", query.principal.name, query.action, query.object),
        directory: directory.display().to_string(),
        rows: snapshot.rows.len(),
        took,
    }
}

/// The allowing rows at which the fewest terms fail, those of the object first, then those for which the subject lacks
/// something; and whether any is about the object.
fn near(snapshot: &Snapshot, prepared: &Prepared, query: &Query) -> (Vec<Near>, bool) {
    let definition = &snapshot.definition;
    let terms = expression::terms(&definition.matcher);
    let effect = definition.column("eft");
    let allows = |row: &Row| effect.and_then(|at| row.values.get(at)).is_none_or(|eft| eft == "allow");
    let rows: Vec<Row> = snapshot.rows.iter().filter(allows).collect();
    if rows.is_empty() {
        return (Vec::new(), false);
    }
    let answers: Vec<Option<Vec<bool>>> =
        terms.iter().map(|term| snapshot.holds(term, &rows, prepared).ok()).collect();
    let holds = |term: usize, row: usize| {
        answers.get(term).and_then(Option::as_ref).and_then(|rows| rows.get(row)).copied().unwrap_or(false)
    };
    let about: Vec<Vec<String>> = terms.iter().map(|term| terms::about(snapshot, term)).collect();
    let fails = |row: usize, what: fn(&[String]) -> bool| {
        about.iter().enumerate().any(|(term, about)| what(about) && !holds(term, row))
    };
    let object_fails = |row: usize| fails(row, |about| matches!(about, [token] if token == "obj"));
    let subject_fails = |row: usize| fails(row, |about| about.iter().any(|token| token == "sub"));
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|row| {
        let failed = (0..terms.len()).filter(|term| !holds(*term, *row)).count();
        (object_fails(*row), failed, !subject_fails(*row), *row)
    });
    // Rows about other objects say something only where none is about this one.
    let about = order.first().is_some_and(|row| !object_fails(*row));
    let telling =
        |row: &usize| (0..terms.len()).any(|term| holds(term, *row)) && (!about || !object_fails(*row));
    let shown = order.into_iter().filter(telling).take(NEAR);
    let near = shown
        .filter_map(|index| {
            let row = rows.get(index)?;
            let explained = terms.iter().enumerate().map(|(at, term)| {
                let holds = holds(at, index);
                let why = terms::why(snapshot, row, term, holds, prepared, query);
                let wanting = if holds { String::new() } else { terms::wanting(snapshot, row, term, query) };
                Term { term: term.clone(), holds, why, wanting }
            });
            let (file, text) = (row.file.to_string(), row.text.clone());
            Some(Near { file, line: row.line, text, terms: explained.collect() })
        })
        .collect();
    (near, about)
}

impl Explanation {
    /// True for an allow.
    pub fn allows(&self) -> bool {
        self.decision == "allow"
    }

    /// The same for a reader on another machine: places are relative to the policy directory.
    #[must_use]
    pub fn elsewhere(self) -> Self {
        Self { directory: String::new(), ..self }
    }

    /// The reason on one line: the row that decided, or what the nearest one lacks.
    pub fn hint(&self) -> String {
        match (&self.rule, &self.error, self.near.first()) {
            (_, Some(error), _) => format!("the evaluation failed: {error}"),
            (Some(rule), None, _) => rule.text.clone(),
            (None, None, Some(near)) if self.about => {
                let wanting: Vec<&str> =
                    near.terms.iter().filter(|term| !term.holds).map(|term| term.wanting.as_str()).collect();
                format!("nearest: {}:{} {}", near.file, near.line, wanting.join(", "))
            }
            (None, None, _) if self.allows() => "no rule denies it".to_owned(),
            (None, None, _) => "no rule allows this path to anyone".to_owned(),
        }
    }

    /// The row that decided, or the nearest rows with their terms, indented by two.
    pub fn reasons(&self) -> String {
        let mut out = String::new();
        let _ = self.write_reasons(&mut out);
        out
    }

    /// A row's place as an editor opens it; relative to the policy directory when that is on another machine.
    fn place(&self, file: &str, line: u32) -> String {
        match self.directory.trim_end_matches('/') {
            "" => format!("{file}:{line}"),
            directory => format!("{directory}/{file}:{line}"),
        }
    }

    fn write_reasons(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        match (&self.rule, &self.error) {
            (_, Some(error)) => writeln!(f, "  the evaluation failed, which denies: {error}")?,
            (Some(rule), None) => {
                let verb = if self.allows() { "allowed" } else { "denied" };
                writeln!(f, "  {verb} by {}   {}", self.place(&rule.file, rule.line), rule.text)?;
            }
            (None, None) if self.allows() => writeln!(f, "  no rule denies it")?,
            (None, None) if self.near.is_empty() => writeln!(f, "  no rule allows it")?,
            (None, None) => writeln!(f, "  no rule allows it. Nearest:")?,
        }
        for near in &self.near {
            let place = self.place(&near.file, near.line);
            writeln!(f, "  {place}   {}", near.text)?;
            for term in &near.terms {
                let (width, mark) = (place.chars().count(), if term.holds { '✓' } else { '✗' });
                match terms::tokens(&term.term).as_slice() {
                    [token] => writeln!(f, "  {:width$}   {mark} {token:<5} {}", "", term.why)?,
                    // What holds of several at once says nothing that a reader needs.
                    _ if term.holds => {}
                    _ => writeln!(f, "  {:width$}   {mark} {:<5} {}", "", "rule", term.why)?,
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}  {}\n", self.decision.to_uppercase(), self.question)?;
        self.write_reasons(f)?;
        if !self.roles.is_empty() {
            writeln!(f, "\n  roles   {}", self.roles.join(", "))?;
        }
        let micros = self.took.as_secs_f64() * 1e6;
        writeln!(f, "\n  policy {}, {} rules, evaluated in {micros:.1} µs", self.digest, self.rows)
    }
}
