//! May they: the node's own casbin policies as an immutable snapshot behind one function.
//!
//! `gateway` asks [`Decider::decide`]; `cli` and the operators' listener use [`check`], [`fn@test`], [`fn@explain`] and
//! [`Decider::reload`]. The order of reading: `source`, `definition`, `load`, `table`, `snapshot`, `index` (which rows: `shape`,
//! `paths`; what they say: `reader`, `compiled`, `patterns`, and `interpreter` for the rest), then `functions`, `roles`, `request`,
//! `effect` and `call`, which an evaluation uses. What a matcher may call is listed in `functions`.

mod ask;
mod bench;
mod call;
mod compiled;
mod decider;
mod definition;
mod draw;
mod effect;
mod expression;
mod functions;
mod index;
mod interpreter;
mod load;
mod memo;
mod paths;
mod patterns;
mod plain;
mod plan;
mod pool;
mod reader;
mod recheck;
mod request;
mod roles;
mod shape;
mod snapshot;
mod source;
mod subjects;
mod suite;
mod table;
mod terms;
mod warnings;

pub mod explain;
#[cfg(test)]
mod models;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

pub use bench::{Measured, bench};
pub use decider::Decider;
pub use explain::{Explanation, Query, explain};
pub use load::Settings;
pub use plan::{Plan, plan};
pub use suite::{CaseReport, TestReport, fingerprint, test};

use crate::model::RuleRef;

/// What is asked, besides who asks.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// The canonical path, or the route's `resource`.
    pub object: &'a str,
    /// The method.
    pub action: &'a str,
    /// The canonical host.
    pub host: &'a str,
    /// The client's address.
    pub ip: IpAddr,
    /// True on TLS.
    pub secure: bool,
}

/// The answer.
#[derive(Clone, Debug)]
pub struct Decision {
    /// There when the policy allows.
    pub permit: Option<Permit>,
    /// The row that decided; `None` when no row matched.
    pub rule: Option<RuleRef>,
    /// Short hex digest of the snapshot.
    pub digest: Arc<str>,
    /// All roles of the subject (carried and the files' `g`, inherited included), sorted, for identity headers.
    pub roles: Arc<[Arc<str>]>,
    /// Deny because of an error, for the log.
    pub error: Option<String>,
}

/// Proof that the policy allowed: only `decide` makes one, `forward` takes nothing else.
#[derive(Debug, Clone)]
pub struct Permit {
    _private: (),
}

/// One mistake or warning of a policy directory.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// The path, the directory as given in front.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// `error` or `warning`.
    pub severity: &'static str,
    /// What kind, for scripts.
    pub code: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// Checks a directory as a node of these settings would; without a node, also with the rows of each node. Every mistake
/// and warning, tests included when `run_tests`.
pub fn check(directory: &Path, settings: &Settings, run_tests: bool) -> Vec<Problem> {
    let mut problems = check_with(directory, settings, run_tests);
    for node in settings.other_nodes(directory) {
        for problem in check_with(directory, &settings.for_node(&node), run_tests) {
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
    }
    problems.sort_by(|one, other| (&one.file, one.line).cmp(&(&other.file, other.line)));
    problems
}

fn check_with(directory: &Path, settings: &Settings, run_tests: bool) -> Vec<Problem> {
    let sources = match source::Sources::read(directory, settings.node.as_deref()) {
        Ok(sources) => sources,
        Err(problems) => return problems,
    };
    let snapshot = match load::load(directory, &sources, settings) {
        Ok(snapshot) => snapshot,
        Err(problems) => return problems,
    };
    let mut problems = warnings::warnings(directory, &snapshot);
    if run_tests {
        problems.extend(suite::problems(directory, &sources, &snapshot, settings.node.as_deref()));
    }
    problems
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let warning = if self.severity == "warning" { "warning: " } else { "" };
        write!(f, "{}:{}: {warning}{}", self.file, self.line, self.message)
    }
}
